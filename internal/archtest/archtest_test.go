package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

// listed is a package in the output of `go list -deps -json`.
type listed struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

func TestImportsGoDownOnly(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-json=ImportPath,Imports,Standard", "./...")
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	seen := 0
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(p.ImportPath, module) {
			continue
		}
		seen++
		for _, path := range p.Imports {
			if why := violation(p.ImportPath, path); why != "" {
				t.Errorf("%s %s", p.ImportPath, why)
			}
		}
	}
	if seen < 10 {
		t.Fatalf("go list tells of %d packages of the house", seen)
	}
}

func TestRulesDetectViolations(t *testing.T) {
	cases := []struct {
		pkg, path string
		allowed   bool
	}{
		{"ebb/rooms", "ebb/storage", true},
		{"ebb/rooms", "ebb/pushrules", true},
		{"ebb/pushrules", "ebb/rooms", false},
		{"ebb/storage", "ebb/rooms/pdu", false},
		{"ebb/rooms/pdu", "ebb/rooms/eventauth", false},
		{"ebb/rooms/pdu", "context", false},
		{"ebb/rooms/pdu", "time", true},
		{"ebb/rooms/stateres", "ebb/rooms/eventauth", true},
		{"ebb/httpapi", "ebb/rooms", false},
		{"ebb/rooms", "ebb/httpapi", false},
		{"ebb/rooms", "ebb/clientapi", false},
		{"ebb/rooms", "ebb/history", false},
		{"ebb/rooms", "ebb/directory", false},
		{"ebb/history", "ebb/rooms", true},
		{"ebb/feed", "ebb/history", true},
		{"ebb/clientapi", "ebb/rooms", true},
		{"ebb/cmd/ebb", "ebb/server", true},
		{"ebb/clientapi", "github.com/prometheus/client_golang/prometheus", false},
		{"ebb/rooms", "github.com/mattn/go-sqlite3", false},
		{"ebb/rooms", "maunium.net/go/mautrix/id", true},
		{"ebb/rooms", "maunium.net/go/mautrix/federation/pdu", false},
		{"ebb/rooms", "example.org/unheard/of", false},
		{"ebb/unheard", "fmt", false},
	}
	for _, c := range cases {
		if why := violation(c.pkg, c.path); (why == "") != c.allowed {
			t.Errorf("%s imports %s: %q, want allowed %v", c.pkg, c.path, why, c.allowed)
		}
	}
}
