package accounts

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Device is a device of a user.
type Device struct {
	ID          id.DeviceID
	DisplayName *string
	LastSeen    time.Time
	Address     string // address of the last request
	UserAgent   string // user agent of the last request
	nid         ident.DeviceNID
}

func deviceOf(r storage.DeviceRow) Device {
	return Device{ID: id.DeviceID(r.DeviceID), DisplayName: r.DisplayName, LastSeen: time.UnixMilli(r.SeenTS), Address: r.SeenAddr, UserAgent: r.UserAgent, nid: r.NID}
}

func errUnknownDevice() error { return mxerr.NotFound("There is no such device") }

// Devices returns a user's devices, ordered by ID.
func (s *Service) Devices(ctx context.Context, user ident.UserNID) ([]Device, error) {
	var rows []storage.DeviceRow
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.Devices(user)
		return err
	})
	sessions := s.sessions.ofUser(user)
	out := make([]Device, len(rows))
	for i, r := range rows {
		out[i] = deviceOf(r)
		s.lastSeen(&out[i], sessions)
	}
	return out, err
}

// Device returns one device of a user.
//
// Errors: M_NOT_FOUND.
func (s *Service) Device(ctx context.Context, user ident.UserNID, device id.DeviceID) (Device, error) {
	var row storage.DeviceRow
	var found bool
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		row, found, err = tx.Device(user, string(device))
		return err
	})
	if err == nil && !found {
		err = errUnknownDevice()
	}
	d := deviceOf(row)
	s.lastSeen(&d, s.sessions.ofUser(user))
	return d, err
}

// PutDevice is like RenameDevice, but for application services. It creates the device if it does not exist, and reports
// whether it did so. If name is nil, an existing device is not changed.
// Spec: application-service-api#device-management
//
// Errors: M_INVALID_PARAM, M_FORBIDDEN if the ID is the name of a cross-signing key.
func (s *Service) PutDevice(ctx context.Context, user ident.UserNID, device id.DeviceID, displayName *string) (created bool, err error) {
	n := NewSession{Device: device}
	if displayName != nil {
		n.DisplayName = *displayName
	}
	if err := n.check(); err != nil {
		return false, err
	}
	err = s.write(ctx, func(w *write) error {
		d, found, err := w.Device(user, string(device))
		switch {
		case err != nil:
			return err
		case !found:
			created = true
			_, err := s.newDevice(w, user, n)
			return err
		case displayName == nil:
			return nil
		}
		if err := w.RenameDevice(d.NID, *displayName); err != nil {
			return err
		}
		return w.devicesChanged(user, d.DeviceID)
	})
	return created && err == nil, err
}

// RenameDevice sets the display name of a device.
//
// Errors: M_NOT_FOUND, M_INVALID_PARAM.
func (s *Service) RenameDevice(ctx context.Context, user ident.UserNID, device id.DeviceID, displayName string) error {
	if err := checkText("display_name", displayName, maxName); err != nil {
		return err
	}
	return s.write(ctx, func(w *write) error {
		d, found, err := w.Device(user, string(device))
		if err != nil {
			return err
		}
		if !found {
			return errUnknownDevice()
		}
		if err := w.RenameDevice(d.NID, displayName); err != nil {
			return err
		}
		return w.devicesChanged(user, d.DeviceID)
	})
}

// DeleteDevices deletes devices of a user with their data. Unknown devices are ignored.
func (s *Service) DeleteDevices(ctx context.Context, user ident.UserNID, devices []id.DeviceID) error {
	return s.write(ctx, func(w *write) error {
		var gone []storage.DeviceRow
		for _, name := range devices {
			d, found, err := w.Device(user, string(name))
			if err != nil {
				return err
			}
			if found {
				gone = append(gone, d)
			}
		}
		return s.deleteDevices(w, user, gone)
	})
}

// EndSessions deletes the devices that find returns within the write, with a reason for the log. It returns their
// number.
func (s *Service) EndSessions(ctx context.Context, reason string, find func(*storage.Tx) ([]storage.OAuthSession, error)) (ended int, err error) {
	err = s.write(ctx, func(w *write) error {
		all, err := find(w.Tx)
		if err != nil {
			return err
		}
		ended = len(all)
		for _, o := range all {
			user, err := w.UserID(o.User)
			if err != nil {
				return err
			}
			w.note("session ended", "user", user, "device", o.DeviceID, "reason", reason)
			if err := s.deleteDevices(w, o.User, []storage.DeviceRow{{NID: o.Device, DeviceID: o.DeviceID}}); err != nil {
				return err
			}
		}
		return nil
	})
	return ended, err
}

// DeleteAllDevices deletes every device of a user except keep, which may be "".
func (s *Service) DeleteAllDevices(ctx context.Context, user ident.UserNID, keep id.DeviceID) error {
	return s.write(ctx, func(w *write) error { return s.deleteAllDevices(w, user, keep) })
}

func (s *Service) deleteAllDevices(w *write, user ident.UserNID, keep id.DeviceID) error {
	all, err := w.Devices(user)
	if err != nil {
		return err
	}
	var gone []storage.DeviceRow
	for _, d := range all {
		if d.DeviceID != string(keep) {
			gone = append(gone, d)
		}
	}
	if err := w.DeleteLoginTokens(user); err != nil {
		return err
	}
	if err := w.DeleteOpenIDTokens(user); err != nil {
		return err
	}
	return s.deleteDevices(w, user, gone)
}

func (s *Service) deleteDevices(w *write, user ident.UserNID, gone []storage.DeviceRow) error {
	if len(gone) == 0 {
		return nil
	}
	var names []string
	for _, d := range gone {
		names = append(names, d.DeviceID)
		if s.opts.Hooks.DeviceGone != nil {
			if err := s.opts.Hooks.DeviceGone(w.Tx, d.NID, user, d.DeviceID); err != nil {
				return err
			}
		}
		if err := w.DeleteDevice(d.NID); err != nil {
			return err
		}
		if err := deleteNotificationSettings(w, user, d.DeviceID); err != nil {
			return err
		}
		w.after(func() { s.sessions.dropDevice(user, d.NID) })
	}
	name, err := w.UserID(user)
	if err != nil {
		return err
	}
	w.note("devices signed out", "user", name, "devices", names)
	return w.devicesChanged(user, names...)
}

// deleteNotificationSettings deletes the account data in which clients store whether a device is silenced. The other
// clients are woken by the change of the devices and then also see this change.
// Spec: MSC3890
func deleteNotificationSettings(w *write, user ident.UserNID, deviceID string) error {
	for _, prefix := range []string{"m.local_notification_settings.", "org.matrix.msc3890.local_notification_settings."} {
		if _, err := w.DeleteAccountData(user, 0, prefix+deviceID); err != nil {
			return err
		}
	}
	return nil
}

// MaxDevices bounds the devices of a user. It is typically reached by scripts that log in on every run and never log
// out. A login beyond it still succeeds, and logs out the device that has been unused longest.
const MaxDevices = 500

func (s *Service) dropIdleDevices(w *write, user ident.UserNID) error {
	idle, err := w.IdleDevices(user, MaxDevices)
	if err != nil {
		return err
	}
	return s.deleteDevices(w, user, idle)
}
