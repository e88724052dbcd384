package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"ebb/adminapi"
	"ebb/server"
)

var keysListCommand = listCommand("keys list", "list the server's signing keys, the current one first", printKey)

func printKey(w io.Writer, k adminapi.SigningKey) {
	until := "in use"
	if k.Expired != nil {
		until = "until " + k.Expired.Format(time.RFC3339)
	}
	fmt.Fprintf(w, "%-24s %s  %s\n", k.KeyID, k.Public, until)
}

var keysRotateCommand = command{
	name: "keys rotate", short: "replace the signing key; signatures by the old key stay valid", example: "ebb keys rotate",
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

var keysCreateCommand = command{
	name: "keys create", short: "create a new signing key if the old one is lost", example: "ebb keys create",
	setup: func(inv *invocation) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			cfg, err := inv.config()
			if err != nil {
				return err
			}
			if _, err := os.Lstat(cfg.KeyFile()); err == nil {
				return refusedError{fmt.Errorf("%s exists: nothing was changed; to change the key, run ebb keys rotate", cfg.KeyFile())}
			}
			client, err := adminapi.Dial(ctx, cfg.Dir())
			if err == nil {
				return refusedError{errors.Join(errors.New("the server is running and still has its key: run ebb keys rotate, which writes a new one"), client.Close())}
			}
			if err := server.CreateSigningKey(ctx, cfg, server.Options{Version: version}); err != nil {
				return err
			}
			_, err = fmt.Fprintf(inv.stdout, "Wrote %s. Keep a copy of it: it is the server's identity.\n", cfg.KeyFile())
			return err
		}
	},
}
