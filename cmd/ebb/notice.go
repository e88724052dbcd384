package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"ebb/adminapi"
)

var noticeSendCommand = command{
	name: "notice send", args: "TEXT", short: "send a message from the server to users", example: `ebb notice send --user alice "Your quota is almost used up"`,
	setup: func(inv *invocation) func(context.Context) error {
		user := inv.flags.String("user", "", "the `USER` to whom it is sent")
		all := inv.flags.Bool("all", false, "send it to all users of this server")
		inv.jsonFlag()
		return func(ctx context.Context) error {
			text, err := inv.one("text")
			if err != nil {
				return err
			}
			if *all == (*user != "") {
				return usagef("give either --user or --all")
			}
			var sent adminapi.Noticed
			if err := inv.call(ctx, "notice send", adminapi.NoticeArgs{User: *user, All: *all, Text: strings.TrimSpace(text)}, &sent); err != nil {
				return err
			}
			return inv.print(sent, func(w io.Writer) { fmt.Fprintf(w, "sent to %d users\n", sent.Users) })
		}
	},
}
