package feed

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// slidingExtensions is the part "extensions" of a request: what the client wants in addition to rooms.
type slidingExtensions struct {
	ToDevice    toDeviceExtension `json:"to_device"`
	E2EE        extension         `json:"e2ee"`
	AccountData roomsExtension    `json:"account_data"`
	Receipts    roomsExtension    `json:"receipts"`
	Typing      roomsExtension    `json:"typing"`
	Threads     threadsExtension  `json:"io.element.msc4308.thread_subscriptions"`
	Profiles    profilesExtension `json:"org.matrix.msc4262.profiles"`
	Sticky      stickyExtension   `json:"org.matrix.msc4354.sticky_events"`
}

// slidingExtensionTable lists the extensions in the order in which they are written. write appends the value, and
// returns false if the answer needs none.
var slidingExtensionTable = []struct {
	name  string
	on    func(*slidingExtensions) bool
	write func(*slidingBuilder, context.Context) (bool, error)
}{
	{"to_device", func(x *slidingExtensions) bool { return x.ToDevice.on() }, (*slidingBuilder).writeToDevice},
	{"e2ee", func(x *slidingExtensions) bool { return x.E2EE.on() }, (*slidingBuilder).writeE2EE},
	{"account_data", func(x *slidingExtensions) bool { return x.AccountData.on() }, (*slidingBuilder).writeAccountData},
	{"receipts", func(x *slidingExtensions) bool { return x.Receipts.on() }, (*slidingBuilder).writeReceipts},
	{"typing", func(x *slidingExtensions) bool { return x.Typing.on() }, (*slidingBuilder).writeTyping},
	{"io.element.msc4308.thread_subscriptions", func(x *slidingExtensions) bool { return x.Threads.on() }, (*slidingBuilder).writeThreads},
	{"org.matrix.msc4262.profiles", func(x *slidingExtensions) bool { return x.Profiles.on() }, (*slidingBuilder).writeProfileUpdates},
	{"org.matrix.msc4354.sticky_events", func(x *slidingExtensions) bool { return x.Sticky.on() }, (*slidingBuilder).writeStickyEvents},
}

// extension is an extension without further settings.
type extension struct {
	Enabled *bool `json:"enabled"`
}

func (x *extension) on() bool { return x.Enabled != nil && *x.Enabled }

// toDeviceExtension is MSC3885.
type toDeviceExtension struct {
	extension
	Since *string `json:"since"`
	Limit *int64  `json:"limit"`

	since storage.Pos
}

// roomsExtension is an extension that concerns rooms: those in Lists and those in Rooms. A nil list stands for all.
type roomsExtension struct {
	extension
	Lists *[]string `json:"lists"`
	Rooms *[]string `json:"rooms"`
}

// covers reports whether the extension concerns a room.
func (x *roomsExtension) covers(r *slidingRoom) bool {
	if !x.on() || r.want == nil {
		return false
	}
	if x.Rooms == nil || slices.Contains(*x.Rooms, "*") || slices.Contains(*x.Rooms, string(r.room.ID())) {
		return true
	}
	if x.Lists == nil || slices.Contains(*x.Lists, "*") {
		return len(r.want.lists) > 0
	}
	return anyOf(r.want.lists, *x.Lists)
}

// maxSlidingToDevice bounds the to-device messages of one answer. It is also the number that applies if the request has
// no limit.
const maxSlidingToDevice = 100

// parse checks the settings.
func (x *slidingExtensions) parse() error {
	if x.Profiles.Fields != nil && len(*x.Profiles.Fields) > maxFilterList {
		return mxerr.InvalidParam("fields of profiles must have at most %d entries", maxFilterList)
	}
	for _, e := range []*roomsExtension{&x.AccountData, &x.Receipts, &x.Typing, &x.Profiles.roomsExtension} {
		for _, list := range []*[]string{e.Lists, e.Rooms} {
			if list != nil && len(*list) > maxFilterList {
				return mxerr.InvalidParam("lists and rooms of an extension must have at most %d entries", maxFilterList)
			}
		}
	}
	if t := &x.ToDevice; t.Since != nil {
		since, err := strconv.ParseInt(*t.Since, 10, 64)
		if err != nil || since < 0 {
			return mxerr.InvalidParam("since of to_device is not a token from this server")
		}
		t.since = storage.Pos(since)
	}
	return x.Sticky.parse()
}

func (x *toDeviceExtension) limit() int {
	if x.Limit == nil {
		return maxSlidingToDevice
	}
	return int(min(max(*x.Limit, 1), maxSlidingToDevice))
}

