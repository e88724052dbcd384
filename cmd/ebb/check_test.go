package main

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestCheckRefusesWhatServeRefuses checks that both use the same validation, so that a configuration that passed the
// check starts.
func TestCheckRefusesWhatServeRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct{ name, from, to, says string }{
		{"a certificate that is not there", "certificate: \"\"\n      private_key: \"\"", "certificate: none.pem\n      private_key: none.pem", "listen[0].tls.certificate"},
		{"a port in use", "ADDRESS", taken.Addr().String(), "listen[0].address"},
		{"an address of another machine", "ADDRESS", "192.0.2.1:8008", "listen[0].address"},
		{"a room version", `default_version: "12"`, `default_version: "13"`, "rooms.default_version"},
		{"an authority that is not there", `trusted_ca_file: ""`, "trusted_ca_file: none.pem", "federation.trusted_ca_file"},
		{"a secret that is not there", `shared_secret_file: ""`, "shared_secret_file: none", "registration.shared_secret_file"},
		{"a registration file that is not there", "appservices: []", "appservices: [none.yaml]", "appservices[0]"},
		{"a folder that is not there", `data_dir: "."`, "data_dir: elsewhere", "data_dir"},
		{"a port of PostgreSQL", "database: sqlite:ebb.db", "database: postgres://ebb:hunter2xyz@localhost:port/ebb", "database"},
		{"a recipient of backups that is none", "recipients: []", "recipients: [age1nonsense]", "backup.recipients[0]"},
		{"a database that is a folder", "database: sqlite:ebb.db", "database: sqlite:.", "database"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t, 0)
			edit(t, s.config, strings.Replace(c.from, "ADDRESS", s.address, 1), c.to)
			for _, command := range [][]string{{"config", "check"}, {"serve"}} {
				r := ebb(t, "", append(command, "--config", s.config)...)
				if r.code != exitUsage || !strings.Contains(r.stderr, ": "+c.says+": ") || !strings.Contains(r.stderr, "line ") || strings.Contains(r.stderr, "hunter2xyz") {
					t.Errorf("ebb %q ended with %d: %s", command, r.code, r.stderr)
				}
			}
		})
	}
}

func TestCheckRefusesAServerWithoutKey(t *testing.T) {
	s := newSite(t, 0)
	key := filepath.Join(s.dir, "signing.key")
	for _, text := range []string{"", "nonsense"} {
		if text == "" {
			if err := os.Remove(key); err != nil {
				t.Fatal(err)
			}
		} else {
			write(t, key, text)
		}
		for _, command := range [][]string{{"config", "check"}, {"serve"}} {
			refusedWith(t, exitUsage, "signing.key", "", append(command, "--config", s.config)...)
		}
	}
}

func TestCheckRefusesWhatServeCannotUseInItsFolder(t *testing.T) {
	for _, name := range []string{"secrets.key", "media"} {
		s := newSite(t, 0)
		write(t, filepath.Join(s.dir, name), "nonsense")
		for _, command := range [][]string{{"config", "check"}, {"serve"}} {
			refusedWith(t, exitUsage, name, "", append(command, "--config", s.config)...)
		}
	}
}

func TestCheckAndServeDoNotWaitForPipes(t *testing.T) {
	for _, name := range []string{"signing.key", "signing.key.old", "secrets.key", "ebb.db"} {
		s := newSite(t, 0)
		path := filepath.Join(s.dir, name)
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(path, 0o600); err != nil {
			t.Skip("no named pipes here: ", err)
		}
		for _, command := range [][]string{{"config", "check"}, {"serve"}} {
			refusedWith(t, exitUsage, "not a regular file", "", append(command, "--config", s.config)...)
		}
	}
}

func TestCheckRefusesTwoNamesOfOneAddress(t *testing.T) {
	s := newSite(t, 0)
	_, port, err := net.SplitHostPort(s.address)
	if err != nil {
		t.Fatal(err)
	}
	write(t, s.config, "server_name: test\ndata_dir: .\nlisten: [{address: \""+s.address+"\", serve: [client]}, {address: \"localhost:"+port+"\", serve: [admin]}]\n")
	for _, command := range [][]string{{"config", "check"}, {"serve"}} {
		refusedWith(t, exitUsage, "listen[1].address: ", "", append(command, "--config", s.config)...)
	}
}

func TestConfigFlagMayPrecedeTheCommand(t *testing.T) {
	s := newSite(t, 0)
	must(t, "", "--config", s.config, "config", "check")
	must(t, "", "--config="+s.config, "user", "list", "--json")
}

func TestCheckRefusesFilesThatAreNotDatabases(t *testing.T) {
	s := newSite(t, 0)
	for _, text := range []string{"no database at all, but a text that is long enough to have a header of its own: " + strings.Repeat("x", 4096)} {
		write(t, filepath.Join(s.dir, "ebb.db"), text)
		for _, command := range [][]string{{"config", "check"}, {"serve"}} {
			refusedWith(t, exitUsage, ": database: ", "", append(command, "--config", s.config)...)
		}
	}
}

func TestCheckLeavesARunningServerAlone(t *testing.T) {
	s := newSite(t, 0)
	s.serve(t)
	if out := must(t, "", "config", "check", "--config", s.config); out != s.config+" is good.\n" {
		t.Errorf("config check: %s", out)
	}
}

func TestWarningsAreShownByCheckAndLoggedByServe(t *testing.T) {
	s := newSite(t, 0)
	edit(t, s.config, "mode: token", "mode: open")
	if out := must(t, "", "config", "check", "--config", s.config); !strings.Contains(out, "warning: line ") || !strings.Contains(out, "registration.mode") || !strings.Contains(out, "is good") {
		t.Errorf("config check: %s", out)
	}
	_, log := s.serveAndLog(t)
	log.await(t, "registration.mode", 1)
}

func TestSampleConfigurationIsPrinted(t *testing.T) {
	raw, err := os.ReadFile("../../config/sample.yaml")
	if out := must(t, "", "config", "sample"); err != nil || out != string(raw) {
		t.Errorf("%v; config sample prints\n%s", err, out)
	}
}
