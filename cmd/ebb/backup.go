package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"ebb/adminapi"
	"ebb/backup"
	"ebb/config"
	"ebb/server"
	"ebb/storage"
)

var backupCommand = command{
	name: "backup", args: "FOLDER", short: "make a backup of the running or stopped server", example: "ebb backup --config /etc/ebb.yaml /backup/ebb",
	setup: func(inv *invocation) func(context.Context) error {
		inv.jsonFlag()
		return func(ctx context.Context) error {
			dir, err := inv.one("folder for the backups")
			if err != nil {
				return err
			}
			cfg, err := inv.config()
			if err != nil {
				return err
			}
			if len(cfg.Backup.Recipients) == 0 {
				return refusedError{errors.New("backup.recipients is not set: run age-keygen on another machine, keep its file there, and enter the public key that it prints (age1…)")}
			}
			return inv.backup(ctx, cfg, dir)
		}
	},
}

func (inv *invocation) backup(ctx context.Context, cfg *config.Config, dir string) error {
	o := backup.Options{
		Dir: dir, Recipients: cfg.Backup.Recipients, Files: server.BackupFiles(cfg), Media: filepath.Join(cfg.Dir(), "media"), Ledger: cfg.Backup.Ledger != "",
		Keep: time.Duration(cfg.Backup.Keep), Server: cfg.ServerName, Version: version, Now: time.Now,
	}
	keys, err := bodyKeysOf(ctx, cfg, dir)
	if err != nil {
		return refusedError{err}
	}
	o.Keys = keys
	shortest := time.Duration(cfg.ShortestRetention())
	client, err := adminapi.Dial(ctx, cfg.Dir())
	switch {
	case err == nil:
		defer func() { _ = client.Close() }()
		var policy adminapi.BackupPolicy
		if err := client.Call(ctx, "backup policy", struct{}{}, &policy); err != nil {
			return refused(err)
		}
		shortest = time.Duration(policy.Shortest) * time.Millisecond
	case !errors.Is(err, adminapi.ErrNotRunning):
		return fmt.Errorf("reach the running server: %w", err)
	}
	o.Database = databaseFor(cfg, client)
	if err := giveWay(); err != nil {
		return err
	}
	report, err := backup.Create(ctx, o)
	if err != nil {
		return err
	}
	inv.warnOfOldBackups(report, shortest, time.Now())
	return inv.print(report, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %d MB in %.1f s; %d media files, %d of them new. The folder has %d backups.\n",
			report.Path, report.Bytes>>20, report.Took.Seconds(), report.Media.Files, report.Added.Files, report.Kept)
	})
}

// backupNice is the priority of a backup, from 0 (as usual) to 19. A backup computes without a pause, so with the usual
// priority the server waits for a processor, for milliseconds each time. With the lowest one, a backup beside a server
// that leaves no processor idle would take hours.
const backupNice = 10

// giveWay lowers the priority of the calling goroutine, which does all of the work. It keeps its thread until it ends.
func giveWay() error {
	runtime.LockOSThread()
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, backupNice); err != nil { // on Linux, of the thread
		return fmt.Errorf("lower the priority of the backup: %w", err)
	}
	return nil
}

// warnOfOldBackups warns if the folder has a backup that is older than messages are kept.
func (inv *invocation) warnOfOldBackups(r backup.Report, shortest time.Duration, now time.Time) {
	if age := now.Sub(r.Oldest); shortest > 0 && age > shortest {
		fmt.Fprintf(inv.stderr, "warning: the oldest backup was made on %s. It still has messages that have expired since, because messages of at least one room are kept for %s only. "+
			"Set backup.keep to at most that time, or delete old backups.\n", r.Oldest.Format(time.DateOnly), config.Duration(shortest))
	}
}

// databaseFor returns how the database is copied. client is nil if no server is running.
func databaseFor(cfg *config.Config, client *adminapi.Client) backup.Database {
	switch {
	case server.Engine(cfg) == "postgres":
		return postgresDatabase{cfg.DSN()}
	case client != nil:
		return runningDatabase{client}
	}
	return stoppedDatabase{cfg.DSN()}
}

// stoppedDatabase copies the SQLite file of a server that does not run.
type stoppedDatabase struct{ dsn string }

// Engine implements backup.Database.
func (stoppedDatabase) Engine() string { return "sqlite" }

