package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"ebb/adminapi"
)

var holdAddCommand = command{
	name: "hold add", short: "put a room or a user under a legal hold", example: `ebb hold add --user alice --reason "case 7" --review 2027-06-01`,
	setup: func(inv *invocation) func(context.Context) error {
		var args adminapi.HoldArgs
		inv.flags.StringVar(&args.Room, "room", "", "the `ROOM`, all of whose messages are kept")
		inv.flags.StringVar(&args.User, "user", "", "the `USER`, whose messages in all rooms are kept")
		inv.flags.StringVar(&args.Reason, "reason", "", "why")
		inv.flags.StringVar(&args.Review, "review", "", "the `DATE` (YYYY-MM-DD) on which somebody decides whether the hold is still needed")
		inv.jsonFlag()
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			if (args.Room == "") == (args.User == "") {
				return usagef("give either --room or --user")
			}
			return inv.hold(ctx, "hold add", args)
		}
	},
}

// hold calls a command about one hold and prints the hold.
func (inv *invocation) hold(ctx context.Context, name string, args adminapi.HoldArgs) error {
	var h adminapi.Hold
	if err := inv.call(ctx, name, args, &h); err != nil {
		return err
	}
	return inv.print(h, func(w io.Writer) {
		holdLine(w, h)
		for _, c := range h.Also {
			fmt.Fprintf(w, "  also covers %s since %s, because of an upgrade\n", c.Room, c.Since.Local().Format("2006-01-02"))
		}
	})
}

func holdLine(w io.Writer, h adminapi.Hold) {
	state := "review on " + h.Review
	switch {
	case h.Lifted != nil:
		state = fmt.Sprintf("lifted on %s by %s and %s", h.Lifted.Local().Format("2006-01-02"), h.AskedBy, h.LiftedBy)
	case h.AskedBy != "":
		state += "; " + h.AskedBy + " asks for it to be lifted"
	case h.Overdue:
		state += ", which is over"
	}
	fmt.Fprintf(w, "%d  %s%s  since %s by %s; %s: %s\n", h.ID, h.Room, h.User, h.Added.Local().Format("2006-01-02"), h.AddedBy, state, oneLine(h.Reason))
}

var holdListCommand = command{
	name: "hold list", short: "list legal holds", example: "ebb hold list",
	setup: func(inv *invocation) func(context.Context) error {
		var args adminapi.HoldArgs
		inv.flags.BoolVar(&args.Lifted, "lifted", false, "also list holds that were lifted")
		inv.jsonFlag()
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			list := listWriter[adminapi.Hold]{w: bufio.NewWriter(inv.stdout), json: inv.json, line: holdLine, args: func(page adminapi.ListArgs) any {
				args.ListArgs = page
				return args
			}}
			return inv.connected(ctx, func(call caller) error { return list.print(ctx, call, "hold list") })
		}
	},
}

// holdCommand returns a command about the hold with a number. flags defines further flags; check completes the
// arguments.
func holdCommand(name, short, example string, flags func(inv *invocation, args *adminapi.HoldArgs) (check func() error)) command {
	return command{
		name: name, args: "ID", short: short, example: example,
		setup: func(inv *invocation) func(context.Context) error {
			var args adminapi.HoldArgs
			check := flags(inv, &args)
			inv.jsonFlag()
			return func(ctx context.Context) error {
				text, err := inv.one("number of the hold")
				if err != nil {
					return err
				}
				if args.ID, err = strconv.ParseInt(text, 10, 64); err != nil {
					return usagef("%q is not the number of a hold; see ebb hold list", text)
				}
				if err := check(); err != nil {
					return err
				}
				return inv.hold(ctx, name, args)
			}
		},
	}
}

var holdShowCommand = holdCommand("hold show", "show a legal hold", "ebb hold show 1234", func(*invocation, *adminapi.HoldArgs) func() error {
	return func() error { return nil }
})

var holdReviewCommand = holdCommand("hold review", "set the next review date of a legal hold", "ebb hold review 1234 --review 2027-12-01", func(inv *invocation, args *adminapi.HoldArgs) func() error {
	inv.flags.StringVar(&args.Review, "review", "", "the new `DATE` (YYYY-MM-DD)")
	return func() error { return nil }
})

// tokenFlag defines a flag with which administrators say who they are. read sets the token in the arguments.
func tokenFlag(inv *invocation, args *adminapi.HoldArgs, why string) (read func() error) {
	file := inv.flags.String("token-file", "", "a `FILE` with an access token of the administrator, because the command line does not say who uses it")
	return func() error {
		if *file == "" {
			return usagef("give --token-file: %s", why)
		}
		raw, err := os.ReadFile(*file)
		args.Token = strings.TrimSpace(string(raw))
		return err
	}
}

var holdLiftCommand = holdCommand("hold lift", "ask for a legal hold to be lifted, or confirm it as a second administrator", "ebb hold lift 1234 --token-file alice.token", func(inv *invocation, args *adminapi.HoldArgs) func() error {
	return tokenFlag(inv, args, "two different administrators lift a hold")
})

var holdExportCommand = command{
	name: "hold export", args: "ID", short: "write everything that a legal hold covers to a signed archive", example: "ebb hold export 1234 --out case7.zip.age --recipient age1… --token-file alice.token",
	setup: func(inv *invocation) func(context.Context) error {
		var args adminapi.HoldArgs
		out := inv.flags.String("out", "", "the `FILE` to write; it must not exist")
		inv.flags.Func("recipient", "encrypt the archive for this `KEY` (age1… or a public SSH key); may be repeated", func(key string) error {
			args.Recipients = append(args.Recipients, key)
			return nil
		})
		token := tokenFlag(inv, &args, "the audit log records who exports a hold")
		return func(ctx context.Context) error {
			text, err := inv.one("number of the hold")
			if err != nil {
				return err
			}
			if args.ID, err = strconv.ParseInt(text, 10, 64); err != nil {
				return usagef("%q is not the number of a hold; see ebb hold list", text)
			}
			if *out == "" {
				return usagef("give --out")
			}
			if err := token(); err != nil {
				return err
			}
			return inv.exportHold(ctx, args, *out)
		}
	},
}

// exportHold writes an export of a hold to a file.
func (inv *invocation) exportHold(ctx context.Context, args adminapi.HoldArgs, out string) (err error) {
	file, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(file, 1<<20)
	err = inv.streamed(ctx, "hold export", args, w)
	if err == nil {
		err = errors.Join(w.Flush(), file.Sync())
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return errors.Join(err, os.Remove(out))
	}
	verify := "check it with: ebb export verify " + out
	if len(args.Recipients) > 0 {
		verify = "decrypt it with age -d, and check the result with ebb export verify"
	}
	_, err = fmt.Fprintf(inv.stdout, "%s has what hold %d covers; %s\n", out, args.ID, verify)
	return err
}
