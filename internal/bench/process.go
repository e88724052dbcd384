package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a server under test: Ebb or the limit.
type process struct {
	cmd    *exec.Cmd
	addr   string
	dir    string
	binary string
	errors bytes.Buffer
	admin  string // access token of an administrator, if there is one already
}

// configuration is a typical configuration, but without rate limits and with profiling enabled.
const configuration = `server_name: localhost
data_dir: .
listen: [{address: "%s", serve: [client, admin, metrics]}]
registration: {mode: open}
rate_limits: {enabled: false}
push: {allow_private_gateways: true}
log: {level: error}
`

// startEbb creates a new server and starts it. delay is added to every commit.
func (b *bench) startEbb(name string, delay time.Duration) (*process, error) {
	return b.start(name, "", delay)
}

// startEbbWith is startEbb with more lines of configuration.
func (b *bench) startEbbWith(name, more string) (*process, error) { return b.start(name, more, 0) }

func (b *bench) start(name, more string, delay time.Duration) (*process, error) {
	p := &process{dir: filepath.Join(b.dir, name), binary: b.binary}
	if err := p.initialise("localhost"); err != nil {
		return nil, err
	}
	var err error
	if p.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	if err := os.WriteFile(p.config(), append(fmt.Appendf(nil, configuration, p.addr), more...), 0o600); err != nil {
		return nil, err
	}
	_, err = p.serve(delay)
	return p, err
}

// initialise creates the folder of a server.
func (p *process) initialise(name string) error {
	if out, err := exec.Command(p.binary, "init", "--server-name", name, "--data-dir", p.dir).CombinedOutput(); err != nil {
		return fmt.Errorf("ebb init: %w\n%s", err, out)
	}
	return nil
}

func (p *process) config() string { return filepath.Join(p.dir, "ebb.yaml") }

// serve starts the program and returns the time until its first response.
func (p *process) serve(delay time.Duration) (time.Duration, error) {
	p.cmd = exec.Command(p.binary, "serve", "--config", p.config())
	p.cmd.Env = append(os.Environ(), "EBB_BENCH_COMMIT_DELAY="+delay.String())
	p.cmd.Stderr = &p.errors
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	start := time.Now()
	if err := p.cmd.Start(); err != nil {
		return 0, err
	}
	for c := newConn(p.addr, ""); ; time.Sleep(time.Millisecond) {
		_, err := c.do("GET", "/_matrix/client/versions", nil)
		c.close()
		if err == nil {
			return time.Since(start), nil
		}
		if time.Since(start) > 30*time.Second {
			p.stop()
			return 0, fmt.Errorf("the server does not answer: %w\n%s", err, p.errors.String())
		}
	}
}

func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// stop terminates the process gracefully, or kills it after 20 s.
func (p *process) stop() {
	if p.cmd.Process == nil { // it could not be started
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
	done := make(chan struct{})
	go func() {
		_ = p.cmd.Wait() // the output, printed below, shows how it ended
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		<-done
	}
	if text := p.errors.String(); text != "" {
		fmt.Fprintf(os.Stderr, "the server said:\n%.2000s\n", text)
		p.errors.Reset()
	}
}

// kill kills the process, as a power cut would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended already
	_ = p.cmd.Wait()         // the error is the kill
}

// startLimit starts this program as the limit.
func (b *bench) startLimit(delay time.Duration) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "limit-")
	if err != nil {
		return nil, err
	}
	p := &process{dir: dir, cmd: exec.Command(self, limitCommand, dir)}
	p.cmd.Env = append(os.Environ(), limitDelay+"="+delay.String())
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		p.kill()
		return nil, fmt.Errorf("the limit did not start: %w", err)
	}
	p.addr = strings.TrimSpace(line)
	return p, nil
}

// usage is the CPU time and the memory that a process has used.
type usage struct {
	cpu     time.Duration // with that of its children, such as those that hash passwords
	rss     int64         // bytes of the process alone
	helpers int64         // bytes of its children
	at      time.Time
}

// used reads the usage from /proc.
func (p *process) used() (usage, error) {
	own, err := readStat("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/stat")
	if err != nil {
		return usage{}, err
	}
	u := usage{cpu: own.cpu, rss: own.rss, at: time.Now()}
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		if s, err := readStat(file); err == nil && s.parent == int64(p.cmd.Process.Pid) { // others may end meanwhile
			u.cpu += s.cpu
			u.helpers += s.rss
		}
	}
	return u, err
}