// Copy implements backup.Database.
func (d stoppedDatabase) Copy(ctx context.Context, w io.Writer) (storage.Held, error) {
	held, release, err := storage.HoldClosed(ctx, d.dsn)
	if err != nil {
		return held, err
	}
	return held, errors.Join(copyFile(ctx, held.File, w), release())
}

// runningDatabase copies the SQLite file of the running server, which keeps the file unchanged meanwhile.
type runningDatabase struct{ client *adminapi.Client }

// Engine implements backup.Database.
func (runningDatabase) Engine() string { return "sqlite" }

// Copy implements backup.Database.
func (d runningDatabase) Copy(ctx context.Context, w io.Writer) (storage.Held, error) {
	var h adminapi.BackupHold
	if err := d.client.Call(ctx, "backup begin", struct{}{}, &h); err != nil {
		return h.Held, refused(err)
	}
	args := adminapi.BackupArgs{Hold: h.Hold}
	copying, cancel := context.WithCancelCause(ctx)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		d.renew(copying, cancel, args)
	}()
	err := copyFile(copying, h.File, w)
	if cause := context.Cause(copying); cause != nil {
		err = cause
	}
	cancel(nil)
	<-renewed
	// The hold is ended in any case, so that the server can go on.
	return h.Held, errors.Join(err, refused(d.client.Call(context.WithoutCancel(ctx), "backup end", args, &struct{}{})))
}

// renew extends the hold until ctx ends, or cancels the copy if the server refuses.
func (d runningDatabase) renew(ctx context.Context, cancel context.CancelCauseFunc, args adminapi.BackupArgs) {
	tick := time.NewTicker(adminapi.HoldRenewal)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := d.client.Call(ctx, "backup renew", args, &struct{}{}); err != nil && ctx.Err() == nil {
				cancel(refused(err))
				return
			}
		}
	}
}

// copyBuffer is the size of the pieces in which the file of a database is read.
const copyBuffer = 1 << 20

