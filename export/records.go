package export

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// most bounds the rows of kinds of which a user has a bounded number anyway.
const most = 10_000

// moment returns a time in milliseconds as a text, or nil for 0.
func moment(ms int64) any {
	if ms == 0 {
		return nil
	}
	return time.UnixMilli(ms).UTC()
}

type object = map[string]any

// objects returns the objects that f makes of rows; never nil, so that JSON shows an empty list.
func objects[T any](rows []T, f func(T) object) []object {
	out := make([]object, len(rows))
	for i, r := range rows {
		out[i] = f(r)
	}
	return out
}

func (b *builder) account() error {
	var all object
	err := b.read(func(tx *storage.Tx) error {
		a, _, err := tx.Account(b.user)
		if err != nil {
			return err
		}
		emails, err := tx.Emails(b.user, most)
		if err != nil {
			return err
		}
		bound, err := tx.IdentityBindings(b.user, most)
		if err != nil {
			return err
		}
		linked, err := tx.UpstreamIdentities(b.user, most)
		if err != nil {
			return err
		}
		factors, err := tx.FactorCounts(b.user)
		if err != nil {
			return err
		}
		lifetimes, err := tx.MessageLifetimes(b.user, most)
		if err != nil {
			return err
		}
		keys, err := tx.Passkeys(b.user, most)
		all = object{
			"user_id": b.e.user, "created": moment(a.CreatedTS), "second_factor_policy": a.MFA, "administrator": a.Admin, "locked": a.Locked, "suspended": a.Suspended, "guest": a.Guest,
			"has_password": a.HasPassword(), "one_time_codes": factors.TOTP > 0, "recovery_codes": factors.RecoveryCodes,
			"emails": objects(emails, func(e storage.EmailRow) object {
				return object{"address": e.Address, "added": moment(e.AddedTS), "validated": moment(e.ValidatedTS)}
			}),
			"identity_servers": objects(bound, func(i storage.IdentityBinding) object {
				return object{"medium": i.Medium, "address": i.Address, "id_server": i.IDServer}
			}),
			"other_services": objects(linked, func(i storage.UpstreamIdentity) object {
				return object{"issuer": i.Issuer, "subject": i.Subject, "label": i.Label, "linked": moment(i.CreatedTS)}
			}),
			"message_lifetimes": objects(lifetimes, func(l storage.MessageLifetime) object {
				return object{"room_id": l.RoomID, "max_lifetime": l.Lifetime, "chosen": moment(l.SetTS)}
			}),
			"passkeys": objects(keys, func(p storage.PasskeyRow) object {
				return object{"id": p.CredentialID, "name": p.Name, "domain": p.RPID, "transports": p.Transports, "public_key": p.PublicKey, "authenticator": p.AAGUID, "created": moment(p.CreatedTS), "used": moment(p.UsedTS)}
			}),
		}
		return err
	})
	if err != nil {
		return err
	}
	return b.out.Value("account.json", all)
}

func (b *builder) profile() error {
	fields := map[string]json.RawMessage{}
	err := b.read(func(tx *storage.Tx) error {
		rows, err := tx.Profile(b.user)
		for _, f := range rows {
			fields[f.Name] = asJSON(f.Value)
		}
		return err
	})
	if err != nil {
		return err
	}
	return b.out.Value("profile.json", fields)
}

// asJSON returns text that is JSON as it is, and other text as a JSON string.
func asJSON(text string) json.RawMessage {
	if json.Valid([]byte(text)) {
		return json.RawMessage(text)
	}
	quoted, _ := json.Marshal(text) // a string is always encoded
	return quoted
}

func (b *builder) devices() error {
	var list []object
	err := b.read(func(tx *storage.Tx) error {
		rows, err := tx.Devices(b.user)
		if err != nil {
			return err
		}
		keys, err := tx.UserDeviceKeys(b.user)
		if err != nil {
			return err
		}
		clients, err := tx.OAuthClientsOf(b.user, most)
		if err != nil {
			return err
		}
		byDevice, programs := map[string]json.RawMessage{}, map[string]json.RawMessage{}
		for _, k := range keys {
			byDevice[k.DeviceID] = asJSON(k.JSON)
		}
		for _, c := range clients {
			programs[c.DeviceID] = asJSON(c.Metadata)
		}
		list = objects(rows, func(d storage.DeviceRow) object {
			return object{
				"device_id": d.DeviceID, "display_name": d.DisplayName, "last_seen": moment(d.SeenTS), "last_seen_address": d.SeenAddr, "last_seen_program": d.UserAgent,
				"keys": byDevice[d.DeviceID], "oauth_client": programs[d.DeviceID],
			}
		})
		return nil
	})
	if err != nil {
		return err
	}
	return b.out.Value("devices.json", list)
}

