package feed

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"strings"

	"ebb/history"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// Sticky events (MSC4354) reach every client in the room while they are sticky, even past the end of a timeline. A
// client gets them in the order in which they were stored, like the events of a timeline, and each once unless an
// answer could not hold all.

// maxStickyEvents bounds the sticky events of one answer, besides those in its timelines. The oldest come first, and
// the client asks again at once.
const maxStickyEvents = 100

// stickyQuery selects sticky events: all those of the rooms in the list fresh, and the newer ones of the rooms in the
// list known. An event is newer if its position is greater than after.
type stickyQuery struct {
	fresh, known []ident.RoomNID
	after        storage.Pos
	limit        int
}

// add adds a room to the query if the room may have sticky events that the client does not have.
func (q *stickyQuery) add(b *builder, room *rooms.Room, fresh bool) {
	after := q.after
	if fresh {
		after = 0
	}
	switch {
	case !b.opts.Rooms.Sticky().After(room.NID(), after, b.now.UnixMilli()):
	case fresh:
		q.fresh = append(q.fresh, room.NID())
	default:
		q.known = append(q.known, room.NID())
	}
}

// read reads the events that the query selects, the oldest first and at most q.limit. The client then has all of them
// up to the position upTo.
func (q *stickyQuery) read(ctx context.Context, b *builder) (rows []storage.EventRow, upTo storage.Pos, err error) {
	if upTo = b.upTo; len(q.fresh)+len(q.known) == 0 {
		return nil, upTo, nil
	}
	err = b.read(ctx, func(tx *storage.Tx) error {
		now := b.now.UnixMilli()
		if rows, err = tx.StickyEvents(q.fresh, 0, upTo, now, q.limit+1); err != nil {
			return err
		}
		more, err := tx.StickyEvents(q.known, q.after, upTo, now, q.limit+1)
		rows = append(rows, more...)
		return err
	})
	slices.SortFunc(rows, func(a, b storage.EventRow) int { return cmp.Compare(a.Position, b.Position) })
	if len(rows) > q.limit {
		rows = rows[:q.limit]
		upTo = rows[q.limit-1].Position
	}
	return rows, upTo, err
}

// stickyNews reads the sticky events that are new to the client. Rooms that have some become part of the plan. In rooms
// without sticky events this costs nothing.
func (b *builder) stickyNews(ctx context.Context) error {
	b.next.Sticky = b.upTo
	if !b.opts.Rooms.Sticky().Any() {
		return nil
	}
	q := stickyQuery{after: b.since.Sticky, limit: maxStickyEvents}
	for i, list := 0, b.plan.loaded; i < len(b.plan.all); i++ {
		m := &b.plan.all[i]
		if m.Membership != rooms.Join {
			continue
		}
		if room := list[0]; b.admits(room) && !b.withheld(room) {
			q.add(b, room, b.isFresh(m, room))
		}
		list = list[1:]
	}
	rows, upTo, err := q.read(ctx, b)
	if err != nil || len(rows) == 0 {
		return err
	}
	b.next.Sticky, b.sticky = upTo, map[ident.RoomNID][]storage.EventRow{}
	b.some = b.some || upTo < b.upTo
	for _, row := range rows {
		b.sticky[row.Room] = append(b.sticky[row.Room], row)
	}
	for nid := range b.sticky {
		if err := b.planAlso(ctx, nid); err != nil {
			return err
		}
	}
	return nil
}

// gatherSticky gathers the new sticky events of a room, except those that are in its timeline.
func (b *builder) gatherSticky(ctx context.Context, n *roomNews) error {
	rows := slices.DeleteFunc(b.sticky[n.room.NID()], func(row storage.EventRow) bool {
		return slices.ContainsFunc(n.timeline.events, func(e *rooms.Event) bool { return e.Pos == row.Position })
	})
	if len(rows) == 0 {
		return nil
	}
	events, err := n.room.LoadEvents(rows)
	if err != nil {
		return err
	}
	n.sticky, err = n.timeline.view.Visible(ctx, b.tx, events)
	return err
}

// writeSticky appends the sticky events of a room that are not in its timeline.
// Spec: MSC4354
func (b *builder) writeSticky(ctx context.Context, n *roomNews) error {
	if len(n.sticky) == 0 {
		return nil
	}
	b.out = append(b.out, `"msc4354_sticky":{"events":[`...)
	if err := b.writeEvents(ctx, n.room, &timeline{events: n.sticky, view: n.timeline.view}); err != nil {
		return err
	}
	b.out = append(b.out, `]},`...)
	return nil
}

