package oauth

import (
	"encoding/json"
	"errors"
	"net/url"
	"strings"
	"testing"
)

// client returns the JSON of a client's metadata with some members replaced; nil removes one.
func client(change map[string]any) []byte {
	m := map[string]any{
		"client_name": "My App", "client_uri": "https://example.com/", "redirect_uris": []string{"https://app.example.com/callback"},
		"grant_types":    []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:token-exchange"},
		"response_types": []string{"code"}, "token_endpoint_auth_method": "none", "application_type": "web",
	}
	for k, v := range change {
		if m[k] = v; v == nil {
			delete(m, k)
		}
	}
	raw, _ := json.Marshal(m)
	return raw
}

func codeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

type obj = map[string]any

func TestRulesOnMetadata(t *testing.T) {
	long := "https://example.com/" + strings.Repeat("x", maxURI)
	for name, c := range map[string]struct {
		change obj
		want   string
	}{
		"as in the specification":       {obj{}, ""},
		"least":                         {obj{"client_name": nil, "grant_types": nil, "response_types": nil, "token_endpoint_auth_method": nil, "application_type": nil}, ""},
		"localised":                     {obj{"client_name#fr": "Mon application", "tos_uri": "https://example.com/tos", "policy_uri": "https://www.example.com/p"}, ""},
		"device only":                   {obj{"grant_types": []string{GrantDevice}, "redirect_uris": nil, "response_types": []string{}}, ""},
		"no client_uri":                 {obj{"client_uri": nil}, errMetadata},
		"client_uri without TLS":        {obj{"client_uri": "http://example.com/"}, errMetadata},
		"client_uri with a user":        {obj{"client_uri": "https://me@example.com/"}, errMetadata},
		"client_uri with a script":      {obj{"client_uri": "javascript://example.com/%0aalert(1)"}, errMetadata},
		"long client_uri":               {obj{"client_uri": long}, errMetadata},
		"logo elsewhere":                {obj{"logo_uri": "https://example.org/logo.png"}, errMetadata},
		"logo without TLS":              {obj{"logo_uri": "http://example.com/logo.png"}, errMetadata},
		"terms on a similar host":       {obj{"tos_uri": "https://badexample.com/"}, errMetadata},
		"client secret":                 {obj{"token_endpoint_auth_method": "client_secret_basic"}, errMetadata},
		"unknown type":                  {obj{"application_type": "toaster"}, errMetadata},
		"implicit grant only":           {obj{"grant_types": []string{"implicit"}}, errMetadata},
		"no code":                       {obj{"response_types": []string{"token"}}, errMetadata},
		"name that reverses the text":   {obj{"client_name": "evil\u202etxt"}, errMetadata},
		"name with a hidden mark":       {obj{"client_name": "Element\u200f"}, errMetadata},
		"name with an invisible space":  {obj{"client_name": "Ele\u200bment"}, errMetadata},
		"name with two lines":           {obj{"client_name": "Element\u2028is safe"}, errMetadata},
		"name with an emoji":            {obj{"client_name": "Family 👨\u200d👩"}, ""},
		"name of the wrong type":        {obj{"client_name": 3}, errRequest},
		"no redirect URIs":              {obj{"redirect_uris": nil}, errRedirect},
		"fragment":                      {obj{"redirect_uris": []string{"https://example.com/callback#fragment"}}, errRedirect},
		"empty fragment":                {obj{"redirect_uris": []string{"https://example.com/callback#"}}, errRedirect},
		"redirect without TLS":          {obj{"redirect_uris": []string{"http://example.com/callback"}}, errRedirect},
		"web client on loopback":        {obj{"redirect_uris": []string{"http://localhost/"}}, errRedirect},
		"redirect elsewhere":            {obj{"redirect_uris": []string{"https://example.com/a", "https://example.org/b"}}, errRedirect},
		"redirect with a user":          {obj{"redirect_uris": []string{"https://example.com@example.org/"}}, errRedirect},
		"backslash":                     {obj{"redirect_uris": []string{`https://example.org\@example.com/`}}, errRedirect},
		"directive of a policy":         {obj{"redirect_uris": []string{"https://a;sandbox.example.com/"}}, errRedirect},
		"host with a directive":         {obj{"client_uri": "https://a;b.example.com/", "logo_uri": nil}, errMetadata},
		"wildcard":                      {obj{"redirect_uris": []string{"https://*.example.com/"}}, errRedirect},
		"scheme of a native client":     {obj{"redirect_uris": []string{"com.example.app:/"}}, errRedirect},
		"other port and query":          {obj{"redirect_uris": []string{"https://example.com:5173/?query=value"}}, ""},
		"many redirect URIs":            {obj{"redirect_uris": strings.Fields(strings.Repeat("https://example.com/ ", maxRedirects+1))}, errRedirect},
		"native: scheme":                {obj{"application_type": "native", "redirect_uris": []string{"com.example.app:/callback", "com.example:/", "com.example:callback"}}, ""},
		"native: loopback":              {obj{"application_type": "native", "redirect_uris": []string{"http://localhost/callback", "http://127.0.0.1/callback", "http://[::1]/callback"}}, ""},
		"native: claimed https":         {obj{"application_type": "native", "redirect_uris": []string{"https://example.com/native"}}, ""},
		"native: other scheme":          {obj{"application_type": "native", "redirect_uris": []string{"example:/callback"}}, errRedirect},
		"native: similar scheme":        {obj{"application_type": "native", "redirect_uris": []string{"com.examples:/callback"}}, errRedirect},
		"native: authority":             {obj{"application_type": "native", "redirect_uris": []string{"com.example.app://callback"}}, errRedirect},
		"native: empty authority":       {obj{"application_type": "native", "redirect_uris": []string{"com.example.app:///callback"}}, errRedirect},
		"native: https on loopback":     {obj{"application_type": "native", "redirect_uris": []string{"https://localhost/callback"}}, errRedirect},
		"native: port":                  {obj{"application_type": "native", "redirect_uris": []string{"http://localhost:1234/callback"}}, errRedirect},
		"native: host that looks local": {obj{"application_type": "native", "redirect_uris": []string{"http://localhost.example.org/"}}, errRedirect},
		"native: script":                {obj{"application_type": "native", "redirect_uris": []string{"javascript:alert(1)"}}, errRedirect},
	} {
		m, err := rules{}.parseMetadata(client(c.change))
		if got := codeOf(err); got != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err == nil && (strings.Join(m.GrantTypes, " ") != GrantCode+" "+GrantRefresh && name != "device only" || m.AuthMethod != "none") {
			t.Errorf("%s: registered %+v", name, m)
		}
	}
	if _, err := (rules{}).parseMetadata([]byte(`[`)); codeOf(err) != errRequest {
		t.Errorf("not JSON: %v", err)
	}
}

