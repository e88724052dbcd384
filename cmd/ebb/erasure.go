package main

import (
	"context"
	"fmt"
	"io"

	"ebb/adminapi"
)

var userEraseCommand = command{
	name: "user erase", args: "USER", short: "erase a user, whose account is closed for good", example: "ebb user erase --everything alice",
	setup: func(inv *invocation) func(context.Context) error {
		inv.jsonFlag()
		everything := inv.flags.Bool("everything", false, "also remove the user's messages, media and names, with redactions that other servers get, in the background")
		status := inv.flags.Bool("status", false, "change nothing; show how far an erasure with --everything has come")
		return func(ctx context.Context) error {
			user, err := inv.one("user")
			if err != nil {
				return err
			}
			args, name := adminapi.UserArgs{User: user, Everything: *everything}, "user erase"
			if *status {
				name = "user erasure"
			}
			var e adminapi.Erasure
			if err := inv.call(ctx, name, args, &e); err != nil {
				return err
			}
			if !*everything && !*status {
				return nil
			}
			return inv.print(e, func(w io.Writer) { printErasure(w, e) })
		}
	},
}

func printErasure(w io.Writer, e adminapi.Erasure) {
	state := "under way: " + e.Stage
	switch {
	case e.Finished != nil:
		state = "finished " + e.Finished.Local().Format("2006-01-02 15:04")
	case e.Held:
		state = "waits until legal holds are lifted"
	}
	fmt.Fprintf(w, "%s: %s; %d messages and names redacted, %d removed from this server only, %d other files deleted\n", e.User, state, e.Redacted, e.Removed, e.Media)
}
