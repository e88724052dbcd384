package main

import (
	"context"
	"encoding/json"
	"fmt"

	"ebb/adminapi"
)

var userIdentitiesCommand = command{
	name: "user identities", args: "USER", short: "list a user's identities at other services", example: "ebb user identities alice",
	setup: func(inv *invocation) func(context.Context) error {
		inv.jsonFlag()
		return func(ctx context.Context) error {
			user, err := inv.one("user")
			if err != nil {
				return err
			}
			all := []adminapi.Identity{}
			if err := inv.call(ctx, "user identities", adminapi.IdentityArgs{User: user}, &all); err != nil {
				return err
			}
			if inv.json {
				return json.NewEncoder(inv.stdout).Encode(all)
			}
			for _, i := range all {
				fmt.Fprintf(inv.stdout, "%s  %s  %s\n", i.Created.Format("2006-01-02"), i.Issuer, i.Subject)
			}
			return nil
		}
	},
}

var (
	userLinkCommand   = identityCommand("user link", "link a user to an identity at another service, which can then sign the user in")
	userUnlinkCommand = identityCommand("user unlink", "remove a user's identity at another service")
)

// identityCommand returns a command that changes an identity of the user given as its only argument.
func identityCommand(name, short string) command {
	return command{
		name: name, args: "USER", short: short, example: "ebb " + name + " --issuer ldap --subject asmith alice",
		setup: func(inv *invocation) func(context.Context) error {
			issuer := inv.flags.String("issuer", "", "the issuer of the OpenID Connect provider, or ldap")
			subject := inv.flags.String("subject", "", "by which the issuer knows the user: the claim sub, or the name in the LDAP directory")
			return func(ctx context.Context) error {
				user, err := inv.one("user")
				if err != nil {
					return err
				}
				if *issuer == "" || *subject == "" {
					return usagef("--issuer and --subject are needed")
				}
				return inv.call(ctx, name, adminapi.IdentityArgs{User: user, Issuer: *issuer, Subject: *subject}, &struct{}{})
			}
		},
	}
}