// acknowledgeSliding deletes the to-device messages that the client confirms. On a full disk they stay until the next
// ones are confirmed, so that reading goes on.
func (s *Service) acknowledgeSliding(ctx context.Context, r *slidingRun) error {
	t := &r.extensions.ToDevice
	if t.since <= s.opts.DB.Settled() { // else it is from a database that was restored from an older backup
		r.confirmed = t.since
	}
	if s.opts.E2EE == nil || r.DeviceNID == 0 || !t.on() || r.confirmed == 0 {
		return nil
	}
	c := r.conn
	c.mu.Lock()
	delivered := c.look.delivered
	c.mu.Unlock()
	if delivered == 0 {
		return nil
	}
	if err := s.opts.E2EE.AckToDevice(ctx, r.DeviceNID, r.confirmed); err != nil && !errors.Is(err, storage.ErrFull) {
		return err
	}
	if r.confirmed >= delivered {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.look.delivered == delivered {
			c.look.delivered = 0
		}
	}
	return nil
}

// ownSliding looks up the news of the user and the device, unless it is known that there are none. own is the count of
// their news (wake.Sub.News) that was read before upTo.
func (b *slidingBuilder) ownSliding(ctx context.Context, own uint64) error {
	x := &b.run.extensions
	b.toDevice, b.delivered, b.keys = b.run.confirmed, b.look.delivered, b.look.counts
	if x.ToDevice.Since == nil {
		b.toDevice = b.upTo
	}
	if !x.AccountData.on() && b.change.data {
		b.change.data, b.change.changed = false, true // what changes from now on is not sent
	}
	b.noteProfileFields()
	now, _ := b.session.sub.News()
	if b.initial || own != now || !b.look.covers(b.session, b.run.wants, b.since.Pos, own) {
		if err := b.read(ctx, func(tx *storage.Tx) error { return b.readOwn(ctx, tx) }); err != nil {
			return err
		}
	}
	if !x.E2EE.on() && !x.Profiles.on() {
		return nil
	}
	return b.sharingNews(ctx)
}

// readOwn reads the news of the user and the device.
func (b *slidingBuilder) readOwn(ctx context.Context, tx *storage.Tx) (err error) {
	if x := &b.run.extensions.Threads; x.on() {
		if b.threads, err = b.threadSubscriptions(ctx, tx, b.UserNID, b.since.Pos, b.upTo, x.limit()); err != nil {
			return err
		}
	}
	if b.run.extensions.AccountData.on() {
		if err := b.ownAccountData(ctx, tx); err != nil {
			return err
		}
	}
	if b.opts.E2EE == nil || b.DeviceNID == 0 {
		return nil
	}
	if err := b.ownKeys(tx); err != nil {
		return err
	}
	return b.ownMessages(tx)
}

// ownAccountData reads the account data that is new to the client: all global data if the client has none.
func (b *slidingBuilder) ownAccountData(ctx context.Context, tx *storage.Tx) (err error) {
	if !b.initial {
		if err := b.accountData(ctx, tx); err != nil {
			return err
		}
	}
	if b.change.data {
		return nil
	}
	b.change.data, b.change.changed = true, true
	if b.own.accountData, err = b.allData(ctx, tx, []ident.RoomNID{0}); err != nil || b.opts.Push == nil {
		return err
	}
	rules, _, err := b.opts.Push.RulesSince(tx, b.UserNID, 0, b.upTo)
	b.own.accountData = append(b.own.accountData, storage.AccountDatum{Type: "m.push_rules", Content: string(rules)})
	return err
}

// ownKeys reads the key counts, and the users whose devices have changed.
func (b *slidingBuilder) ownKeys(tx *storage.Tx) (err error) {
	if !b.run.extensions.E2EE.on() {
		return nil
	}
	if !b.initial {
		if b.own.deviceChanges, err = b.opts.E2EE.DeviceListChanges(tx, b.UserNID, b.since.Pos, b.upTo); err != nil {
			return err
		}
	}
	counts, err := b.keyCounts(tx)
	b.keys = string(counts)
	return err
}

// ownMessages reads the to-device messages.
func (b *slidingBuilder) ownMessages(tx *storage.Tx) error {
	t := &b.run.extensions.ToDevice
	if !t.on() {
		return nil
	}
	messages, err := b.opts.E2EE.ToDevice(tx, b.DeviceNID, b.run.confirmed, b.upTo, t.limit())
	if err != nil {
		return err
	}
	if n := len(messages); n > 0 {
		b.toDevice, b.delivered = messages[n-1].Position, max(b.delivered, messages[n-1].Position)
	} else if b.delivered < 0 {
		b.delivered = 0
	}
	b.own.toDevice = messages
	return nil
}

