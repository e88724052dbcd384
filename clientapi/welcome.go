package clientapi

import (
	"bytes"
	"html/template"
	"net/http"

	"ebb/httpapi"
)

func (a *API) welcomeRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/", OperationID: "getWelcomePage", Rate: httpapi.Anonymous, Handler: a.getWelcomePage}}
}

// welcome is the page at the server's address in a browser. It does not say which version runs.
var welcome = template.Must(template.New("welcome").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{.Server}}: a Matrix homeserver</title>
<style>body{font:1em/1.5 sans-serif;max-width:40em;margin:3em auto;padding:0 1em}code{background:#8882;padding:.1em .3em}</style>
</head>
<body>
<h1>This is a Matrix homeserver</h1>
<p>The server <strong>{{.Server}}</strong> is running, but there is nothing else to see here. To read and write messages, use a
Matrix client.</p>
<ol>
<li>Open a client, such as <a href="https://app.element.io">Element Web</a>, <a href="https://app.cinny.in">Cinny</a> or
<a href="https://fluffychat.im">FluffyChat</a>. Element X cannot sign in here yet.</li>
<li>When it asks for the homeserver, enter <code>{{.Address}}</code></li>
<li>Sign in{{if eq .Mode "token"}}, or create an account with the registration token that the administrator gave you{{else if
eq .Mode "open"}}, or create an account{{else}}; accounts are made by the administrator{{end}}. Your user ID
is <code>@NAME:{{.Server}}</code></li>
</ol>
{{if .Help}}<p><a href="{{.Help}}">Help of this server</a></p>
{{end}}<p><a href="https://matrix.org">What is Matrix?</a></p>
</body>
</html>
`))

// getWelcomePage greets a browser.
// Deviation: no part of the specification.
func (a *API) getWelcomePage(*httpapi.Request) (any, error) {
	var page bytes.Buffer
	err := welcome.Execute(&page, map[string]string{
		"Server": a.Config.ServerName, "Address": a.Config.PublicURL, "Mode": a.Config.Registration.Mode, "Help": a.Config.WellKnown.SupportPage,
	})
	return httpapi.Raw{
		ContentType: "text/html; charset=utf-8", Body: page.Bytes(),
		Header: http.Header{"Content-Security-Policy": {"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}, "X-Content-Type-Options": {"nosniff"}},
	}, err
}
