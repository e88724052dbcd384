package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long the tests wait for anything. It is long because the machine may be busy.
const patience = time.Minute

// ran holds the output and the exit code of a command.
type ran struct {
	code           int
	stdout, stderr string
}

// ebb runs a command line in this process with the given standard input.
func ebb(t *testing.T, stdin string, args ...string) ran {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, err bytes.Buffer
	code := run(ctx, args, strings.NewReader(stdin), &out, &err)
	return ran{code, out.String(), err.String()}
}

// must runs a command that must succeed, and returns its output.
func must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	r := ebb(t, stdin, args...)
	if r.code != 0 {
		t.Fatalf("ebb %q ended with %d: %s", args, r.code, r.stderr)
	}
	return r.stdout
}

// refusedWith runs a command that must end with the given exit code and an error that contains text.
func refusedWith(t *testing.T, code int, text, stdin string, args ...string) {
	t.Helper()
	r := ebb(t, stdin, args...)
	if r.code != code || !strings.Contains(r.stderr, text) || r.stdout != "" {
		t.Errorf("ebb %q ended with %d, want %d; printed %q; its error, which should say %q: %s", args, r.code, code, r.stdout, text, r.stderr)
	}
}

// parsed decodes printed JSON. Unknown members are an error, so that a change of the output fails the test.
func parsed[T any](t *testing.T, text string) (v T) {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return v
}

// site is the folder of a server, created by init.
type site struct {
	dir     string
	config  string
	address string
}

// newSite creates a folder for a server. Its path is at least length bytes long.
func newSite(t *testing.T, length int) site {
	t.Helper()
	dir := t.TempDir()
	for len(dir) < length {
		dir = filepath.Join(dir, "a-folder-of-some-length")
	}
	s := site{dir: dir, config: filepath.Join(dir, "ebb.yaml"), address: freeAddress(t)}
	must(t, "", "init", "--server-name", "test", "--data-dir", dir, "--listen", s.address)
	return s
}

// freeAddress returns a loopback address on which nothing is listening.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// announced collects the log of a server; ready is closed when the log says that the server accepts requests.
type announced struct {
	mu    sync.Mutex // guards text
	text  bytes.Buffer
	once  sync.Once
	ready chan struct{}
	wrote chan struct{} // has a capacity of one
}

func (a *announced) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("ebb accepts requests")) {
		a.once.Do(func() { close(a.ready) })
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	select {
	case a.wrote <- struct{}{}:
	default:
	}
	return a.text.Write(p)
}

// await waits until text has appeared in the log n times.
func (a *announced) await(t *testing.T, text string, n int) {
	t.Helper()
	late := time.After(patience)
	for strings.Count(a.String(), text) < n {
		select {
		case <-a.wrote:
		case <-late:
			t.Fatalf("the log does not say %q %d times:\n%s", text, n, a)
		}
	}
}

func (a *announced) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.text.String()
}

// serve runs `ebb serve` until stop is called, which returns the exit code.
func (s site) serve(t *testing.T) (stop func() int) {
	t.Helper()
	stop, _ = s.serveAndLog(t)
	return stop
}

// serveAndLog is like serve, and also returns the server's log.
func (s site) serveAndLog(t *testing.T, flags ...string) (stop func() int, log *announced) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	log = &announced{ready: make(chan struct{}), wrote: make(chan struct{}, 1)}
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, append([]string{"serve", "--config", s.config}, flags...), nil, log, log) }()
	select {
	case <-log.ready:
	case code := <-ended:
		cancel()
		t.Fatalf("serve ended with %d:\n%s", code, log)
	case <-time.After(patience):
		cancel()
		t.Fatalf("serve does not accept requests:\n%s", log)
	}
	stop = sync.OnceValue(func() int {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { stop() })
	return stop, log
}

// eachWay runs a test with a running server, without a server, and with a running server whose data_dir is too long for
// a socket address.
func eachWay(t *testing.T, test func(t *testing.T, s site)) {
	for _, way := range []struct {
		name    string
		length  int
		running bool
	}{{"stopped", 0, false}, {"running", 0, true}, {"running in a long path", 150, true}} {
		t.Run(way.name, func(t *testing.T) {
			s := newSite(t, way.length)
			if way.running {
				stop := s.serve(t)
				defer func() {
					if code := stop(); code != 0 {
						t.Errorf("serve ended with %d", code)
					}
				}()
			}
			test(t, s)
		})
	}
}

func TestEveryCommandHasHelpWithAnExample(t *testing.T) {
	for _, c := range commands() {
		for _, args := range [][]string{append(strings.Fields(c.name), "--help"), append([]string{"help"}, strings.Fields(c.name)...)} {
			out := must(t, "", args...)
			for _, want := range []string{c.short, "Usage: ebb " + c.name, "Example: ebb " + c.name, "-config"} {
				if !strings.Contains(out, want) {
					t.Errorf("ebb %q does not say %q:\n%s", args, want, out)
				}
			}
		}
	}
}

