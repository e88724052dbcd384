package hashing

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// serveArgument makes the program of the tests serve.
const serveArgument = "serve-hashes"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == serveArgument {
		if err := Serve(os.Stdin, os.Stdout); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// newTest returns a Processes that runs this program, and what it has logged.
func newTest() (*Processes, *bytes.Buffer) {
	logged := &bytes.Buffer{}
	p := NewProcesses([]string{os.Args[0], serveArgument}, slog.New(slog.NewTextHandler(logged, nil)))
	p.patience = time.Minute // a machine that runs tests is busy
	return p, logged
}

// one returns the only idle process.
func (p *Processes) one(t *testing.T) *process {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) != 1 {
		t.Fatalf("%d processes are idle", len(p.idle))
	}
	return p.idle[0]
}

func TestOtherProcessesGiveTheSameAnswers(t *testing.T) {
	p, logged := newTest()
	for _, password := range []string{"correct horse", "", "caf\u00e9", "not \xff UTF-8", "a line\nand a NUL\x00"} {
		stored := p.Hash(password)
		if good, err := Matches(password, stored); !good || err != nil {
			t.Errorf("%q was hashed as %s, %v", password, stored, err)
		}
		for other, want := range map[string]bool{password: true, password + "x": false} {
			if good, err := p.Matches(other, stored); good != want || err != nil {
				t.Errorf("%q for %q: %v, %v", other, password, good, err)
			}
		}
	}
	if _, err := p.Matches("correct horse", "!"); err == nil || err.Error() != errForm.Error() {
		t.Errorf("an unknown form: %v", err)
	}
	if logged.Len() > 0 {
		t.Error(logged)
	}
}

func TestEachSimultaneousCallerHasAProcess(t *testing.T) {
	p, logged := newTest()
	const callers = 4
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for range 3 {
				if stored := p.Hash("correct horse"); !strings.HasPrefix(stored, "$argon2id$") {
					t.Error(stored)
				}
			}
		})
	}
	wg.Wait()
	if n := len(p.idle); n == 0 || n > callers || logged.Len() > 0 {
		t.Errorf("%d processes are idle afterwards; %s", n, logged)
	}
}

func TestIdleProcessesEnd(t *testing.T) {
	p, _ := newTest()
	p.Hash("correct horse")
	first := p.one(t)
	first.end.Stop()
	p.retire(first)
	if s := first.cmd.ProcessState; s == nil || !s.Success() {
		t.Fatalf("an idle process has ended with %v", s)
	}
	p.idleTime = time.Millisecond
	p.Hash("correct horse")
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		left := len(p.idle)
		p.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a process is idle for a minute")
		}
	}
	p.retire(first) // a timer that fires while somebody takes the process
}

func TestPasswordsAreHashedHereWhenProcessesFail(t *testing.T) {
	p, logged := newTest()
	stored := p.Hash("correct horse")
	if err := p.one(t).cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	matches := func(what string) {
		t.Helper()
		if good, err := p.Matches("correct horse", stored); !good || err != nil {
			t.Errorf("%s: %v, %v", what, good, err)
		}
	}
	matches("killed while it was idle")
	if !strings.Contains(logged.String(), "killed") {
		t.Errorf("the log says %s", logged)
	}
	logged.Reset()
	matches("soon after a failure")
	if len(p.idle) > 0 || logged.Len() > 0 {
		t.Errorf("soon after a failure %d processes run; %s", len(p.idle), logged)
	}
	p.rests = time.Now()
	matches("after the rest")
	p.one(t)

	p, logged = newTest()
	p.command = []string{"/nowhere"}
	matches("a program that does not exist")
	if !strings.Contains(logged.String(), "/nowhere") {
		t.Errorf("the log says %s", logged)
	}
	p.command, p.rests = []string{"/bin/echo", "{"}, time.Time{}
	matches("a program that answers something else")
	p.command, p.rests = []string{"/bin/echo", "{}"}, time.Time{}
	if got := p.Hash("correct horse"); got == "" {
		t.Error("an answer without a hash was taken for one")
	}

	p, logged = newTest()
	p.command, p.patience = []string{"/bin/sleep", "60"}, time.Millisecond
	matches("a program that does not answer")
	if !strings.Contains(logged.String(), "no answer within 1ms") {
		t.Errorf("the log says %s", logged)
	}

	p, _ = newTest()
	p.command = nil
	matches("without a command")
}
