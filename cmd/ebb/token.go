package main

import (
	"context"
	"fmt"
	"io"
	"time"

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
