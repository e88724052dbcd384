package server_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
	"ebb/server"
	"ebb/storage/storagetest"
)

// keyDoctor runs ebb doctor on a server on PostgreSQL, whose messages are encrypted.
type keyDoctor struct {
	*testing.T
	*testserver.Server
}

// examine returns what the doctor says about the keys.
func (d *keyDoctor) examine(change func(*config.Config)) (list []server.Finding) {
	d.Helper()
	cfg := *d.Config()
	cfg.Federation.Enabled = false
	if change != nil {
		change(&cfg)
	}
	found, err := server.Diagnose(context.Background(), &cfg, server.Options{Now: d.Now}, "")
	ok(d.T, err)
	for _, f := range found {
		if f.Check == "message keys" {
			list = append(list, f)
		}
	}
	return list
}

// expect fails the test unless a finding has the status, and its text and advice contain some words.
func (d *keyDoctor) expect(when string, list []server.Finding, status string, words ...string) {
	d.Helper()
	for _, f := range list {
		has := f.Status == status
		for _, word := range words {
			has = has && strings.Contains(f.Detail+" "+f.Fix, word)
		}
		if has {
			return
		}
	}
	d.Errorf("%s: %+v, want %s with %q", when, list, status, words)
}

// failures returns the checks that failed.
func failures(list []server.Finding) (failed []server.Finding) {
	for _, f := range list {
		if f.Status == "failed" {
			failed = append(failed, f)
		}
	}
	return failed
}

func (d *keyDoctor) sql(query string, args ...any) {
	d.Helper()
	db, err := sql.Open("pgx", d.Config().Database)
	ok(d.T, err)
	defer func() { ok(d.T, db.Close()) }()
	_, err = db.ExecContext(context.Background(), query, args...)
	ok(d.T, err)
}

func newKeyDoctor(t *testing.T) *keyDoctor {
	t.Helper()
	s := testserver.New(t, func(c *config.Config) { testserver.OnPostgres(t, c) })
	alice := s.Register("alice")
	alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat", "name": "a room"})
	return &keyDoctor{T: t, Server: s}
}

func TestDoctorChecksTheKeysOfMessages(t *testing.T) {
	d := newKeyDoctor(t)
	keys := d.Config().BodyKeys()
	copies := func(c *config.Config) { c.Backup.Keys = t.TempDir() }
	well := d.examine(copies)
	if failed := failures(well); len(failed) > 0 {
		t.Errorf("all is well: %+v", failed)
	}
	d.expect("all is well", well, "ok", "texts were decrypted")
	d.expect("no copy", d.examine(nil), "warning", "no copy of the keys", "backup.keys")
	d.expect("the copy is in the folder", d.examine(func(c *config.Config) { c.Backup.Keys = filepath.Join(keys, "copy") }), "failed", "lost together")
	d.expect("switched off", d.examine(func(c *config.Config) { c.DatabaseKeys = "off" }), "failed", "database_keys")
	d.expect("no folder", d.examine(func(c *config.Config) { c.DatabaseKeys = "elsewhere" }), "failed", "restore the folder", "mount")
	other := newKeyDoctor(t)
	d.expect("the keys of another database", d.examine(func(c *config.Config) { c.DatabaseKeys = other.Config().DatabaseKeys }), "failed", "another database")

	ok(t, os.Chmod(keys, 0o750))
	d.expect("a group may read the keys", d.examine(copies), "failed", "other users", "chmod -R go=")
	ok(t, os.Chmod(keys, 0o700))
}

func TestDoctorFindsKeysThatAreLost(t *testing.T) {
	d := newKeyDoctor(t)
	files, err := filepath.Glob(filepath.Join(d.Config().BodyKeys(), "??", "*"))
	ok(t, err)
	contents := map[string][]byte{}
	for _, f := range files {
		contents[f], err = os.ReadFile(f)
		ok(t, err)
	}
	restore := func() {
		t.Helper()
		for f, content := range contents {
			ok(t, os.WriteFile(f, content, 0o600))
		}
		if failed := failures(d.examine(nil)); len(failed) > 0 {
			t.Fatalf("restored: %+v", failed)
		}
	}
	restore()
	for f := range contents {
		ok(t, os.WriteFile(f, contents[f][:20], 0o600))
	}
	d.expect("damaged keys", d.examine(nil), "failed", "table events", "damaged", "as new as the database")
	restore()
	var last []byte
	for f := range contents { // each gets the key of another one
		if last != nil {
			ok(t, os.WriteFile(f, last, 0o600))
		}
		last = contents[f]
	}
	d.expect("keys that do not fit", d.examine(nil), "failed", "table events", "damaged, belongs to another row")
	restore()
	for f := range contents {
		ok(t, os.Remove(f))
	}
	d.expect("missing keys", d.examine(nil), "failed", "keys are missing", "as new as the database")
	restore()
	d.sql(`DELETE FROM body_keys WHERE state = 1`)
	d.expect("a key that is not recorded", d.examine(nil), "failed", "has not recorded")
}

