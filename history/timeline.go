package history

import (
	"context"
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/visibility"
	"ebb/storage"
)

const (
	// MaxPage bounds the events in one response.
	MaxPage = 1000
	// maxPageBytes bounds their JSON, and separately that of their aggregations: with the largest events, a page has
	// 64.
	maxPageBytes = 4 << 20
	// maxScan bounds the rows that one request reads: if many consecutive events are hidden, the page is short and its
	// token continues after them.
	maxScan = 10000
	// maxScanBytes bounds the JSON of these rows: reading it takes about 50 ms.
	maxScanBytes = 32 << 20
	// scanBatch and maxScanBatch are the minimum and maximum number of rows read at a time.
	scanBatch    = 32
	maxScanBatch = 128
)

// PageRequest selects a part of a room's timeline.
type PageRequest struct {
	// tokens; an empty From is the end of the timeline where the direction starts, an empty To no bound
	From, To  string
	Backwards bool // newest first
	Limit     int
	Filter    EventFilter
}

// Page is a part of a timeline with the tokens of its ends.
type Page struct {
	Start string
	End   string // "": there is nothing after the page
	Chunk []json.RawMessage
	State []json.RawMessage
}

// reading finds a room and calls f with the requester's view of it. If the requester may not read the room, the error
// is the same whatever the reason.
func (s *Service) reading(ctx context.Context, roomID id.RoomID, to ident.Requester, f func(*storage.Tx, *viewer) error) error {
	room, err := s.rooms.Room(ctx, roomID)
	if errors.Is(err, rooms.ErrNoRoom) {
		return errNotReadable
	}
	if err != nil {
		return err
	}
	v, err := s.viewer(ctx, nil, room, to)
	if err != nil {
		return err
	}
	return s.db.Read(ctx, func(tx *storage.Tx) error {
		if err := v.mayRead(tx); err != nil {
			return err
		}
		return f(tx, v)
	})
}

// readingAllMembers is like reading, for requests that need all members of the room. If the requester may read the
// room, it waits until a partial-state room is complete.
func (s *Service) readingAllMembers(ctx context.Context, room id.RoomID, to ident.Requester, f func(*storage.Tx, *viewer) error) error {
	if err := s.reading(ctx, room, to, func(*storage.Tx, *viewer) error { return nil }); err != nil {
		return err
	}
	if err := s.rooms.AwaitFullState(ctx, room); err != nil {
		return err
	}
	return s.reading(ctx, room, to, f)
}

// errNotReadable is returned for a room that the requester may not read, whether it exists or not.
var errNotReadable error = mxerr.Forbidden("You are not in this room")

// mayRead returns an error if the viewer may not read any part of the room. Members may read it, and so may former
// members who have not forgotten it; everybody may read a world-readable room.
func (v *viewer) mayRead(tx *storage.Tx) error {
	if v.joined || v.room.HistoryVisibility() == string(visibility.WorldReadable) {
		return nil
	}
	was, err := v.wasJoined(tx)
	if err != nil {
		return err
	}
	if !was {
		return errNotReadable
	}
	return nil
}

// MayRead returns an error if the requester may not read any part of a room.
func (s *Service) MayRead(ctx context.Context, roomID id.RoomID, to ident.Requester) error {
	return s.reading(ctx, roomID, to, func(*storage.Tx, *viewer) error { return nil })
}

// wasJoined reports whether the user is a former member who has not forgotten the room.
func (v *viewer) wasJoined(tx *storage.Tx) (bool, error) {
	if v.member == nil || v.member.Membership != rooms.Leave && v.member.Membership != rooms.Ban {
		return false, nil
	}
	forgotten, err := tx.Forgotten(v.to.UserNID, v.room.NID())
	if err != nil || forgotten {
		return false, err
	}
	until, err := v.joinedUntil(tx)
	return until > 0, err
}

// Messages returns a page of a room's timeline.
// Spec: client-server-api#get_matrixclientv3roomsroomidmessages
func (s *Service) Messages(ctx context.Context, roomID id.RoomID, to ident.Requester, req PageRequest) (page Page, err error) {
	w, err := parseWindow(req.From, req.To, req.Backwards)
	if err != nil {
		return page, err
	}
	err = s.filling(ctx, roomID, to, func(tx *storage.Tx, v *viewer) (g gap, err error) {
		page, g, err = v.page(tx, w, req)
		return g, err
	})
	return page, err
}

// page returns a page. Backwards, the page ends at a gap that other servers may be able to fill, and the gap is
// returned.
func (v *viewer) page(tx *storage.Tx, w window, req PageRequest) (p Page, g gap, err error) {
	if req.From == "" && req.Backwards {
		w.upTo = v.room.LastOrder()
	}
	if err := v.capAtLeave(tx, &w); err != nil {
		return p, g, err
	}
	p.Start = TimelineToken(w.start(req.Backwards))
	if req.Backwards && req.Filter.room(string(v.room.ID())) {
		if g, err = v.gap(tx, &w); err != nil {
			return p, g, err
		}
	}
	c := cursor{window: w, backwards: req.Backwards}
	events, sights, err := v.walk(tx, &c, req.Limit, &req.Filter, v.timeline)
	if err != nil {
		return p, g, err
	}
	g.found = g.reach(&c) && len(events) < req.Limit // the reader of a full page need not wait for the next one
	err = v.fill(tx, &p, &c, &req, events, sights)
	return p, g, err
}

