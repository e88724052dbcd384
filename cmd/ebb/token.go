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

var tokenCreateCommand = command{
	name: "token create", short: "create a registration token", example: "ebb token create --uses 5 --expires 7d",
	setup: func(inv *invocation) func(context.Context) error {
		text := inv.flags.String("token", "", "the `TEXT` of the token; by default a random one")
		uses := inv.flags.Int64("uses", 1, "how many accounts may be created with it")
		reusable := inv.flags.Bool("reusable", false, "any number of accounts may be created with it")
		expires := inv.flags.String("expires", "", "how long it is valid, such as 7d; by default for ever")
		inv.jsonFlag()
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			wanted := adminapi.Token{Token: *text}
			if !*reusable {
				if *uses < 1 {
					return usagef("--uses must be at least 1")
				}
				wanted.Uses = uses
			}
			if *expires != "" {
				d, err := config.ParseDuration(*expires)
				if err != nil {
					return usagef("--expires: %w", err)
				}
				at := time.Now().Add(time.Duration(d))
				wanted.Expires = &at
			}
			var made adminapi.Token
			if err := inv.call(ctx, "token create", wanted, &made); err != nil {
				return err
			}
			return inv.print(made, func(w io.Writer) { fmt.Fprintln(w, made.Token) })
		}
	},
}

var tokenListCommand = listCommand("token list", "list registration tokens", func(w io.Writer, t adminapi.Token) {
	fmt.Fprintf(w, "%-32s used %d of %s, %s\n", t.Token, t.Completed, orWord(t.Uses, "any number"), until(t.Expires))
})

func orWord(n *int64, word string) string {
	if n == nil {
		return word
	}
	return fmt.Sprint(*n)
}

func until(t *time.Time) string {
	if t == nil {
		return "for ever"
	}
	return "until " + t.Local().Format("2006-01-02 15:04")
}

var tokenRevokeCommand = command{
	name: "token revoke", args: "TOKEN", short: "revoke a registration token", example: "ebb token revoke abcdefgh",
	setup: func(inv *invocation) func(context.Context) error {
		return func(ctx context.Context) error {
			token, err := inv.one("token")
			if err != nil {
				return err
			}
			return inv.call(ctx, "token revoke", adminapi.Token{Token: token}, &struct{}{})
		}
	},
}

var tokenIssueCommand = command{
	name: "token issue", short: "give a program an access token", example: "ebb token issue --user bot --device BUILD --expires 90d",
	setup: func(inv *invocation) func(context.Context) error {
		user, device := inv.machineFlags()
		expires := inv.flags.String("expires", "", "how long it is valid, such as 90d; by default until it is withdrawn")
		inv.jsonFlag()
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			args := adminapi.MachineArgs{User: *user, Device: id.DeviceID(*device)}
			if *expires != "" {
				d, err := config.ParseDuration(*expires)
				if err != nil || d <= 0 {
					return usagef("--expires must be a time span such as 90d")
				}
				args.LifetimeMS = time.Duration(d).Milliseconds()
			}
			var made adminapi.Machine
			if err := inv.call(ctx, "token issue", args, &made); err != nil {
				return err
			}
			return inv.print(made, func(w io.Writer) { fmt.Fprintln(w, made.Token) })
		}
	},
}

func (inv *invocation) machineFlags() (user, device *string) {
	return inv.flags.String("user", "", "the `USER` as whom the program acts"), inv.flags.String("device", "", "a `NAME` for the program, which is its device ID")
}

var tokenIssuedCommand = listCommand("token issued", "list the access tokens that programs were given", func(w io.Writer, m adminapi.Machine) {
	fmt.Fprintf(w, "%-40s %-20s issued %s, last used %s, valid %s\n", m.User, m.Device, m.Created.Local().Format("2006-01-02"), m.Seen.Local().Format("2006-01-02"), until(m.Expires))
})

var tokenWithdrawCommand = command{
	name: "token withdraw", short: "end the access token of a program", example: "ebb token withdraw --user bot --device BUILD",
	setup: func(inv *invocation) func(context.Context) error {
		user, device := inv.machineFlags()
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			return inv.call(ctx, "token withdraw", adminapi.MachineArgs{User: *user, Device: id.DeviceID(*device)}, &struct{}{})
		}
	},
}
