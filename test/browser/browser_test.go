//go:build browser

package browser

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebb/test/process"
)

// scriptTimeout is the timeout of pages.mjs, which takes a minute and a half beside other work.
const scriptTimeout = 10 * time.Minute

// picturesVariable is the environment variable with a folder for pictures of all pages.
const picturesVariable = "EBB_TEST_PICTURES"

// TestPagesInChromium signs users up and in on the pages: with a passkey, a one-time code and a recovery code.
func TestPagesInChromium(t *testing.T) {
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("apt-get install chromium")
	}
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s := process.Start(t, binary, process.Options{Localhost: true, Config: "registration: {mode: open}\nrate_limits: {enabled: false}\noauth: {enabled: true}\nauth: {mfa: required}"})
	ctx, cancel := context.WithTimeout(t.Context(), scriptTimeout)
	defer cancel()
	words := []string{"pages.mjs", s.URL, chromium}
	if folder := os.Getenv(picturesVariable); folder != "" {
		words = append(words, folder)
	}
	cmd := exec.CommandContext(ctx, "node", words...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		t.Log(line)
	}
	if err != nil {
		t.Error(err)
	}
}
