package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"ebb/adminapi"
)

var keysListCommand = listCommand("keys list", "list the server's signing keys, the present one first", printKey)

func printKey(w io.Writer, k adminapi.SigningKey) {
	until := "in use"
	if k.Expired != nil {
		until = "until " + k.Expired.Format(time.RFC3339)
	}
	fmt.Fprintf(w, "%-24s %s  %s\n", k.KeyID, k.Public, until)
}

var keysRotateCommand = command{
	name: "keys rotate", short: "make a new signing key; what the present one signed stays good", example: "ebb keys rotate",
	setup: func(inv *invocation) func(context.Context) error {
		inv.jsonFlag()
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			var list []adminapi.SigningKey
			if err := inv.call(ctx, "keys rotate", struct{}{}, &list); err != nil {
				return err
			}
			return inv.print(list, func(w io.Writer) {
				for _, k := range list {
					printKey(w, k)
				}
			})
		}
	},
}
