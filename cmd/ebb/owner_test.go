package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// asProgram is an environment variable that makes the test binary act as ebb, for tests that need a separate process.
const asProgram = "EBB_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		_ = os.Unsetenv(asProgram)
		main()
	}
	os.Exit(m.Run())
}

// program runs a command line in a separate process.
func program(t *testing.T, stdin string, args ...string) (out string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stdin = strings.NewReader(stdin)
	raw, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(raw), cmd.ProcessState.ExitCode()
}

// TestCommandsRunByRootLeaveNoUnreadableFiles covers an administrator who types "sudo ebb user add".
func TestCommandsRunByRootLeaveNoUnreadableFiles(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIP commands of root: only root can try")
	}
	const nobody = 65534
	dir := filepath.Join(t.TempDir(), "data")
	for _, above := range []string{filepath.Dir(filepath.Dir(dir)), filepath.Dir(dir)} { // other users need access to these
		if err := os.Chmod(above, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "ebb.yaml")
	for _, line := range []string{
		"init --server-name test --listen " + freeAddress(t) + " --data-dir " + dir, "config check", "user add --password-stdin alice", "token create", "keys rotate", "purge now",
	} {
		args := strings.Fields(line)
		if args[0] != "init" {
			args = append(args, "--config", config)
		}
		if out, code := program(t, "correct horse\n", args...); code != 0 {
			t.Fatalf("ebb %s ended with %d: %s", line, code, out)
		}
	}
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && (info.Sys().(*syscall.Stat_t).Uid != nobody || info.Sys().(*syscall.Stat_t).Gid != nobody) {
			t.Errorf("%s belongs to root", path)
		}
		files++
		return err
	})
	if err != nil || files < 5 {
		t.Errorf("%d files, %v", files, err)
	}
	// The error must name the owner of a file that an earlier command run by root left behind.
	if err := os.Chown(filepath.Join(dir, "signing.key"), 0, 0); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"config check", "serve", "user list"} {
		out, code := program(t, "", append(strings.Fields(command), "--config", config)...)
		if code == 0 || !strings.Contains(out, "signing.key belongs to the user root, and ebb runs as nobody") {
			t.Errorf("ebb %s with a key of root ended with %d: %s", command, code, out)
		}
	}
}