// stat is what the kernel says about a process.
type stat struct {
	parent int64         // its number
	cpu    time.Duration // in steps of 10 ms; with that of children that have ended
	rss    int64         // bytes
}

// readStat reads a file /proc/PID/stat, which proc(5) describes.
func readStat(file string) (stat, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return stat{}, err
	}
	_, rest, found := strings.Cut(string(raw), ") ") // the fields follow the name of the program, which may contain anything
	fields := strings.Fields(rest)
	if !found || len(fields) < 22 {
		return stat{}, errors.New("/proc/PID/stat is not as expected")
	}
	numbers := [6]int64{}
	for i, field := range []int{1, 11, 12, 13, 14, 21} { // ppid, utime, stime, cutime, cstime and rss, counted from the field after the name
		if numbers[i], err = strconv.ParseInt(fields[field], 10, 64); err != nil {
			return stat{}, err
		}
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 for every program on Linux
	return stat{
		parent: numbers[0], cpu: time.Duration(numbers[1]+numbers[2]+numbers[3]+numbers[4]) * tick,
		rss: numbers[5] * int64(os.Getpagesize()),
	}, nil
}

// cpuNanos returns the CPU time that a process has used, in ns. It is for operations that are too short for the
// resolution of the function used.
func (p *process) cpuNanos() (total int64, err error) {
	files, err := filepath.Glob("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/task/*/schedstat")
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // the thread has ended
		}
		var n int64
		if _, scanErr := fmt.Sscan(string(raw), &n); err != nil || scanErr != nil {
			return 0, errors.Join(err, scanErr)
		}
		total += n
	}
	return total, err
}

// spent is a measurement: the number of operations, the time they took, and the CPU time of the server.
type spent struct {
	ops  int
	wall time.Duration
	cpu  time.Duration
}

func (s spent) perSecond() float64 { return float64(s.ops) / s.wall.Seconds() }
func (s spent) per1000() float64   { return s.cpu.Seconds() / float64(s.ops) * 1000 }
func (s spent) millis() float64    { return s.micros() / 1000 }
func (s spent) micros() float64    { return float64(s.cpu.Microseconds()) / float64(s.ops) }

// measure runs f, and returns the time and the CPU time that it took.
func (p *process) measure(f func() (ops int, err error)) (spent, error) {
	before, err := p.used()
	if err != nil {
		return spent{}, err
	}
	ops, err := f()
	if err != nil {
		return spent{}, err
	}
	after, err := p.used()
	if err == nil && ops == 0 {
		err = errors.New("nothing was done in the time")
	}
	return spent{ops: ops, wall: after.at.Sub(before.at), cpu: after.cpu - before.cpu}, err
}

// profiled takes a CPU profile of the server while f runs, if profiles were requested.
func (b *bench) profiled(p *process, name string, f func() error) error {
	if b.profile == "" {
		return f()
	}
	if err := os.MkdirAll(b.profile, 0o750); err != nil {
		return err
	}
	taken := make(chan error, 1)
	seconds := max(1, int(b.duration.Seconds()))
	go func() {
		taken <- p.fetch("profile?seconds="+strconv.Itoa(seconds), filepath.Join(b.profile, name+".pprof"))
	}()
	return errors.Join(f(), <-taken)
}

// fetch saves a profile of the server, for which it needs an administrator.
func (p *process) fetch(profile, file string) error {
	token, err := p.administrator()
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+p.addr+"/debug/pprof/"+profile, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	raw, err := io.ReadAll(resp.Body)
	return errors.Join(err, resp.Body.Close(), os.WriteFile(file, raw, 0o600))
}

// administrator returns the access token of an administrator, whom it creates if necessary. For the limit, which has no
// users, it returns "".
func (p *process) administrator() (string, error) {
	if p.admin != "" || p.binary == "" {
		return p.admin, nil
	}
	made, err := p.register("profiler"+strconv.FormatInt(time.Now().UnixMilli(), 36), 1)
	if err != nil {
		return "", err
	}
	if out, err := exec.Command(p.binary, "user", "admin", "--config", p.config(), made[0].user).CombinedOutput(); err != nil {
		return "", fmt.Errorf("ebb user admin: %w\n%s", err, out)
	}
	p.admin = made[0].token
	return p.admin, nil
}
