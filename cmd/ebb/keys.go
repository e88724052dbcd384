package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"ebb/adminapi"
	"ebb/config"
	"ebb/secrets"
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
	name: "keys create", short: "create the signing key or the key of the secrets anew if it is lost", example: "ebb keys create",
	setup: func(inv *invocation) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			cfg, err := inv.config()
			if err != nil {
				return err
			}
			_, err = os.Lstat(cfg.KeyFile())
			signs, opens := err == nil, secrets.Exists(cfg.Dir())
			if signs && opens {
				return refusedError{fmt.Errorf("%s exists: nothing was changed; to change the key, run ebb keys rotate", cfg.KeyFile())}
			}
			client, err := adminapi.Dial(ctx, cfg.Dir())
			if err == nil {
				return refusedError{errors.Join(errors.New("the server is running and still has its keys: run ebb keys rotate, which writes new ones"), client.Close())}
			}
			return inv.createKeys(ctx, cfg, !signs, !opens)
		}
	},
}

// createKeys creates the key files that are lost.
func (inv *invocation) createKeys(ctx context.Context, cfg *config.Config, signing, secret bool) error {
	o := server.Options{Version: version}
	if signing {
		if err := server.CreateSigningKey(ctx, cfg, o); err != nil {
			return err
		}
		fmt.Fprintf(inv.stdout, "Wrote %s. Keep a copy of it: it is the server's identity.\n", cfg.KeyFile())
	}
	if secret {
		if err := server.CreateSecretsKey(ctx, cfg, o); err != nil {
			return err
		}
		fmt.Fprintf(inv.stdout, "Wrote %s. Keep a copy of it. What was encrypted under the lost key must be set up again.\n", secrets.File)
	}
	return nil
}
