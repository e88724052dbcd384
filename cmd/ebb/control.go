package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"ebb/adminapi"
	"ebb/holds"
	"ebb/mxerr"
	"ebb/server"
)

// refusedError means that a command was understood but refused.
type refusedError struct{ error }

// caller runs a command with its arguments and decodes the result into result.
type caller func(ctx context.Context, name string, args, result any) error

// connected calls f with a caller that runs commands on the running server. If no server is running, the caller works
// on the database itself, which stays open until f returns.
func (inv *invocation) connected(ctx context.Context, f func(call caller) error) error {
	client, s, err := inv.reach(ctx)
	switch {
	case err != nil:
		return err
	case s != nil:
		call := func(ctx context.Context, name string, args, result any) error {
			return refused(offline(ctx, s, name, args, result))
		}
		return errors.Join(f(call), s.Close())
	}
	call := func(ctx context.Context, name string, args, result any) error {
		return refused(client.Call(ctx, name, args, result))
	}
	return errors.Join(f(call), client.Close())
}

// reach returns a client of the running server. If no server is running, it returns a server that works on the database
// itself. The caller must close it.
func (inv *invocation) reach(ctx context.Context) (*adminapi.Client, *server.Server, error) {
	cfg, err := inv.config()
	if err != nil {
		return nil, nil, err
	}
	client, err := adminapi.Dial(ctx, cfg.Dir())
	switch {
	case errors.Is(err, adminapi.ErrNotRunning):
		s, err := server.New(ctx, cfg, server.Options{Version: version})
		return nil, s, err
	case err != nil:
		return nil, nil, fmt.Errorf("reach the running server: %w", err)
	}
	return client, nil, nil
}

// call runs one command.
func (inv *invocation) call(ctx context.Context, name string, args, result any) error {
	return inv.connected(ctx, func(call caller) error { return call(ctx, name, args, result) })
}

// streamed runs a command whose result is an export, and writes it to w.
func (inv *invocation) streamed(ctx context.Context, name string, args any, w io.Writer) error {
	client, s, err := inv.reach(ctx)
	switch {
	case err != nil:
		return err
	case s == nil:
		return errors.Join(refused(client.Stream(ctx, name, args, w)), client.Close())
	}
	raw, err := json.Marshal(args)
	if err == nil {
		var v any
		if v, err = s.Control(ctx, name, raw); err == nil {
			err = v.(*holds.Export).Write(ctx, w)
		}
	}
	return errors.Join(refused(err), s.Close())
}

// offline runs a command in this process.
func offline(ctx context.Context, s *server.Server, name string, args, result any) error {
	raw, err := json.Marshal(args)
	if err != nil {
		return err
	}
	v, err := s.Control(ctx, name, raw)
	if err != nil {
		return err
	}
	out, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, result)
}

// refused turns the error of a command that was refused into a refusedError. To the error of a command that failed it
// adds where to look for details. It returns other errors unchanged.
func refused(err error) error {
	var e *mxerr.Error
	switch {
	case err == nil || !errors.As(err, &e):
		return err
	case e.Status < 500:
		return refusedError{errors.New(e.Msg)}
	}
	return fmt.Errorf("the command failed; see the server's log for details: %w", err)
}

// listCommand returns a command without arguments that prints a list, as lines or as JSON. It fetches and prints the
// list page by page, so neither the server nor the command holds the complete list.
func listCommand[T any](name, short string, line func(io.Writer, T)) command {
	return command{
		name: name, short: short, example: "ebb " + name + " --json",
		setup: func(inv *invocation) func(context.Context) error {
			inv.jsonFlag()
			return func(ctx context.Context) error {
				if err := inv.none(); err != nil {
					return err
				}
				list := listWriter[T]{w: bufio.NewWriter(inv.stdout), json: inv.json, line: line}
				return inv.connected(ctx, func(call caller) error { return list.print(ctx, call, name) })
			}
		},
	}
}

// listWriter prints a list item by item, as lines or as one JSON array.
type listWriter[T any] struct {
	w     *bufio.Writer // keeps the first error until Flush
	json  bool
	line  func(io.Writer, T)
	args  func(adminapi.ListArgs) any // the arguments of the command for a page; nil: only those of the page
	begun bool                        // whether the array was opened
}

// print fetches the pages of a list one after the other and prints them.
func (l *listWriter[T]) print(ctx context.Context, call caller, name string) error {
	for args := (adminapi.ListArgs{}); ; {
		var page adminapi.Page[T]
		all := any(args)
		if l.args != nil {
			all = l.args(args)
		}
		if err := call(ctx, name, all, &page); err != nil {
			return err
		}
		for _, item := range page.Items {
			if err := l.item(item); err != nil {
				return err
			}
		}
		if page.Next == "" {
			l.end()
		}
		if err := l.w.Flush(); err != nil || page.Next == "" {
			return err
		}
		args.After = page.Next
	}
}

func (l *listWriter[T]) item(v T) error {
	if !l.json {
		l.line(l.w, v)
		return nil
	}
	raw, err := json.MarshalIndent(v, "  ", "  ")
	if err != nil {
		return err
	}
	start := ",\n  "
	if !l.begun {
		start, l.begun = "[\n  ", true
	}
	fmt.Fprintf(l.w, "%s%s", start, raw)
	return nil
}

func (l *listWriter[T]) end() {
	switch {
	case !l.json:
	case l.begun:
		fmt.Fprint(l.w, "\n]\n")
	default:
		fmt.Fprint(l.w, "[]\n")
	}
}