func (b *builder) browsers() error {
	var rows []storage.BrowserSession
	err := b.read(func(tx *storage.Tx) (err error) { rows, err = tx.BrowserSessions(b.user, most); return err })
	if err != nil {
		return err
	}
	return b.out.Value("browsers.json", objects(rows, func(s storage.BrowserSession) object {
		return object{"signed_in": moment(s.CreatedTS), "confirmed": moment(max(s.FirstTS, s.SecondTS)), "expires": moment(s.ExpiresTS)}
	}))
}

// roomIDs returns the IDs of the rooms of which the user is or was a member.
func (b *builder) roomIDs(tx *storage.Tx) (map[int64]string, error) {
	out := map[int64]string{}
	for _, m := range b.members {
		row, found, err := tx.RoomByNID(m.Room)
		if err != nil {
			return nil, err
		}
		if found {
			out[int64(m.Room)] = row.RoomID
		}
	}
	return out, nil
}

func (b *builder) accountData() error {
	var rows []storage.AccountDatum
	var ids map[int64]string
	err := b.read(func(tx *storage.Tx) (err error) {
		if ids, err = b.roomIDs(tx); err != nil {
			return err
		}
		if rows, err = tx.AccountDataSince(b.user, 0, math.MaxInt64); err != nil {
			return err
		}
		rows, err = b.withoutGoneMarkers(tx, rows)
		return err
	})
	if err != nil {
		return err
	}
	return b.out.Value("account_data.json", objects(rows, func(d storage.AccountDatum) object {
		o := object{"type": d.Type, "content": asJSON(d.Content)}
		if d.Room != 0 {
			o["room_id"] = ids[int64(d.Room)]
		}
		return o
	}))
}

// withoutGoneMarkers removes the read markers that name messages that have expired.
func (b *builder) withoutGoneMarkers(tx *storage.Tx, rows []storage.AccountDatum) ([]storage.AccountDatum, error) {
	var refs []storage.EventRef
	marked := func(d storage.AccountDatum) storage.EventRef {
		var marker struct {
			Event string `json:"event_id"`
		}
		_ = json.Unmarshal([]byte(d.Content), &marker) // a marker without an event names none
		return storage.EventRef{Room: d.Room, EventID: marker.Event}
	}
	for _, d := range rows {
		if d.Room != 0 && d.Type == rooms.FullyRead {
			refs = append(refs, marked(d))
		}
	}
	gone, err := b.s.opts.Rooms.GoneEvents(b.ctx, tx, refs)
	return slices.DeleteFunc(rows, func(d storage.AccountDatum) bool { return d.Type == rooms.FullyRead && gone[marked(d)] }), err
}

func (b *builder) pushRules() error {
	var rules json.RawMessage
	err := b.read(func(tx *storage.Tx) error {
		r, found, err := tx.PushRules(b.user)
		if found {
			rules = asJSON(r.JSON)
		}
		return err
	})
	if err != nil {
		return err
	}
	return b.out.Value("push_rules.json", rules)
}

func (b *builder) pushers() error {
	var rows []storage.PusherRow
	err := b.read(func(tx *storage.Tx) (err error) { rows, err = tx.UserPushers(b.user); return err })
	if err != nil {
		return err
	}
	return b.out.Value("pushers.json", objects(rows, func(p storage.PusherRow) object {
		return object{
			"kind": p.Kind, "app_id": p.AppID, "pushkey": p.Pushkey, "app_display_name": p.AppName, "device_display_name": p.DeviceName, "lang": p.Lang,
			"profile_tag": p.ProfileTag, "data": asJSON(p.Data), "enabled": p.Enabled, "updated": moment(p.UpdatedTS),
		}
	}))
}

