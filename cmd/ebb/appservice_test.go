package main

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ebb/appservice"
)

func TestApplicationServicesAreListedAndPinged(t *testing.T) {
	s := newSite(t, 0)
	status := http.StatusOK
	bridge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer hs" || r.URL.Path != "/_matrix/app/v1/ping" {
			status = http.StatusTeapot
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte("{}"))
	}))
	t.Cleanup(bridge.Close)
	registration := "id: irc\nurl: " + bridge.URL + "\nas_token: as\nhs_token: hs\nsender_localpart: ircbot\nnamespaces: {}\n"
	if err := os.WriteFile(filepath.Join(filepath.Dir(s.config), "irc.yaml"), []byte(registration), 0o600); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(raw), "appservices: []", "appservices: [irc.yaml]", 1)
	if !strings.Contains(text, "irc.yaml") {
		text += "\nappservices: [irc.yaml]\n"
	}
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := "--config=" + s.config
	check := func(t *testing.T) {
		list := parsed[[]appservice.Status](t, must(t, "", "appservice", "list", "--json", cfg))
		if len(list) != 1 || list[0].ID != "irc" || list[0].URL != bridge.URL || !strings.HasPrefix(list[0].Sender, "@ircbot:") || list[0].Failures != 0 {
			t.Errorf("the list is %+v", list)
		}
		if text := must(t, "", "appservice", "list", cfg); !strings.Contains(text, "irc") || !strings.Contains(text, bridge.URL) {
			t.Errorf("the list is %q", text)
		}
		if text := must(t, "", "appservice", "ping", "irc", cfg); !strings.Contains(text, "irc responded in") {
			t.Errorf("the ping says %q", text)
		}
		refusedWith(t, 3, "", "", "appservice", "ping", "unheard", cfg)
	}
	t.Run("stopped", check)
	stop := s.serve(t)
	t.Run("running", check)
	if code := stop(); code != 0 {
		t.Errorf("serve ended with %d", code)
	}
	if status != http.StatusOK {
		t.Error("the ping was not the specification's")
	}
}