func TestPlainHTTPIsForLoopbackServersOnly(t *testing.T) {
	local := client(obj{"client_uri": "http://localhost:8080/", "redirect_uris": []string{"http://localhost:8080/"}})
	if _, err := (rules{}).parseMetadata(local); err == nil {
		t.Error("accepted by a public server")
	}
	if _, err := (rules{loopback: true}).parseMetadata(local); err != nil {
		t.Errorf("refused by a server on the loopback interface: %v", err)
	}
	remote := client(obj{"client_uri": "http://example.com/", "redirect_uris": []string{"http://example.com/"}})
	if _, err := (rules{loopback: true}).parseMetadata(remote); err == nil {
		t.Error("plain HTTP elsewhere is accepted")
	}
}

func TestListOfAllowedClients(t *testing.T) {
	r := rules{hosts: []string{"example.com"}}
	if _, err := r.parseMetadata(client(nil)); err != nil {
		t.Error(err)
	}
	other := client(obj{"client_uri": "https://app.example.com/"})
	if _, err := r.parseMetadata(other); codeOf(err) != errMetadata {
		t.Errorf("another host: %v", err)
	}
}

func TestRedirectIsOneThatIsRegistered(t *testing.T) {
	m := Metadata{ApplicationType: native, RedirectURIs: []string{"https://example.com/cb", "http://127.0.0.1/cb", "http://[::1]/", "com.example:/cb"}}
	for uri, want := range map[string]bool{
		"https://example.com/cb": true, "com.example:/cb": true, "http://127.0.0.1/cb": true, "http://127.0.0.1:4711/cb": true, "http://[::1]:99/": true,
		"https://example.com/cb/": false, "https://example.com/cb?x": false, "https://example.com:443/cb": false, "https://EXAMPLE.com/cb": false,
		"http://127.0.0.1:4711/other": false, "http://localhost:4711/cb": false, "http://me@127.0.0.1:1/cb": false, "http://127.0.0.1:80@example.org/cb": false,
		"http://127.0.0.1:1/cb#": false, "http://127.0.0.1:1\\@example.org/cb": false, "": false, "https://example.org/": false,
	} {
		if got := m.allows(uri); got != want {
			t.Errorf("%s: %v", uri, got)
		}
	}
	m.ApplicationType = web
	if m.allows("http://127.0.0.1:4711/cb") {
		t.Error("a web client may have any port")
	}
}

