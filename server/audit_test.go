package server_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"ebb/accounts/factors"
	"ebb/accounts/gate"
	"ebb/adminapi"
	"ebb/config"
	"ebb/internal/mailsink"
	"ebb/internal/testserver"
	"ebb/storage"
)

// auditLog returns the records of a server's audit log, as "KIND BODY".
func auditLog(t *testing.T, dsn string) (lines []string) {
	t.Helper()
	_, err := storage.PeekAudit(t.Context(), dsn, func(a storage.AuditRow) error {
		lines = append(lines, a.Kind+" "+a.Body)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func TestSignInsAndActsOfAdministratorsAreInTheAuditLog(t *testing.T) {
	var cfg *config.Config
	s := testserver.New(t, func(c *config.Config) { cfg = c })
	alice := s.Register("alice")
	control := func(name, args string) {
		t.Helper()
		if _, err := s.Control(t.Context(), name, json.RawMessage(args)); err != nil {
			t.Fatal(err)
		}
	}
	control("user add", `{"user":"bob","password":"a secret that nobody guesses"}`)
	control("user passwd", `{"user":"bob","password":"another secret of his","sign_out":true}`)
	control("user lock", `{"user":"bob"}`)
	control("user admin", `{"user":"alice","admin":true}`)
	control("token create", `{"token":"registration-secret"}`)
	control("keys rotate", `{}`)
	control("purge now", `{}`)
	control("user add", `{"user":"bot","service":true}`)
	control("token issue", `{"user":"bot","device":"BUILD","lifetime_ms":60000}`)
	control("token issued", `{}`)
	control("token withdraw", `{"user":"bot","device":"BUILD"}`)
	alice.Do("PUT", "/v1/admin/suspend/@bob:test", obj{"suspended": true})
	if _, err := s.Control(t.Context(), "user lock", json.RawMessage(`{"user":"nobody"}`)); err == nil {
		t.Error("somebody who does not exist is locked")
	}
	control("user list", `{}`)
	alice.Do("POST", "/v3/logout", obj{})

	all := strings.Join(auditLog(t, cfg.DSN()), "\n")
	for _, want := range []string{
		`signed in {"device":"` + alice.DeviceID, `"path":"register"`, `account made {"actor":"command line"`, `password changed {"actor":"command line","user":"@bob:test"}`,
		`command: user lock {"actor":"command line","user":"bob"}`, `account locked`, `command: user admin {"actor":"command line","admin":"true","user":"alice"}`,
		`command: keys rotate`, `command: purge now`, `"by":"@alice:test"`, `token issued to a program`, `command: token withdraw {"actor":"command line","device":"BUILD","user":"bot"}`, `command: user lock {"actor":"command line","error":`, `devices signed out`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in\n%s", want, all)
		}
	}
	for _, secret := range []string{"a secret that nobody guesses", "another secret of his", "registration-secret", "user list", "command: token issued", "ebb_a_"} {
		if strings.Contains(all, secret) {
			t.Errorf("%s is in the audit log", secret)
		}
	}
}

// lockedBuffer is a buffer that several goroutines may use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func TestNoSecretIsInTheLogOrTheAuditLog(t *testing.T) {
	var cfg *config.Config
	var log lockedBuffer
	sink := mailsink.New(t, mailsink.Options{})
	s := testserver.NewWithLog(t, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})), gate.Policy{MFA: gate.Optional}, func(c *config.Config) {
		c.Email.SMTP.Host, c.Email.SMTP.Port, c.Email.SMTP.TLS, c.Email.SMTP.From = sink.Host, sink.Port, "none", "Test <ebb@example.org>"
		c.Registration.SharedSecret, cfg = "MARKER-shared", c
	})
	p := postal{s, t, sink}
	alice := p.Register("alice")
	secrets := []string{testserver.Password(), alice.Token, "MARKER", "marker-typed"}
	p.add(alice, "alice@example.org")
	login := obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": "MARKER-wrong", "refresh_token": true}
	p.Anonymous().Refused("POST", "/v3/login", login, 403, "M_FORBIDDEN")
	p.Anonymous().Refused("POST", "/v3/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "marker-typed-as-name"}, "password": "x"}, 403, "M_FORBIDDEN")
	login["password"] = testserver.Password()
	in := p.Anonymous().Do("POST", "/v3/login", login)
	renewed := p.Anonymous().Do("POST", "/v3/refresh", obj{"refresh_token": in["refresh_token"]})
	p.Anonymous().Refused("POST", "/v3/refresh", obj{"refresh_token": "MARKER-refresh"}, 401, "M_UNKNOWN_TOKEN")
	p.Anonymous().Refused("POST", "/v3/login", obj{"type": "m.login.token", "token": "MARKER-login"}, 403, "M_FORBIDDEN")
	for _, token := range []any{in["access_token"], in["refresh_token"], renewed["access_token"], renewed["refresh_token"]} {
		secrets = append(secrets, token.(string))
	}
	sid := p.link("account/password", "alice@example.org", 1)
	m := p.sink.Next()
	_, token, _ := strings.Cut(m.Text, "token=")
	secrets = append(secrets, strings.Fields(token)[0])
	p.follow(m)
	p.Anonymous().Do("POST", "/v3/account/password", obj{"new_password": "MARKER-new password", "auth": byEmail(sid), "logout_devices": false})
	nid := (&pageLab{s, t}).user("alice")
	grant := factors.Grant{User: nid, Shown: gate.Password}
	e, err := s.Factors().BeginTOTP(t.Context(), grant)
	if err != nil {
		t.Fatal(err)
	}
	made, err := s.Factors().ConfirmTOTP(t.Context(), grant, e.ID, codeOf(t, s, e.Secret))
	if err != nil {
		t.Fatal(err)
	}
	secrets = append(append(secrets, made.RecoveryCodes...), e.Secret, e.ID)
	if _, err := s.Factors().CheckRecoveryCode(t.Context(), nid, "", made.RecoveryCodes[0]); err != nil {
		t.Fatal(err)
	}
	bodies, _ := notices(t, alice)
	for _, body := range bodies {
		_, token, _ := strings.Cut(body, "token=")
		secrets = append(secrets, strings.Fields(token)[0])
	}
	link, err := s.Control(t.Context(), "user enrol-link", json.RawMessage(`{"user":"alice"}`))
	if err != nil {
		t.Fatal(err)
	}
	_, token, _ = strings.Cut(link.(adminapi.EnrolLink).URL, "token=")
	secrets = append(secrets, token)
	if _, err := s.Control(t.Context(), "user passwd", json.RawMessage(`{"user":"alice","password":"MARKER-by-admin"}`)); err != nil {
		t.Fatal(err)
	}
	if err := s.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}

	audited := strings.Join(auditLog(t, cfg.DSN()), "\n")
	log.mu.Lock()
	logged := log.b.String()
	log.mu.Unlock()
	if !strings.Contains(audited, "alice wrong password") || !strings.Contains(audited, "recovery code used") || !strings.Contains(logged, "sign-in failed") {
		t.Fatalf("the logs lack what was done: %s\n%s", audited, logged)
	}
	for _, secret := range secrets {
		if len(secret) < 6 {
			t.Fatalf("%q is no secret", secret)
		}
		for name, text := range map[string]string{"log": logged, "audit log": audited} {
			if i := strings.Index(text, secret); i >= 0 {
				t.Errorf("the %s has %q: …%s", name, secret, text[max(0, i-150):min(len(text), i+60)])
			}
		}
	}
}

