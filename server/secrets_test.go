package server_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
	"ebb/secrets"
	"ebb/server"
)

func TestServerRefusesToStartWithoutTheKeyOfItsSecrets(t *testing.T) {
	var cfg *config.Config
	s := testserver.New(t, func(c *config.Config) { cfg = c })
	path := filepath.Join(s.Dir, secrets.File)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Control(t.Context(), "keys rotate", nil); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil || !strings.HasSuffix(string(after), string(before)) || len(after) != 2*len(before) {
		t.Fatalf("the key was not rotated: %v", err)
	}
	s.Reopen()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	refused := func(what string) {
		t.Helper()
		if s, err := server.New(t.Context(), cfg, server.Options{}); err == nil || !strings.Contains(err.Error(), secrets.File) {
			t.Errorf("%s: %v", what, err)
			_ = s.Close()
		}
	}
	if err := os.WriteFile(path, before, 0o600); err != nil { // from before the rotation
		t.Fatal(err)
	}
	refused("with an older key file")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	refused("without the key file")
	if err := server.CreateSecretsKey(t.Context(), cfg, server.Options{}); err != nil {
		t.Fatal(err)
	}
	s.Start()
}
