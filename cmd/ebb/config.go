package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"ebb/config"
	"ebb/server"
)

var initCommand = command{
	name: "init", short: "write a configuration and a signing key for a new server",
	example: "ebb init --server-name example.org --data-dir /var/lib/ebb",
	setup: func(inv *invocation) func(context.Context) error {
		name := inv.flags.String("server-name", "", "the server's `NAME`, as in @user:NAME; cannot be changed later")
		dir := inv.flags.String("data-dir", "data", "`FOLDER` of everything that is stored; ebb.yaml is written there")
		return func(context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			return initServer(inv, *name, *dir)
		}
	},
}

func initServer(inv *invocation, name, dir string) error {
	if name == "" {
		return usagef("--server-name is missing")
	}
	cfg := config.Default()
	cfg.ServerName = name
	if err := cfg.Validate(); err != nil {
		return usageError{err}
	}
	file := filepath.Join(dir, "ebb.yaml")
	if config.Exists(file) {
		return refusedError{fmt.Errorf("%s is there already: nothing was changed", file)}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	err := server.CreateKey(filepath.Join(dir, "signing.key"))
	if errors.Is(err, fs.ErrExist) {
		return refusedError{fmt.Errorf("there is a signing key in %s already: nothing was changed", dir)}
	}
	if err != nil {
		return err
	}
	text := strings.Replace(config.Sample(), "\nserver_name: localhost\n", "\nserver_name: "+name+"\n", 1)
	text = strings.Replace(text, "\ndata_dir: data\n", "\ndata_dir: .\n", 1)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(inv.stdout, "Wrote %s and the signing key beside it. Keep a copy of the key: it is the server's identity.\n", file)
	return nil
}

var configCheckCommand = command{
	name: "config check", short: "say what is wrong with a configuration",
	example: "ebb config check --config /etc/ebb.yaml",
	setup: func(inv *invocation) func(context.Context) error {
		return func(context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			if _, err := inv.config(); err != nil {
				return err
			}
			fmt.Fprintf(inv.stdout, "%s is good.\n", inv.configFile)
			return nil
		}
	},
}

// config reads the configuration file.
func (inv *invocation) config() (*config.Config, error) {
	cfg, err := config.Load(inv.configFile)
	if err != nil {
		return nil, usageError{err}
	}
	return cfg, nil
}

var versionCommand = command{
	name: "version", short: "print the version", example: "ebb version",
	setup: func(inv *invocation) func(context.Context) error {
		return func(context.Context) error {
			_, err := fmt.Fprintln(inv.stdout, "ebb", version)
			return err
		}
	},
}
