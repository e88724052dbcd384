// Package rustsdk runs the crates on which Element X is built, matrix-sdk and matrix-sdk-ui, against the real binary.
// The comment in src/main.rs says what the scenario covers.
package rustsdk

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebb/test/process"
)

const (
	buildTimeout = 60 * time.Minute // building the crates takes minutes, but happens only once
	runTimeout   = 10 * time.Minute
)

func TestElementXCrates(t *testing.T) {
	if os.Getenv("EBB_TEST_RUST") == "" {
		t.Skip("builds some 400 crates, for minutes: run make test-rust")
	}
	if _, err := exec.LookPath("cargo"); err != nil {
		t.Skip("needs cargo, which builds Rust programs: https://rustup.rs")
	}
	cargo(t, buildTimeout, "build", "--quiet")
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	server := process.Start(t, binary, process.Options{Config: "registration: {mode: open}\nrate_limits: {enabled: false}\noauth: {enabled: true}"})
	for _, name := range []string{"alice", "bob"} {
		server.Register(t, name).Must(t, http.MethodPost, "/_matrix/client/v3/logout", process.Object{})
	}
	run(t, server)
}

// run runs the scenario, and fills in the web pages that it asks for.
func run(t *testing.T, server *process.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "cargo", "run", "--quiet", "--", server.URL)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var failure bytes.Buffer
	cmd.Stderr = &failure
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if answer, asked := visit(t, server, lines.Text()); !asked {
			t.Log(lines.Text())
		} else if _, err := fmt.Fprintln(in, answer); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, failure.String())
	}
}

// visit does what a line of the program asks for: it opens an address, or approves a device. It returns the answer.
func visit(t *testing.T, server *process.Server, line string) (answer string, asked bool) {
	t.Helper()
	const user, password = "alice", "a password of alice"
	if address, found := strings.CutPrefix(line, "open: "); found {
		return server.Approve(t, address, user, password), true
	}
	if address, found := strings.CutPrefix(line, "approve: "); found {
		server.ApproveDevice(t, address, user, password)
		return "", true
	}
	return "", false
}

// cargo runs a cargo command and returns its output.
func cargo(t *testing.T, limit time.Duration, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "cargo", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, failure bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failure
	if err := cmd.Run(); err != nil {
		t.Fatalf("cargo %s: %v\n%s%s", strings.Join(args, " "), err, out.String(), failure.String())
	}
	return out.String()
}
