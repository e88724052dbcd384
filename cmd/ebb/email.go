package main

import (
	"context"
	"fmt"

	"ebb/adminapi"
)

var emailTestCommand = command{
	name: "email test", args: "ADDRESS", short: "send a test message through email.smtp", example: "ebb email test alice@example.org",
	setup: func(inv *invocation) func(context.Context) error {
		return func(ctx context.Context) error {
			to, err := inv.one("address")
			if err != nil {
				return err
			}
			if err := inv.call(ctx, "email test", adminapi.EmailArgs{To: to}, &struct{}{}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(inv.stdout, "The SMTP server has accepted a message to %s.\n", to)
			return err
		}
	},
}
