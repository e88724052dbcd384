package ldap_test

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"ebb/accounts/ldap"
	"ebb/internal/ldaptest"
)

// searching returns options that search for people.
func searching(s *ldaptest.Server) ldap.Options {
	return ldap.Options{
		URL: s.Secure, Roots: s.Roots(), Base: ldaptest.Base, Filter: "(uid={name})", SearchDN: ldaptest.SearchDN, SearchPassword: ldaptest.SearchPassword,
		Name: "uid", DisplayName: "cn", Email: "mail", Timeout: 20 * time.Second,
	}
}

func open(t *testing.T, o ldap.Options) *ldap.Directory {
	t.Helper()
	d, err := ldap.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// each runs a test with every kind of server.
func each(t *testing.T, f func(*testing.T, *ldaptest.Server)) {
	for name, start := range ldaptest.Kinds {
		t.Run(name, func(t *testing.T) { f(t, start(t)) })
	}
}

func TestPasswordsAreCheckedByABind(t *testing.T) {
	each(t, func(t *testing.T, s *ldaptest.Server) {
		direct := ldap.Options{URL: s.Plain, StartTLS: true, Roots: s.Roots(), UserDN: "uid={name}," + ldaptest.Base, Filter: "(uid={name})", Name: "uid", DisplayName: "cn", Email: "mail", Timeout: 20 * time.Second}
		started := searching(s)
		started.URL, started.StartTLS = s.Plain, true
		for way, o := range map[string]ldap.Options{"search by ldaps": searching(s), "search by StartTLS": started, "direct": direct} {
			d := open(t, o)
			for _, c := range []struct{ name, password, found string }{
				{"alice", "alice secret", "alice"}, {"ALICE", "alice secret", "alice"}, {"bob", "bob secret", "Bob"},
				{"alice", "bob secret", ""}, {"alice", "", ""}, {"alice", "alice secret\x00", ""}, {"nobody", "x", ""}, {"", "x", ""}, {"", "", ""},
				{strings.Repeat("x", 300), "x", ""}, {"alice", strings.Repeat("x", 600), ""}, {"alice\x00", "alice secret", ""}, {"alice\n", "alice secret", ""},
			} {
				p, ok, err := d.Check(t.Context(), c.name, c.password)
				if err != nil || ok != (c.found != "") || p.Name != c.found {
					t.Errorf("%s: %.20q with %.20q: %+v %v %v", way, c.name, c.password, p, ok, err)
				}
			}
			if p, _, _ := d.Check(t.Context(), "alice", "alice secret"); p.DisplayName != "Alice Example" || p.Email != "alice@example.org" {
				t.Errorf("%s: %+v", way, p)
			}
		}
	})
}

func TestNamesCannotChangeAFilterOrDN(t *testing.T) {
	each(t, func(t *testing.T, s *ldaptest.Server) {
		direct := ldap.Options{URL: s.Secure, Roots: s.Roots(), UserDN: "uid={name}," + ldaptest.Base, Filter: "(uid={name})", Name: "uid", Timeout: 20 * time.Second}
		for way, o := range map[string]ldap.Options{"search": searching(s), "direct": direct} {
			d := open(t, o)
			for _, name := range []string{"*", "al*", "ali*ce", "alice)(uid=*", "*)(uid=*))(|(uid=*", `\61lice`, "alice,ou=people", "alice+cn=Alice Example", "x," + ldaptest.Base, `al\2a`, "alice)(cn=*)"} {
				if p, ok, err := d.Check(t.Context(), name, "alice secret"); ok || err != nil {
					t.Errorf("%s: %q: %+v %v", way, name, p, err)
				}
			}
			if p, ok, err := d.Check(t.Context(), "s*r(x),y", "star secret"); !ok || err != nil || p.Name != "s*r(x),y" {
				t.Errorf("%s: a name with special characters: %+v %v %v", way, p, ok, err)
			}
		}
	})
}

func TestANameThatStandsForTwoPeopleFindsNobody(t *testing.T) {
	each(t, func(t *testing.T, s *ldaptest.Server) {
		o := searching(s)
		o.Filter = "(mail={name})"
		d := open(t, o)
		if p, ok, err := d.Check(t.Context(), "carol@example.org", "carol secret"); ok || err != nil {
			t.Errorf("%+v %v", p, err)
		}
		if p, ok, err := d.Check(t.Context(), "alice@example.org", "alice secret"); !ok || err != nil || p.Name != "alice" {
			t.Errorf("%+v %v %v", p, ok, err)
		}
	})
}

func TestADirectoryThatCannotBeAskedIsUnavailable(t *testing.T) {
	each(t, func(t *testing.T, s *ldaptest.Server) {
		for name, change := range map[string]func(*ldap.Options){
			"another authority":          func(o *ldap.Options) { o.Roots = x509.NewCertPool() },
			"another host":               func(o *ldap.Options) { o.URL = strings.Replace(s.Secure, "127.0.0.1", "localhost", 1) },
			"no encryption":              func(o *ldap.Options) { o.URL = s.Plain },
			"wrong password of a search": func(o *ldap.Options) { o.SearchPassword = "wrong" },
		} {
			o := searching(s)
			change(&o)
			if _, ok, err := open(t, o).Check(t.Context(), "alice", "alice secret"); ok || !errors.Is(err, ldap.ErrUnavailable) {
				t.Errorf("%s: %v %v", name, ok, err)
			}
		}
		d := open(t, searching(s))
		s.Stop()
		if _, ok, err := d.Check(t.Context(), "alice", "alice secret"); ok || !errors.Is(err, ldap.ErrUnavailable) {
			t.Errorf("after it was stopped: %v %v", ok, err)
		}
	})
}

// hostile starts a server that accepts connections and treats them badly.
func hostile(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().String()
}

func TestAHangingOrBrokenServerEndsWithTheTimeout(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	for name, serve := range map[string]func(net.Conn){
		"silent":  func(net.Conn) { <-hang },
		"closing": func(c net.Conn) { _ = c.Close() },
		"garbage": func(c net.Conn) { _, _ = c.Write([]byte(strings.Repeat("HTTP/1.1 200 OK\r\n", 1000))); <-hang },
	} {
		address := hostile(t, serve)
		for _, o := range []ldap.Options{{URL: "ldaps://" + address}, {URL: "ldap://" + address, StartTLS: true}, {URL: "ldap://" + address}} {
			o.Base, o.Filter, o.Name, o.Timeout = ldaptest.Base, "(uid={name})", "uid", 100*time.Millisecond
			if _, ok, err := open(t, o).Check(t.Context(), "alice", "alice secret"); ok || !errors.Is(err, ldap.ErrUnavailable) {
				t.Errorf("%s, %s: %v %v", name, o.URL, ok, err)
			}
		}
	}
}

func TestACheckEndsWithItsRequest(t *testing.T) {
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	o := ldap.Options{URL: "ldap://" + hostile(t, func(net.Conn) { <-hang }), Base: ldaptest.Base, Filter: "(uid={name})", Name: "uid", Timeout: time.Hour}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	d := open(t, o)
	go func() {
		_, _, err := d.Check(ctx, "alice", "alice secret")
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, ldap.ErrUnavailable) {
		t.Error(err)
	}
}

func TestMistakesInTheSettingsAreFound(t *testing.T) {
	for _, o := range []ldap.Options{{Filter: "(uid={name}"}, {Filter: "(uid={name})", Base: "people"}, {Filter: "(uid={name})", UserDN: "{name}"}} {
		if _, err := ldap.New(o); err == nil {
			t.Errorf("%+v", o)
		}
	}
}
