package accounts

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Machine is a session that an administrator has given to a program.
type Machine struct {
	User    id.UserID
	Device  id.DeviceID
	Created time.Time
	Seen    time.Time // the last request
	Expires time.Time // zero: never
	nid     ident.DeviceNID
}

// Key returns the number that ListMachines continues after.
func (m Machine) Key() int64 { return int64(m.nid) }

// IssueToken gives a program an access token of a user, on a device of its own, for a time (0: until it is revoked). If
// the program has one already, the new token replaces it.
//
// Errors: M_NOT_FOUND, M_USER_LOCKED, M_INVALID_PARAM.
func (s *Service) IssueToken(ctx context.Context, user id.UserID, device id.DeviceID, lifetime time.Duration) (SignedIn, error) {
	if device == "" {
		return SignedIn{}, mxerr.MissingParam("The device is missing: a name for the program")
	}
	if lifetime < 0 {
		return SignedIn{}, mxerr.InvalidParam("The lifetime must not be negative")
	}
	n := NewSession{Device: device, DisplayName: string(device), Lifetime: lifetime}
	return s.signIn(ctx, n, func(w *write) (at gate.Attempt, err error) {
		a, err := s.activeAccount(w.Tx, user)
		if err != nil {
			return at, err
		}
		d, found, err := w.Device(a.NID, string(device))
		if err != nil {
			return at, err
		}
		if found {
			if machine, err := w.IsMachine(d.NID); err != nil {
				return at, err
			} else if !machine {
				return at, mxerr.InvalidParam("The user has signed in on a device of this name: choose another one")
			}
		}
		w.note("token issued to a program", "user", user, "device", device, "lifetime", lifetime)
		return gate.Attempt{Path: gate.PathMachine, User: a.NID, Shown: gate.Administrator}, nil
	})
}

// ListMachines returns at most limit sessions of programs, oldest first, after a key (0 for the first page).
func (s *Service) ListMachines(ctx context.Context, after int64, limit int) ([]Machine, error) {
	var rows []storage.MachineSession
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.MachineSessions(ident.DeviceNID(after), limit)
		return err
	})
	out := make([]Machine, len(rows))
	for i, r := range rows {
		out[i] = Machine{User: id.UserID(r.UserID), Device: id.DeviceID(r.DeviceID), Created: time.UnixMilli(r.CreatedTS), Seen: time.UnixMilli(r.SeenTS), nid: r.Device}
		if r.ExpiresTS != 0 {
			out[i].Expires = time.UnixMilli(r.ExpiresTS)
		}
	}
	return out, err
}

// RevokeMachine ends the session of a program.
//
// Errors: M_NOT_FOUND.
func (s *Service) RevokeMachine(ctx context.Context, user id.UserID, device id.DeviceID) error {
	return s.write(ctx, func(w *write) error {
		a, err := s.account(w.Tx, user)
		if err != nil {
			return err
		}
		d, found, err := w.Device(a.NID, string(device))
		if err != nil {
			return err
		}
		if found {
			found, err = w.IsMachine(d.NID)
		}
		if err == nil && !found {
			err = mxerr.NotFound("No token was issued for this user and device")
		}
		if err != nil {
			return err
		}
		return s.deleteDevices(w, a.NID, []storage.DeviceRow{d})
	})
}
