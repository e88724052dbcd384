package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"ebb/adminapi"
	"ebb/appservice"
)

var appserviceListCommand = command{
	name: "appservice list", short: "list the application services and the events queued for them", example: "ebb appservice list --json",
	setup: func(inv *invocation) func(context.Context) error {
		inv.jsonFlag()
		return func(ctx context.Context) error {
			if inv.flags.NArg() > 0 {
				return usagef("expected no arguments")
			}
			var list []appservice.Status
			if err := inv.call(ctx, "appservice list", struct{}{}, &list); err != nil {
				return err
			}
			return inv.print(list, func(w io.Writer) {
				for _, s := range list {
					printAppservice(w, s)
				}
			})
		}
	},
}

func printAppservice(w io.Writer, s appservice.Status) {
	fmt.Fprintf(w, "%-24s %s", s.ID, s.Sender)
	switch {
	case s.URL == "":
		fmt.Fprint(w, " has no url")
	case s.Failures > 0 && s.FailingSince != nil && s.Retry != nil:
		fmt.Fprintf(w, " at %s has not accepted events since %s; %d attempts, the next at %s", s.URL, s.FailingSince.Format(time.RFC3339), s.Failures, s.Retry.Format(time.RFC3339))
	default:
		fmt.Fprintf(w, " at %s", s.URL)
	}
	if s.Waiting > 0 || s.Behind && s.Failures > 0 {
		fmt.Fprintf(w, "; at least %d events are queued", s.Waiting)
	}
	fmt.Fprintln(w)
}

var appservicePingCommand = command{
	name: "appservice ping", args: "ID", short: "check whether an application service responds", example: "ebb appservice ping whatsapp",
	setup: func(inv *invocation) func(context.Context) error {
		return func(ctx context.Context) error {
			name, err := inv.one("ID of an application service")
			if err != nil {
				return err
			}
			var answer adminapi.Pinged
			if err := inv.call(ctx, "appservice ping", adminapi.AppserviceArgs{ID: name}, &answer); err != nil {
				return err
			}
			_, err = fmt.Fprintf(inv.stdout, "%s responded in %d ms\n", name, answer.Millis)
			return err
		}
	},
}
