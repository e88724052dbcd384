package main

import (
	"context"

	"ebb/docs"
	"ebb/processing"
)

var docProcessingCommand = command{
	name: "doc processing", short: "print what this server stores about people, why, how long and for whom (a record of processing)",
	example: "ebb doc processing --config /etc/ebb.yaml > processing.md",
	setup: func(inv *invocation) func(context.Context) error {
		inv.jsonFlag()
		return func(context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			cfg, err := inv.config()
			if err != nil {
				return err
			}
			r, err := processing.New(docs.Storage, version, cfg)
			if err != nil {
				return err
			}
			if inv.json {
				return inv.print(r, nil)
			}
			return r.Markdown(inv.stdout)
		}
	},
}
