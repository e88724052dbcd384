package appservice

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/history"
	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// These constants bound the news about devices in one transaction.
const (
	maxToDevice    = 100    // to-device messages
	maxListChanges = 200    // users whose device lists changed
	maxNoted       = 5000   // users whose one-time keys are counted; others are counted when they have news again
	maxCounts      = 20_000 // devices whose last reported key counts are kept in memory
)

// deviceNews is the part of a transaction about to-device messages, device lists and keys.
type deviceNews struct {
	toDevice      []json.RawMessage
	changed, left []string
	counts        map[string]map[string]map[string]int64 // user → device → algorithm
	fallback      map[string]map[string][]string         // user → device → algorithms of unused fallback keys
}

func (n *deviceNews) empty() bool {
	return len(n.toDevice)+len(n.changed)+len(n.left)+len(n.counts) == 0
}

// append appends the fields of a transaction that contain device news, under their unstable names. Those are the only
// ones that all bridges read: mautrix reads them too, and matrix-appservice-node and matrix-bot-sdk know no others. The
// counts of one-time keys have two unstable names, as in transactions of Synapse.
func (n *deviceNews) append(b []byte) []byte {
	if len(n.toDevice) > 0 {
		b = appendMember(b, n.toDevice, "de.sorunome.msc2409.to_device")
	}
	if len(n.changed)+len(n.left) > 0 {
		lists := map[string][]string{"changed": nonNil(n.changed), "left": nonNil(n.left)}
		b = appendMember(b, lists, "org.matrix.msc3202.device_lists")
	}
	if len(n.counts) > 0 {
		b = appendMember(b, n.counts, "org.matrix.msc3202.device_one_time_keys_count", "org.matrix.msc3202.device_one_time_key_counts")
		b = appendMember(b, n.fallback, "org.matrix.msc3202.device_unused_fallback_key_types")
	}
	return b
}

// nonNil replaces a nil list by an empty one, so that JSON has [] instead of null.
func nonNil(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

// NoteNews records that users may have new to-device messages, devices or keys. It is called in the committer for every
// local user with news. A call without users means that many users have news.
func (s *Service) NoteNews(users ...ident.UserNID) {
	for _, w := range s.working() {
		if a := w.app.Load(); !a.Ephemeral && !a.Encryption {
			continue
		}
		w.mu.Lock()
		w.anyNews = true
		for _, user := range users {
			if len(w.noted) < maxNoted {
				w.noted[user] = true
			}
		}
		w.mu.Unlock()
		w.signal()
	}
}

// takeNoted returns the users recorded by NoteNews since the last call, and reports whether there was any news.
func (w *worker) takeNoted() (users []ident.UserNID, any bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	users, any = slices.Collect(maps.Keys(w.noted)), w.anyNews
	clear(w.noted)
	w.anyNews = false
	return users, any
}

// deviceNews collects the device news for the next transaction t. It adds the part that has to be stored to t.about.
func (w *worker) deviceNews(ctx context.Context, t *transaction, events []history.AppEvent) (news deviceNews, err error) {
	a := w.app.Load()
	w.mu.Lock()
	t.about.Devices = w.row.Devices
	w.mu.Unlock()
	noted, any := w.takeNoted()
	if any || w.more {
		if err := w.findDeviceNews(ctx, a, t); err != nil {
			return news, err
		}
	}
	if a.Encryption {
		if err := w.membersChanged(ctx, t, events); err != nil {
			return news, err
		}
	}
	if news, err = w.readNews(ctx, t.about); err != nil || !a.Encryption {
		return news, err
	}
	return news, w.countKeys(ctx, a, &news, noted)
}

// findDeviceNews finds to-device messages and device list changes since the last transaction, and records them in the
// transaction t.
func (w *worker) findDeviceNews(ctx context.Context, a *app, t *transaction) error {
	since := t.about.Devices
	w.more, t.about.Devices = false, w.svc.opts.DB.Announced()
	if err := w.findToDevice(ctx, t, since); err != nil {
		return err
	}
	if a.Encryption {
		return w.findListChanges(ctx, t, since)
	}
	return nil
}

// findToDevice finds to-device messages for the application service's users, in the order of their arrival.
func (w *worker) findToDevice(ctx context.Context, t *transaction, since storage.Pos) error {
	a := w.app.Load()
	return w.svc.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.ToDeviceOfAll(since, t.about.Devices, maxToDevice)
		for _, row := range rows {
			if a.ownsID(row.User) {
				t.about.ToDevice = append(t.about.ToDevice, row.Position)
			}
		}
		if len(rows) == maxToDevice {
			t.about.Devices, w.more = rows[len(rows)-1].Position, true
		}
		return err
	})
}

