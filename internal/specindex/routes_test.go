package specindex_test

import (
	"os"
	"path/filepath"
	"testing"

	"ebb/config"
	"ebb/fedclient"
	"ebb/internal/specindex"
	"ebb/server"
)

func TestPageAgreesWithTheRoutesOfTheServer(t *testing.T) {
	cfg := config.Default()
	cfg.DataDir = t.TempDir()
	cfg.Federation.Enabled = true              // federation routes exist only if federation is enabled
	cfg.Registration.SharedSecret = "a secret" // the route exists only if there is a secret
	if err := fedclient.CreateKey(filepath.Join(cfg.DataDir, "signing.key")); err != nil {
		t.Fatal(err)
	}
	s, err := server.New(t.Context(), cfg, server.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	f, err := os.Open("../../docs/spec-index.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	index, err := specindex.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range specindex.Check(index, s.Routes(), nil) {
		t.Error(problem)
	}
}
