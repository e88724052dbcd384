package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/adminapi"
	"ebb/config"
)

var userRedactCommand = command{
	name: "user redact", args: "USER", short: "redact the messages that a user has sent, in the background", example: "ebb user redact --older-than 365d alice",
	setup: func(inv *invocation) func(context.Context) error {
		inv.jsonFlag()
		age := inv.flags.String("older-than", "", "only messages that are older than this `TIME`, such as 30d; by default all that have been sent until now")
		room := inv.flags.String("room", "", "only messages in this room")
		reason := inv.flags.String("reason", "", "shown with each redaction")
		daily := inv.flags.Bool("daily", false, "from now on, every day: set the time of --older-than as the user can on the account page; with --cancel, end that")
		cancel := inv.flags.Bool("cancel", false, "end unfinished requests instead; what has been redacted stays redacted")
		return func(ctx context.Context) error {
			user, err := inv.one("user")
			if err != nil {
				return err
			}
			args := adminapi.OwnArgs{User: user, Room: id.RoomID(*room), Reason: *reason, Cancel: *cancel, Daily: *daily}
			switch {
			case *daily && *reason != "":
				return usagef("--reason is for a single time, not for --daily")
			case *daily && *age == "" && !*cancel:
				return usagef("--daily needs --older-than")
			}
			if *age != "" {
				d, err := config.ParseDuration(*age)
				if err != nil || d <= 0 {
					return usagef("--older-than must be a time span such as 30d")
				}
				args.AgeMS = time.Duration(d).Milliseconds()
			}
			var all adminapi.OwnAnswer
			if err := inv.call(ctx, "user redact", args, &all); err != nil {
				return err
			}
			return inv.print(all, func(w io.Writer) { printOwn(w, all) })
		}
	},
}

var userRedactionsCommand = command{
	name: "user redactions", args: "USER", short: "show how far the redaction of a user's messages has come", example: "ebb user redactions alice",
	setup: func(inv *invocation) func(context.Context) error {
		inv.jsonFlag()
		return func(ctx context.Context) error {
			user, err := inv.one("user")
			if err != nil {
				return err
			}
			var all adminapi.OwnAnswer
			if err := inv.call(ctx, "user redactions", adminapi.OwnArgs{User: user}, &all); err != nil {
				return err
			}
			return inv.print(all, func(w io.Writer) { printOwn(w, all) })
		}
	},
}

func printOwn(w io.Writer, all adminapi.OwnAnswer) {
	for _, l := range all.Lifetimes {
		in := "in all rooms that have no time of their own"
		if l.Room != "" {
			in = "in " + string(l.Room)
		}
		fmt.Fprintf(w, "daily: messages that are older than %s, %s\n", config.Duration(time.Duration(l.AgeMS)*time.Millisecond), in)
	}
	for _, r := range all.Requests {
		what, state := "all messages", "under way"
		if r.Before != nil {
			what = "messages from before " + r.Before.Local().Format("2006-01-02 15:04")
		}
		if r.Daily {
			what = "daily request"
		}
		if r.Room != "" {
			what += " in " + string(r.Room)
		}
		switch {
		case r.Finished != nil:
			state = "finished " + r.Finished.Local().Format("2006-01-02 15:04")
		case !r.Counted:
			state = "still counting"
		}
		fmt.Fprintf(w, "%s: %s; %d found, %d redacted, %d removed from this server only\n", what, state, r.Found, r.Redacted, r.Removed)
	}
}
