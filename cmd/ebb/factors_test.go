package main

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"ebb/storage"
)

func TestAnotherDomainOfPasskeysNeedsAFlag(t *testing.T) {
	s := newSite(t, 0)
	cfg := "--config=" + s.config
	must(t, "correct horse", "user", "add", "--password-stdin", "alice", cfg)
	db, err := storage.Open(t.Context(), storage.Config{DSN: "sqlite:" + filepath.Join(s.dir, "ebb.db")})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Write(t.Context(), func(tx *storage.Tx) error {
		account, _, err := tx.AccountByLocalpart("alice")
		if err != nil {
			return err
		}
		_, err = tx.AddPasskey(storage.PasskeyRow{CredentialID: "AAAA", User: account.NID, RPID: "chat.example.org", Name: "Key"})
		return errors.Join(err, tx.SetPasskeyRPID("chat.example.org"))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, exitFailed, "1 passkeys of 1 accounts", "", "serve", cfg)
	refusedWith(t, exitFailed, "--change-rp-id", "", "serve", cfg)
	must(t, "", "user", "list", cfg) // other commands work
	edit(t, s.config, `rp_id: ""`, `rp_id: "127.0.0.1"`)
	refusedWith(t, exitUsage, "localhost", "", "config", "check", cfg)
	edit(t, s.config, `rp_id: "127.0.0.1"`, `rp_id: ""`)
	stop, _ := s.serveAndLog(t, "--change-rp-id")
	if code := stop(); code != 0 {
		t.Errorf("with the flag, serve ends with %d", code)
	}
	stop = s.serve(t)
	if code := stop(); code != 0 {
		t.Errorf("the change is not recorded: serve ends with %d", code)
	}
}

func TestLinksAreRefusedWhileSecondFactorsAreOff(t *testing.T) {
	eachWay(t, func(t *testing.T, s site) {
		cfg := "--config=" + s.config
		must(t, "correct horse", "user", "add", "--password-stdin", "--admin", "alice", cfg)
		for _, command := range [][]string{{"user", "enrol-link"}, {"admin", "recover"}} {
			refusedWith(t, exitRefused, "does not use second factors", "", append(command, "alice", cfg)...)
		}
		refusedWith(t, exitRefused, "no link", "", "user", "enrol-revoke", "alice", cfg)
		if out := must(t, "", "user", "enrol-list", "--json", cfg); strings.TrimSpace(out) != "[]" {
			t.Errorf("the links are %q", out)
		}
	})
}
