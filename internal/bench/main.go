// Command bench starts the real binary on loopback and measures its performance. Beside each figure it prints the limit
// of the same machine, measured in the same run with a small program that does only the indispensable work: HTTP,
// building and signing an event, a group-committed insert, and waking waiting requests.
//
// The main figure is CPU time per operation, read from /proc, because operations per second mean little on a machine
// with other load. Every figure is the median of -rounds measurements (with grown databases it is computed from all of
// them together), and measurements of the limit and the server take turns.
//
//	make bench
//	go run ./internal/bench -rounds 1 -only sends,sync
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// options holds the command line flags.
type options struct {
	binary   string
	dir      string
	rounds   int
	duration time.Duration // duration of one measurement
	only     []string
	profile  string
	events   []int
	clients  int
	messages int // size of the database that is purged
}

// suite is a group of figures that are measured on one server.
type suite struct {
	name string
	run  func(*bench) error
}

var suites = []suite{
	{"sends", (*bench).sends}, {"delay", (*bench).delayedSends}, {"fanout", (*bench).fanOut}, {"sync", (*bench).syncs}, {"sliding", (*bench).sliding},
	{"cold", (*bench).cold}, {"idle", (*bench).idle}, {"e2ee", (*bench).encryption}, {"grown", (*bench).grown},
	{"search", (*bench).search}, {"appservice", (*bench).appservice}, {"federation", (*bench).federation}, {"push", (*bench).push}, {"signin", (*bench).signIns},
	{"media", (*bench).media}, {"backup", (*bench).backup}, {"purge", (*bench).purge}, {postgresSuite, (*bench).postgres}, {attackSuite, (*bench).attackAll},
}

// Suites that run only if they are named: attackSuite runs attacks instead of measurements, and postgresSuite needs a
// PostgreSQL server.
const (
	attackSuite   = "attack"
	postgresSuite = "postgres"
)

// bench is one run of the benchmark.
type bench struct {
	options
	report
}

// commands are the parts of measurements that have processes of their own; see inProcess.
var commands = map[string]func(in io.Reader, out io.Writer) error{senderCommand: sendAll, peopleCommand: signInAll}

func main() {
	if len(os.Args) == 3 && os.Args[1] == limitCommand {
		if err := serveLimit(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) == 2 && commands[os.Args[1]] != nil {
		if err := commands[os.Args[1]](os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	b := &bench{}
	if err := b.parse(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if err := b.run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) parse(args []string) error {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	var only, events string
	var names, usual []string
	for _, s := range suites {
		if names = append(names, s.name); s.name != attackSuite && s.name != postgresSuite {
			usual = append(usual, s.name)
		}
	}
	f.StringVar(&b.binary, "binary", "bin/ebb", "the server's `PROGRAM`")
	f.StringVar(&b.dir, "dir", os.TempDir(), "`FOLDER` for databases: on the disk that is to be measured")
	f.IntVar(&b.rounds, "rounds", 5, "how often each figure is measured; the median is printed")
	f.DurationVar(&b.duration, "duration", 3*time.Second, "how long one measurement takes")
	f.StringVar(&only, "only", strings.Join(usual, ","), "the `GROUPS` of figures to print")
	f.StringVar(&b.profile, "profile", "", "`FOLDER` for CPU profiles of the server, one a measurement")
	f.StringVar(&events, "events", "10000,50000,200000", "`COUNTS` of events at which a grown database is measured")
	f.IntVar(&b.clients, "clients", 2000, "waiting clients whose memory is measured")
	f.IntVar(&b.messages, "messages", 1_000_000, "`COUNT` of messages in the database that is purged")
	if err := f.Parse(args); err != nil {
		return err
	}
	b.only = strings.Split(only, ",")
	for _, name := range b.only {
		if !slices.Contains(names, name) {
			return fmt.Errorf("-only: there is no group %q, but %s", name, strings.Join(names, ", "))
		}
	}
	for text := range strings.SplitSeq(events, ",") {
		var n int
		if _, err := fmt.Sscan(text, &n); err != nil || n <= 0 {
			return fmt.Errorf("-events: %q is not a count", text)
		}
		b.events = append(b.events, n)
	}
	if b.rounds < 1 || b.duration <= 0 || f.NArg() > 0 {
		return errors.New("rounds and duration are above 0, and nothing follows the flags")
	}
	return nil
}

// run measures each suite in a folder of its own.
func (b *bench) run() error {
	root, err := os.MkdirTemp(b.dir, "ebb-bench-")
	if err != nil {
		return err
	}
	b.dir = root
	printMachine(b.rounds, b.duration)
	for _, s := range suites {
		if slices.Contains(b.only, s.name) {
			if err = s.run(b); err != nil {
				err = fmt.Errorf("%s: %w", s.name, err)
				break
			}
		}
	}
	return errors.Join(err, os.RemoveAll(root))
}