// fill fills a page with the results of a walk.
func (v *viewer) fill(tx *storage.Tx, p *Page, c *cursor, req *PageRequest, events []*rooms.Event, sights []sight) (err error) {
	if req.From != "" {
		p.Start = req.From
	}
	// Deviation: a page of a filtered timeline always has an end if it has events, even at the start of the room;
	// clients that page through files request the next page, which is empty.
	if !c.done || req.Filter.selective() && len(events) > 0 {
		p.End = TimelineToken(c.start(req.Backwards))
	}
	if p.Chunk, err = v.forms(tx, events, sights, FormOptions{RoomID: true, Bundle: true}); err != nil {
		return err
	}
	if req.Filter.LazyLoadMembers {
		p.State, err = v.senders(tx, events, req.Backwards)
	}
	return err
}

// capAtLeave ends the window where a former member left, so that later events are not scanned.
// Deviation: events sent after the leave while the room was world readable, if it no longer is, are only returned by
// event ID.
func (v *viewer) capAtLeave(tx *storage.Tx, w *window) error {
	if v.joined || v.room.HistoryVisibility() == string(visibility.WorldReadable) {
		return nil
	}
	until, err := v.joinedUntil(tx)
	w.upTo = min(w.upTo, until)
	return err
}

// cursor is the state of a walk along a timeline.
type cursor struct {
	window
	backwards bool
	done      bool // there is nothing left in the window
	rows      int  // positions read so far
	bytes     int  // bytes of the events read there
	few       bool // the next read is of as few rows as are wanted, since nearly all events are expected to be shown
}

// span is the part of a walk that one read returns: the orders of all positions in it, and the rows of the events among
// them.
type span struct {
	orders []ident.Order
	rows   []storage.EventRow
}

// source returns the next n positions of a walk, or all that are left. It may leave out the rows of events that are not
// wanted.
type source func(tx *storage.Tx, c *cursor, n int) (span, error)

// timeline is a source for a walk along the room's timeline.
func (v *viewer) timeline(tx *storage.Tx, c *cursor, n int) (span, error) {
	rows, err := tx.Timeline(v.room.NID(), c.after, c.upTo, c.backwards, n)
	out := span{orders: make([]ident.Order, len(rows)), rows: rows}
	for i := range rows {
		out.orders[i] = rows[i].Order
	}
	return out, err
}

// walk collects up to limit events that the viewer may see and that pass the filter, and skips all others: hidden or
// expired rows never end a page. The rows read and the bytes collected are bounded.
func (v *viewer) walk(tx *storage.Tx, c *cursor, limit int, filter *EventFilter, next source) (events []*rooms.Event, sights []sight, err error) {
	if !filter.room(string(v.room.ID())) || c.empty() {
		c.done = true
		return nil, nil, nil
	}
	for size := 0; len(events) < limit && size < maxPageBytes && !c.atLimit() && !c.done; {
		n := min(limit-len(events)+1, maxScanBatch) // one more shows whether there is another page
		if !c.few {
			n = max(n, scanBatch)
		}
		c.few = false
		part, err := next(tx, c, n)
		if err != nil {
			return nil, nil, err
		}
		found, at, err := v.pick(tx, part.rows, filter)
		if err != nil {
			return nil, nil, err
		}
		taken := 0
		for ; taken < len(found) && len(events)+taken < limit && size < maxPageBytes; taken++ {
			size += len(found[taken].JSON())
		}
		events, sights = append(events, found[:taken]...), append(sights, at[:taken]...)
		c.pass(part, found[:taken], taken == len(found), len(part.orders) < n)
	}
	return events, sights, nil
}

// atLimit reports whether the walk has read as much as one request may.
func (c *cursor) atLimit() bool { return c.rows >= maxScan || c.bytes >= maxScanBytes }

// pass moves the cursor to the end of part. If all is false, the page is full, and pass moves the cursor only to the
// last event in taken, the events that went into the page. last reports whether the walk has nothing after part.
func (c *cursor) pass(part span, taken []*rooms.Event, all, last bool) {
	c.rows += len(part.orders)
	for i := range part.rows {
		c.bytes += len(part.rows[i].JSON)
	}
	switch {
	case !all && len(taken) > 0:
		c.shrink(taken[len(taken)-1].Order, c.backwards)
	case len(part.orders) > 0:
		c.shrink(part.orders[len(part.orders)-1], c.backwards)
	}
	c.done = all && last
}

