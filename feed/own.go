package feed

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/storage"
)

// maxToDevice bounds the to-device messages of one answer. If there are more, the token says how far they were sent,
// and the client asks again at once. With 256, a first sync after a burst of key shares stays below a megabyte.
const maxToDevice = 256

// ownNews holds news that belong to the user or the device rather than to a room.
type ownNews struct {
	accountData   []storage.AccountDatum // global
	roomData      map[ident.RoomNID][]storage.AccountDatum
	toDevice      []storage.ToDevice
	deviceChanges []ident.UserNID // users
	changed       []id.UserID     // device lists
	left          []id.UserID
}

// ownNews looks up the news of the user and the device. It reads nothing if there are none since the token. news is the
// count of their news (wake.Sub.News) that was read before upTo.
func (b *builder) ownNews(ctx context.Context, news uint64) error {
	b.next.ToDevice = b.upTo
	now, _ := b.session.sub.News()
	if b.session.quiet(b.since.Pos, now) && b.since.ToDevice == b.since.Pos && !b.initial {
		return nil
	}
	var delivered storage.Pos
	var counts []byte
	err := b.read(ctx, func(tx *storage.Tx) error {
		if err := b.accountData(ctx, tx); err != nil {
			return err
		}
		if b.opts.E2EE == nil || b.DeviceNID == 0 {
			return nil
		}
		var err error
		if !b.initial {
			if b.own.deviceChanges, err = b.opts.E2EE.DeviceListChanges(tx, b.UserNID, b.since.Pos, b.upTo); err != nil {
				return err
			}
		}
		if delivered, err = b.toDevice(tx); err != nil {
			return err
		}
		counts, err = b.keyCounts(tx)
		return err
	})
	if err != nil {
		return err
	}
	if b.countsChanged(counts) {
		b.some = true
	}
	b.session.seen(b.upTo, news, counts, delivered)
	return nil
}

// countsChanged reports whether the given key counts differ from those that the device was sent last.
func (b *builder) countsChanged(counts []byte) bool {
	old := b.session.counts()
	return old != nil && !slices.Equal(old, counts)
}

// accountData reads the user's account data that has changed since the token, including the push rules.
func (b *builder) accountData(ctx context.Context, tx *storage.Tx) error {
	all, err := tx.AccountDataSince(b.UserNID, b.since.Pos, b.upTo)
	if err != nil {
		return err
	}
	if all, err = b.opts.AccountData.WithoutGoneMarkers(ctx, tx, all); err != nil {
		return err
	}
	for _, d := range all {
		if d.Room == 0 {
			b.own.accountData = append(b.own.accountData, d)
			continue
		}
		if b.own.roomData == nil {
			b.own.roomData = map[ident.RoomNID][]storage.AccountDatum{}
		}
		b.own.roomData[d.Room] = append(b.own.roomData[d.Room], d)
	}
	if b.opts.Push == nil {
		return nil
	}
	rules, changed, err := b.opts.Push.RulesSince(tx, b.UserNID, b.since.Pos, b.upTo)
	if err == nil && changed {
		b.own.accountData = append(b.own.accountData, storage.AccountDatum{Type: "m.push_rules", Content: string(rules)})
	}
	return err
}

// toDevice reads the to-device messages for the device, and returns the position of the last one. If there are more
// than the answer may hold, the next token records up to where they were sent.
func (b *builder) toDevice(tx *storage.Tx) (storage.Pos, error) {
	messages, err := b.opts.E2EE.ToDevice(tx, b.DeviceNID, b.since.ToDevice, b.upTo, maxToDevice+1)
	if err != nil || len(messages) == 0 {
		return 0, err
	}
	if len(messages) > maxToDevice {
		messages = messages[:maxToDevice]
		b.next.ToDevice = messages[maxToDevice-1].Position
	}
	b.own.toDevice = messages
	return messages[len(messages)-1].Position, nil
}

// keyCounts encodes the key counts. Every answer has them, because some clients upload no keys unless they see them.
func (b *builder) keyCounts(tx *storage.Tx) ([]byte, error) {
	oneTime, unused, err := b.opts.E2EE.KeyCounts(tx, b.DeviceNID)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(oneTime, func(a, b storage.KeyCount) int { return strings.Compare(a.Algorithm, b.Algorithm) })
	slices.Sort(unused)
	dst := append([]byte(nil), `"device_one_time_keys_count":{`...)
	listed := false
	for i, c := range oneTime {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = canonjson.AppendString(dst, c.Algorithm)
		dst = append(dst, ':')
		dst = strconv.AppendInt(dst, c.Count, 10)
		listed = listed || c.Algorithm == string(id.KeyAlgorithmSignedCurve25519)
	}
	if !listed { // an absent algorithm means zero, but some clients wait for the number
		if len(oneTime) > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `"signed_curve25519":0`...)
	}
	dst = append(dst, `},"device_unused_fallback_key_types":`...)
	types := appendStrings(nil, unused)
	dst = append(dst, types...)
	// Deviation: an answer has both names. SDKs read them as two keys, and SDKs from before Matrix v1.2 know only this
	// one.
	dst = append(dst, `,"org.matrix.msc2732.device_unused_fallback_key_types":`...)
	return append(dst, types...), nil
}

// appendStrings appends a JSON array of strings.
func appendStrings[T ~string](dst []byte, list []T) []byte {
	dst = append(dst, '[')
	for i, s := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = canonjson.AppendString(dst, string(s))
	}
	return append(dst, ']')
}

// writeOwn appends the sections of the user and the device.
func (b *builder) writeOwn() {
	b.section("account_data", func() {
		f := &b.filter.AccountData
		for _, d := range b.own.accountData {
			if f.typ(d.Type) && f.sender(string(b.UserID)) {
				b.out = appendDatum(b.list(), d)
			}
		}
	})
	b.section("to_device", func() {
		for _, m := range b.own.toDevice {
			b.out = append(b.list(), m.JSON...)
		}
	})
	if len(b.own.changed)+len(b.own.left) > 0 {
		b.some = true
		b.out = append(b.out, `"device_lists":{"changed":`...)
		b.out = appendStrings(b.out, b.own.changed)
		b.out = append(b.out, `,"left":`...)
		b.out = appendStrings(b.out, b.own.left)
		b.out = append(b.out, `},`...)
	}
	b.writeCounts()
}

// writeCounts appends the key counts.
func (b *builder) writeCounts() {
	if counts := b.session.counts(); counts != nil {
		b.out = append(b.out, counts...)
		b.out = append(b.out, ',')
	}
}

// appendDatum appends an account data event.
func appendDatum(dst []byte, d storage.AccountDatum) []byte {
	dst = append(dst, `{"content":`...)
	dst = append(dst, d.Content...)
	dst = append(dst, `,"type":`...)
	dst = canonjson.AppendString(dst, d.Type)
	return append(dst, '}')
}
