package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/stateres"
)

var resolveStateCommand = command{
	name: "debug resolve-state", args: "--pdus FILE... [--state FILE...]",
	short:   "resolve the state of a room given as files of PDUs",
	example: "ebb debug resolve-state --room-version 12 --pdus room.json --state a.json b.json",
	setup: func(inv *invocation) func(context.Context) error {
		roomVersion := inv.flags.String("room-version", "", "the room's `VERSION`; by default, the version in the create event")
		var pdus, states files
		inv.flags.Var(&pdus, "pdus", "JSON arrays of PDUs with their event_id; takes every `FILE` up to the next flag")
		inv.flags.Var(&states, "state", "JSON arrays of event IDs, one state set per `FILE` up to the next flag; without any, the PDUs are a graph")
		return func(context.Context) error { return resolveState(inv, id.RoomVersion(*roomVersion), pdus, states) }
	},
}

// files is a flag that can be repeated.
type files []string

func (f *files) String() string     { return strings.Join(*f, " ") }
func (f *files) Set(s string) error { *f = append(*f, s); return nil }

// spread inserts the flag again before each further word that follows --pdus or --state, because a flag accepts only
// one word.
func spread(args []string) []string {
	var out []string
	list, bare := "", false // the flag to repeat, and whether no word has followed it yet
	end := func() {
		if bare {
			out = append(out, list) // the flag parser then reports that the value is missing
		}
		list, bare = "", false
	}
	for _, a := range args {
		name, _, inOneWord := strings.Cut(strings.TrimLeft(a, "-"), "=")
		switch {
		case !strings.HasPrefix(a, "-") && list != "":
			out = append(out, list, a)
			bare = false
		case !strings.HasPrefix(a, "-"):
			out = append(out, a)
		case name != "pdus" && name != "state":
			end()
			out = append(out, a)
		case inOneWord:
			end()
			out = append(out, a)
			list = "--" + name
		default:
			end()
			list, bare = "--"+name, true
		}
	}
	end()
	return out
}

func resolveState(inv *invocation, v id.RoomVersion, pdus, states files) error {
	if err := inv.none(); err != nil {
		return err
	}
	if len(pdus) == 0 {
		return usagef("--pdus is missing")
	}
	pduTexts, err := readAll(pdus)
	if err != nil {
		return err
	}
	stateTexts, err := readAll(states)
	if err != nil {
		return err
	}
	out, err := stateres.ResolveFiles(v, pduTexts, stateTexts)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(inv.stdout, "%s\n", out)
	return err
}

func readAll(names []string) ([][]byte, error) {
	var out [][]byte
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		out = append(out, text)
	}
	return out, nil
}