func TestExamplesAreCommandLinesThatParse(t *testing.T) {
	for _, c := range commands() {
		words := strings.Fields(strings.ReplaceAll(c.example, "'", ""))
		found, rest := find(words[1:])
		if found == nil || found.name != c.name {
			t.Errorf("the example of %s does not run it: %s", c.name, c.example)
			continue
		}
		inv := &invocation{flags: newFlags(c.name)}
		inv.configFlag()
		c.setup(inv)
		if err := inv.parse(rest); err != nil {
			t.Errorf("the example of %s: %v", c.name, err)
		}
	}
}

func TestHelpListsEveryCommandOrThoseOfAGroup(t *testing.T) {
	all := must(t, "", "--help")
	for _, c := range commands() {
		if !strings.Contains(all, "  "+c.name+" ") {
			t.Errorf("help does not list %s", c.name)
		}
	}
	for _, args := range [][]string{{"user", "--help"}, {"help", "user"}} {
		if out := must(t, "", args...); !strings.Contains(out, "user passwd") || strings.Contains(out, "token create") {
			t.Errorf("ebb %q does not list the commands of its group alone:\n%s", args, out)
		}
	}
}

func TestExitCodesDistinguishFailures(t *testing.T) {
	s := newSite(t, 0)
	broken := filepath.Join(t.TempDir(), "broken.yaml")
	write(t, broken, "server_name: test\nregistration: {mode: perhaps}\nlisten: [{address: nowhere, serve: [client]}]\n")
	unknown := filepath.Join(t.TempDir(), "unknown.yaml")
	write(t, unknown, "server_name: test\nretention: {maximum: 3d}\n")
	for _, c := range []struct {
		code int
		text string
		args string
	}{
		{2, "there is no command", "dance"},
		{2, "there is no command", "user dance"},
		{2, `there is no command "serv": did you mean serve?`, "serv --config " + s.config},
		{2, `did you mean user list?`, "users list"},
		{2, `--config ` + s.config, "serve " + s.config},
		{2, "Commands", ""},
		{2, "not defined: -loud", "user list --loud"},
		{2, "ebb user list --help", "user list --loud"},
		{2, "exactly one user", "user admin --config " + s.config},
		{2, "exactly one user", "user admin alice bob --config " + s.config},
		{2, `unexpected "more"`, "version more"},
		{2, `unexpected "more"`, "room list more --config " + s.config},
		{2, "--password-stdin", "user add alice --config " + s.config},
		{2, "standard input contains no password", "user add alice --password-stdin --config " + s.config},
		{2, "--uses", "token create --uses 0 --config " + s.config},
		{2, "--expires", "token create --expires soon --config " + s.config},
		{2, "--max", "room retention set --max soon !a:test --config " + s.config},
		{2, "read the configuration", "room list --config " + s.dir + "/none.yaml"},
		{2, "registration.mode", "config check --config " + broken},
		{2, "listen[0].address", "config check --config " + broken},
		{2, "maximum", "config check --config " + unknown},
		{2, "registration.mode", "serve --config " + broken},
		{2, "--server-name", "init --data-dir " + t.TempDir()},
		{2, "server_name", "init --server-name a/b --data-dir " + t.TempDir()},
		{2, "listen[0].address", "init --server-name test --listen here --data-dir " + t.TempDir()},
		{2, "omit --config", "init --server-name test --data-dir " + t.TempDir() + " --config " + s.dir + "/other.yaml"},
		{3, "ebb.yaml", "init --server-name test --data-dir " + s.dir},
		{3, "", "user admin nobody --config " + s.config},
		{3, "", "user deactivate nobody --config " + s.config},
		{3, "", "user admin @alice:elsewhere.org --config " + s.config},
		{3, "", "token revoke none --config " + s.config},
		{3, "", "token create --token not/good --config " + s.config},
		{3, "", "room show !none:test --config " + s.config},
		{3, "", "room show #none:test --config " + s.config},
		{3, "", "room show nonsense --config " + s.config},
		{1, "connection refused", "healthcheck --config " + s.config},
		{1, "no such file", "debug resolve-state --pdus " + s.dir + "/none.json"},
	} {
		refusedWith(t, c.code, c.text, "", strings.Fields(c.args)...)
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestConfigFileComesFromTheEnvironment(t *testing.T) {
	s := newSite(t, 0)
	t.Setenv("EBB_CONFIG", s.config)
	if out := must(t, "", "config", "check"); out != s.config+" is good.\n" {
		t.Errorf("config check: %s", out)
	}
}

func TestVersionIsPrinted(t *testing.T) {
	if out := must(t, "", "version"); out != fmt.Sprintf("ebb %s\n", version) {
		t.Errorf("version: %q", out)
	}
}