// rooms lists the rooms of the user, with the event by which the user joined, was invited, left or was banned, whoever
// has sent it.
func (b *builder) rooms() error {
	return b.out.Items("rooms.json", func(item func(json.RawMessage) error) error {
		var invites map[ident.RoomNID]string
		if err := b.read(func(tx *storage.Tx) (err error) { invites, err = tx.StrippedStates(b.user); return err }); err != nil {
			return err
		}
		for part := range slices.Chunk(b.members, page) {
			forms, err := b.memberEvents(part)
			if err != nil {
				return err
			}
			for i, o := range forms {
				if o == nil {
					continue
				}
				if text := invites[part[i].Room]; text != "" {
					o["state_shown_with_invite"] = asJSON(text)
				}
				raw, err := json.Marshal(o)
				if err == nil {
					err = item(raw)
				}
				if err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// memberEvents describes memberships, in the same order.
func (b *builder) memberEvents(members []rooms.RoomMembership) ([]object, error) {
	positions := make([]storage.Pos, len(members))
	for i, m := range members {
		positions[i] = m.Position
		b.e.contents.add(m.Room, m.Position, true, 0, 0)
	}
	events := map[storage.Pos]storage.EventRow{}
	err := b.read(func(tx *storage.Tx) error {
		rows, err := tx.EventsAt(positions)
		for _, row := range rows {
			events[row.Position] = row
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	forms := make([]object, len(members))
	for i, m := range members {
		room, err := b.s.opts.Rooms.RoomByNID(b.ctx, m.Room)
		if errors.Is(err, rooms.ErrNoRoom) { // it was removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		forms[i] = object{"room_id": room.ID(), "membership": m.Membership, "forgotten": m.Forgotten}
		if row, found := events[m.Position]; found && row.Flags&storage.RejectedEvent == 0 {
			e, err := room.LoadEvent(&row)
			if err != nil {
				return nil, err
			}
			forms[i]["member_event"] = json.RawMessage(e.Form(false))
		}
	}
	return forms, nil
}

func (b *builder) receipts() error {
	return b.out.Items("receipts.json", func(item func(json.RawMessage) error) error {
		for _, m := range b.members {
			var rows []storage.SyncReceipt
			var id string
			err := b.read(func(tx *storage.Tx) error {
				room, _, err := tx.RoomByNID(m.Room)
				if err != nil {
					return err
				}
				id = room.RoomID
				if rows, err = tx.OwnReceipts(m.Room, b.user, math.MaxInt64); err != nil {
					return err
				}
				refs := make([]storage.EventRef, len(rows))
				for i, r := range rows {
					refs[i] = storage.EventRef{Room: m.Room, EventID: r.EventID}
				}
				gone, err := b.s.opts.Rooms.GoneEvents(b.ctx, tx, refs)
				rows = slices.DeleteFunc(rows, func(r storage.SyncReceipt) bool { return gone[storage.EventRef{Room: m.Room, EventID: r.EventID}] })
				return err
			})
			if err != nil {
				return err
			}
			for _, r := range rows {
				raw, err := json.Marshal(object{"room_id": id, "type": r.Type, "thread_id": r.Thread, "event_id": r.EventID, "ts": moment(r.TS)})
				if err != nil {
					return err
				}
				if err := item(raw); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// signIns writes how and with what the user has signed in, without secrets.
func (b *builder) signIns() error {
	return b.personal("sign_ins.json", storage.SignIns, nil)
}

// other writes what other small tables have.
func (b *builder) other() error {
	return b.personal("other.json", storage.OtherData, func(tx *storage.Tx, all object) error {
		requests, err := tx.OwnRedactions(b.user, most)
		if err != nil {
			return err
		}
		all["requests_to_delete_messages"] = objects(requests, func(o storage.OwnRedaction) object {
			return object{"room_id": o.RoomID, "older_than": moment(o.Before), "reason": o.Reason, "daily": o.Daily, "deleted": o.Redacted + o.Removed, "finished": moment(o.FinishedTS)}
		})
		if all["requests_to_delete_related_messages"], err = b.relatedRedactions(tx); err != nil {
			return err
		}
		all["threads"], err = b.threads(tx)
		return err
	})
}

// personal writes a file with the small tables of a kind, and what more adds.
func (b *builder) personal(name string, of []storage.PersonalTable, more func(*storage.Tx, object) error) error {
	all := object{}
	err := b.read(func(tx *storage.Tx) error {
		for _, t := range of {
			rows, err := tx.PersonalRows(t, b.user, most)
			if err != nil {
				return err
			}
			all[t.Kind] = objects(rows, func(row storage.PersonalRow) object { return personalObject(row) })
		}
		if more == nil {
			return nil
		}
		return more(tx, all)
	})
	if err != nil {
		return err
	}
	return b.out.Value(name, all)
}

// personalObject returns the form of a row, with JSON as it is and times as such.
func personalObject(row storage.PersonalRow) object {
	o := object{}
	for name, v := range row {
		switch v := v.(type) {
		case int64:
			o[strings.TrimSuffix(name, "_ts")] = moment(v)
		case string:
			o[name] = v
			if strings.HasPrefix(v, "{") {
				o[name] = asJSON(v)
			}
		}
	}
	return o
}

// relatedRedactions returns the user's redactions of related events that are not carried out yet.
func (b *builder) relatedRedactions(tx *storage.Tx) ([]object, error) {
	list := []object{}
	for after, more := storage.Pos(0), true; more; {
		rows, err := tx.RelatedRedactionsOf(b.user, after, page)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			after = r.Position
			list = append(list, object{"room_id": r.RoomID, "event_id": r.EventID, "rel_types": asJSON(r.RelTypes), "reason": r.Reason})
		}
		more = len(rows) == page
	}
	return list, nil
}

// threads returns the threads to which the user has subscribed or unsubscribed, without those whose roots have expired.
func (b *builder) threads(tx *storage.Tx) ([]object, error) {
	rows, err := tx.FollowedThreads(b.user, most)
	if err != nil {
		return nil, err
	}
	refs := make([]storage.EventRef, len(rows))
	for i, r := range rows {
		refs[i] = r.EventRef
	}
	gone, err := b.s.opts.Rooms.GoneEvents(b.ctx, tx, refs)
	rows = slices.DeleteFunc(rows, func(t storage.FollowedThread) bool { return gone[t.EventRef] })
	return objects(rows, func(t storage.FollowedThread) object {
		return object{"room_id": t.RoomID, "root": t.EventID, "subscribed": t.State != storage.Unsubscribed, "automatic": t.State == storage.SubscribedAutomatically}
	}), err
}

// delayed lists delayed events without their content: it must not outlive the message, which is sent or cancelled while
// the export can be downloaded.
func (b *builder) delayed() error {
	var list []storage.DelayedEvent
	err := b.read(func(tx *storage.Tx) error {
		scheduled, err := tx.ScheduledEvents(b.user, most)
		if err != nil {
			return err
		}
		finalised, err := tx.FinalisedEvents(b.user, most)
		list = append(scheduled, finalised...)
		return err
	})
	if err != nil {
		return err
	}
	return b.out.Value("delayed_events.json", objects(list, func(d storage.DelayedEvent) object {
		o := object{"delay_id": d.DelayID, "room_id": d.RoomID, "type": d.Type, "scheduled": moment(d.ScheduledTS), "send": moment(d.SendTS)}
		if d.StateKey != nil {
			o["state_key"] = *d.StateKey
		}
		if d.FinalisedTS != 0 {
			o["finalised"], o["error"] = moment(d.FinalisedTS), asJSON(d.Error)
		}
		return o
	}))
}

func (b *builder) reports() error {
	list := []object{}
	for after, more := int64(0), true; more; {
		var rows []storage.Report
		err := b.read(func(tx *storage.Tx) (err error) { rows, err = tx.ReportsOf(b.user, after, page); return err })
		if err != nil {
			return err
		}
		for _, r := range rows {
			list = append(list, object{"time": moment(r.TS), "room_id": r.Room, "event_id": r.Event, "user_id": r.User, "reason": r.Reason})
		}
		if more = len(rows) == page; more {
			after = rows[len(rows)-1].NID
		}
	}
	return b.out.Value("reports.json", list)
}

// audit writes the records of the audit log that name the user, with the networks that acted.
func (b *builder) audit() error {
	return b.out.Items("audit.json", func(item func(json.RawMessage) error) error {
		for after, more := int64(0), true; more; {
			var rows []storage.AuditRow
			err := b.read(func(tx *storage.Tx) (err error) { rows, err = tx.AuditAfter(after, page); return err })
			if err != nil {
				return err
			}
			for _, r := range rows {
				if !b.named(r.Kind, r.Body) {
					continue
				}
				raw, err := json.Marshal(object{"time": moment(r.TS), "kind": r.Kind, "details": asJSON(r.Body), "networks": asJSON(r.Networks)})
				if err != nil {
					return err
				}
				if err := item(raw); err != nil {
					return err
				}
			}
			if more = len(rows) == page; more {
				after = rows[len(rows)-1].Seq
			}
		}
		return nil
	})
}

// named reports whether a record of the audit log is about the user. Records of legal holds are not: the
// administrators decide whom to tell about a hold (package holds).
func (b *builder) named(kind, body string) bool {
	if strings.Contains(kind, "legal hold") || strings.HasPrefix(kind, "command: hold ") {
		return false
	}
	local, _, _ := strings.Cut(strings.TrimPrefix(string(b.e.user), "@"), ":")
	if !strings.Contains(body, local) {
		return false
	}
	var members map[string]string
	if json.Unmarshal([]byte(body), &members) != nil {
		return false
	}
	user := members["user"] // commands name it as the administrator has typed it
	return user == string(b.e.user) || user == local || user == "@"+local
}
