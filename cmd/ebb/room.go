package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"ebb/adminapi"
	"ebb/config"
)

var roomListCommand = listCommand("room list", "list rooms", func(w io.Writer, r adminapi.Room) {
	fmt.Fprintf(w, "%-48s %4d joined  %s\n", r.Room, r.Joined, r.Name)
})

var roomShowCommand = roomCommand("room show", "describe a room", func(w io.Writer, r adminapi.Room) {
	fmt.Fprintf(w, "room       %s\nversion    %s\nname       %s\nalias      %s\njoined     %d\nencrypted  %t\npublic     %t\ncreated    %s\n",
		r.Room, r.Version, r.Name, r.Alias, r.Joined, r.Encrypted, r.Public, r.Created.Format(time.RFC3339))
	printRetention(w, r)
})

var roomRetentionShowCommand = roomCommand("room retention show", "show how long a room keeps messages", printRetention)

var roomRetentionGetCommand = roomCommand("room retention get", "the former name of room retention show", printRetention)

var roomRetentionClearCommand = roomCommand("room retention clear", "remove the administrator's retention policy, so that the room's own applies again", printRetention)

// roomCommand returns a command that acts on one room and prints the room.
func roomCommand(name, short string, text func(io.Writer, adminapi.Room)) command {
	return command{
		name: name, args: "ROOM", short: short, example: "ebb " + name + " '!abc:example.org'",
		setup: func(inv *invocation) func(context.Context) error {
			inv.jsonFlag()
			return func(ctx context.Context) error {
				room, err := inv.one("room id or alias")
				if err != nil {
					return err
				}
				var r adminapi.Room
				if err := inv.call(ctx, name, adminapi.RoomArgs{Room: room}, &r); err != nil {
					return err
				}
				return inv.print(r, func(w io.Writer) { text(w, r) })
			}
		},
	}
}

func printRetention(w io.Writer, r adminapi.Room) {
	fmt.Fprintf(w, "keeps      %s\n", lifetimes(r.Retention))
	if g := r.WouldGo; g != nil {
		fmt.Fprintf(w, "would go   %d messages and %d files (%d bytes); nothing was changed\n", g.Messages, g.Media, g.Bytes)
	}
	if r.Override != nil {
		fmt.Fprintf(w, "override   %s\n", lifetimes(*r.Override))
	}
}

func lifetimes(l adminapi.Lifetimes) string {
	text := "messages for ever"
	if l.Max != nil {
		text = "messages for at most " + span(*l.Max)
	}
	if l.Min != nil {
		text += ", at least " + span(*l.Min)
	}
	return text
}

func span(ms int64) string { return config.Duration(time.Duration(ms) * time.Millisecond).String() }

var roomRetentionSetCommand = command{
	name: "room retention set", args: "ROOM", short: "set how long a room keeps messages, overriding the room's own policy",
	example: "ebb room retention set --max 30d '!abc:example.org'",
	setup: func(inv *invocation) func(context.Context) error {
		low := inv.flags.String("min", "", "keep messages for at least this long, such as 7d")
		high := inv.flags.String("max", "", "remove messages after this long, such as 30d; by default never")
		dryRun := inv.flags.Bool("dry-run", false, "only report what would be removed now")
		inv.jsonFlag()
		return func(ctx context.Context) error {
			room, err := inv.one("room id or alias")
			if err != nil {
				return err
			}
			args := adminapi.RoomArgs{Room: room, DryRun: *dryRun}
			if args.MinLifetime, err = millis("--min", *low); err != nil {
				return err
			}
			if args.MaxLifetime, err = millis("--max", *high); err != nil {
				return err
			}
			var r adminapi.Room
			if err := inv.call(ctx, "room retention set", args, &r); err != nil {
				return err
			}
			return inv.print(r, func(w io.Writer) { printRetention(w, r) })
		}
	},
}

