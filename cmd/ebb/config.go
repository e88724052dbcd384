package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"ebb/config"
	"ebb/fedclient"
	"ebb/server"
)

var initCommand = command{
	name: "init", short: "write a configuration and a signing key for a new server",
	example: "ebb init --server-name example.org --data-dir /var/lib/ebb",
	setup: func(inv *invocation) func(context.Context) error {
		cfg := config.Default()
		cfg.ServerName = ""
		inv.flags.StringVar(&cfg.ServerName, "server-name", "", "the server's `NAME`, as in @user:NAME; it cannot be changed later")
		inv.flags.StringVar(&cfg.PublicURL, "public-url", cfg.PublicURL, "the `URL` at which clients reach the server")
		inv.flags.StringVar(&cfg.Listen[0].Address, "listen", cfg.Listen[0].Address, "accept connections at `HOST:PORT`")
		dir := inv.flags.String("data-dir", "data", "the `FOLDER` for all data; ebb.yaml is written there")
		return func(context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			if inv.given("config") {
				return usagef("init does not read a configuration: it writes ebb.yaml into the folder of --data-dir; omit --config")
			}
			return initServer(inv, cfg, *dir)
		}
	},
}

func initServer(inv *invocation, cfg *config.Config, dir string) error {
	if cfg.ServerName == "" {
		return usagef("--server-name is missing")
	}
	if err := cfg.Validate(); err != nil {
		return usageError{err}
	}
	if err := actAsOwner(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	file, key := filepath.Join(dir, "ebb.yaml"), filepath.Join(dir, "signing.key")
	for _, name := range []string{file, key} {
		if config.Exists(name) {
			return refusedError{fmt.Errorf("%s already exists: nothing was changed", name)}
		}
	}
	if err := writeNew(file, sampleFor(cfg)); err != nil {
		return err
	}
	if err := fedclient.CreateKey(key); err != nil {
		return errors.Join(err, os.Remove(file)) // otherwise another attempt would be refused
	}
	fmt.Fprintf(inv.stdout, "Wrote %s and the signing key beside it. Keep a copy of the key: it is the server's identity.\n", file)
	return nil
}

// writeNew writes a file that must not exist yet.
func writeNew(name, text string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

// sampleFor returns the sample configuration with the values given to the command init. It quotes the values, because
// [::1] and null are valid names too.
func sampleFor(cfg *config.Config) string {
	def := config.Default()
	var pairs []string
	for _, p := range [][3]string{
		{"\nserver_name: ", def.ServerName, cfg.ServerName},
		{"\npublic_url: ", def.PublicURL, cfg.PublicURL},
		{"\ndata_dir: ", def.DataDir, "."},
		{"- address: ", def.Listen[0].Address, cfg.Listen[0].Address},
	} {
		pairs = append(pairs, p[0]+p[1]+"\n", p[0]+strconv.Quote(p[2])+"\n")
	}
	return strings.NewReplacer(pairs...).Replace(config.Sample())
}

var configCheckCommand = command{
	name: "config check", short: "list the mistakes and dangerous settings in a configuration",
	example: "ebb config check --config /etc/ebb.yaml",
	setup: func(inv *invocation) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			_, warnings, err := inv.checkedConfig(ctx)
			if err != nil {
				return err
			}
			for _, w := range warnings {
				fmt.Fprintf(inv.stdout, "warning: %s\n", w)
			}
			fmt.Fprintf(inv.stdout, "%s is good.\n", inv.configFile)
			return nil
		}
	},
}

var configSampleCommand = command{
	name: "config sample", short: "print a sample configuration that describes every key and its default",
	example: "ebb config sample",
	setup: func(inv *invocation) func(context.Context) error {
		return func(context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			_, err := fmt.Fprint(inv.stdout, config.Sample())
			return err
		}
	},
}

// config reads the configuration file. If the process runs as root, it switches to the owner of data_dir.
func (inv *invocation) config() (*config.Config, error) {
	cfg, err := config.Load(inv.configFile)
	if err != nil {
		return nil, inv.unreadable(err)
	}
	return cfg, actAsOwner(cfg.Dir())
}

// checkedConfig is like config, but also checks everything that serve needs. The error lists all mistakes.
func (inv *invocation) checkedConfig(ctx context.Context) (*config.Config, config.Problems, error) {
	cfg, mistakes, err := config.Read(inv.configFile)
	if err != nil {
		return nil, nil, inv.unreadable(err)
	}
	if err := actAsOwner(cfg.Dir()); err != nil {
		return nil, nil, err
	}
	more, warnings := server.Check(ctx, cfg, server.Options{Version: version})
	for _, p := range more { // invalid values have been reported already
		if !slices.ContainsFunc(mistakes, func(m config.Problem) bool { return m.Key == p.Key }) {
			mistakes = append(mistakes, p)
		}
	}
	warnings.Sort()
	if len(mistakes) > 0 {
		mistakes.Sort()
		return nil, nil, configError{fmt.Errorf("%s:\n%w", inv.configFile, mistakes)}
	}
	return cfg, warnings, nil
}

// unreadable returns an error that explains why the configuration cannot be read.
func (inv *invocation) unreadable(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; name the file with --config or EBB_CONFIG, or create one with ebb init", err)
	}
	return configError{err}
}

var versionCommand = command{
	name: "version", short: "print the version", example: "ebb version",
	setup: func(inv *invocation) func(context.Context) error {
		return func(context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			_, err := fmt.Fprintln(inv.stdout, "ebb", version)
			return err
		}
	},
}