// findListChanges finds the users whose device lists changed.
func (w *worker) findListChanges(ctx context.Context, t *transaction, since storage.Pos) error {
	var rows []storage.ListChange
	err := w.svc.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.DeviceListChangesOfAll(since, t.about.Devices, maxListChanges)
		return err
	})
	if err != nil {
		return err
	}
	if len(rows) == maxListChanges {
		t.about.Devices, w.more = rows[len(rows)-1].Position, true
		t.about.ToDevice = slices.DeleteFunc(t.about.ToDevice, func(p storage.Pos) bool { return p > t.about.Devices })
	}
	for _, row := range rows {
		shared, err := w.shares(ctx, row.UserNID, row.User)
		if err != nil {
			return err
		}
		if shared {
			t.about.Changed = append(t.about.Changed, row.User)
		}
	}
	return nil
}

// shares reports whether a user belongs to the application service or is in a room that concerns it.
func (w *worker) shares(ctx context.Context, nid ident.UserNID, user string) (yes bool, err error) {
	a := w.app.Load()
	if a.ownsID(user) {
		return true, nil
	}
	known := w.known.Load()
	err = w.svc.opts.Rooms.EachJoined(ctx, nid, func(r *rooms.Room) { yes = yes || a.concernsNow(known, r) })
	return yes, err
}

// memberEvent holds the parts of an event that membersChanged reads.
type memberEvent struct {
	Type     string  `json:"type"`
	StateKey *string `json:"state_key"`
	Content  member  `json:"content"`
	Unsigned struct {
		Before member `json:"prev_content"`
	} `json:"unsigned"`
}

type member struct {
	Membership string `json:"membership"`
}

// membersChanged adds the users of member events to t: a user who has joined to the changed users, and a user who has
// left to the left users unless a room is still shared.
func (w *worker) membersChanged(ctx context.Context, t *transaction, events []history.AppEvent) error {
	changed, left := map[string]bool{}, map[string]bool{}
	for _, user := range t.about.Changed {
		changed[user] = true
	}
	for _, e := range events {
		var m memberEvent
		if json.Unmarshal(e.JSON, &m) != nil || m.Type != typeMember || m.StateKey == nil || m.Content == m.Unsigned.Before {
			continue
		}
		switch user := *m.StateKey; rooms.Join {
		case m.Content.Membership:
			changed[user] = true
			delete(left, user)
		case m.Unsigned.Before.Membership:
			nid, err := w.svc.opts.Rooms.UserNID(ctx, id.UserID(user))
			if err != nil {
				return err
			}
			shared, err := w.shares(ctx, nid, user)
			if err != nil {
				return err
			}
			if !shared {
				left[user] = true
				delete(changed, user)
			}
		}
	}
	t.about.Changed, t.about.Left = slices.Sorted(maps.Keys(changed)), slices.Sorted(maps.Keys(left))
	return nil
}

// readNews reads the to-device messages that a transaction refers to.
func (w *worker) readNews(ctx context.Context, about about) (news deviceNews, err error) {
	news.changed, news.left = about.Changed, about.Left
	if len(about.ToDevice) == 0 {
		return news, nil
	}
	err = w.svc.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.ToDeviceAt(about.ToDevice)
		for _, row := range rows {
			raw := append([]byte(row.JSON)[:len(row.JSON)-1:len(row.JSON)-1], `,"to_user_id":`...)
			raw = canonjson.AppendString(raw, row.User)
			raw = canonjson.AppendString(append(raw, `,"to_device_id":`...), row.Device)
			news.toDevice = append(news.toDevice, append(raw, '}'))
		}
		return err
	})
	return news, err
}

// countKeys adds the key counts of the users' devices, except for devices whose counts were reported before and are
// unchanged.
func (w *worker) countKeys(ctx context.Context, a *app, news *deviceNews, users []ident.UserNID) error {
	if len(users) == 0 {
		return nil
	}
	return w.svc.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		devices, err := tx.KeyedDevices(users)
		if err != nil {
			return err
		}
		for _, d := range devices {
			if !a.ownsID(d.User) {
				continue
			}
			if err := w.countDevice(tx, news, d); err != nil {
				return err
			}
		}
		return nil
	})
}

func (w *worker) countDevice(tx *storage.Tx, news *deviceNews, d storage.KeyedDevice) error {
	rows, err := tx.CountOneTimeKeys(d.NID)
	if err != nil {
		return err
	}
	unused, err := tx.UnusedFallbackKeys(d.NID)
	if err != nil {
		return err
	}
	counts := map[string]int64{"signed_curve25519": 0}
	for _, r := range rows {
		counts[r.Algorithm] = r.Count
	}
	mark, _ := json.Marshal([]any{counts, unused}) // strings and numbers always encode
	if last, known := w.counted.Get(d.NID); known && last == string(mark) {
		return nil
	}
	w.counted.Put(d.NID, string(mark))
	if news.counts == nil {
		news.counts, news.fallback = map[string]map[string]map[string]int64{}, map[string]map[string][]string{}
	}
	if news.counts[d.User] == nil {
		news.counts[d.User], news.fallback[d.User] = map[string]map[string]int64{}, map[string][]string{}
	}
	news.counts[d.User][d.ID], news.fallback[d.User][d.ID] = counts, nonNil(unused)
	return nil
}
