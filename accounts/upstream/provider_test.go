package upstream

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"ebb/accounts/gate"
	"ebb/accounts/jwt"
	"ebb/mxerr"
)

func TestProviderThatHangsEndsWithTheTimeout(t *testing.T) {
	hang := make(chan struct{})
	h := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hang }))
	t.Cleanup(h.Close)
	t.Cleanup(func() { close(hang) })
	s, err := New(Options{Providers: []Settings{{ID: "office", Name: "Office", Issuer: h.URL, ClientID: "ebb"}}})
	if err != nil {
		t.Fatal(err)
	}
	s.providers[0].http.Timeout = 50 * time.Millisecond
	if _, _, err := s.Begin(t.Context(), "office", "/", false); mxerr.Code(err) != mxerr.CodeConnectionFailed {
		t.Error(err)
	}
}

func TestClaimsBecomeAPersonByTemplates(t *testing.T) {
	long := strings.Repeat("x", 300)
	for _, c := range []struct {
		localpart, want string
		claims          map[string]any
	}{
		{"{{.preferred_username}}", "dora", map[string]any{"preferred_username": "dora"}},
		{"{{.preferred_username}}", "", map[string]any{}},
		{`{{lower (before "@" .email)}}`, "dora", map[string]any{"email": "Dora@example.org"}},
		{`{{after "\\" .upn}}`, "dora", map[string]any{"upn": `OFFICE\dora`}},
		{`{{replace " " "." .name}}`, "dora.d", map[string]any{"name": "dora d"}},
		{"{{.address.country}}", "at", map[string]any{"address": map[string]any{"country": "at"}}},
		{"{{.preferred_username}}", "", map[string]any{"preferred_username": long}},
		{"{{range .groups}}{{.}}{{end}}", "", map[string]any{"groups": []any{long, long}}},
		{"{{.preferred_username}}", "", map[string]any{"preferred_username": "a\x00b"}},
		{"{{.preferred_username.x}}", "", map[string]any{"preferred_username": "dora"}},
		{"", "", map[string]any{"preferred_username": "dora"}},
	} {
		p, err := newProvider(Settings{Issuer: "https://id.example.org", Localpart: c.localpart, Email: "{{.email}}"}, "", time.Now)
		if err != nil {
			t.Fatal(err)
		}
		u := p.person(c.claims)
		if u.Name != c.want || u.Email != "" || u.Shown != gate.Upstream {
			t.Errorf("%s with %v: %+v", c.localpart, c.claims, u)
		}
	}
	for _, bad := range []string{"{{.name", "{{nothing .name}}"} {
		if _, err := newProvider(Settings{Localpart: bad}, "", time.Now); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

func TestOnlyVerifiedAddressesAndStatedFactorsCount(t *testing.T) {
	p, err := newProvider(Settings{Issuer: "https://id.example.org", Email: "{{.email}}", SecondFactor: jwt.SecondFactor{ACR: []string{"2"}}}, "", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		claims map[string]any
		email  string
		shown  gate.Evidence
	}{
		{map[string]any{"email": "d@example.org"}, "", gate.Upstream},
		{map[string]any{"email": "d@example.org", "email_verified": "true"}, "", gate.Upstream},
		{map[string]any{"email": "d@example.org", "email_verified": true, "acr": "1"}, "d@example.org", gate.Upstream},
		{map[string]any{"acr": "2"}, "", gate.Upstream | gate.UpstreamMFA},
	} {
		if u := p.person(c.claims); u.Email != c.email || u.Shown != c.shown {
			t.Errorf("%v: %+v", c.claims, u)
		}
	}
}
