package main

import (
	"context"
	"fmt"
	"io"

	"ebb/server"
)

var doctorCommand = command{
	name: "doctor", short: "check whether other servers can reach this one, and say how to fix problems", example: "ebb doctor --with matrix.org",
	setup: func(inv *invocation) func(context.Context) error {
		with := inv.flags.String("with", "", "another `SERVER`, used to check reachability from outside and the clock")
		inv.jsonFlag()
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			cfg, err := inv.config()
			if err != nil {
				return err
			}
			findings, err := server.Diagnose(ctx, cfg, server.Options{Version: version}, *with)
			if err != nil {
				return err
			}
			if err := inv.print(findings, func(w io.Writer) { printFindings(w, findings) }); err != nil {
				return err
			}
			return verdict(findings)
		}
	},
}

func printFindings(w io.Writer, findings []server.Finding) {
	for _, f := range findings {
		fmt.Fprintf(w, "%-8s %-14s %s\n", f.Status, f.Check, f.Detail)
		if f.Fix != "" {
			fmt.Fprintf(w, "%-8s %-14s -> %s\n", "", "", f.Fix)
		}
	}
}

// verdict returns an error if a check failed; warnings do not count.
func verdict(findings []server.Finding) error {
	n := 0
	for _, f := range findings {
		if f.Status == "failed" {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d checks failed", n, len(findings))
}
