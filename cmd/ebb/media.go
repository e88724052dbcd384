package main

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"ebb/adminapi"
	"ebb/config"
)

var mediaListCommand = command{
	name: "media list", short: "list uploaded files, the oldest first", example: "ebb media list --user alice --older-than 90d",
	setup: func(inv *invocation) func(context.Context) error {
		var args adminapi.MediaListArgs
		inv.flags.StringVar(&args.User, "user", "", "only files that this user uploaded")
		inv.flags.StringVar(&args.Room, "room", "", "only files to which an event of this room refers")
		inv.flags.BoolVar(&args.Remote, "remote", false, "list cached files of other servers instead")
		age := inv.flags.String("older-than", "", "only files that are older, such as 90d")
		size := inv.flags.String("larger-than", "", "only files of at least this size, such as 10M")
		inv.jsonFlag()
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			ms, err := millis("--older-than", *age)
			if err != nil {
				return err
			}
			if ms != nil {
				args.Age = *ms
			}
			if *size != "" {
				bytes, err := config.ParseBytes(*size)
				if err != nil {
					return usagef("--larger-than: %w", err)
				}
				args.MinSize = int64(bytes)
			}
			list := listWriter[adminapi.Media]{w: bufio.NewWriter(inv.stdout), json: inv.json, line: mediaLine, args: func(page adminapi.ListArgs) any {
				args.ListArgs = page
				return args
			}}
			return inv.connected(ctx, func(call caller) error { return list.print(ctx, call, "media list") })
		}
	},
}

func mediaLine(w io.Writer, m adminapi.Media) {
	state := ""
	switch {
	case m.Quarantined:
		state = "  in quarantine"
	case m.Waiting:
		state = "  unused, to be deleted"
	}
	fmt.Fprintf(w, "%s  %12d  %s  %s  %s%s\n", m.Created.Local().Format("2006-01-02 15:04"), m.Size, m.URI, m.User, oneLine(m.Filename), state)
}

var mediaDeleteCommand = mediaCommand("media delete", "delete a file", "deleted", nil)

var mediaQuarantineCommand = mediaCommand("media quarantine", "withdraw a file without deleting it, or lift that", "in quarantine", func(inv *invocation) *bool {
	return inv.flags.Bool("lift", false, "serve the file again")
})

// mediaCommand returns a command that changes one file and prints what refers to it.
func mediaCommand(name, short, done string, flag func(*invocation) *bool) command {
	return command{
		name: name, args: "MXC", short: short, example: "ebb " + name + " mxc://example.org/abc",
		setup: func(inv *invocation) func(context.Context) error {
			lift := new(bool)
			if flag != nil {
				lift = flag(inv)
			}
			inv.jsonFlag()
			return func(ctx context.Context) error {
				uri, err := inv.one("mxc URI")
				if err != nil {
					return err
				}
				var r adminapi.MediaResult
				if err := inv.call(ctx, name, adminapi.MediaArgs{URI: uri, Lift: *lift}, &r); err != nil {
					return err
				}
				return inv.print(r, func(w io.Writer) {
					if *lift {
						done = "served again"
					}
					fmt.Fprintf(w, "%s: %s\n", done, r.URI)
					for _, use := range r.References {
						fmt.Fprintf(w, "    %s %s %s %s\n", use.Kind, use.Event, use.Room, use.User)
					}
				})
			}
		},
	}
}

var mediaGCCommand = command{
	name: "media gc", short: "delete files that nothing uses, or show which", example: "ebb media gc --dry-run",
	setup: func(inv *invocation) func(context.Context) error {
		dry := inv.flags.Bool("dry-run", false, "change nothing")
		inv.jsonFlag()
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			var r adminapi.MediaGC
			if err := inv.call(ctx, "media gc", adminapi.MediaGCArgs{DryRun: *dry}, &r); err != nil {
				return err
			}
			return inv.print(r, func(w io.Writer) { printMediaGC(w, r) })
		}
	},
}

func printMediaGC(w io.Writer, r adminapi.MediaGC) {
	deleted := "deleted"
	if r.DryRun {
		deleted = "to be deleted"
	}
	for _, line := range []struct {
		what string
		adminapi.MediaCount
	}{
		{deleted, r.Deleted}, {"unused, deleted after a day unless a message refers to them", r.Waiting},
		{"unused, but not older than media.unused_lifetime", r.Young}, {"possibly used in encrypted rooms", r.Undeclared},
	} {
		fmt.Fprintf(w, "%8d files %14d bytes  %s\n", line.Files, line.Bytes, line.what)
	}
}