func TestDoctorSaysHowLateTheDestructionOfKeysIs(t *testing.T) {
	d := newKeyDoctor(t)
	since := func(age time.Duration) {
		d.sql(`UPDATE body_keys SET dirty_ts = $1 WHERE state = 1`, d.Now().Add(-age).UnixMilli())
	}
	since(3 * time.Hour)
	d.expect("in time", d.examine(nil), "ok", "for 3h0m0s", "at most 24h0m0s")
	since(30 * time.Hour)
	d.expect("late", d.examine(nil), "failed", "6h0m0s late", "ebb purge now --all")
}

// plainOnPostgres returns a server on PostgreSQL whose messages are not encrypted.
func plainOnPostgres(t *testing.T) *keyDoctor {
	t.Helper()
	s := testserver.New(t, func(c *config.Config) { c.Database, c.DatabaseKeys = storagetest.Postgres(t), "off" })
	s.Register("alice").Do("POST", "/v3/createRoom", nil)
	return &keyDoctor{T: t, Server: s}
}

func TestDoctorRecommendsKeysOnPostgreSQL(t *testing.T) {
	d := plainOnPostgres(t)
	d.expect("no keys", d.examine(nil), "warning", "not encrypted", "database_keys")
}

// checked returns what ebb config check says about some keys of the configuration.
func (d *keyDoctor) checked(change func(*config.Config)) (mistakes, warnings string) {
	d.Helper()
	cfg := *d.Config()
	change(&cfg)
	texts := func(list config.Problems) (text string) {
		for _, p := range list {
			if p.Key == "database_keys" || p.Key == "backup.keys" {
				text += p.Key + " " + p.Text + "\n"
			}
		}
		return text
	}
	m, w := server.Check(context.Background(), &cfg, server.Options{})
	return texts(m), texts(w)
}

func TestConfigCheckKnowsTheKeysOfMessages(t *testing.T) {
	d := newKeyDoctor(t)
	expect := func(d *keyDoctor, change func(*config.Config), mistake, warning string) {
		t.Helper()
		m, w := d.checked(change)
		if !strings.Contains(m, mistake) || mistake == "" && m != "" || !strings.Contains(w, warning) || warning == "" && w != "" {
			t.Errorf("mistakes %q, want %q; warnings %q, want %q", m, mistake, w, warning)
		}
	}
	expect(d, func(c *config.Config) { c.Backup.Keys = t.TempDir() }, "", "")
	expect(d, func(*config.Config) {}, "", "backup.keys is not set")
	expect(d, func(c *config.Config) { c.DatabaseKeys = "off" }, "name the folder", "database_keys is off")
	expect(d, func(c *config.Config) { c.DatabaseKeys = "" }, "cannot be read", "") // the test has them elsewhere
	expect(d, func(c *config.Config) { c.DatabaseKeys = newKeyDoctor(t).Config().DatabaseKeys }, "another database", "")
	plain := plainOnPostgres(t)
	expect(plain, func(*config.Config) {}, "", "database_keys is off")
	expect(plain, func(c *config.Config) { c.DatabaseKeys = "" }, "", "database_keys is not set")
	expect(plain, func(c *config.Config) { c.DatabaseKeys = "keys" }, "", "")
}

func TestMessagesInANewDatabaseOnPostgreSQLAreEncrypted(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) { c.Database = storagetest.Postgres(t) })
	s.Register("alice").Do("POST", "/v3/createRoom", map[string]any{"name": "a room"})
	files, err := filepath.Glob(filepath.Join(s.Dir, "keys", "??", "*"))
	ok(t, err)
	db, err := sql.Open("pgx", s.Config().Database)
	ok(t, err)
	defer func() { ok(t, db.Close()) }()
	var plain, all int
	ok(t, db.QueryRowContext(t.Context(), `SELECT count(*), count(*) FILTER (WHERE json NOT LIKE '~%') FROM events WHERE type = 'm.room.name'`).Scan(&all, &plain))
	if all != 1 || plain != 0 || len(files) == 0 {
		t.Errorf("%d of %d events are in plain text, and there are %d keys", plain, all, len(files))
	}
}

func TestAServerWhoseKeysAreAwaySaysSoAndRecovers(t *testing.T) {
	d := newKeyDoctor(t)
	bob := d.Register("bob")
	keys := d.Config().BodyKeys()
	ok(t, os.Rename(keys, keys+".away"))
	bob.Refused("POST", "/v3/createRoom", map[string]any{}, 503, "M_UNKNOWN") // the first message of a room needs a key
	wantHealth(t, d.Server.Server, 503, "without keys,")
	d.expect("the keys are away", d.examine(nil), "failed", "has no keys", "mount the disk")
	ok(t, os.Rename(keys+".away", keys))
	wantHealth(t, d.Server.Server, 200, "with its keys,")
	bob.Do("POST", "/v3/createRoom", map[string]any{})
}
