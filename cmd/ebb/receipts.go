package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"ebb/adminapi"
	"ebb/deletions"
)

var receiptsListCommand = command{
	name: "receipts list", short: "list the signed receipts of purges", example: "ebb receipts list --room '#team:example.org'",
	setup: func(inv *invocation) func(context.Context) error {
		var args adminapi.ReceiptArgs
		inv.flags.StringVar(&args.Room, "room", "", "only receipts about this `ROOM`")
		inv.jsonFlag()
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			list := receiptsWriter(inv.stdout, &args, func(w io.Writer, r adminapi.Receipt) {
				fmt.Fprintf(w, "%s\ndigest: %s\n\n", strings.TrimSpace(r.Note), r.Digest)
			})
			list.json = inv.json
			return inv.connected(ctx, func(call caller) error { return list.print(ctx, call, "receipts list") })
		}
	},
}

// receiptsWriter returns a writer of all receipts that args selects.
func receiptsWriter(w io.Writer, args *adminapi.ReceiptArgs, line func(io.Writer, adminapi.Receipt)) listWriter[adminapi.Receipt] {
	return listWriter[adminapi.Receipt]{w: bufio.NewWriter(w), line: line, args: func(page adminapi.ListArgs) any {
		args.ListArgs = page
		return args
	}}
}

var receiptsKeysCommand = listCommand("receipts keys", "list the public keys of receipts, the current one first", func(w io.Writer, k adminapi.ReceiptKey) {
	fmt.Fprintln(w, k.Key)
})

var receiptsExportCommand = command{
	name: "receipts export", short: "write the signed receipts of purges to a file", example: "ebb receipts export --out receipts.jsonl",
	setup: func(inv *invocation) func(context.Context) error {
		var args adminapi.ReceiptArgs
		inv.flags.StringVar(&args.Room, "room", "", "only receipts about this `ROOM`")
		out := inv.flags.String("out", "", "the `FILE`, which must not exist yet")
		return func(ctx context.Context) (err error) {
			if err := inv.none(); err != nil {
				return err
			}
			if *out == "" {
				return usagef("give --out")
			}
			f, err := os.OpenFile(*out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			var failed error
			list := receiptsWriter(f, &args, func(w io.Writer, r adminapi.Receipt) {
				failed = errors.Join(failed, json.NewEncoder(w).Encode(deletions.Line{Note: r.Note}))
			})
			err = inv.connected(ctx, func(call caller) error { return list.print(ctx, call, "receipts list") })
			return errors.Join(err, failed, f.Close())
		}
	},
}

var receiptsVerifyCommand = command{
	name: "receipts verify", args: "FILE", short: "check exported receipts by public keys, without a server or a database", example: "ebb receipts verify receipts.jsonl --key example.org+1a2b3c4d+AbCd",
	setup: func(inv *invocation) func(context.Context) error {
		var keys []string
		inv.flags.Func("key", "a public `KEY` of receipts (see ebb receipts keys), from a source that you trust; may be repeated", func(key string) error {
			keys = append(keys, key)
			return nil
		})
		inv.jsonFlag()
		return func(context.Context) error {
			file, err := inv.one("file")
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				return usagef("give --key")
			}
			f, err := os.Open(file)
			if err != nil {
				return err
			}
			v, err := deletions.Verify(f, keys)
			if err := errors.Join(err, f.Close()); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			return inv.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "%d receipts are valid, number %d to %d: %d events and %d media were deleted\n", v.Receipts, v.First, v.Last, v.Events, v.Media)
				if v.Missing > 0 {
					fmt.Fprintf(w, "%d receipts between them are not in the file\n", v.Missing)
				}
			})
		}
	},
}
