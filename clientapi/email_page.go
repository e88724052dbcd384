package clientapi

import (
	"html"
	"net/url"
	"strings"

	"ebb/accounts"
	"ebb/httpapi"
	"ebb/mxerr"
)

// maxEmailForm is the maximum size in bytes of the form on the confirmation page.
const maxEmailForm = 4 << 10

func (a *API) emailPageRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: accounts.EmailLinkPath, OperationID: "getEmailPage", Page: true, Rate: httpapi.Anonymous, Handler: a.getEmailPage},
		{Method: "POST", Path: accounts.EmailLinkPath, OperationID: "postEmailPage", Page: true, Rate: httpapi.Anonymous, MaxBody: maxEmailForm, Handler: a.postEmailPage},
	}
}

const emailPage = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="robots" content="noindex">
<title>TITLE</title>
<style nonce="NONCE">body{font:1em/1.5 sans-serif;max-width:40em;margin:3em auto;padding:0 1em}button{font:inherit;padding:.4em 1.2em}</style>
</head>
<body>
<h1>TITLE</h1>
CONTENT
</body>
</html>
`

// getEmailPage shows the page behind the link in a verification e-mail, which asks the user to confirm the address.
// Opening the page confirms nothing, because mail servers open links to check them.
// Deviation: not part of the specification.
func (a *API) getEmailPage(r *httpapi.Request) (any, error) {
	sid, token := r.Query("sid"), r.Query("token")
	link, err := a.Accounts.EmailLink(r.Context(), sid, token)
	if err != nil {
		return nil, err
	}
	if link.Confirmed {
		return a.emailConfirmed(r, link)
	}
	title := "Confirm your e-mail address"
	text := "Is <strong>ADDRESS</strong> your address, and do you want to use it for an account on SERVER?"
	button := "Confirm"
	if link.Purpose == accounts.EmailForPassword {
		title, button = "Reset your password", "Allow"
		text = "Do you want to reset the password of the account on SERVER that has the address <strong>ADDRESS</strong>? Allow this only if you have just asked for it."
	}
	form := `<p>` + text + `</p>
<form method="post"><input type="hidden" name="sid" value="SID"><input type="hidden" name="token" value="TOKEN"><button>` + button + `</button></form>`
	content := strings.NewReplacer("ADDRESS", html.EscapeString(link.Address), "SERVER", html.EscapeString(a.Config.ServerName),
		"SID", html.EscapeString(sid), "TOKEN", html.EscapeString(token)).Replace(form)
	return showEmailPage(r, title, content)
}

// postEmailPage handles the confirmation form and marks the address as verified.
// Deviation: not part of the specification.
func (a *API) postEmailPage(r *httpapi.Request) (any, error) {
	body, err := r.Body()
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, mxerr.InvalidParam("The form is not valid").Because(err)
	}
	link, err := a.Accounts.ConfirmEmail(r.Context(), form.Get("sid"), form.Get("token"))
	if err != nil {
		return nil, err
	}
	return a.emailConfirmed(r, link)
}

// emailConfirmed shows that an address is confirmed. It displays the host of the client's next_link and links to it
// instead of redirecting, because anybody can request an e-mail with any next_link.
func (a *API) emailConfirmed(r *httpapi.Request, link accounts.EmailLink) (any, error) {
	content := "<p><strong>" + html.EscapeString(link.Address) + "</strong> is confirmed. Go back to your Matrix client to continue.</p>"
	if u, err := url.Parse(link.NextLink); link.NextLink != "" && err == nil {
		content += `<p>Or continue at <a rel="noreferrer" href="` + html.EscapeString(link.NextLink) + `">` + html.EscapeString(u.Host) + `</a>.</p>`
	}
	return showEmailPage(r, "Thank you", content)
}

func showEmailPage(r *httpapi.Request, title, content string) (any, error) {
	page := strings.NewReplacer("TITLE", title, "NONCE", r.Nonce, "CONTENT", content).Replace(emailPage)
	return httpapi.Raw{ContentType: httpapi.HTML, Body: []byte(page)}, nil
}
