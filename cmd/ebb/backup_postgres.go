package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"ebb/backup"
	"ebb/bodykeys"
	"ebb/config"
	"ebb/storage"
)

// postgresDatabase copies a database on PostgreSQL by pg_dump, which reads one snapshot.
type postgresDatabase struct{ dsn string }

// Engine implements backup.Database.
func (postgresDatabase) Engine() string { return "postgres" }

// Copy implements backup.Database.
func (d postgresDatabase) Copy(ctx context.Context, w io.Writer) (storage.Held, error) {
	held, err := storage.PeekHeld(ctx, d.dsn)
	if err != nil {
		return held, err
	}
	return held, runPostgres(ctx, d.dsn, "pg_dump", nil, w, "--format=custom", "--compress=0", "--no-owner", "--no-privileges")
}

// loadPostgres loads a dump into an empty database.
func loadPostgres(ctx context.Context, dsn string, r io.Reader) error {
	return runPostgres(ctx, dsn, "pg_restore", r, io.Discard, "--exit-on-error", "--single-transaction", "--no-owner", "--no-privileges")
}

// runPostgres runs a program of PostgreSQL on a database. The password is passed in the environment, because other
// users of the machine can see the arguments of a process.
func runPostgres(ctx context.Context, dsn, program string, in io.Reader, out io.Writer, args ...string) error {
	u, err := url.Parse(dsn)
	if err != nil {
		return errors.New("database is not a URL") // the error of Parse has the password
	}
	password, _ := u.User.Password()
	u.User = url.User(u.User.Username())
	q := u.Query()
	schema := q.Get("search_path")
	q.Del("search_path") // an option of the driver, which the programs do not know
	u.RawQuery = q.Encode()
	if schema != "" && program == "pg_dump" {
		args = append(args, "--schema="+schema)
	}
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("backups of a database on PostgreSQL need the programs pg_dump and pg_restore, of the server's version or a newer one: %w", err)
	}
	var stderr bytes.Buffer
	//nolint:gosec // the programs are constants, and the address is that of the configuration
	cmd := exec.CommandContext(ctx, program, append(args, "--dbname="+u.String())...)
	if password != "" {
		cmd.Env = append(os.Environ(), "PGPASSWORD="+password)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// bodyKeysOf returns how the keys of messages are copied, or nil if there are none. dir is the folder of the backups.
func bodyKeysOf(ctx context.Context, cfg *config.Config, dir string) (*backup.BodyKeys, error) {
	state, _, err := storage.PeekKeys(ctx, cfg.DSN())
	if err != nil || state.Folder == "" {
		return nil, err
	}
	path := cfg.BodyKeys()
	if path == "" {
		return nil, errors.New("messages in the database are encrypted: set database_keys to the folder of their keys")
	}
	if cfg.Backup.Keys == "" {
		return nil, errors.New("backup.keys is not set: name a folder for the keys of the messages in the database, on another disk or host than the backups")
	}
	to := cfg.File(cfg.Backup.Keys)
	backups, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if rel, err := filepath.Rel(backups, to); err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return nil, fmt.Errorf("backup.keys is in the folder of the backups, %s: whoever gets the backups could read what was deleted; name another folder", backups)
	}
	return &backup.BodyKeys{
		Dir:  to,
		Hold: func(ctx context.Context) (func() error, error) { return storage.HoldKeys(ctx, cfg.DSN()) },
		Export: func(w io.Writer) error {
			keys, err := bodykeys.Open(path)
			if err != nil {
				return err
			}
			return keys.Export(w)
		},
	}, nil
}
