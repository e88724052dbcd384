// Package rustsdk runs the crates on which Element X is built, matrix-sdk and matrix-sdk-ui, against the real binary.
// The comment in src/main.rs says what the scenario covers.
package rustsdk

import (
	"bytes"
	"context"
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
	server := process.Start(t, binary, process.Options{Config: "registration: {mode: open}\nrate_limits: {enabled: false}"})
	for _, name := range []string{"alice", "bob"} {
		server.Register(t, name).Must(t, http.MethodPost, "/_matrix/client/v3/logout", process.Object{})
	}
	for step := range strings.Lines(cargo(t, runTimeout, "run", "--quiet", "--", server.URL)) {
		t.Log(strings.TrimSpace(step))
	}
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