// writeExtensions appends the extensions that the client wants.
func (b *slidingBuilder) writeExtensions(ctx context.Context) error {
	b.out = append(b.out, `"extensions":{`...)
	body := len(b.out)
	for _, x := range slidingExtensionTable {
		if !x.on(&b.run.extensions) {
			continue
		}
		mark := len(b.out)
		b.key(x.name)
		some, err := x.write(b, ctx)
		if err != nil {
			return err
		}
		if b.out = append(b.out, ','); !some {
			b.out = b.out[:mark]
		}
	}
	if len(b.out) > body {
		b.out = b.out[:len(b.out)-1]
	}
	b.out = append(b.out, `},`...)
	return nil
}

// appendIdle appends the extensions of an answer without news.
func (x *slidingExtensions) appendIdle(dst []byte, l *slidingLook) []byte {
	dst = append(dst, `"extensions":{`...)
	if x.ToDevice.on() {
		dst = appendToDevice(dst, l.toDevice, nil)
	}
	if x.E2EE.on() && l.counts != "" {
		if x.ToDevice.on() {
			dst = append(dst, ',')
		}
		dst = append(dst, `"e2ee":{`...)
		dst = append(dst, l.counts...)
		dst = append(dst, '}')
	}
	return append(dst, `},`...)
}

// writeToDevice appends the to-device messages and next_batch. Without messages there is still a next_batch.
func (b *slidingBuilder) writeToDevice(context.Context) (bool, error) {
	b.some = b.some || len(b.own.toDevice) > 0
	b.out = appendToDeviceValue(b.out, b.toDevice, b.own.toDevice)
	return true, nil
}

func appendToDevice(dst []byte, next storage.Pos, messages []storage.ToDevice) []byte {
	return appendToDeviceValue(append(dst, `"to_device":`...), next, messages)
}

func appendToDeviceValue(dst []byte, next storage.Pos, messages []storage.ToDevice) []byte {
	dst = append(dst, `{"next_batch":"`...)
	dst = strconv.AppendInt(dst, int64(next), 10)
	dst = append(dst, `","events":[`...)
	for i, m := range messages {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, m.JSON...)
	}
	return append(dst, `]}`...)
}

// writeE2EE appends the key counts, and the users whose devices have changed.
func (b *slidingBuilder) writeE2EE(context.Context) (bool, error) {
	b.out = append(b.out, '{')
	if len(b.own.changed)+len(b.own.left) > 0 {
		b.some = true
		b.out = append(b.out, `"device_lists":{"changed":`...)
		b.out = appendStrings(b.out, b.own.changed)
		b.out = append(b.out, `,"left":`...)
		b.out = appendStrings(b.out, b.own.left)
		b.out = append(b.out, '}')
	}
	if b.keys != "" {
		if b.out[len(b.out)-1] != '{' {
			b.out = append(b.out, ',')
		}
		b.out = append(b.out, b.keys...)
		b.some = b.some || b.look.counts != "" && b.look.counts != b.keys
	}
	b.out = append(b.out, '}')
	return true, nil
}

// writeAccountData appends the user's account data, global and of rooms.
func (b *slidingBuilder) writeAccountData(ctx context.Context) (bool, error) {
	fresh, err := b.roomDataOf(ctx, b.noteData())
	if err != nil {
		return false, err
	}
	x := &b.run.extensions.AccountData
	b.out = append(b.out, `{"global":[`...)
	for _, d := range b.own.accountData {
		b.out = appendDatum(b.list(), d)
	}
	some := len(b.own.accountData) > 0
	b.out = append(b.out, `],"rooms":{`...)
	for i := 0; len(fresh)+len(b.own.roomData) > 0 && i < len(b.rooms); i++ {
		r := &b.rooms[i]
		list, isFresh := fresh[r.Room]
		if !isFresh {
			list = b.own.roomData[r.Room]
		}
		if len(list) == 0 || !x.covers(r) {
			continue
		}
		some = true
		b.roomKey(r.room.ID())
		b.out = append(b.out, '[')
		for _, d := range list {
			b.out = appendDatum(b.list(), d)
		}
		b.out = append(b.out, ']')
	}
	b.out = append(b.out, `}}`...)
	b.some = b.some || some
	return some, nil
}