// copyFile copies a file to w.
func copyFile(ctx context.Context, path string, w io.Writer) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	buf := make([]byte, copyBuffer)
	for err == nil {
		var n int
		n, err = f.Read(buf)
		if n > 0 {
			if _, writeErr := w.Write(buf[:n]); writeErr != nil {
				err = writeErr
			}
		}
		if err == nil {
			err = ctx.Err()
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// identityFlag adds the flag --identity.
func (inv *invocation) identityFlag(use string) *string {
	return inv.flags.String("identity", "", "the `FILE` with the private key of a recipient of the backup"+use)
}

var backupVerifyCommand = command{
	name: "backup verify", args: "BACKUP", short: "check that a backup is complete and undamaged", example: "ebb backup verify --identity key.txt /backup/ebb/20261130T014000Z",
	setup: func(inv *invocation) func(context.Context) error {
		inv.jsonFlag()
		key := inv.identityFlag("; without it, only sizes and hashes are checked")
		return func(context.Context) error {
			dir, err := inv.one("backup")
			if err != nil {
				return err
			}
			var identities []backup.Identity
			if *key != "" {
				if identities, err = backup.ReadIdentities(*key); err != nil {
					return refusedError{err}
				}
			}
			if dir, err = newest(dir); err != nil {
				return refusedError{err}
			}
			checked, err := backup.Verify(dir, identities)
			if err != nil {
				return refusedError{err}
			}
			return inv.print(checked, func(w io.Writer) {
				fmt.Fprintf(w, "%s is complete and undamaged: %s, made %s by Ebb %s, with %d media files.\n", dir, checked.Manifest.Server,
					checked.Manifest.Created.Format(time.DateTime), checked.Manifest.Version, checked.Manifest.Media.Files)
				if !checked.Decrypted {
					fmt.Fprintln(w, "Only its sizes and hashes were checked. Whether it can be decrypted is checked with --identity.")
				}
			})
		}
	},
}

// newest returns the newest backup if dir is a folder of backups, or else dir itself.
func newest(dir string) (string, error) {
	if _, err := os.Stat(filepath.Join(dir, "manifest.json")); err == nil {
		return filepath.Abs(dir)
	}
	list, err := backup.List(dir)
	if err != nil {
		return "", err
	}
	if len(list) == 0 {
		return "", fmt.Errorf("%s has no backup", dir)
	}
	return filepath.Abs(filepath.Join(dir, list[len(list)-1].Name))
}

var restoreCommand = command{
	name: "restore", args: "BACKUP", short: "restore a backup into an empty data_dir",
	example: "ebb restore --config /etc/ebb.yaml --identity key.txt /backup/ebb/20261130T014000Z",
	setup: func(inv *invocation) func(context.Context) error {
		inv.jsonFlag()
		key := inv.identityFlag("")
		ledger := inv.flags.String("ledger", "", "the `FILE` with the ledger, if it is not at backup.ledger")
		without := inv.flags.Bool("without-ledger", false, "restore although the ledger is lost: what was deleted after the backup comes back, and everybody must sign in again")
		keys := inv.flags.String("keys", "", "the `FOLDER` with the keys of messages (PostgreSQL), if it is not at backup.keys")
		damaged := inv.flags.Bool("damaged-ledger", false, "use the undamaged beginning of a damaged ledger; everybody must sign in again")
		show := inv.flags.Bool("show-config", false, "only print the configuration in the backup")
		return func(ctx context.Context) error {
			dir, err := inv.one("backup")
			if err != nil {
				return err
			}
			if *key == "" {
				return usagef("--identity is missing: the file with the private key of a recipient of the backup")
			}
			identities, err := backup.ReadIdentities(*key) // before the process changes its user
			if err != nil {
				return refusedError{err}
			}
			if dir, err = newest(dir); err != nil {
				return refusedError{err}
			}
			if *show {
				return inv.showConfig(dir, identities)
			}
			cfg, err := inv.config()
			if err != nil {
				return err
			}
			o := server.RestoreOptions{Backup: dir, Identities: identities, Ledger: ledgerOf(cfg, *ledger, *without), Damaged: *damaged, Keys: cmp.Or(*keys, cfg.Backup.Keys)}
			return inv.restore(ctx, cfg, o)
		}
	},
}

// ledgerOf returns the ledger to use: that of the flag, or else that of the configuration, or none.
func ledgerOf(cfg *config.Config, flag string, without bool) string {
	switch {
	case without:
		return ""
	case flag != "":
		return flag
	case cfg.Backup.Ledger != "":
		return cfg.File(cfg.Backup.Ledger)
	}
	return ""
}

func (inv *invocation) showConfig(dir string, identities []backup.Identity) error {
	content, err := backup.ReadFile(dir, server.ConfigInBackup, identities)
	if err != nil {
		return refusedError{err}
	}
	_, err = inv.stdout.Write(content)
	return err
}

func (inv *invocation) restore(ctx context.Context, cfg *config.Config, o server.RestoreOptions) error {
	if client, err := adminapi.Dial(ctx, cfg.Dir()); err == nil {
		return refusedError{errors.Join(errors.New("the server is running: a backup is restored into an empty data_dir"), client.Close())}
	}
	o.Progress = func(step string) { fmt.Fprintln(inv.stderr, "ebb restore:", step) }
	o.Load = func(ctx context.Context, r io.Reader) error { return loadPostgres(ctx, cfg.DSN(), r) }
	report, err := server.Restore(ctx, cfg, server.Options{Version: version}, o)
	if err != nil {
		return refusedError{err}
	}
	return inv.print(report, func(w io.Writer) { printRestored(w, report) })
}

func printRestored(w io.Writer, r server.RestoreReport) {
	fmt.Fprintf(w, "The backup of %s is restored. What came after it is lost.\n", r.Created.Format(time.DateTime))
	kinds := make([]string, 0, len(r.Replayed))
	for kind := range r.Replayed {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for _, kind := range kinds {
		fmt.Fprintf(w, "Applied again from the ledger: %d × %s.\n", r.Replayed[kind], kind)
	}
	if r.LedgerEnd != nil {
		fmt.Fprintf(w, "The last entry of the ledger is of %s. If the server deleted anything after that, it has come back.\n", r.LedgerEnd.UTC().Format(time.DateTime))
	}
	fmt.Fprintf(w, "Purged %d messages that have expired since.\n", r.Purged)
	if r.SignedOut {
		fmt.Fprintln(w, "There was no complete ledger: what was deleted after the backup has come back, and all users must sign in again.")
	}
	for _, hold := range r.Holds {
		fmt.Fprintf(w, "Legal hold %d is on a room or user that the backup does not have: the audit log says which; add it again with ebb hold add\n", hold)
	}
	for _, user := range r.Passwords {
		fmt.Fprintf(w, "%s had changed the password, and needs a new one: ebb user passwd %s\n", user, user)
	}
}
