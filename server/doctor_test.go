package server_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
	"ebb/server"
)

// finding returns the first finding of a check, or one whose status is absent.
func finding(list []server.Finding, check string) server.Finding {
	if i := slices.IndexFunc(list, func(f server.Finding) bool { return f.Check == check }); i >= 0 {
		return list[i]
	}
	return server.Finding{Check: check, Status: "absent"}
}

func TestDoctorFindsWhyOtherServersCannotReachThisOne(t *testing.T) {
	w := testserver.Federation(t, 2, nil)
	clocks := func(skew time.Duration) {
		w.Intercept(func(rw http.ResponseWriter, r *http.Request, _ string, next http.Handler) {
			rw.Header().Set("Date", w.Servers[0].Now().Add(skew).UTC().Format(http.TimeFormat))
			next.ServeHTTP(rw, r)
		})
	}
	clocks(0)
	examine := func(with string, change func(c *config.Config)) []server.Finding {
		t.Helper()
		list, err := w.Diagnose(0, with, change)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	expect := func(when string, list []server.Finding, check, status, fix string) {
		t.Helper()
		if f := finding(list, check); f.Status != status || !strings.Contains(f.Fix, fix) {
			t.Errorf("%s: %s is %+v, want %s with a fix that contains %q", when, check, f, status, fix)
		}
	}
	well := examine("hs2.test", nil)
	for _, check := range []string{"configuration", ".well-known", "TLS", "signing key", "from outside", "clock"} {
		expect("all is well", well, check, "ok", "")
	}
	expect("all is well", well, "DNS", "warning", "public address") // the address is 10.0.0.1
	expect("nobody is asked", examine("", nil), "from outside", "warning", "--with")
	expect("federation is off", examine("", func(c *config.Config) { c.Federation.Enabled = false }), "configuration", "failed", "federation.enabled")
	expect("no address serves it", examine("", func(c *config.Config) { c.Listen[0].Serve = []string{"client"} }), "configuration", "failed", "serve")
	expect("delegation is not seen", examine("", func(c *config.Config) { c.WellKnown.Server = "x.test:443" }), ".well-known", "failed", "x.test:443")
	expect("no such name", examine("", func(c *config.Config) { c.ServerName = "unheard-of.test" }), "DNS", "failed", "A or AAAA record")
	expect("another authority", examine("", func(c *config.Config) { c.Federation.TrustedCAFile = "" }), "TLS", "failed", "chain")
	expect("another server answers", examine("", func(c *config.Config) { c.ServerName = "hs2.test" }), "signing key", "failed", "another server")

	clocks(time.Hour)
	expect("a wrong clock", examine("hs2.test", nil), "clock", "failed", "NTP")
	for _, s := range w.Servers {
		s.Advance(2 * time.Hour) // the copy of the key at hs2.test becomes too old
	}
	w.Cut("hs1.test", "hs2.test")
	expect("behind a firewall", examine("hs2.test", nil), "from outside", "failed", "firewall")
	w.Intercept(func(rw http.ResponseWriter, r *http.Request, to string, _ http.Handler) { http.NotFound(rw, r) })
	expect("the proxy passes nothing on", examine("", nil), "signing key", "failed", "proxy")
	w.Intercept(nil)
	w.Stop(0)
	expect("the server is down", examine("", nil), "TLS", "failed", "firewall")
	w.Start(0)
}
