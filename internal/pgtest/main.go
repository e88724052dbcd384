// Pgtest runs a command with a temporary PostgreSQL server: go run ./internal/pgtest -- go test ./storage/...
//
// The server has a temporary folder and listens on a Unix socket there. The command finds its address in
// EBB_TEST_POSTGRES, and the server ends with the command. If PostgreSQL is not installed, the command runs without it;
// tests that need it are skipped and say so.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

const variable = "EBB_TEST_POSTGRES" // same as storagetest.Variable

func main() {
	args := os.Args[1:]
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "usage: pgtest -- command [argument ...]")
		os.Exit(2)
	}
	code, err := run(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "pgtest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// run runs the command while a PostgreSQL server runs for it, and returns the command's exit code.
func run(args []string) (code int, err error) {
	if os.Getenv(variable) != "" {
		return command(args) // a server is already provided
	}
	s, err := newServer()
	if errors.Is(err, errMissing) {
		fmt.Fprintln(os.Stderr, err)
		return command(args)
	}
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.start(); err != nil {
		return 1, err
	}
	if err := os.Setenv(variable, s.dsn()); err != nil {
		return 1, err
	}
	return command(args)
}

// command runs the command until it exits, and forwards signals to it.
func command(args []string) (int, error) {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s) // the command may have ended already
		case err := <-ended:
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				return max(exit.ExitCode(), 1), nil
			}
			return 0, err
		}
	}
}

// errMissing is printed without a prefix.
var errMissing = errors.New("SKIP PostgreSQL: apt-get install postgresql")

// server is a PostgreSQL cluster in its own folder.
type server struct {
	bin     string // folder of the PostgreSQL programs
	dir     string
	as      *syscall.Credential // nil for the current user
	process *exec.Cmd
	log     tail
}

func newServer() (*server, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		path, err := exec.LookPath("initdb")
		if err != nil {
			return nil, errMissing
		}
		found = []string{path}
	}
	s := &server{bin: filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) }))}
	if s.as, err = unprivileged(); err != nil {
		return nil, err
	}
	// The path of a socket has at most 107 bytes, so the path of the folder must be short.
	if s.dir, err = os.MkdirTemp("/tmp", "ebb-pg-"); err != nil {
		return nil, err
	}
	if s.as != nil {
		err = os.Chown(s.dir, int(s.as.Uid), int(s.as.Gid))
	}
	return s, err
}

// version returns the major version of PostgreSQL in the path of initdb: 15 for /usr/lib/postgresql/15/bin/initdb.
func version(initdb string) int {
	n, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(initdb))))
	if err != nil {
		return 0
	}
	return n
}

// unprivileged returns the user that PostgreSQL runs as, since it refuses to run as root. It returns nil if the current
// user is not root.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("PostgreSQL refuses root, and there is no user postgres or nobody")
}

func (s *server) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, program), args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as, Setpgid: true, Pdeathsig: syscall.SIGQUIT}
	return cmd
}

// start creates the cluster and waits until it accepts connections. Durability is switched off: it would slow the tests
// down, and no test needs the data after a crash of the machine.
func (s *server) start() error {
	runtime.LockOSThread() // Pdeathsig is sent when this thread ends
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	data := filepath.Join(s.dir, "data")
	initdb := s.command(ctx, "initdb", "-D", data, "-U", "ebb", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, out)
	}
	s.process = s.command(context.Background(), "postgres", "-D", data, "-k", s.dir, "-c", "listen_addresses=", "-c", "fsync=off",
		"-c", "full_page_writes=off", "-c", "max_connections=300", "-c", "shared_buffers=64MB", "-c", "log_min_messages=fatal")
	s.process.Stderr = &s.log
	if err := s.process.Start(); err != nil {
		return err
	}
	for s.command(ctx, "pg_isready", "-q", "-h", s.dir, "-U", "ebb", "-d", "postgres").Run() != nil {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("PostgreSQL does not answer: %w\n%s", err, s.log.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}

// tail keeps the end of PostgreSQL's output. The output is shown only if the server fails, because PostgreSQL logs
// harmless events as FATAL here: connections that come too early and connections that a test closes.
type tail struct {
	mu   sync.Mutex // guards text
	text []byte
}

// maxTail is how much of the output is kept, in bytes.
const maxTail = 8 << 10

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	t.text = t.text[max(0, len(t.text)-maxTail):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

func (s *server) dsn() string {
	return "postgres://ebb@/postgres?" + url.Values{"host": {s.dir}}.Encode()
}

// stop shuts the server down immediately and removes its folder.
func (s *server) stop() error {
	var died error
	if s.process != nil && s.process.Process != nil {
		if s.process.Process.Signal(syscall.Signal(0)) != nil || s.command(context.Background(), "pg_isready", "-q", "-h", s.dir, "-U", "ebb", "-d", "postgres").Run() != nil {
			died = fmt.Errorf("PostgreSQL ended before the tests did:\n%s", s.log.String())
		}
		_ = s.process.Process.Signal(syscall.SIGQUIT) // immediate shutdown
		_ = s.process.Wait()                          // the only error is the signal
	}
	return errors.Join(died, os.RemoveAll(s.dir))
}
