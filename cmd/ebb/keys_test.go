package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ebb/adminapi"
	"ebb/server"
)

func TestSigningKeysAreListedAndChanged(t *testing.T) {
	s := newSite(t, 0)
	cfg := "--config=" + s.config
	list := func() []adminapi.SigningKey {
		t.Helper()
		return parsed[[]adminapi.SigningKey](t, must(t, "", "keys", "list", "--json", cfg))
	}
	first := list()
	if len(first) != 1 || first[0].Expired != nil || !strings.HasPrefix(string(first[0].KeyID), "ed25519:") {
		t.Fatalf("the keys of a new server: %+v", first)
	}
	must(t, "", "keys", "rotate", cfg) // no server is running
	second := list()
	if len(second) != 2 || second[1].KeyID != first[0].KeyID || second[1].Public != first[0].Public || second[1].Expired == nil || second[0].KeyID == first[0].KeyID {
		t.Fatalf("after a change: %+v", second)
	}
	stop := s.serve(t)
	if text := must(t, "", "keys", "rotate", cfg); strings.Count(text, "until") != 2 || strings.Count(text, "in use") != 1 {
		t.Errorf("the running server says %q", text)
	}
	third := list()
	if len(third) != 3 || third[1].KeyID != second[0].KeyID || third[2].KeyID != first[0].KeyID {
		t.Errorf("after a change of the running server: %+v", third)
	}
	if code := stop(); code != 0 {
		t.Errorf("serve ended with %d", code)
	}
	if got := list(); len(got) != 3 || got[0].KeyID != third[0].KeyID {
		t.Errorf("after a restart: %+v", got)
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "*.tmp"))
	if info, serr := os.Stat(filepath.Join(s.dir, "signing.key")); err != nil || len(left) > 0 || serr != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("left behind: %v %v; the key's file: %v %v", left, err, info.Mode(), serr)
	}
}

func TestDoctorReportsDisabledFederation(t *testing.T) {
	s := newSite(t, 0)
	list := parsed[[]server.Finding](t, must(t, "", "doctor", "--json", "--config="+s.config))
	if len(list) != 1 || list[0].Status != "warning" || !strings.Contains(list[0].Fix, "federation.enabled") {
		t.Errorf("the doctor says %+v", list)
	}
	if text := must(t, "", "doctor", "--config="+s.config); !strings.Contains(text, "-> to communicate with other servers, set federation.enabled") {
		t.Errorf("the doctor says %q", text)
	}
}
