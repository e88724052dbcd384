package main

import (
	"context"

	"ebb/accounts/hashing"
	"ebb/processors"
)

var hashPasswordsCommand = command{
	name: "debug hash-passwords", short: "hash the passwords that a running server asks for, which starts this command itself",
	example: "ebb debug hash-passwords",
	setup: func(inv *invocation) func(context.Context) error {
		return func(context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			_ = processors.UseIdle() // if a sandbox does not allow it, messages wait a little longer
			return hashing.Serve(inv.stdin, inv.stdout)
		}
	},
}

// hashCommand starts this program to hash passwords. main sets it: in a test, the running program is another one, and
// passwords are hashed in its process.
var hashCommand []string