func millis(flag, text string) (*int64, error) {
	if text == "" {
		return nil, nil
	}
	d, err := config.ParseDuration(text)
	if err != nil {
		return nil, usagef("%s: %w", flag, err)
	}
	ms := time.Duration(d).Milliseconds()
	return &ms, nil
}

var purgeNowCommand = command{
	name: "purge now", short: "delete expired messages from disk now", example: "ebb purge now",
	setup: func(inv *invocation) func(context.Context) error {
		all := inv.flags.Bool("all", false, "do not wait for retention.purge_delay")
		inv.jsonFlag()
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			var report adminapi.Purged
			if err := inv.call(ctx, "purge now", adminapi.PurgeArgs{All: *all}, &report); err != nil {
				return err
			}
			return inv.print(report, func(w io.Writer) { printPurged(w, report) })
		}
	},
}

var purgeStatusCommand = command{
	name: "purge status", short: "show the progress of the purge, or what the last one did", example: "ebb purge status",
	setup: func(inv *invocation) func(context.Context) error {
		inv.jsonFlag()
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			var s adminapi.PurgeStatus
			if err := inv.call(ctx, "purge status", struct{}{}, &s); err != nil {
				return err
			}
			return inv.print(s, func(w io.Writer) {
				if s.Kept > 0 {
					fmt.Fprintf(w, "originals of redacted messages on disk: %d\n", s.Kept)
				}
				switch {
				case s.Started == nil:
					fmt.Fprintln(w, "no purge has run since the server was started")
					return
				case s.Running:
					fmt.Fprintf(w, "a purge has been running since %s\n", s.Started.Local().Format(time.RFC3339))
				default:
					fmt.Fprintf(w, "the last purge began at %s and took %s\n", s.Started.Local().Format(time.RFC3339), time.Duration(s.Took)*time.Millisecond)
				}
				printPurged(w, s.Purged)
				if s.Events > 0 {
					fmt.Fprintf(w, "longest time between expiry and removal: %s\n", time.Duration(s.Oldest)*time.Millisecond)
				}
				if s.Compacting {
					fmt.Fprintln(w, "the database is being made smaller")
				}
			})
		}
	},
}

func printPurged(w io.Writer, p adminapi.Purged) {
	if p.KeysDue > 0 {
		fmt.Fprintf(w, "keys of removed messages that are still to be destroyed: %d, the first since %s; purge now --all destroys them, unless a backup is being made\n",
			p.KeysDue, p.KeysDueSince.Local().Format(time.RFC3339))
	}
	fmt.Fprintf(w, "removed %d messages; rooms with a maximum lifetime: %d\n", p.Events, p.Rooms)
	if p.Originals > 0 {
		fmt.Fprintf(w, "removed %d originals of redacted messages\n", p.Originals)
	}
	if p.Removed+p.RemovedEvents > 0 {
		fmt.Fprintf(w, "removed %d rooms that all users of this server have left, with %d events\n", p.Removed, p.RemovedEvents)
	}
	if p.States > 0 {
		fmt.Fprintf(w, "removed %d states of rooms that nothing needed any more\n", p.States)
	}
	if p.Waiting > 0 {
		fmt.Fprintf(w, "%d messages are hidden but stay on disk for now, because their policy was shortened; purge now --all removes them\n", p.Waiting)
	}
	if p.StoppedUntil != nil {
		fmt.Fprintf(w, "far more messages have expired than usual: the purge goes on at %s; purge now --all does not wait\n", p.StoppedUntil.Local().Format(time.RFC3339))
	}
	if p.KeptUntil != nil {
		fmt.Fprintf(w, "the clock has jumped ahead: messages that expired during the jump stay on disk until %s; if the clock is wrong, correct it before then\n", p.KeptUntil.Local().Format(time.RFC3339))
	}
	if p.FilesDue {
		fmt.Fprintln(w, "the write-ahead log could not be emptied yet, so that the files may still contain removed messages; the next purge tries again")
	}
}
