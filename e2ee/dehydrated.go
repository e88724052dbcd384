package e2ee

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Dehydrate is the request to store a dehydrated device. Such a device has no access token. It receives room keys until
// the user signs in on another device, which then takes these keys over. Spec: MSC3814.
type Dehydrate struct {
	UploadKeys
	DeviceID    id.DeviceID     `json:"device_id"`
	Data        json.RawMessage `json:"device_data"` // encrypted by the client
	DisplayName *string         `json:"initial_device_display_name"`
}

// Dehydrated is a dehydrated device in the form returned to its owner.
type Dehydrated struct {
	DeviceID id.DeviceID     `json:"device_id"`
	Data     json.RawMessage `json:"device_data"`
}

func errNotDehydrated() error { return mxerr.NotFound("You have no such dehydrated device") }

// Dehydrate stores a dehydrated device. It replaces the previous one, whose keys and messages it deletes.
//
// Errors: M_INVALID_PARAM if a device with that ID is signed in, or if the keys name another device; M_BAD_JSON;
// M_MISSING_PARAM; M_TOO_LARGE.
func (s *Service) Dehydrate(ctx context.Context, owner ident.Requester, up Dehydrate) error {
	if err := up.check(owner); err != nil {
		return err
	}
	oneTime, err := parseKeys(up.OneTimeKeys)
	if err != nil {
		return err
	}
	fallback, err := parseKeys(orElse(up.FallbackKeys, up.FallbackKeysUnstable))
	if err != nil {
		return err
	}
	return s.write(ctx, func(tx *storage.Tx) (func(), error) {
		before, err := s.dropDehydrated(tx, owner.UserNID)
		if err != nil {
			return nil, err
		}
		if _, taken, err := tx.Device(owner.UserNID, string(up.DeviceID)); err != nil || taken {
			return nil, orTaken(err)
		}
		d := ident.Requester{UserNID: owner.UserNID, UserID: owner.UserID, DeviceID: up.DeviceID}
		if d.DeviceNID, err = tx.AddDevice(owner.UserNID, string(up.DeviceID), up.DisplayName); err != nil {
			return nil, err
		}
		if err := tx.AddDehydrated(owner.UserNID, storage.Dehydrated{Device: d.DeviceNID, DeviceID: string(up.DeviceID), Data: string(up.Data)}); err != nil {
			return nil, err
		}
		committed, err := s.storeKeys(tx, d, up.DeviceKeys, oneTime, fallback)
		if err == nil && before != "" && before != up.DeviceID {
			err = s.queueUpdates(tx, owner.UserNID, string(before))
		}
		return committed, err
	})
}

func orTaken(err error) error {
	if err == nil {
		err = mxerr.InvalidParam("You already have a device with this ID")
	}
	return err
}

// check validates the request except for the one-time keys.
func (up *Dehydrate) check(owner ident.Requester) error {
	switch {
	case up.DeviceID == "":
		return mxerr.MissingParam("device_id is missing")
	case len(up.DeviceID) > maxKeyID || up.DisplayName != nil && len(*up.DisplayName) > maxKeyID:
		return mxerr.InvalidParam("The ID and display name of a device must not be longer than %d bytes", maxKeyID)
	case isNull(up.Data):
		return mxerr.MissingParam("device_data is missing")
	case isNull(up.DeviceKeys):
		return mxerr.MissingParam("device_keys is missing")
	}
	if err := bounded("device_data", len(up.Data), maxKeyJSON); err != nil {
		return err
	}
	if _, err := object("device_data", up.Data); err != nil {
		return err
	}
	return checkDeviceKeys(ident.Requester{UserID: owner.UserID, DeviceID: up.DeviceID}, up.DeviceKeys)
}