// noteData records, for each room, whether the client will have the user's account data of the room after this answer.
// It returns the rooms of which the client has none yet and so gets all of it.
func (b *slidingBuilder) noteData() (fresh []ident.RoomNID) {
	x := &b.run.extensions.AccountData
	for i := range b.rooms {
		r := &b.rooms[i]
		has := r.work != nil && r.work.next.data || r.work == nil && r.sent >= 0 && b.change.rooms[r.sent].data
		switch wants := r.stage == stageJoined && x.covers(r); {
		case wants && !has:
			fresh = append(fresh, r.Room)
			b.workOn(r).next.data = true
		case has && !wants && len(b.own.roomData[r.Room]) > 0:
			b.workOn(r).next.data = false
		}
	}
	return fresh
}

// allData reads all account data of the given rooms. It includes deleted entries, since the client may have them,
// unless this is the first answer of a connection.
func (b *slidingBuilder) allData(ctx context.Context, tx *storage.Tx, nids []ident.RoomNID) ([]storage.AccountDatum, error) {
	list, err := tx.RoomsAccountData(b.UserNID, nids, b.upTo)
	if err != nil {
		return nil, err
	}
	if list, err = b.opts.AccountData.WithoutGoneMarkers(ctx, tx, list); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(d storage.AccountDatum) bool { return b.initial && d.Content == storage.DeletedAccountData }), nil
}

// roomDataOf reads all account data of rooms. Each of them has an entry in the result.
func (b *slidingBuilder) roomDataOf(ctx context.Context, nids []ident.RoomNID) (map[ident.RoomNID][]storage.AccountDatum, error) {
	if len(nids) == 0 {
		return nil, nil
	}
	byRoom := make(map[ident.RoomNID][]storage.AccountDatum, len(nids))
	for _, nid := range nids {
		byRoom[nid] = nil
	}
	err := b.read(ctx, func(tx *storage.Tx) error {
		list, err := b.allData(ctx, tx, nids)
		for _, d := range list {
			byRoom[d.Room] = append(byRoom[d.Room], d)
		}
		return err
	})
	return byRoom, err
}

// roomKey appends the ID of a room as a key of the open object, after a comma if it is not the first key.
func (b *slidingBuilder) roomKey(room id.RoomID) {
	if b.out[len(b.out)-1] != '{' {
		b.out = append(b.out, ',')
	}
	b.key(string(room))
}

// writeReceipts appends the receipts that were gathered with the rooms.
func (b *slidingBuilder) writeReceipts(context.Context) (bool, error) {
	x := &b.run.extensions.Receipts
	b.out = append(b.out, `{"rooms":{`...)
	some := false
	for i := range b.rooms {
		r := b.rooms[i].work
		if r == nil || len(r.receipts) == 0 || !x.covers(r.slidingRoom) {
			continue
		}
		some = true
		b.roomKey(r.room.ID())
		b.out = appendReceiptEvent(b.out, onePerUser(r.receipts))
	}
	b.out = append(b.out, `}}`...)
	b.some = b.some || some
	return some, nil
}

// onePerUser sorts receipts in the order that appendReceiptEvent needs. If a user has several receipts at one event,
// for different threads, it keeps only the one that covers most: an unthreaded one, or else one for the main timeline.
func onePerUser(receipts []storage.SyncReceipt) []storage.SyncReceipt {
	rank := func(r storage.SyncReceipt) int {
		switch r.Thread {
		case "":
			return 0
		case "main":
			return 1
		}
		return 2
	}
	slices.SortStableFunc(receipts, func(a, b storage.SyncReceipt) int {
		if c := byEventTypeUser(a, b); c != 0 {
			return c
		}
		return rank(a) - rank(b)
	})
	return slices.CompactFunc(receipts, func(a, b storage.SyncReceipt) bool { return byEventTypeUser(a, b) == 0 })
}

// writeTyping appends the lists of users who are typing.
func (b *slidingBuilder) writeTyping(context.Context) (bool, error) {
	x := &b.run.extensions.Typing
	b.out = append(b.out, `{"rooms":{`...)
	some := false
	for i := range b.rooms {
		r := &b.rooms[i]
		if r.stage != stageJoined || !x.covers(r) {
			continue
		}
		list, changed := b.typed.rooms[r.Room]
		if !changed && (r.work != nil && r.work.fresh || r.since < b.since.Pos) {
			list = b.Service.typing.current(r.Room)
			changed = len(list) > 0
		}
		if !changed && !b.typed.rest {
			continue
		}
		some = true
		b.roomKey(r.room.ID())
		b.out = appendTyping(b.out, slices.DeleteFunc(list, func(w typist) bool { return !r.room.MayBeJoined(w.user) || b.ignores(w.user) }))
	}
	b.out = append(b.out, `}}`...)
	b.some = b.some || some
	return some, nil
}