// pick returns the events of those rows that pass the filter and that the viewer may see.
func (v *viewer) pick(tx *storage.Tx, rows []storage.EventRow, filter *EventFilter) (events []*rooms.Event, sights []sight, err error) {
	for i := range rows {
		if rows[i].Flags&storage.HiddenEvent != 0 {
			continue
		}
		e, err := v.room.LoadEvent(&rows[i])
		if err != nil {
			return nil, nil, err
		}
		if filter.event(e) {
			events = append(events, e)
		}
	}
	return v.filter(tx, events)
}

// senders returns the member events of the senders of a page, from the state at its newest event.
// Spec: client-server-api#lazy-loading-room-members
func (v *viewer) senders(tx *storage.Tx, page []*rooms.Event, newestFirst bool) ([]json.RawMessage, error) {
	if len(page) == 0 {
		return nil, nil
	}
	newest := page[len(page)-1]
	if newestFirst {
		newest = page[0]
	}
	wanted := map[string]bool{}
	for _, e := range page {
		wanted[string(e.Sender())] = true
	}
	members, err := v.membersAfter(tx, newest, wanted)
	if err != nil {
		return nil, err
	}
	return v.stateForms(tx, members, FormOptions{RoomID: true})
}

// stateForms returns the forms of state events that accompany visible events, whether or not they were visible when
// sent.
func (v *viewer) stateForms(tx *storage.Tx, events []*rooms.Event, opt FormOptions) ([]json.RawMessage, error) {
	sights, err := v.sights(tx, events)
	if err != nil {
		return nil, err
	}
	return v.forms(tx, events, sights, opt)
}

// GetEvent returns one event if the requester may see it.
// Spec: client-server-api#get_matrixclientv3roomsroomideventeventid
func (s *Service) GetEvent(ctx context.Context, roomID id.RoomID, eventID id.EventID, to ident.Requester) (form json.RawMessage, err error) {
	err = s.readingEvent(ctx, roomID, eventID, to, func(tx *storage.Tx, v *viewer, e *rooms.Event, at sight) error {
		form, err = v.one(tx, e, at, FormOptions{RoomID: true, Bundle: true})
		return err
	})
	return form, err
}

// VisibleEvent returns an event that the requester may see.
//
// Errors: M_NOT_FOUND.
func (s *Service) VisibleEvent(ctx context.Context, roomID id.RoomID, eventID id.EventID, to ident.Requester) (found *rooms.Event, err error) {
	err = s.readingEvent(ctx, roomID, eventID, to, func(_ *storage.Tx, _ *viewer, e *rooms.Event, _ sight) error {
		found = e
		return nil
	})
	return found, err
}

// readingEvent is like reading, with an event that the requester can see. If the requester cannot see it, the error
// does not reveal anything about the room either.
func (s *Service) readingEvent(ctx context.Context, roomID id.RoomID, eventID id.EventID, to ident.Requester, f func(*storage.Tx, *viewer, *rooms.Event, sight) error) error {
	err := s.reading(ctx, roomID, to, func(tx *storage.Tx, v *viewer) error {
		e, at, err := v.event(tx, eventID)
		if err != nil {
			return err
		}
		return f(tx, v, e, at)
	})
	return hideRoom(err)
}

// hideRoom replaces errNotReadable by errNoEvent, for requests that name an event.
func hideRoom(err error) error {
	if errors.Is(err, errNotReadable) {
		return errNoEvent
	}
	return err
}

// errNoEvent is returned for an event that is not stored, or that the requester may not see.
var errNoEvent error = mxerr.NotFound("Event not found")

// event returns an event that the viewer may see.
func (v *viewer) event(tx *storage.Tx, eventID id.EventID) (*rooms.Event, sight, error) {
	row, found, err := tx.EventByID(v.room.NID(), string(eventID))
	if err != nil {
		return nil, sight{}, err
	}
	if !found || row.Flags&storage.HiddenEvent != 0 && !(row.IsState && row.Flags == storage.OutlierEvent) {
		return nil, sight{}, errNoEvent
	}
	e, err := v.room.LoadEvent(&row)
	if err != nil {
		return nil, sight{}, err
	}
	sights, err := v.sights(tx, []*rooms.Event{e})
	if err != nil {
		return nil, sight{}, err
	}
	if !sights[0].visible {
		return nil, sight{}, errNoEvent
	}
	return e, sights[0], nil
}

// FindEvent returns one event of any room if the requester may see it.
// Spec: client-server-api#get_matrixclientv3eventseventid
func (s *Service) FindEvent(ctx context.Context, eventID id.EventID, to ident.Requester) (json.RawMessage, error) {
	var nids []ident.RoomNID
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		nids, err = tx.RoomsOfEvent(string(eventID), maxRoomsOfEvent)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, nid := range nids {
		room, err := s.rooms.RoomByNID(ctx, nid)
		if err != nil {
			return nil, err
		}
		form, err := s.GetEvent(ctx, room.ID(), eventID, to)
		if !errors.Is(err, errNoEvent) {
			return form, err
		}
	}
	return nil, errNoEvent
}

// maxRoomsOfEvent bounds the rooms in which an event is looked for: in old room versions, strangers choose event IDs.
const maxRoomsOfEvent = 10
