package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"ebb/audit"
	"ebb/storage"
)

// onDatabase returns a command without arguments that reads a database: that of the configuration or, with the flag
// --database, another one, such as a backup.
func (inv *invocation) onDatabase(f func(ctx context.Context, dsn string) error) func(context.Context) error {
	dsn := inv.flags.String("database", "", "the `ADDRESS` of another database, such as sqlite:backup.db")
	return func(ctx context.Context) error {
		if err := inv.none(); err != nil {
			return err
		}
		if *dsn == "" {
			cfg, err := inv.config()
			if err != nil {
				return err
			}
			*dsn = cfg.DSN()
		}
		return f(ctx, *dsn)
	}
}

var auditVerifyCommand = command{
	name: "audit verify", short: "check that no record of the audit log was changed", example: "ebb audit verify --checkpoints checkpoints.log --key example.org+1a2b3c4d+AbCd…",
	setup: func(inv *invocation) func(context.Context) error {
		file := inv.flags.String("checkpoints", "", "a `FILE` with the checkpoints that a sink has kept; without it, only the chain itself is checked")
		var keys []string
		inv.flags.Func("key", "the `KEY` that ebb audit key printed; by default that of the database, which whoever changed it could have replaced; may be repeated", func(key string) error {
			keys = append(keys, key)
			return nil
		})
		return inv.onDatabase(func(ctx context.Context, dsn string) error {
			checkpoints, err := readCheckpoints(ctx, dsn, *file, keys)
			if err != nil {
				return err
			}
			return inv.verifyAudit(ctx, dsn, checkpoints)
		})
	},
}

// verifyAudit checks the audit log of a database and prints the result.
func (inv *invocation) verifyAudit(ctx context.Context, dsn string, checkpoints []audit.Checkpoint) error {
	v, err := audit.NewVerifier(checkpoints)
	if err != nil {
		return refusedError{err}
	}
	var wrong error
	_, err = storage.PeekAudit(ctx, dsn, func(a storage.AuditRow) error {
		wrong = v.Row(a)
		return wrong
	})
	if wrong != nil {
		return refusedError{wrong}
	}
	if err != nil {
		return err
	}
	rows, err := v.End()
	if err != nil {
		return refusedError{err}
	}
	fmt.Fprintf(inv.stdout, "%d rows are as they were written; %d of %d checkpoints were compared.\n", rows, v.Checked, len(checkpoints))
	for _, r := range v.Restores {
		fmt.Fprintf(inv.stdout, "In row %d: the database was restored from a backup on %s.", r.Row, time.UnixMilli(r.TS).UTC().Format(time.DateTime))
		if r.Lost > 0 {
			fmt.Fprintf(inv.stdout, " %d checkpoints are of records from before, up to row %d, which were lost with it.", r.Lost, r.LostTo)
		}
		fmt.Fprintln(inv.stdout)
	}
	return nil
}

// readCheckpoints reads the checkpoints in the file of a sink. It returns none if file is "". It verifies them
// with the given keys or, if there are none, with the key that the database names.
func readCheckpoints(ctx context.Context, dsn, file string, keys []string) ([]audit.Checkpoint, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		key, err := auditKey(ctx, dsn)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	list, err := audit.ReadCheckpoints(raw, keys...)
	if err != nil {
		return nil, refusedError{err}
	}
	return list, nil
}

// auditKey returns the public key that the database names for verifying checkpoints.
func auditKey(ctx context.Context, dsn string) (string, error) {
	key, err := storage.PeekAudit(ctx, dsn, func(storage.AuditRow) error { return nil })
	if err == nil && key == "" {
		err = refusedError{fmt.Errorf("the audit log has no key yet: the server creates it with the first checkpoint (audit.checkpoints)")}
	}
	return key, err
}

var auditKeyCommand = command{
	name: "audit key", short: "print the key that verifies checkpoints of the audit log", example: "ebb audit key",
	setup: func(inv *invocation) func(context.Context) error {
		return inv.onDatabase(func(ctx context.Context, dsn string) error {
			key, err := auditKey(ctx, dsn)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(inv.stdout, key)
			return err
		})
	},
}

// auditLine is a record as printed by audit export. It contains everything that is needed to verify the chain.
type auditLine struct {
	Seq      int64           `json:"seq"`
	Time     time.Time       `json:"time"`
	Kind     string          `json:"kind"`
	Body     json.RawMessage `json:"body,omitempty"` // missing: removed after audit.keep
	Salt     string          `json:"salt,omitempty"`
	BodyHash string          `json:"body_hash"`
	Hash     string          `json:"hash"`

	Networks     json.RawMessage `json:"networks,omitempty"` // missing: none, or removed after audit.keep_addresses
	NetworksSalt string          `json:"networks_salt,omitempty"`
}

var auditExportCommand = command{
	name: "audit export", short: "print the audit log, one JSON object a line", example: "ebb audit export > audit.jsonl",
	setup: func(inv *invocation) func(context.Context) error {
		return inv.onDatabase(func(ctx context.Context, dsn string) error {
			w := bufio.NewWriter(inv.stdout)
			out := json.NewEncoder(w)
			_, err := storage.PeekAudit(ctx, dsn, func(a storage.AuditRow) error {
				return out.Encode(auditLine{a.Seq, time.UnixMilli(a.TS).UTC(), a.Kind, json.RawMessage(a.Body), a.Salt, a.BodyHash, a.Hash, json.RawMessage(a.Networks), a.NetworksSalt})
			})
			if err != nil {
				return err
			}
			return w.Flush()
		})
	},
}
