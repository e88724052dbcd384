// Testrun runs go test and shows its progress: go run ./internal/testrun -timeout 15m ./...
//
// go test prints nothing while it builds, and holds back the results of finished packages until all packages listed
// before them are finished, so for minutes it seems to hang. Testrun prints a line for each package when it ends,
// regularly lists the tests that are running, shows the output of failed tests, and at the end lists the reasons for
// skipped tests.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// silence is how long Testrun prints nothing at most.
const silence = 20 * time.Second

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// run runs go test and returns its exit code.
func run(args []string) (int, error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	// The terminal also interrupts go test. Testrun continues, to show its last output.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	tick := time.NewTicker(silence)
	defer tick.Stop()
	report(out, os.Stdout, time.Now, tick.C, func() { tick.Reset(silence) })
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// event is a line of go test -json.
type event struct {
	Action     string
	Package    string
	ImportPath string // the package whose build failed, in events of build output
	Test       string
	Output     string
	Elapsed    float64
}

// report prints the progress until the events end. At every tick it prints the running tests. It calls printed whenever
// an event made it print something.
func report(in io.Reader, w io.Writer, now func() time.Time, tick <-chan time.Time, printed func()) {
	events := make(chan event)
	go func() {
		defer close(events)
		lines := bufio.NewReader(in)
		for {
			line, err := lines.ReadBytes('\n')
			if len(line) > 0 {
				events <- parse(line)
			}
			if err != nil {
				return
			}
		}
	}()
	p := newProgress(w, now)
	for {
		select {
		case e, more := <-events:
			if !more {
				p.summary()
				return
			}
			if p.take(e) {
				printed()
			}
		case <-tick:
			p.running()
		}
	}
}

// parse parses an event. If the line is not an event, parse returns it as output.
func parse(line []byte) (e event) {
	if json.Unmarshal(line, &e) != nil {
		return event{Action: "build-output", Output: string(line)}
	}
	return e
}

// progress is the state of a run.
type progress struct {
	w        io.Writer
	now      func() time.Time
	start    time.Time
	packages map[string]*pkg
	done     int
	failed   []string
	skips    map[string]int // number of skipped tests by reason
}

func newProgress(w io.Writer, now func() time.Time) *progress {
	return &progress{w: w, now: now, start: now(), packages: map[string]*pkg{}, skips: map[string]int{}}
}

// pkg is a package whose tests are running.
type pkg struct {
	tests  map[string]*test
	output strings.Builder // output that belongs to no single test
	cached bool
	ended  bool
}

type test struct {
	start  time.Time
	output strings.Builder
}

// take processes an event and reports whether it printed something.
func (p *progress) take(e event) bool {
	if e.Action == "build-output" {
		fmt.Fprint(p.w, e.Output)
		return true
	}
	if e.Package == "" {
		return false
	}
	at := p.packages[e.Package]
	if at == nil {
		at = &pkg{tests: map[string]*test{}}
		p.packages[e.Package] = at
	}
	switch {
	case e.Test == "":
		return p.takePackage(at, e)
	case e.Action == "run":
		at.tests[e.Test] = &test{start: p.now()}
	case at.tests[e.Test] == nil:
	case e.Action == "output":
		at.tests[e.Test].output.WriteString(e.Output)
	case e.Action == "skip":
		p.skipped(at.tests[e.Test].output.String())
		delete(at.tests, e.Test)
	case e.Action == "fail":
		text := at.tests[e.Test].output.String()
		delete(at.tests, e.Test)
		fmt.Fprint(p.w, text)
		return text != ""
	case e.Action == "pass":
		delete(at.tests, e.Test)
	}
	return false
}

// takePackage processes an event that concerns a whole package, not one of its tests. Like take, it reports whether it
// printed something.
func (p *progress) takePackage(at *pkg, e event) bool {
	switch e.Action {
	case "output":
		at.cached = at.cached || strings.HasSuffix(e.Output, "(cached)\n")
		at.output.WriteString(e.Output)
		return false
	case "pass", "fail", "skip":
	default:
		return false
	}
	at.ended = true
	p.done++
	words := map[string]string{"pass": "ok", "fail": "FAIL", "skip": "-"}
	note := fmt.Sprintf("%.1fs", e.Elapsed)
	if at.cached {
		note = "cached"
	}
	if e.Action == "skip" {
		note = "no tests"
	}
	if e.Action == "fail" {
		p.failed = append(p.failed, e.Package)
		// After a panic or a timeout, the running tests get no final event.
		for _, name := range slices.Sorted(maps.Keys(at.tests)) {
			fmt.Fprint(p.w, at.tests[name].output.String())
		}
		fmt.Fprint(p.w, at.output.String())
	}
	fmt.Fprintf(p.w, "%-4s %-32s %-8s %3d packages done in %s\n", words[e.Action], e.Package, note, p.done, p.elapsed())
	return true
}

// skipped records why a test was skipped, if the reason contains SKIP.
func (p *progress) skipped(output string) {
	if _, reason, found := strings.Cut(output, "SKIP "); found {
		reason, _, _ = strings.Cut(reason, "\n")
		p.skips[reason]++
	}
}

func (p *progress) elapsed() time.Duration { return p.now().Sub(p.start).Round(time.Second) }

// running prints the names of the running tests.
func (p *progress) running() {
	var tests []string
	for _, name := range slices.Sorted(maps.Keys(p.packages)) {
		oldest := ""
		for test, t := range p.packages[name].tests {
			if oldest == "" || t.start.Before(p.packages[name].tests[oldest].start) {
				oldest = test
			}
		}
		if oldest != "" && !p.packages[name].ended {
			tests = append(tests, fmt.Sprintf("%s.%s (%s)", name, oldest, p.now().Sub(p.packages[name].tests[oldest].start).Round(time.Second)))
		}
	}
	if len(tests) == 0 {
		tests = []string{"building (the first time SQLite is compiled, which takes a minute or more)"}
	}
	fmt.Fprintf(p.w, "...  %s: %s\n", p.elapsed(), strings.Join(tests, ", "))
}

// summary prints the final result.
func (p *progress) summary() {
	for _, reason := range slices.Sorted(maps.Keys(p.skips)) {
		fmt.Fprintf(p.w, "skipped %d: %s\n", p.skips[reason], reason)
	}
	if len(p.failed) > 0 {
		fmt.Fprintf(p.w, "FAIL after %s: %s\n", p.elapsed(), strings.Join(p.failed, ", "))
		return
	}
	fmt.Fprintf(p.w, "%d packages are good, after %s\n", p.done, p.elapsed())
}
