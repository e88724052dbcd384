package clientapi

import (
	"html"
	"strings"

	"ebb/httpapi"
)

func (a *API) welcomeRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/", OperationID: "getWelcomePage", Page: true, Rate: httpapi.Anonymous, Handler: a.getWelcomePage}}
}

// welcome is the page shown to browsers that open the server's address. It does not reveal the version.
const welcome = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>SERVER: a Matrix homeserver</title>
<style nonce="NONCE">body{font:1em/1.5 sans-serif;max-width:40em;margin:3em auto;padding:0 1em}code{background:#8882;padding:.1em .3em}</style>
</head>
<body>
<h1>This is a Matrix homeserver</h1>
<p>The server <strong>SERVER</strong> is running. This page is all that a browser can see of it. To read and write messages, use a
Matrix client.</p>
<ol>
<li>Open a client, such as <a href="https://app.element.io">Element Web</a>, <a href="https://app.cinny.in">Cinny</a> or
<a href="https://fluffychat.im">FluffyChat</a>.</li>
<li>When it asks for the homeserver, enter <code>ADDRESS</code></li>
<li>Sign inACCOUNT. Your user ID
is <code>@NAME:SERVER</code></li>
</ol>
HELP<p><a href="https://matrix.org">What is Matrix?</a></p>
</body>
</html>
`

// welcomeAccount continues the sentence that begins with "Sign in" and explains how to get an account, for each
// registration mode.
var welcomeAccount = map[string]string{
	"token": ", or create an account with the registration token that the administrator gave you",
	"open":  ", or create an account",
}

// getWelcomePage serves the welcome page.
// Deviation: not part of the specification.
func (a *API) getWelcomePage(r *httpapi.Request) (any, error) {
	account, help := "; the administrator creates the accounts", ""
	if how, found := welcomeAccount[a.Config.Registration.Mode]; found {
		account = how
	}
	if page := a.Config.WellKnown.SupportPage; page != "" {
		help = `<p><a href="` + html.EscapeString(page) + "\">Help of this server</a></p>\n"
	}
	page := strings.NewReplacer("SERVER", html.EscapeString(a.Config.ServerName), "ADDRESS", html.EscapeString(a.Config.PublicURL), "ACCOUNT", account, "HELP", help,
		"NONCE", r.Nonce).Replace(welcome)
	return httpapi.Raw{ContentType: httpapi.HTML, Body: []byte(page)}, nil
}
