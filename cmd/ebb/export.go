package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"ebb/adminapi"
	"ebb/export"
	"ebb/export/archive"
)

// exportPoll is how often user export asks whether the export is ready.
const exportPoll = 200 * time.Millisecond

var userExportCommand = command{
	name: "user export", args: "USER", short: "export everything that is stored about a user, as a zip archive", example: "ebb user export --out alice.zip alice",
	setup: func(inv *invocation) func(context.Context) error {
		out := inv.flags.String("out", "", "the `FILE` to write; it must not exist")
		conversations := inv.flags.Bool("with-conversations", false, "also export the messages of others that the user may read")
		return func(ctx context.Context) error {
			user, err := inv.one("user")
			if err != nil {
				return err
			}
			if *out == "" {
				return usagef("missing --out FILE")
			}
			args := adminapi.ExportArgs{User: user, Conversations: *conversations}
			return inv.connected(ctx, func(call caller) error { return inv.exportUser(ctx, call, args, *out) })
		}
	},
}

// exportUser has an export built and writes it to a file.
func (inv *invocation) exportUser(ctx context.Context, call caller, args adminapi.ExportArgs, out string) (err error) {
	file, err := os.OpenFile(out, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err != nil {
			err = errors.Join(err, os.Remove(out))
		}
	}()
	var status export.Status
	if err := call(ctx, "user export", args, &status); err != nil {
		return err
	}
	for status.State == export.Building {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(exportPoll):
		}
		if err := call(ctx, "user export status", args, &status); err != nil {
			return err
		}
	}
	if status.State == "" {
		return refusedError{errors.New("the export has ended, because something in it was redacted, deleted or expired; try again")}
	}
	if status.State != export.Ready {
		return refusedError{fmt.Errorf("the export failed: %s", status.Problem)}
	}
	for more := true; more; {
		var part adminapi.ExportPart
		if err := call(ctx, "user export read", args, &part); err != nil {
			return err
		}
		n, err := file.Write(part.Data)
		if err != nil {
			return err
		}
		args.Offset, more = args.Offset+int64(n), n > 0
	}
	if err := call(ctx, "user export drop", args, &struct{}{}); err != nil {
		return err
	}
	_, err = fmt.Fprintf(inv.stdout, "%s has %d MB. The key that verifies it (ebb export verify): %s\n", out, args.Offset>>20, status.Key)
	return err
}

var exportVerifyCommand = command{
	name: "export verify", args: "FILE", short: "check that nothing in an export of an account or a legal hold was changed", example: "ebb export verify --key example.org+1a2b3c4d+AbCd… alice.zip",
	setup: func(inv *invocation) func(context.Context) error {
		key := inv.flags.String("key", "", "the `KEY` that ebb audit key prints on the server; without it, the database of the configuration is asked")
		return func(ctx context.Context) error {
			path, err := inv.one("file")
			if err != nil {
				return err
			}
			if *key == "" {
				cfg, err := inv.config()
				if err != nil {
					return err
				}
				if *key, err = auditKey(ctx, cfg.DSN()); err != nil {
					return err
				}
			}
			return inv.verifyExport(path, *key)
		}
	},
}

func (inv *invocation) verifyExport(path, key string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	m, err := archive.Verify(file, info.Size(), key)
	if err != nil {
		return refusedError{err}
	}
	_, err = fmt.Fprintf(inv.stdout, "%d files about %s are as %s has exported them on %s.\n", len(m.Files), m.About(), m.Server, m.Created.Format("2006-01-02 15:04 UTC"))
	return err
}
