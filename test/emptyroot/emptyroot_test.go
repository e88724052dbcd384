// Package emptyroot tests the Dockerfile without a container engine. It runs the steps that create the file system of
// the image in a folder. It then runs the program with that folder as its root directory, as the image's user and with
// the image's command lines.
package emptyroot

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "ebb/server" // makes a change of the program invalidate the cached result of this test
)

const (
	buildTimeout = 10 * time.Minute // SQLite may have to be compiled for the static program first
	stepTimeout  = time.Minute
)

// image holds the relevant content of the Dockerfile.
type image struct {
	layout     string   // shell commands that fill /root-of-image
	user       uint32   // ID of the user as whom the program runs
	entrypoint []string // ENTRYPOINT
	command    []string // CMD
	health     []string // HEALTHCHECK
}

func readDockerfile(t *testing.T) (i image) {
	t.Helper()
	raw, err := os.ReadFile("../../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(raw), "\\\n", " ")
	match := func(pattern string) string {
		t.Helper()
		found := regexp.MustCompile(`(?m)^` + pattern + `$`).FindStringSubmatch(text)
		if found == nil {
			t.Fatalf("the Dockerfile has no line %s", pattern)
		}
		return found[1]
	}
	words := func(pattern string) (list []string) {
		t.Helper()
		if err := json.Unmarshal([]byte(match(pattern)), &list); err != nil {
			t.Fatalf("%s: %v", pattern, err)
		}
		return list
	}
	i.layout = match(`RUN make build VERSION="\$VERSION" && (.*)`)
	user, err := strconv.ParseUint(match(`USER (\d+):\d+`), 10, 32)
	if err != nil || user == 0 {
		t.Fatalf("the image runs as user %d: %v", user, err)
	}
	i.user = uint32(user)
	i.entrypoint, i.command, i.health = words(`ENTRYPOINT (\[.*\])`), words(`CMD (\[.*\])`), words(`HEALTHCHECK .* CMD (\[.*\])`)
	return i
}

// build builds the program as the Dockerfile does, and checks that it is statically linked.
func build(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), buildTimeout)
	defer cancel()
	path := filepath.Join(t.TempDir(), "ebb")
	if out, err := exec.CommandContext(ctx, "make", "-C", "../..", "build", "VERSION=proved", "BINARY="+path).CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Fatal("the program is not static: it asks for a loader")
		}
	}
	return path
}

// lay runs the layout commands of the image in a folder.
func (i image) lay(t *testing.T, binary string) (root string) {
	t.Helper()
	root = t.TempDir()
	steps := strings.NewReplacer("/root-of-image", root, "bin/ebb", binary).Replace(i.layout)
	if out, err := exec.CommandContext(t.Context(), "sh", "-euc", steps).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", steps, err, out)
	}
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	return root
}

// container is a folder that the program uses as its root directory.
type container struct {
	image
	root string
}

// start starts a command line in the container.
func (c container) start(ctx context.Context, out *bytes.Buffer, args ...string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Path, cmd.Err, cmd.Dir, cmd.Env = args[0], nil, "/", []string{}
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = out, out, stepTimeout
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Chroot: c.root, Credential: &syscall.Credential{Uid: c.user, Gid: c.user, Groups: []uint32{}}, Pdeathsig: syscall.SIGKILL,
	}
	return cmd, cmd.Start()
}

// run runs the program in the container, with the image's entry point, and returns its output.
func (c container) run(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stepTimeout)
	defer cancel()
	var out bytes.Buffer
	cmd, err := c.start(ctx, &out, append(append([]string{}, c.entrypoint...), args...)...)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Fatalf("%q in the empty root: %v\n%s", args, err, &out)
	}
	return out.String()
}

// healthy runs the image's health check until it succeeds.
func (c container) healthy(ctx context.Context, ended <-chan error) error {
	for {
		var out bytes.Buffer
		cmd, err := c.start(ctx, &out, c.health...)
		if err != nil {
			return err
		}
		if err = cmd.Wait(); err == nil {
			return nil
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the server ended: %w", err)
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", err, &out)
		case <-time.After(50 * time.Millisecond): // polling is necessary, because another process cannot notify the test
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestStaticProgramRunsInAnEmptyRootAsTheDockerfileSays(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP empty root: only root may change the root folder")
	}
	const certificates = "/etc/ssl/certs/ca-certificates.crt"
	if _, err := os.Stat(certificates); err != nil {
		t.Skip("SKIP empty root: the image takes its certificates from this machine: apt-get install ca-certificates")
	}
	i := readDockerfile(t)
	c := container{i, i.lay(t, build(t))}
	if _, err := os.Stat(filepath.Join(c.root, certificates)); err != nil {
		t.Error(err)
	}
	if got := c.run(t, "version"); got != "ebb proved\n" {
		t.Errorf("version printed %q", got)
	}
	c.run(t, "init", "--server-name", "example.org", "--data-dir", "/data", "--listen", freeAddress(t))

	ctx, cancel := context.WithTimeout(t.Context(), stepTimeout)
	defer cancel()
	var log bytes.Buffer
	server, err := c.start(ctx, &log, append(append([]string{}, c.entrypoint...), c.command...)...)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	if err := c.healthy(ctx, ended); err != nil {
		_ = server.Process.Kill()
		t.Fatalf("%v", err)
	}
	if token := strings.TrimSpace(c.run(t, "token", "create", "--config", "/data/ebb.yaml")); token == "" || strings.Contains(token, " ") {
		t.Errorf("token create beside the server printed %q", token)
	}
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the server ended with %v\n%s", err, &log)
		}
	case <-time.After(10 * time.Second):
		_ = server.Process.Kill()
		t.Error("the server did not end within 10 s of SIGTERM")
	}
	c.ownsOnlyData(t)
}

// ownsOnlyData checks that the server has written only to its volume.
func (c container) ownsOnlyData(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(c.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path, c.root)
		inside := name == "/data" || strings.HasPrefix(name, "/data/")
		if owner := info.Sys().(*syscall.Stat_t).Uid; inside != (owner == c.user) {
			t.Errorf("%s belongs to user %d", name, owner)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
