package main

import (
	"bytes"
	"context"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ebb/config"
)

func TestInitCreatesAWorkingServerAndOverwritesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "folder")
	address := freeAddress(t)
	out := must(t, "", "init", "--server-name", "[::1]:8448", "--data-dir", dir, "--listen", address, "--public-url", "https://chat.example.org")
	if !strings.Contains(out, filepath.Join(dir, "ebb.yaml")) {
		t.Errorf("init does not say what it wrote: %s", out)
	}
	cfg, err := config.Load(filepath.Join(dir, "ebb.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.ServerName != "[::1]:8448" || cfg.Dir() != dir || cfg.Listen[0].Address != address || cfg.PublicURL != "https://chat.example.org" {
		t.Errorf("the configuration is %+v", cfg)
	}
	before := filesIn(t, dir)
	for name, info := range before {
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s can be read by others: %v", name, info.Mode())
		}
	}
	for _, missing := range []string{"", "ebb.yaml", "signing.key"} {
		away := filepath.Join(dir, "away")
		if missing != "" {
			rename(t, filepath.Join(dir, missing), away)
		}
		refusedWith(t, exitRefused, "nothing was changed", "", "init", "--server-name", "test", "--data-dir", dir)
		if missing != "" {
			rename(t, away, filepath.Join(dir, missing))
		}
	}
	after := filesIn(t, dir)
	for name, info := range before {
		if now := after[name]; len(after) != len(before) || now == nil || !now.ModTime().Equal(info.ModTime()) || now.Size() != info.Size() {
			t.Errorf("%s was touched: %v", name, after)
		}
	}
	stop := site{dir: dir, config: filepath.Join(dir, "ebb.yaml"), address: address}.serve(t)
	if code := stop(); code != 0 {
		t.Errorf("serve ended with %d", code)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func filesIn(t *testing.T, dir string) map[string]fs.FileInfo {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]fs.FileInfo{}
	for _, e := range entries {
		if all[e.Name()], err = e.Info(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestInitThatFailsCanBeTriedAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	write(t, dir, "a file where the folder should be")
	refusedWith(t, exitFailed, "data", "", "init", "--server-name", "test", "--data-dir", dir)
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	must(t, "", "init", "--server-name", "test", "--data-dir", dir)
}

func TestHealthcheckConnectsToTheFirstAddress(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "localhost"} {
		s := newSite(t, 0)
		_, port, _ := net.SplitHostPort(s.address)
		write(t, s.config, "server_name: test\ndata_dir: .\nlisten: [{address: '"+net.JoinHostPort(host, port)+"', serve: [client]}]\n")
		stop := s.serve(t)
		must(t, "", "healthcheck", "--config", s.config)
		stop()
		refusedWith(t, exitFailed, "refused", "", "healthcheck", "--config", s.config)
	}
}

func TestHealthcheckReachesAnAddressForAllInterfaces(t *testing.T) {
	for address, want := range map[string]string{
		"0.0.0.0:8008": "127.0.0.1:8008", "[::]:8008": "[::1]:8008", ":8008": "localhost:8008",
		"127.0.0.1:80": "127.0.0.1:80", "example.org:443": "example.org:443",
	} {
		if got := reachable(address); got != want {
			t.Errorf("%s is asked at %s, want %s", address, got, want)
		}
	}
}

func TestSecondServerIsRefused(t *testing.T) {
	s := newSite(t, 0)
	s.serve(t)
	refusedWith(t, exitFailed, "another process uses this database", "", "serve", "--config", s.config)
	must(t, "", "user", "list", "--config", s.config) // the first server still works
}

func TestAServerThatIsStoppedBeforeItHasOpenedItsDatabaseEndsWithoutAnError(t *testing.T) {
	s := newSite(t, 0)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	var log bytes.Buffer
	if code := run(ctx, []string{"serve", "--config", s.config}, nil, &log, &log); code != 0 {
		t.Errorf("serve ended with %d:\n%s", code, &log)
	}
}

func TestStaleSocketIsNotARunningServer(t *testing.T) {
	s := newSite(t, 0)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(s.dir, "control.sock"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	must(t, "", "user", "list", "--config", s.config)
	s.serve(t)
	must(t, "", "user", "list", "--config", s.config)
}

func TestServeNeedsItsKey(t *testing.T) {
	s := newSite(t, 0)
	if err := os.Remove(filepath.Join(s.dir, "signing.key")); err != nil {
		t.Fatal(err)
	}
	refusedWith(t, exitUsage, "ebb keys create", "", "serve", "--config", s.config)
	refusedWith(t, exitFailed, "ebb keys create", "", "user", "list", "--config", s.config)
}
