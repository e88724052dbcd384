package hashing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"
)

const (
	// idleTime is how long a process waits for the next password before it ends. Until then it has some 40 MB.
	idleTime = 30 * time.Second
	// patience is how long a password may take: a hundred times as long as one usually does, and longer than the most
	// expensive imported hash. If one takes longer, no processor is idle.
	patience = 2 * time.Second
	// restTime is the time without further attempts after a process could not be started, has failed or was late.
	restTime = time.Minute
)

// Processes hashes passwords in processes of their own, which it starts when they are needed and ends when they have
// nothing to do. Hashing takes tens of milliseconds of a processor and 19 MiB of memory each time. In the server's own
// process this would occupy one of the scheduler's processors and cause a collection of garbage with almost every
// password, and messages would wait for both. There are as many processes as simultaneous callers.
//
// If no process can be started, or one fails or takes too long, passwords are hashed in this one for a while. It is
// safe for concurrent use.
type Processes struct {
	command  []string // starts a program that calls Serve; empty to hash in this process
	idleTime time.Duration
	patience time.Duration
	log      *slog.Logger

	// mu guards the fields below; a leaf lock.
	mu    sync.Mutex
	idle  []*process
	rests time.Time // until then no process is started
}

// NewProcesses returns a Processes whose processes run the command: a program and its arguments. The program calls
// Serve with its standard input and output, and should use only idle processors. Without a command, passwords are
// hashed in this process.
func NewProcesses(command []string, log *slog.Logger) *Processes {
	return &Processes{command: command, idleTime: idleTime, patience: patience, log: log}
}

// request asks for the stored form of the given password, or whether it matches Stored. Passwords need not be UTF-8.
type request struct {
	Given  []byte `json:"given"`
	Stored string `json:"stored,omitempty"`
}

type answer struct {
	Stored  string `json:"stored,omitempty"`
	Matches bool   `json:"matches,omitempty"`
	Error   string `json:"error,omitempty"`
}

func (r request) answer() (a answer) {
	if r.Stored == "" {
		return answer{Stored: Hash(string(r.Given))}
	}
	var err error
	if a.Matches, err = Matches(string(r.Given), r.Stored); err != nil {
		a.Error = err.Error()
	}
	return a
}

// Hash is the function Hash, in another process.
func (p *Processes) Hash(password string) string {
	return p.do(request{Given: []byte(password)}).Stored
}

// Matches is the function Matches, in another process. stored must not be empty.
func (p *Processes) Matches(password, stored string) (bool, error) {
	a := p.do(request{Given: []byte(password), Stored: stored})
	if a.Error != "" {
		return false, errors.New(a.Error)
	}
	return a.Matches, nil
}

func (p *Processes) do(r request) answer {
	c, err := p.take()
	if c == nil && err == nil {
		return r.answer()
	}
	var a answer
	if err == nil {
		a, err = c.do(r, p.patience)
	}
	if err != nil {
		p.log.Warn("Cannot hash passwords in a process of their own, so they are hashed in this one; sending messages may take longer meanwhile",
			"err", err, "retry_after", restTime)
		p.mu.Lock()
		p.rests = time.Now().Add(restTime)
		p.mu.Unlock()
		return r.answer()
	}
	p.giveBack(c)
	return a
}

// take returns an idle process, or a new one. It returns nil if passwords are to be hashed in this process.
func (p *Processes) take() (*process, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		c.end.Stop()
		return c, nil
	}
	here := len(p.command) == 0 || time.Now().Before(p.rests)
	p.mu.Unlock()
	if here {
		return nil, nil
	}
	return start(p.command)
}

// giveBack keeps a process for the next password, for a while.
func (p *Processes) giveBack(c *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, c)
	c.end = time.AfterFunc(p.idleTime, func() { p.retire(c) })
}

// retire ends a process unless it is in use again.
func (p *Processes) retire(c *process) {
	p.mu.Lock()
	i := slices.Index(p.idle, c)
	if i >= 0 {
		p.idle = slices.Delete(p.idle, i, i+1)
	}
	p.mu.Unlock()
	if i >= 0 {
		c.stop()
	}
}

// process is a running program that calls Serve.
type process struct {
	cmd      *exec.Cmd
	in       io.Closer
	requests *json.Encoder
	answers  *json.Decoder
	end      *time.Timer // ends the process when it has been idle
}

func start(command []string) (*process, error) {
	// The process outlives the request for which it is started, and main chooses its program.
	cmd := exec.CommandContext(context.Background(), command[0], command[1:]...) //nolint:gosec // see above
	// It needs no environment, in which there may be secrets.
	cmd.Env = []string{}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C in a terminal is meant for the server
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &process{cmd: cmd, in: in, requests: json.NewEncoder(in), answers: json.NewDecoder(out)}, nil
}

// do has the process answer a request in time. After an error the process has ended.
func (c *process) do(r request, patience time.Duration) (a answer, err error) {
	late := time.AfterFunc(patience, func() { _ = c.cmd.Process.Kill() })
	if err = c.requests.Encode(r); err == nil {
		err = c.answers.Decode(&a)
	}
	if !late.Stop() {
		err = fmt.Errorf("no answer within %s, perhaps because all processors are busy", patience)
	}
	if err == nil && r.Stored == "" && a.Stored == "" {
		err = errors.New("its answer has no hash")
	}
	if err != nil {
		_ = c.cmd.Process.Kill() // it may have ended already
		return a, errors.Join(fmt.Errorf("process %d: %w", c.cmd.Process.Pid, err), c.cmd.Wait())
	}
	return a, nil
}

// stop ends an idle process.
func (c *process) stop() {
	_ = c.in.Close()
	_ = c.cmd.Wait() // nothing depends on how it has ended
}

// Serve hashes the passwords that in asks for, until in ends.
func Serve(in io.Reader, out io.Writer) error {
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var r request
		if err := requests.Decode(&r); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := answers.Encode(r.answer()); err != nil {
			return err
		}
	}
}
