// Command ebb is the Matrix homeserver and its tools. See `ebb help`.
//
// Exit codes: 0 success; 1 failure; 2 invalid command line or configuration; 3 refused, because something does not
// exist, exists already or is not allowed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"ebb/config"
)

// version is set by -ldflags.
var version = "dev"

// The exit codes.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitRefused = 3
)

// command is a subcommand.
type command struct {
	name    string // such as "user add"
	args    string // arguments after the flags, shown in the help
	short   string
	example string
	// setup defines the flags and returns the function to call after they have been parsed.
	setup func(*invocation) func(ctx context.Context) error
}

// invocation is one run of a command.
type invocation struct {
	flags      *flag.FlagSet
	configFile string
	json       bool
	stdin      io.Reader
	stdout     io.Writer
	stderr     io.Writer
}

// usageError is a mistake in the command line.
type usageError struct{ error }

// configError is a mistake in the configuration, for which no help about the command line is printed.
type configError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func commands() []command {
	return []command{
		serveCommand, initCommand, configCheckCommand, configSampleCommand,
		userAddCommand, userListCommand, userPasswdCommand, userAdminCommand, userDeactivateCommand, userExportCommand, exportVerifyCommand,
		userLockCommand, userUnlockCommand, userSuspendCommand, userUnsuspendCommand,
		userRedactCommand, userRedactionsCommand, userEraseCommand,
		userIdentitiesCommand, userLinkCommand, userUnlinkCommand,
		userMFACommand, userEnrolLinkCommand, userEnrolListCommand, userEnrolRevokeCommand, adminRecoverCommand, noticeSendCommand,
		tokenCreateCommand, tokenListCommand, tokenRevokeCommand, tokenIssueCommand, tokenIssuedCommand, tokenWithdrawCommand,
		roomListCommand, roomShowCommand, roomRetentionShowCommand, roomRetentionGetCommand, roomRetentionSetCommand, roomRetentionClearCommand,
		federationStatusCommand, federationRetryCommand, appserviceListCommand, appservicePingCommand, keysListCommand, keysRotateCommand, keysCreateCommand,
		auditVerifyCommand, auditExportCommand, auditKeyCommand,
		backupCommand, backupVerifyCommand, restoreCommand,
		emailTestCommand, reportListCommand, purgeNowCommand, purgeStatusCommand, receiptsListCommand, receiptsExportCommand, receiptsKeysCommand, receiptsVerifyCommand, holdAddCommand, holdListCommand, holdShowCommand, holdReviewCommand, holdLiftCommand, holdExportCommand, mediaListCommand, mediaDeleteCommand, mediaQuarantineCommand, mediaGCCommand, healthcheckCommand, doctorCommand, docProcessingCommand, versionCommand, resolveStateCommand, hashPasswordsCommand,
	}
}

func main() {
	syscall.Umask(0o077) // makes its files readable only by their owner
	// The link leads to the running program even when an upgrade has replaced its file.
	hashCommand = []string{"/proc/self/exe", "debug", "hash-passwords"}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run runs the command in args and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	args = commandFirst(args)
	c, rest := find(args)
	if c == nil && len(args) > 1 && isHelp(args[0]) {
		if c, _ = find(args[1:]); c != nil {
			rest = []string{"--help"}
		}
	}
	if c == nil {
		return help(args, stdout, stderr)
	}
	inv := &invocation{flags: newFlags(c.name), stdin: stdin, stdout: stdout, stderr: stderr}
	inv.configFlag()
	do := c.setup(inv)
	err := inv.parse(rest)
	if errors.Is(err, flag.ErrHelp) {
		inv.usage(stdout, c)
		return 0
	}
	if err == nil {
		err = do(ctx)
	}
	return inv.report(c, err)
}

// commandFirst moves the command to the front if a --config flag precedes it.
func commandFirst(args []string) []string {
	n := 0
	for n < len(args) {
		name, _, inOneWord := strings.Cut(strings.TrimLeft(args[n], "-"), "=")
		if !strings.HasPrefix(args[n], "-") || name != "config" {
			break
		}
		if n++; !inOneWord {
			n++
		}
	}
	if n == 0 || n >= len(args) {
		return args
	}
	return slices.Concat(args[n:], args[:n])
}

