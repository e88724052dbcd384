package adminapi

import (
	"context"
	"strconv"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
)

// MachineArgs are the arguments of the commands for access tokens of programs.
type MachineArgs struct {
	User       string      `json:"user"`
	Device     id.DeviceID `json:"device"`
	LifetimeMS int64       `json:"lifetime_ms,omitempty"` // for token issue; 0: until it is revoked
}

// Machine is the session of a program.
type Machine struct {
	User    id.UserID   `json:"user"`
	Device  id.DeviceID `json:"device"`
	Token   string      `json:"access_token,omitempty"` // only when it is issued
	Created *time.Time  `json:"created,omitempty"`
	Seen    *time.Time  `json:"last_seen,omitempty"`
	Expires *time.Time  `json:"expires"` // nil: never
}

func (a *API) tokenIssue(ctx context.Context, m MachineArgs) (any, error) {
	user, err := a.userID(m.User)
	if err != nil {
		return nil, err
	}
	lifetime := time.Duration(m.LifetimeMS) * time.Millisecond
	in, err := a.Accounts.IssueToken(ctx, user, m.Device, lifetime)
	if err != nil {
		return nil, err
	}
	out := Machine{User: in.User, Device: in.Device, Token: in.Access}
	if lifetime != 0 {
		until := a.Now().Add(lifetime)
		out.Expires = &until
	}
	return out, nil
}

// tokenIssued lists the sessions of programs, oldest first.
func (a *API) tokenIssued(ctx context.Context, args ListArgs) (any, error) {
	after, err := numberAfter(args)
	if err != nil {
		return nil, err
	}
	read := func(limit int) ([]accounts.Machine, error) { return a.Accounts.ListMachines(ctx, after, limit) }
	return pageOf(args, read, func(m accounts.Machine) string { return strconv.FormatInt(m.Key(), 10) }, func(m accounts.Machine) Machine {
		out := Machine{User: m.User, Device: m.Device, Created: &m.Created, Seen: &m.Seen}
		if !m.Expires.IsZero() {
			out.Expires = &m.Expires
		}
		return out
	})
}

func (a *API) tokenWithdraw(ctx context.Context, m MachineArgs) (any, error) {
	user, err := a.userID(m.User)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.Accounts.RevokeMachine(ctx, user, m.Device)
}