func TestScopes(t *testing.T) {
	for text, want := range map[string]Scope{
		"urn:matrix:client:api:* urn:matrix:client:device:ABC": {"ABC", "urn:matrix:client:api:* urn:matrix:client:device:ABC"},
		"openid urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:A.b~c email": {"A.b~c",
			"openid urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:A.b~c"},
		"urn:matrix:client:api:* urn:matrix:client:device:X urn:matrix:org.matrix.msc2967.client:device:X": {"X",
			"urn:matrix:client:api:* urn:matrix:client:device:X urn:matrix:org.matrix.msc2967.client:device:X"},
	} {
		if got, err := parseScope(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "openid", "urn:matrix:client:api:*", "urn:matrix:client:device:ABC", "urn:matrix:client:api:* urn:matrix:client:device:",
		"urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:client:device:B",
		"urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:org.matrix.msc2967.client:device:B",
		"urn:matrix:client:api:* urn:matrix:client:device:\"", "urn:matrix:client:api:* urn:matrix:client:device:é",
		"urn:matrix:client:api:* urn:matrix:client:device:" + strings.Repeat("x", maxDeviceID+1), strings.Repeat("x", maxScope+1),
	} {
		if _, err := parseScope(text); codeOf(err) != errScope {
			t.Errorf("%.80q: %v", text, err)
		}
	}
}

const goodScope = "urn:matrix:client:api:* urn:matrix:client:device:TESTDEVICE"

// request returns the parameters of an authorization request with some replaced; "" removes one.
func request(change ...string) url.Values {
	q := url.Values{
		"response_type": {"code"}, "client_id": {"client"}, "redirect_uri": {"https://app.example.com/callback"}, "scope": {goodScope}, "state": {"xyz"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"},
	}
	for i := 0; i < len(change); i += 2 {
		if q.Set(change[i], change[i+1]); change[i+1] == "" {
			q.Del(change[i])
		}
	}
	return q
}

const (
	verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk" // of RFC 7636, appendix B
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)

func TestAuthorizationRequests(t *testing.T) {
	check := func(q url.Values) error { r := Request{State: q.Get("state")}; return r.checkRequest(q) }
	for name, c := range map[string]struct {
		change []string
		want   string
	}{
		"good":               {nil, ""},
		"good, by fragment":  {[]string{"response_mode", "fragment"}, ""},
		"no PKCE":            {[]string{"code_challenge", "", "code_challenge_method", ""}, errRequest},
		"PKCE downgrade":     {[]string{"code_challenge_method", "plain"}, errRequest},
		"PKCE by default":    {[]string{"code_challenge_method", ""}, errRequest},
		"short challenge":    {[]string{"code_challenge", "abc"}, errRequest},
		"no state":           {[]string{"state", ""}, errRequest},
		"token":              {[]string{"response_type", "token"}, "unsupported_response_type"},
		"two response types": {[]string{"response_type", "code id_token"}, "unsupported_response_type"},
		"form_post":          {[]string{"response_mode", "form_post"}, errRequest},
		"request object":     {[]string{"request_uri", "https://example.org/"}, "request_not_supported"},
		"no consent":         {[]string{"prompt", "none"}, "interaction_required"},
		"no scope":           {[]string{"scope", ""}, errScope},
	} {
		if err := check(request(c.change...)); codeOf(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v", name, err)
		}
	}
	twice := request()
	twice.Add("scope", goodScope)
	if err := check(twice); codeOf(err) != errRequest {
		t.Errorf("a parameter twice: %v", err)
	}
}

func TestVerifiers(t *testing.T) {
	for v, want := range map[string]bool{verifier: true, "": false, challenge: false, verifier + "x": false} {
		if verifies(v, challenge) != want {
			t.Errorf("%q: %v", v, !want)
		}
	}
}

func TestAnswersKeepTheRedirectURI(t *testing.T) {
	for _, c := range []struct{ redirect, mode, want string }{
		{"https://a.example/cb", "", "https://a.example/cb?code=1&iss=https%3A%2F%2Fhere&state=a+%26b"},
		{"https://a.example/cb?x=1", modeQuery, "https://a.example/cb?x=1&code=1&iss=https%3A%2F%2Fhere&state=a+%26b"},
		{"https://a.example/cb?x=1", modeFragment, "https://a.example/cb?x=1#code=1&iss=https%3A%2F%2Fhere&state=a+%26b"},
		{"com.example:cb", "", "com.example:cb?code=1&iss=https%3A%2F%2Fhere&state=a+%26b"},
		{"https://a.example/cb?", "", "https://a.example/cb?code=1&iss=https%3A%2F%2Fhere&state=a+%26b"},
	} {
		r := Request{RedirectURI: c.redirect, State: "a &b", mode: c.mode, issuer: "https://here"}
		if got := r.Answer(url.Values{"code": {"1"}}); got != c.want {
			t.Errorf("%s", got)
		}
	}
}

func TestUserCodesAreFoldedAndUnbiased(t *testing.T) {
	for range 200 {
		code := newUserCode()
		if len(code) != userLength || foldUserCode(strings.ToLower(code[:4])+" - "+code[4:]) != code {
			t.Fatal(code)
		}
	}
}
