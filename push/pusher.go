package push

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/netguard"
	"ebb/storage"
)

// These constants bound pushers; docs/limits.md lists them.
const (
	maxPushers   = 50       // per user
	maxAppID     = 64       // characters; Spec: client-server-api#post_matrixclientv3pushersset
	maxPushkey   = 512      // bytes; Spec as above
	maxPusherTag = 255      // bytes of each name, of the language and of the profile tag
	maxData      = 16 << 10 // bytes
	// maxSameKey bounds how many pushers of other users with the same key are deleted when a pusher is set.
	maxSameKey = 1000
)

// These are the kinds of pushers.
const (
	kindHTTP  = "http"
	kindEmail = "email"
)

// notifyPath is the path that the URL of every push gateway must have.
// Spec: push-gateway-api#post_matrixpushv1notify
const notifyPath = "/_matrix/push/v1/notify"

// eventIDOnly is the format in which only the ID of an event is sent to the gateway.
const eventIDOnly = "event_id_only"

// Pusher is a pusher in the form that clients see.
// Spec: client-server-api#get_matrixclientv3pushers
type Pusher struct {
	AppID             string          `json:"app_id"`
	Pushkey           string          `json:"pushkey"`
	Kind              string          `json:"kind"`
	AppDisplayName    string          `json:"app_display_name"`
	DeviceDisplayName string          `json:"device_display_name"`
	ProfileTag        string          `json:"profile_tag,omitempty"`
	Lang              string          `json:"lang"`
	Data              json.RawMessage `json:"data"`
	Enabled           bool            `json:"org.matrix.msc3881.enabled"`
	DeviceID          id.DeviceID     `json:"org.matrix.msc3881.device_id,omitempty"`
	NoBadge           bool            `json:"org.matrix.msc4076.disable_badge_count,omitempty"`
}

// NewPusher is the request body of Set. A nil field was missing from the request.
type NewPusher struct {
	AppID             *string         `json:"app_id"`
	Pushkey           *string         `json:"pushkey"`
	Kind              json.RawMessage `json:"kind"` // null deletes the pusher
	AppDisplayName    *string         `json:"app_display_name"`
	DeviceDisplayName *string         `json:"device_display_name"`
	ProfileTag        string          `json:"profile_tag"`
	Lang              *string         `json:"lang"`
	Data              json.RawMessage `json:"data"`
	Append            bool            `json:"append"`
	Enabled           *bool           `json:"enabled"`
	UnstableEnabled   *bool           `json:"org.matrix.msc3881.enabled"`
	DeviceID          id.DeviceID     `json:"org.matrix.msc3881.device_id"`
	NoBadge           bool            `json:"org.matrix.msc4076.disable_badge_count"`
}

// data holds the fields of a pusher's data that this server interprets.
type data struct {
	URL     string `json:"url"`
	Format  string `json:"format"`
	NoBadge bool   `json:"org.matrix.msc4076.disable_badge_count"`
}

// Pushers returns the pushers of a user.
func (s *Service) Pushers(ctx context.Context, user ident.UserNID) ([]Pusher, error) {
	var rows []storage.PusherRow
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.UserPushers(user)
		return err
	})
	out := make([]Pusher, 0, len(rows))
	for _, r := range rows {
		out = append(out, Pusher{
			AppID: r.AppID, Pushkey: r.Pushkey, Kind: r.Kind, AppDisplayName: r.AppName, DeviceDisplayName: r.DeviceName, ProfileTag: r.ProfileTag,
			Lang: r.Lang, Data: json.RawMessage(r.Data), Enabled: r.Enabled, DeviceID: id.DeviceID(r.DeviceID), NoBadge: r.NoBadge,
		})
	}
	return out, err
}

// Set creates, changes or deletes a pusher of a user. The pusher belongs to the device that makes the request, unless
// the request enables or disables an existing pusher of another device.
// Spec: client-server-api#post_matrixclientv3pushersset
//
// Errors: M_MISSING_PARAM, M_INVALID_PARAM, M_TOO_LARGE, M_THREEPID_NOT_FOUND.
func (s *Service) Set(ctx context.Context, to ident.Requester, n NewPusher) error {
	if err := n.checkKey(); err != nil {
		return err
	}
	if string(n.Kind) == "null" {
		return s.change(ctx, func(tx *storage.Tx, c *changes) error { return c.remove(tx, to.UserNID, *n.AppID, *n.Pushkey) })
	}
	row, err := s.rowOf(to, &n)
	if err != nil {
		return err
	}
	return s.change(ctx, func(tx *storage.Tx, c *changes) error {
		if row.Kind == kindEmail {
			if err := s.checkAddress(tx, row.User, row.Pushkey); err != nil {
				return err
			}
		}
		if !n.Append {
			if err := c.removeOthers(tx, row); err != nil {
				return err
			}
		}
		return c.put(tx, row, &n)
	})
}

func (n *NewPusher) checkKey() error {
	switch {
	case n.Kind == nil:
		return mxerr.MissingParam("kind is missing")
	case n.AppID == nil:
		return mxerr.MissingParam("app_id is missing")
	case n.Pushkey == nil:
		return mxerr.MissingParam("pushkey is missing")
	case *n.AppID == "" || utf8.RuneCountInString(*n.AppID) > maxAppID:
		return mxerr.InvalidParam("app_id must have 1 to %d characters", maxAppID)
	case *n.Pushkey == "" || len(*n.Pushkey) > maxPushkey:
		return mxerr.InvalidParam("pushkey must have 1 to %d bytes", maxPushkey)
	}
	return nil
}

