// Package process runs the real binary for tests. It builds the binary once per test program, starts it with a test
// configuration on a loopback port, kills it, and restarts it with the same folder. Tests that do not need a separate
// process use internal/testserver.
package process

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startTimeout is long, because the machine may be slow while it builds something.
const startTimeout = 60 * time.Second

// Binary is a built server.
type Binary struct{ path string }

// Build builds cmd/ebb into a folder, or returns the binary that EBB_TEST_BINARY names.
func Build(dir string, flags ...string) (Binary, error) {
	if path := os.Getenv("EBB_TEST_BINARY"); path != "" {
		return Binary{path}, nil
	}
	path := filepath.Join(dir, "ebb")
	args := append([]string{"build", "-o", path}, flags...)
	if out, err := exec.Command("go", append(args, "ebb/cmd/ebb")...).CombinedOutput(); err != nil {
		return Binary{}, fmt.Errorf("build ebb: %w\n%s", err, out)
	}
	return Binary{path}, nil
}

// Path returns the program's file.
func (b Binary) Path() string { return b.path }

// Run runs a subcommand and returns its output.
func (b Binary) Run(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, b.path, args...).CombinedOutput()
	return string(out), err
}

// Options configures a server.
type Options struct {
	Name    string   // server_name; "" means localhost
	Config  string   // YAML that follows server_name, data_dir and listen
	Listen  string   // further entries of listen, such as `, {address: …}`
	Wrapper []string // a command that runs the server, such as strace
	Dir     string   // folder for all files; "" means a temporary one

	// Localhost makes the server known as http://localhost instead of by its address, for which browsers make no
	// passkeys.
	Localhost bool
}

// Server is a server's folder, with at most one process running on it.
type Server struct {
	Name    string // the server name
	URL     string
	DataDir string
	Config  string // the configuration file

	binary  Binary
	wrapper []string
	log     *buffer
	cmd     *exec.Cmd
	done    chan error
}

// Start starts a server and waits until it responds. The server is killed at the end of the test, and its log is shown
// if the test failed.
func Start(t testing.TB, b Binary, o Options) *Server {
	t.Helper()
	dir := o.Dir
	if dir == "" {
		dir = t.TempDir()
	}
	address, name := FreeAddress(t), cmp.Or(o.Name, "localhost")
	s := &Server{Name: name, URL: "http://" + address, DataDir: filepath.Join(dir, "data"), Config: filepath.Join(dir, "ebb.yaml"),
		binary: b, wrapper: o.Wrapper, log: &buffer{}}
	if out, err := b.Run(t.Context(), "init", "--server-name", name, "--data-dir", s.DataDir); err != nil {
		t.Fatalf("ebb init: %v\n%s", err, out)
	}
	if o.Localhost {
		s.URL = strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	}
	text := fmt.Sprintf("server_name: %s\npublic_url: %s\ndata_dir: %s\nlisten: [{address: %q, serve: [client, admin]}%s]\n%s\n",
		name, s.URL, s.DataDir, address, o.Listen, o.Config)
	if err := os.WriteFile(s.Config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Kill()
		if t.Failed() {
			t.Logf("log of the server, its end:\n%s", s.log.tail(8000))
		}
	})
	s.Up(t)
	return s
}

// Up starts the process again with the same folder and port, and waits until it responds.
func (s *Server) Up(t testing.TB) {
	t.Helper()
	words := append(append([]string{}, s.wrapper...), s.binary.path, "serve", "--config", s.Config)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	// The process has a process group of its own, so that the child of a wrapper is killed with it. Pdeathsig ends it
	// with the test program.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	s.cmd, s.done = cmd, done
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := s.awaitAnswer(ctx); err != nil {
		t.Fatalf("the server does not start: %v\n%s", err, s.log.tail(8000))
	}
}

func (s *Server) awaitAnswer(ctx context.Context) error {
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/health", http.NoBody)
		if err != nil {
			return err
		}
		if response, err := http.DefaultClient.Do(request); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case err := <-s.done:
			s.cmd = nil
			return fmt.Errorf("it ended too early: %w", cmp.Or(err, errors.New("without an error")))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond): // polling is necessary, because another process cannot notify the test
		}
	}
}

// Kill kills the process with SIGKILL and waits until it has ended.
func (s *Server) Kill() { _ = s.end(syscall.SIGKILL, startTimeout) }

// Stop stops the process with SIGTERM. It returns an error if that takes more than 10 s or the exit code is not 0.
func (s *Server) Stop() error { return s.end(syscall.SIGTERM, 10*time.Second) }

func (s *Server) end(signal syscall.Signal, within time.Duration) error {
	if s.cmd == nil {
		return nil
	}
	pid := s.cmd.Process.Pid
	err := syscall.Kill(-pid, signal)
	select {
	case ended := <-s.done:
		s.cmd = nil
		return errors.Join(err, ended)
	case <-time.After(within):
		return fmt.Errorf("the server did not end within %v of signal %v", within, signal)
	}
}

// Command runs a subcommand with this server's configuration.
func (s *Server) Command(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	out, err := s.binary.Run(ctx, append(args, "--config", s.Config)...)
	if err != nil {
		t.Fatalf("ebb %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// FreeAddress returns a loopback address on which nothing is listening. The port is below those that the kernel assigns
// to outgoing connections, so it is still free when a killed server is restarted.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 20000+rand.IntN(12000))
		if l, err := net.Listen("tcp", address); err == nil {
			l.Close()
			return address
		}
	}
	t.Fatal("no port is free")
	return ""
}

// buffer holds about the last megabyte of the log of a process.
type buffer struct {
	mu    sync.Mutex // guards bytes
	bytes bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bytes.Len() > 1<<20 {
		b.bytes.Next(b.bytes.Len() / 2)
	}
	return b.bytes.Write(p)
}

func (b *buffer) tail(n int) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := b.bytes.Bytes()
	return string(all[max(0, len(all)-n):])
}
