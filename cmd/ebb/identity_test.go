package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"ebb/adminapi"
)

// edit replaces text in a file, which must contain it.
func edit(t *testing.T, name, from, to string) {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil || !strings.Contains(string(raw), from) {
		t.Fatalf("%s has no %q: %v", name, from, err)
	}
	write(t, name, strings.ReplaceAll(string(raw), from, to))
}

func TestRenamedServerIsRefused(t *testing.T) {
	s := newSite(t, 0)
	must(t, "a long secret\n", "user", "add", "--password-stdin", "alice", "--config", s.config)
	edit(t, s.config, `server_name: "test"`, `server_name: "other.example"`)
	for _, name := range []string{`"test"`, `"other.example"`} {
		for _, command := range [][]string{{"config", "check"}, {"serve"}} {
			refusedWith(t, exitUsage, name, "", append(command, "--config", s.config)...)
		}
		for _, command := range [][]string{{"user", "list"}, {"keys", "rotate"}} {
			refusedWith(t, exitFailed, name, "", append(command, "--config", s.config)...)
		}
	}
	edit(t, s.config, `server_name: "other.example"`, `server_name: "test"`)
	must(t, "", "user", "list", "--config", s.config)
}

func TestForeignSigningKeyIsRefused(t *testing.T) {
	s, other := newSite(t, 0), newSite(t, 0)
	cfg := "--config=" + s.config
	key, foreign := filepath.Join(s.dir, "signing.key"), filepath.Join(other.dir, "signing.key")
	first := parsed[[]adminapi.SigningKey](t, must(t, "", "keys", "list", "--json", cfg))[0]
	theirs := parsed[[]adminapi.SigningKey](t, must(t, "", "keys", "list", "--json", "--config="+other.config))[0]
	away := filepath.Join(s.dir, "away")
	rename(t, key, away)
	rename(t, foreign, key)
	for _, public := range []string{first.Public, theirs.Public} {
		refusedWith(t, exitUsage, public, "", "serve", cfg)
		refusedWith(t, exitUsage, public, "", "config", "check", cfg)
		refusedWith(t, exitFailed, public, "", "user", "list", cfg)
	}
	rename(t, away, key)
	// If the server crashed between writing the files and the database, the database records a former key.
	must(t, "", "keys", "rotate", cfg)
	must(t, "", "keys", "list", cfg)
}

func TestLostSigningKeyIsReplacedAndItsSignaturesStayValid(t *testing.T) {
	s := newSite(t, 0)
	cfg := "--config=" + s.config
	first := parsed[[]adminapi.SigningKey](t, must(t, "", "keys", "list", "--json", cfg))[0]
	refusedWith(t, exitRefused, "keys rotate", "", "keys", "create", cfg)
	if err := os.Remove(filepath.Join(s.dir, "signing.key")); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, exitUsage, "ebb keys create", "", "serve", cfg)
	must(t, "", "keys", "create", cfg)
	list := parsed[[]adminapi.SigningKey](t, must(t, "", "keys", "list", "--json", cfg))
	if len(list) != 2 || list[0].Public == first.Public || list[1].KeyID != first.KeyID || list[1].Public != first.Public || list[1].Expired == nil {
		t.Fatalf("after the loss of %+v: %+v", first, list)
	}
	stop := s.serve(t)
	if err := os.Remove(filepath.Join(s.dir, "signing.key")); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, exitRefused, "keys rotate", "", "keys", "create", cfg)
	must(t, "", "keys", "rotate", cfg) // the running server keeps the key in memory
	if code := stop(); code != 0 {
		t.Errorf("serve ended with %d", code)
	}
	if list := parsed[[]adminapi.SigningKey](t, must(t, "", "keys", "list", "--json", cfg)); len(list) != 3 {
		t.Errorf("after a loss under a running server: %+v", list)
	}
}

// TestEverythingBelowDataDirIsPrivate creates the folder beforehand, as an administrator with the usual umask would.
func TestEverythingBelowDataDirIsPrivate(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o022))
	s := newSite(t, 0)
	for _, dir := range []string{"", "media"} {
		if err := os.MkdirAll(filepath.Join(s.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(s.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(s.dir, "ebb.db"), "") // created by an older version
	if err := os.Chmod(filepath.Join(s.dir, "ebb.db"), 0o644); err != nil {
		t.Fatal(err)
	}
	must(t, "a long secret\n", "user", "add", "--password-stdin", "alice", "--config", s.config)
	s.serve(t)
	c, _ := s.login(t, "alice", "a long secret")
	c.upload()
	seen := map[string]bool{}
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == s.dir {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has %v", path, info.Mode())
		}
		seen[filepath.Base(path)] = true
		return err
	})
	if err != nil || !seen["ebb.db"] || !seen["ebb.db-wal"] || !seen["ebb.db-shm"] || !seen["control.sock"] {
		t.Errorf("%v, seen %v", err, seen)
	}
}