// stickyExtension is MSC4480.
type stickyExtension struct {
	extension
	Since *string `json:"since"`
	Limit *int64  `json:"limit"`

	since, after storage.Pos // the positions in Since; see stickyToken
}

func (x *stickyExtension) limit() int {
	if x.Limit == nil {
		return maxStickyEvents
	}
	return int(min(max(*x.Limit, 1), maxStickyEvents))
}

const stickyTokenPrefix = "st1_"

// stickyToken returns the next_batch of the sticky events in an answer of sliding sync. pos is the position of the
// answer. after, which may be smaller, is the position up to which the client has all sticky events.
func stickyToken(pos, after storage.Pos) string {
	text := stickyTokenPrefix + strconv.FormatInt(int64(pos), 10)
	if after < pos {
		text += "_" + strconv.FormatInt(int64(after), 10)
	}
	return text
}

// parse parses since.
func (x *stickyExtension) parse() error {
	if x.Since == nil {
		return nil
	}
	rest, _ := strings.CutPrefix(*x.Since, stickyTokenPrefix)
	pos, cut, limited := strings.Cut(rest, "_")
	if !limited {
		cut = pos
	}
	since, err1 := strconv.ParseInt(pos, 10, 64)
	after, err2 := strconv.ParseInt(cut, 10, 64)
	x.since, x.after = storage.Pos(since), storage.Pos(after)
	if err1 != nil || err2 != nil || after < 0 || stickyToken(x.since, x.after) != *x.Since {
		return mxerr.InvalidParam("since of sticky_events is not a token from this server")
	}
	return nil
}

// writeStickyEvents appends the sticky events that are new to the client and not in a timeline of the answer. It
// considers the rooms that are in one of the client's lists, even outside of its ranges, and the rooms to which the
// client subscribes.
func (b *slidingBuilder) writeStickyEvents(ctx context.Context) (bool, error) {
	x := b.run.extensions.Sticky
	if x.since > b.upTo { // of a database that was restored from an older backup
		x.since, x.after = 0, 0
	}
	q := stickyQuery{after: x.after, limit: x.limit()}
	if b.opts.Rooms.Sticky().Any() {
		for i := range b.rooms {
			if r := &b.rooms[i]; r.stage == stageJoined && (r.listed || r.want != nil) {
				q.add(b.builder, r.room, r.JoinedPos > x.since || !r.listed && r.sent < 0)
			}
		}
	}
	rows, upTo, err := q.read(ctx, b.builder)
	if err != nil || len(rows) == 0 && x.Since != nil {
		return false, err
	}
	b.out = append(b.out, `{"rooms":{`...)
	body := len(b.out)
	for i := range b.rooms {
		if err := b.writeStickyRoom(ctx, b.rooms[i].room, rows); err != nil {
			return false, err
		}
	}
	b.stickySent = len(b.out) > body || upTo < b.upTo
	b.some = b.some || b.stickySent
	b.out = append(b.out, `},"next_batch":"`...)
	b.out = append(append(b.out, stickyToken(b.upTo, upTo)...), `"}`...)
	return true, nil
}

// writeStickyRoom appends those events in rows that belong to the given room.
func (b *slidingBuilder) writeStickyRoom(ctx context.Context, room *rooms.Room, rows []storage.EventRow) error {
	var own []storage.EventRow
	for _, row := range rows {
		if row.Room == room.NID() && !slices.Contains(b.stickyShown, row.Position) {
			own = append(own, row)
		}
	}
	if len(own) == 0 {
		return nil
	}
	events, err := room.LoadEvents(own)
	if err != nil {
		return err
	}
	view := b.opts.History.View(room, b.Requester)
	if events, err = view.Visible(ctx, b.tx, events); err != nil || len(events) == 0 {
		return err
	}
	b.roomKey(room.ID())
	b.out = append(b.out, `{"events":[`...)
	b.out, err = view.Append(ctx, b.tx, b.out, events, history.FormOptions{Bundle: true})
	b.out = append(b.out, `]}`...)
	return err
}

// noteSticky records the sticky events in a timeline of the answer, so that they are not sent again.
func (b *slidingBuilder) noteSticky(events []*rooms.Event) {
	if !b.run.extensions.Sticky.on() {
		return
	}
	for _, e := range events {
		if e.StickyUntil() > 0 {
			b.stickyShown = append(b.stickyShown, e.Pos)
		}
	}
}