// newFlags returns a FlagSet that prints nothing by itself.
func newFlags(name string) *flag.FlagSet {
	f := flag.NewFlagSet("ebb "+name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f
}

// configFlag adds the flag --config, which every command has.
func (inv *invocation) configFlag() {
	inv.flags.StringVar(&inv.configFile, "config", defaultConfigFile(), "configuration `FILE`; can also be set by EBB_CONFIG")
}

// given reports whether a flag appears on the command line.
func (inv *invocation) given(name string) (given bool) {
	inv.flags.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	return given
}

// find returns the command with the longest name with which args begins, and the remaining arguments.
func find(args []string) (*command, []string) {
	var best *command
	words := 0
	for _, c := range commands() {
		name := strings.Fields(c.name)
		if len(name) > words && len(args) >= len(name) && strings.Join(args[:len(name)], " ") == c.name {
			best, words = &c, len(name)
		}
	}
	return best, args[words:]
}

// parse parses the flags, which may come before or after other arguments. After "--" there are no flags.
func (inv *invocation) parse(args []string) error {
	var rest, plain []string
	if i := slices.Index(args, "--"); i >= 0 {
		args, plain = args[:i], args[i+1:]
	}
	args = spread(args)
	for {
		if err := inv.flags.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return err
			}
			return usageError{err}
		}
		if inv.flags.NArg() == 0 {
			return inv.flags.Parse(slices.Concat([]string{"--"}, rest, plain))
		}
		rest = append(rest, inv.flags.Arg(0))
		args = inv.flags.Args()[1:]
	}
}

// report prints an error and returns the exit code for it.
func (inv *invocation) report(c *command, err error) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(inv.stderr, "ebb %s: %v\n", c.name, err)
	var (
		usage   usageError
		wrong   configError
		refused refusedError
	)
	switch {
	case errors.As(err, &wrong):
		return exitUsage
	case errors.As(err, &usage):
		fmt.Fprintf(inv.stderr, "Run `ebb %s --help`.\n", c.name)
		return exitUsage
	case errors.As(err, &refused):
		return exitRefused
	}
	return exitFailed
}

func (inv *invocation) usage(w io.Writer, c *command) {
	line := "ebb " + c.name + " [flags]"
	if c.args != "" {
		line += " " + c.args
	}
	fmt.Fprintf(w, "%s\n\nUsage: %s\n\nExample: %s\n\nFlags:\n", c.short, line, c.example)
	inv.flags.SetOutput(w)
	inv.flags.PrintDefaults()
}

func isHelp(word string) bool {
	return word == "help" || word == "--help" || word == "-help" || word == "-h"
}

// help lists the commands, or only those of one group if args begins with its name.
func help(args []string, stdout, stderr io.Writer) int {
	w, code := stderr, exitUsage
	if slices.ContainsFunc(args, isHelp) {
		w, code = stdout, 0
	} else if len(args) > 0 {
		fmt.Fprintf(w, "ebb: there is no command %q%s\n\n", strings.Join(words(args), " "), didYouMean(words(args)))
	}
	group := ""
	if i := slices.IndexFunc(args, func(a string) bool { return !isHelp(a) }); i >= 0 {
		group = args[i] + " "
	}
	shown := slices.DeleteFunc(commands(), func(c command) bool { return !strings.HasPrefix(c.name, group) })
	if len(shown) == 0 {
		shown = commands()
	}
	fmt.Fprint(w, "Ebb is a Matrix homeserver.\n\nCommands (each has --help):\n")
	for _, c := range shown {
		fmt.Fprintf(w, "  %-22s %s\n", c.name, c.short)
	}
	return code
}

// words returns the arguments before the first flag.
func words(args []string) []string {
	if i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "-") }); i > 0 {
		return args[:i]
	}
	return args
}

// didYouMean suggests a command in place of a misspelled one. The text is meant as the end of a message.
func didYouMean(typed []string) string {
	for n := min(len(typed), 3); n > 0; n-- { // the last words may be arguments
		for _, c := range commands() {
			if name := strings.Join(typed[:n], " "); config.Alike(c.name, name) {
				return ": did you mean " + c.name + "?"
			}
		}
	}
	return ""
}

// defaultConfigFile returns the value of EBB_CONFIG, or ebb.yaml if it is not set.
func defaultConfigFile() string {
	if f := os.Getenv("EBB_CONFIG"); f != "" {
		return f
	}
	return "ebb.yaml"
}

// jsonFlag adds the flag --json to a command that prints a result.
func (inv *invocation) jsonFlag() {
	inv.flags.BoolVar(&inv.json, "json", false, "print JSON")
}

// print prints v as JSON, or calls text to print it as lines.
func (inv *invocation) print(v any, text func(w io.Writer)) error {
	if !inv.json {
		text(inv.stdout)
		return nil
	}
	enc := json.NewEncoder(inv.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// one returns the single argument of a command.
func (inv *invocation) one(what string) (string, error) {
	if inv.flags.NArg() != 1 {
		return "", usagef("expected exactly one %s", what)
	}
	return inv.flags.Arg(0), nil
}

// none returns an error if the command has arguments.
func (inv *invocation) none() error {
	if inv.flags.NArg() != 0 {
		hint := ""
		if word := inv.flags.Arg(0); strings.HasSuffix(word, ".yaml") || strings.HasSuffix(word, ".yml") {
			hint = ": to name a configuration, use --config " + word
		}
		return usagef("unexpected %q%s", inv.flags.Arg(0), hint)
	}
	return nil
}
