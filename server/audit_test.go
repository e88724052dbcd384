package server_test

import (
	"encoding/json"
	"strings"
	"testing"

	"ebb/config"
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
