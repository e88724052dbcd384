package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"ebb/adminapi"
	"ebb/mxerr"
	"ebb/server"
)

// refusedError: the command was understood, and the answer is no.
type refusedError struct{ error }

// call runs a command on the running server, or, where none runs, on the database itself.
func (inv *invocation) call(ctx context.Context, name string, args, result any) error {
	cfg, err := inv.config()
	if err != nil {
		return err
	}
	client, err := adminapi.Dial(ctx, cfg.Dir())
	switch {
	case errors.Is(err, adminapi.ErrNotRunning):
		s, err := server.New(ctx, cfg, server.Options{Version: version})
		if err != nil {
			return err
		}
		return errors.Join(refused(offline(ctx, s, name, args, result)), s.Close())
	case err != nil:
		return fmt.Errorf("reach the running server: %w", err)
	}
	return errors.Join(refused(client.Call(ctx, name, args, result)), client.Close())
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

// refused tells what the server refuses from what fails.
func refused(err error) error {
	var e *mxerr.Error
	switch {
	case err == nil || !errors.As(err, &e):
		return err
	case e.Status < 500:
		return refusedError{errors.New(e.Msg)}
	}
	return fmt.Errorf("the server failed, its log tells more: %w", err)
}

// listCommand is a command without arguments that lists: a line for each, or JSON.
func listCommand[T any](name, short string, line func(io.Writer, T)) command {
	return command{
		name: name, short: short, example: "ebb " + name + " --json",
		setup: func(inv *invocation) func(context.Context) error {
			inv.jsonFlag()
			return func(ctx context.Context) error {
				if err := inv.none(); err != nil {
					return err
				}
				var list []T
				if err := inv.call(ctx, name, struct{}{}, &list); err != nil {
					return err
				}
				return inv.print(list, func(w io.Writer) {
					for _, item := range list {
						line(w, item)
					}
				})
			}
		},
	}
}