func TestTheAuditLogHasTheNetworksOfSignInsAndFailures(t *testing.T) {
	var cfg *config.Config
	s := testserver.New(t, func(c *config.Config) { cfg = c })
	s.Register("alice")
	s.Login("alice")
	s.Anonymous().Refused("POST", "/v3/login", obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": "wrong"}, 403, "M_FORBIDDEN")
	if err := s.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	found := map[string]int{}
	if _, err := storage.PeekAudit(t.Context(), cfg.DSN(), func(a storage.AuditRow) error {
		if a.Networks == `{"127.0.0.0/24":1}` {
			found[a.Kind]++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if found["signed in"] != 2 || found["sign-ins failed"] != 1 {
		t.Errorf("records with a network: %v", found)
	}
}

func TestTheAuditLogShowsHowTheConfigurationChanged(t *testing.T) {
	var cfg *config.Config
	s := testserver.New(t, func(c *config.Config) {
		cfg = c
		c.Auth.MFA, c.Registration.SharedSecret = "optional", "the first shared secret"
		c.Auth.Providers = []config.Provider{{ID: "one", Name: "One", Issuer: "https://one.example.org", ClientID: "ebb", ClientSecret: "the first client secret"}}
	})
	changes := func() (found []string) {
		for _, line := range auditLog(t, cfg.DSN()) {
			if strings.HasPrefix(line, "configuration changed") {
				found = append(found, line)
			}
		}
		return found
	}
	s.Reopen()
	if got := changes(); len(got) > 0 {
		t.Fatalf("a start with the same configuration is recorded: %s", got)
	}
	cfg.Auth.MFA, cfg.Registration.SharedSecret, cfg.Log.Level = "off", "the second shared secret", "debug"
	day := config.Duration(24 * time.Hour)
	cfg.Retention.Default.MaxLifetime = &day
	cfg.Auth.Providers = append(cfg.Auth.Providers, config.Provider{ID: "two", Name: "Two", Issuer: "https://two.example.org", ClientID: "ebb", ClientSecret: "the second client secret"})
	s.Reopen()
	s.Reopen()
	got := changes()
	if len(got) != 1 {
		t.Fatalf("%d records: %s", len(got), got)
	}
	for _, want := range []string{
		`"auth.mfa":"\"off\", was \"optional\""`, `"retention.default.max_lifetime":"\"1d\", was `, `"auth.providers[1].issuer":"\"https://two.example.org\", was \"\""`,
	} {
		if !strings.Contains(got[0], want) {
			t.Errorf("no %s in %s", want, got[0])
		}
	}
	for _, other := range []string{"secret", "log.level", "providers[0]"} {
		if strings.Contains(strings.ReplaceAll(got[0], "client_secret_file", ""), other) {
			t.Errorf("%s is in %s", other, got[0])
		}
	}
	cfg.Auth.Providers = cfg.Auth.Providers[:1]
	s.Reopen()
	if got := changes(); len(got) != 2 || !strings.Contains(got[1], `"auth.providers[1].issuer":"removed, was \"https://two.example.org\""`) {
		t.Errorf("a provider that is gone: %s", got[1:])
	}
}
