package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"ebb/adminapi"
	"ebb/outbox"
)

var federationStatusCommand = command{
	name: "federation status", args: "[SERVER]", short: "show the state of delivery to other servers, beginning with those that do not respond",
	example: "ebb federation status --json",
	setup: func(inv *invocation) func(context.Context) error {
		inv.jsonFlag()
		return func(ctx context.Context) error {
			if inv.flags.NArg() > 1 {
				return usagef("expected at most one server name")
			}
			var list []outbox.Status
			if err := inv.call(ctx, "federation status", adminapi.ServerArgs{Server: inv.flags.Arg(0)}, &list); err != nil {
				return err
			}
			return inv.print(list, func(w io.Writer) {
				for _, s := range list {
					printStatus(w, s)
				}
			})
		}
	},
}

func printStatus(w io.Writer, s outbox.Status) {
	fmt.Fprintf(w, "%-32s %s", s.Server, waiting(s))
	if s.FailingSince != nil {
		fmt.Fprintf(w, "; no response since %s, %d attempts", s.FailingSince.Format(time.RFC3339), s.Failures)
		if s.Retry != nil {
			fmt.Fprintf(w, ", the next attempt at %s", s.Retry.Format(time.RFC3339))
		}
	}
	fmt.Fprintln(w)
}

func waiting(s outbox.Status) string {
	if s.Events+s.EDUs+int64(s.Rooms) == 0 {
		return "nothing is queued"
	}
	text := fmt.Sprintf("%d events and %d EDUs are queued", s.Events, s.EDUs)
	if s.Rooms > 0 {
		text += fmt.Sprintf(", and only the newest events of %d rooms", s.Rooms)
	}
	return text
}

var federationRetryCommand = command{
	name: "federation retry", args: "SERVER", short: "retry delivery to a server that did not respond", example: "ebb federation retry example.org",
	setup: func(inv *invocation) func(context.Context) error {
		return func(ctx context.Context) error {
			server, err := inv.one("server name")
			if err != nil {
				return err
			}
			return inv.call(ctx, "federation retry", adminapi.ServerArgs{Server: server}, &struct{}{})
		}
	},
}