// rowOf validates a new pusher and returns its row.
func (s *Service) rowOf(to ident.Requester, n *NewPusher) (*storage.PusherRow, error) {
	var kind string
	if json.Unmarshal(n.Kind, &kind) != nil {
		return nil, mxerr.InvalidParam("kind must be a string or null")
	}
	row := &storage.PusherRow{
		User: to.UserNID, UserID: string(to.UserID), Device: to.DeviceNID, DeviceID: string(to.DeviceID), Kind: kind, AppID: *n.AppID, Pushkey: *n.Pushkey,
		ProfileTag: n.ProfileTag, Data: string(n.Data), Enabled: true, NoBadge: n.NoBadge, UpdatedTS: s.now().UnixMilli(),
	}
	for name, m := range map[string]struct {
		from *string
		to   *string
	}{"app_display_name": {n.AppDisplayName, &row.AppName}, "device_display_name": {n.DeviceDisplayName, &row.DeviceName}, "lang": {n.Lang, &row.Lang}, "profile_tag": {&n.ProfileTag, &row.ProfileTag}} {
		switch {
		case m.from == nil:
			return nil, mxerr.MissingParam("%s is missing", name)
		case len(*m.from) > maxPusherTag:
			return nil, mxerr.InvalidParam("%s is longer than %d bytes", name, maxPusherTag)
		}
		*m.to = *m.from
	}
	for _, enabled := range []*bool{n.Enabled, n.UnstableEnabled} {
		if enabled != nil {
			row.Enabled = *enabled
		}
	}
	if kind == kindEmail && row.AppID != emailAppID {
		return nil, mxerr.InvalidParam("The app_id of an e-mail pusher must be %s", emailAppID)
	}
	return row, s.checkData(kind, n.Data)
}

// checkData validates the data of a pusher of the given kind.
func (s *Service) checkData(kind string, raw json.RawMessage) error {
	if raw == nil {
		return mxerr.MissingParam("data is missing")
	}
	if len(raw) > maxData {
		return mxerr.InvalidParam("data is larger than %d bytes", maxData)
	}
	var d data
	if raw[0] != '{' || json.Unmarshal(raw, &d) != nil {
		return mxerr.InvalidParam("data must be an object, in which url and format are strings")
	}
	if kind == kindEmail && s.opts.Email.Mailer != nil {
		return nil
	}
	if kind != kindHTTP {
		return mxerr.InvalidParam("This server has no pushers of the kind %.50q", kind)
	}
	if d.URL == "" {
		return mxerr.MissingParam("data.url is missing")
	}
	u, err := url.Parse(d.URL)
	if err == nil {
		err = netguard.CheckURL(u, s.opts.AllowPrivate)
	}
	if err != nil || u.Path != notifyPath || u.Fragment != "" {
		return mxerr.InvalidParam("data.url must be an https URL with the path %s", notifyPath)
	}
	if d.Format != "" && d.Format != eventIDOnly {
		return mxerr.InvalidParam("%.50q is not a format of push notifications: use %s or none", d.Format, eventIDOnly)
	}
	return nil
}

// changes collects the pushers that one write changes, so that they can be applied to the index in memory.
type changes struct {
	set     *storage.PusherRow
	removed []ident.PusherNID
}

// change calls do in a write. do records what it changes in a changes, and change applies that to the index after the
// commit.
func (s *Service) change(ctx context.Context, do func(*storage.Tx, *changes) error) error {
	c := &changes{}
	return s.db.Enqueue(storage.Write{
		Do:        func(tx *storage.Tx) error { return do(tx, c) },
		Committed: func() { s.apply(c) },
	}).Wait(context.WithoutCancel(ctx))
}

// remove deletes the user's pusher with the given key, if there is one.
func (c *changes) remove(tx *storage.Tx, user ident.UserNID, appID, pushkey string) error {
	own, err := tx.UserPushers(user)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(own, func(p storage.PusherRow) bool { return p.AppID == appID && p.Pushkey == pushkey }); i >= 0 {
		c.removed = append(c.removed, own[i].NID)
		return tx.DeletePusher(own[i].NID)
	}
	return nil
}

// removeOthers deletes other users' pushers with the same key.
func (c *changes) removeOthers(tx *storage.Tx, row *storage.PusherRow) error {
	same, err := tx.PushersWithKey(row.AppID, row.Pushkey, maxSameKey)
	if err != nil {
		return err
	}
	for _, p := range same {
		if p.User == row.User {
			continue
		}
		if err := tx.DeletePusher(p.NID); err != nil {
			return err
		}
		c.removed = append(c.removed, p.NID)
	}
	return nil
}

// put stores a pusher. It replaces the user's pusher with the same key, if there is one.
func (c *changes) put(tx *storage.Tx, row *storage.PusherRow, n *NewPusher) error {
	own, err := tx.UserPushers(row.User)
	if err != nil {
		return err
	}
	if n.DeviceID != "" {
		if d, found, err := tx.Device(row.User, string(n.DeviceID)); err != nil {
			return err
		} else if found {
			row.Device, row.DeviceID = d.NID, d.DeviceID
		}
	}
	c.set = row
	i := slices.IndexFunc(own, func(p storage.PusherRow) bool { return p.AppID == row.AppID && p.Pushkey == row.Pushkey })
	if i < 0 {
		if len(own) >= maxPushers {
			return mxerr.TooLarge("You already have %d pushers, which is the maximum; delete one first", maxPushers)
		}
		return tx.AddPusher(row)
	}
	old := own[i]
	row.NID, row.PusherProgress = old.NID, storage.PusherProgress{Delivered: old.Delivered, Pending: old.Pending}
	if n.DeviceID == "" && (n.Enabled != nil || n.UnstableEnabled != nil) {
		row.Device, row.DeviceID = old.Device, old.DeviceID // another device enables or disables it
	}
	if row.Enabled && !old.Enabled {
		row.Delivered = tx.NextPos()
	}
	return tx.SetPusher(row)
}