// dropDehydrated deletes a user's dehydrated device and returns its ID, or "" if there is none. If somebody has signed
// in with the device in the meantime, it is an ordinary device and is not deleted.
func (s *Service) dropDehydrated(tx *storage.Tx, user ident.UserNID) (id.DeviceID, error) {
	d, found, err := tx.Dehydrated(user)
	if err != nil || !found {
		return "", err
	}
	signedIn, err := tx.SignedIn(d.Device)
	if err != nil {
		return "", err
	}
	if signedIn {
		return id.DeviceID(d.DeviceID), tx.ForgetDehydrated(user, d.Device)
	}
	if err := s.DeviceGone(tx, d.Device, user, d.DeviceID); err != nil {
		return "", err
	}
	return id.DeviceID(d.DeviceID), tx.DeleteDevice(d.Device)
}

// Dehydrated returns a user's dehydrated device.
//
// Errors: M_NOT_FOUND.
func (s *Service) Dehydrated(ctx context.Context, owner ident.Requester) (out Dehydrated, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		d, found, err := tx.Dehydrated(owner.UserNID)
		if err == nil && !found {
			err = errNotDehydrated()
		}
		out = Dehydrated{DeviceID: id.DeviceID(d.DeviceID), Data: json.RawMessage(d.Data)}
		return err
	})
	return out, err
}

// DeleteDehydrated deletes a user's dehydrated device and returns its ID.
//
// Errors: M_NOT_FOUND.
func (s *Service) DeleteDehydrated(ctx context.Context, owner ident.Requester) (deviceID id.DeviceID, err error) {
	err = s.write(ctx, func(tx *storage.Tx) (func(), error) {
		if deviceID, err = s.dropDehydrated(tx, owner.UserNID); err != nil {
			return nil, err
		}
		if deviceID == "" {
			return nil, errNotDehydrated()
		}
		return s.DevicesChanged(tx, owner.UserNID, string(deviceID))
	})
	return deviceID, err
}

// DehydratedEvents is one page of the to-device messages of a dehydrated device.
type DehydratedEvents struct {
	Events []json.RawMessage
	Next   string // the batch token for the next page
	More   bool   // whether there were more messages when the page was read
}

// MaxDehydratedPage bounds the messages in a page; 100 messages take about 200 KiB.
const MaxDehydratedPage = 100

// DehydratedEvents returns up to limit messages for a user's dehydrated device. batch is the token of the page, from
// the previous response; "" means the first page. Reading deletes nothing, so that an interrupted client can start
// again. The device and its messages are deleted when the client deletes or replaces the device.
//
// Errors: M_FORBIDDEN if the device is not the user's dehydrated device; M_INVALID_PARAM for a batch that this server
// did not issue.
func (s *Service) DehydratedEvents(ctx context.Context, owner ident.Requester, deviceID id.DeviceID, batch string, limit int) (DehydratedEvents, error) {
	out := DehydratedEvents{Events: []json.RawMessage{}}
	since, err := parseBatch(batch)
	if err != nil {
		return out, err
	}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		d, found, err := tx.Dehydrated(owner.UserNID)
		if err != nil {
			return err
		}
		if !found || d.DeviceID != string(deviceID) {
			return mxerr.Forbidden("This is not your dehydrated device")
		}
		messages, err := tx.ToDevice(d.Device, since, lastPos, limit+1)
		out.More = len(messages) > limit
		for _, m := range messages[:min(limit, len(messages))] {
			out.Events = append(out.Events, json.RawMessage(m.JSON))
			since = m.Position
		}
		return err
	})
	out.Next = formatBatch(since)
	return out, err
}

const lastPos storage.Pos = 1<<63 - 1

const batchPrefix = "d"

func formatBatch(p storage.Pos) string { return batchPrefix + strconv.FormatInt(int64(p), 10) }

func parseBatch(batch string) (storage.Pos, error) {
	if batch == "" {
		return 0, nil
	}
	digits, ok := strings.CutPrefix(batch, batchPrefix)
	n, err := strconv.ParseInt(digits, 10, 64)
	if !ok || err != nil || n < 0 {
		return 0, mxerr.InvalidParam("The batch token was not issued by this server: from and next_batch take the next_batch of an earlier response")
	}
	return storage.Pos(n), nil
}
