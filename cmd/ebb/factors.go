package main

import (
	"context"
	"fmt"
	"io"

	"ebb/adminapi"
)

var (
	userEnrolLinkCommand = linkCommand("user enrol-link", "make a link with which a user sets up a new second factor, instead of all former ones")
	adminRecoverCommand  = linkCommand("admin recover", "the same for an administrator, if nobody else can help; all administrators are told")
)

var userMFACommand = command{
	name: "user mfa", args: "USER off|optional|required|default", short: "set whether one user needs a second factor, whatever auth.mfa says", example: "ebb user mfa alice required",
	setup: func(inv *invocation) func(context.Context) error {
		return func(ctx context.Context) error {
			if inv.flags.NArg() != 2 {
				return usagef("expected a user and one of off, optional, required, default")
			}
			return inv.call(ctx, "user mfa", adminapi.MFAArgs{User: inv.flags.Arg(0), Mode: inv.flags.Arg(1)}, &struct{}{})
		}
	},
}

// linkCommand returns a command that prints a new link for the user given as its only argument.
func linkCommand(name, short string) command {
	return command{
		name: name, args: "USER", short: short, example: "ebb " + name + " alice",
		setup: func(inv *invocation) func(context.Context) error {
			inv.jsonFlag()
			return func(ctx context.Context) error {
				user, err := inv.one("user")
				if err != nil {
					return err
				}
				var made adminapi.EnrolLink
				if err := inv.call(ctx, name, adminapi.UserArgs{User: user}, &made); err != nil {
					return err
				}
				return inv.print(made, func(w io.Writer) {
					fmt.Fprintf(w, "%s\nThe link works once, until %s. Give it to %s in person: whoever opens it can sign in to the account.\n",
						made.URL, made.Expires.Local().Format("2006-01-02 15:04"), made.User)
				})
			}
		},
	}
}

var userEnrolListCommand = listCommand("user enrol-list", "list the links that users can set up second factors with", func(w io.Writer, l adminapi.EnrolLink) {
	by := "the command line"
	if l.By != "" {
		by = string(l.By)
	}
	fmt.Fprintf(w, "%-40s made by %s, works until %s\n", l.User, by, l.Expires.Local().Format("2006-01-02 15:04"))
})

var userEnrolRevokeCommand = command{
	name: "user enrol-revoke", args: "USER", short: "revoke the link of a user", example: "ebb user enrol-revoke alice",
	setup: func(inv *invocation) func(context.Context) error {
		return func(ctx context.Context) error {
			user, err := inv.one("user")
			if err != nil {
				return err
			}
			return inv.call(ctx, "user enrol-revoke", adminapi.UserArgs{User: user}, &struct{}{})
		}
	},
}
