package push

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/keyed"
	"ebb/storage"
)

// maxQueue bounds the events in the queue of one pusher; later events are read from the database.
const maxQueue = 50

// item is an event that may notify a user.
type item struct {
	pos    storage.Pos
	room   ident.RoomNID
	invite bool // the user's own invite, which is in no timeline that the user may read
}

// pusher is the delivery state of an enabled pusher. It is guarded by Service.mu.
type pusher struct {
	nid     ident.PusherNID
	user    *user
	device  ident.DeviceNID
	gateway *gateway // nil once the pusher was removed

	queue []item // by ascending position
	// missed reports whether there are events after seen, at least up to top, that are only in the database.
	missed    bool
	seen, top storage.Pos // all events up to seen have been queued
	shown     int64       // the unread count last sent to the gateway, or unknownBadge
	badgeDue  bool        // whether the count has to be sent even without an event

	retry        keyed.Retry
	failingSince time.Time // zero if the last attempt succeeded
	stored       storage.PusherProgress
	slow         bool // whether it has been waiting since before the last tick

	waiting  bool // whether it is in the queue of the gateway
	running  bool // whether a worker is serving it
	gone     bool // whether it was deleted or disabled
	doubtful bool // whether its device is being deleted, so that the row has to be read before each delivery
}

// target holds the properties of a pusher that a delivery needs.
type target struct {
	user    id.UserID
	device  ident.DeviceNID
	url     string
	appID   string
	pushkey string
	setAt   int64           // seconds
	data    json.RawMessage // without url
	format  string
	noBadge bool
}

// size estimates the memory that the target takes in the cache.
func (t *target) size() int64 {
	return int64(256 + len(t.user) + len(t.url) + len(t.appID) + len(t.pushkey) + len(t.data) + len(t.format))
}

// hasWork reports whether the pusher has something to deliver.
func (p *pusher) hasWork() bool { return len(p.queue) > 0 || p.missed || p.badgeDue }

// serve delivers the pending notifications of a pusher until none is left, one fails or maxTurn is reached.
func (s *Service) serve(ctx, sending context.Context, p *pusher) {
	for range maxTurn {
		t, err := s.target(sending, p)
		if err == nil && t != nil {
			err = s.deliverNext(sending, p, t)
		}
		if err != nil {
			s.failed(sending, p, err)
		}
		s.mu.Lock()
		done := t == nil || err != nil || p.gone || !p.hasWork()
		s.mu.Unlock()
		if done || ctx.Err() != nil {
			return
		}
	}
}

// target returns the target of a pusher. It returns nil if the pusher was deleted or its account is locked. It drops
// the pending notifications of a locked account.
func (s *Service) target(ctx context.Context, p *pusher) (*target, error) {
	s.mu.Lock()
	doubtful := p.doubtful
	s.mu.Unlock()
	if t, known := s.targets.Get(p.nid); known && !doubtful {
		return t, nil
	}
	var row storage.PusherRow
	var found bool
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		row, found, err = tx.Pusher(p.nid)
		return err
	})
	if err != nil {
		return nil, err
	}
	if !found || !row.Enabled {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.forget(p.nid)
		return nil, nil
	}
	if row.Locked {
		s.mu.Lock()
		defer s.mu.Unlock()
		p.queue, p.missed, p.badgeDue = nil, false, false
		return nil, nil
	}
	t, err := newTarget(&row)
	if err == nil {
		s.targets.Put(p.nid, t)
		s.mu.Lock()
		gone := p.gone
		s.mu.Unlock()
		if gone { // forget was called between the read and Put
			s.targets.Forget(p.nid)
		}
	}
	return t, err
}

func newTarget(row *storage.PusherRow) (*target, error) {
	var d data
	if err := json.Unmarshal([]byte(row.Data), &d); err != nil {
		return nil, err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(row.Data), &all); err != nil {
		return nil, err
	}
	delete(all, "url")
	raw, err := json.Marshal(all)
	return &target{
		user: id.UserID(row.UserID), device: row.Device, url: d.URL, appID: row.AppID, pushkey: row.Pushkey, setAt: row.UpdatedTS / 1000, data: raw, format: d.Format,
		noBadge: row.NoBadge || d.NoBadge,
	}, err
}

// deliverNext delivers the oldest pending event of a pusher. If there is none, it delivers the unread count.
func (s *Service) deliverNext(ctx context.Context, p *pusher, t *target) error {
	if err := s.refill(ctx, p); err != nil {
		return err
	}
	s.mu.Lock()
	var it item
	if len(p.queue) > 0 {
		it = p.queue[0]
	}
	s.mu.Unlock()
	if it.pos == 0 {
		return s.deliverBadge(ctx, p, t)
	}
	before := s.beginCount(p)
	n, outcome, err := s.notification(ctx, p.user.nid, t, it)
	if err == nil && n != nil {
		err = s.send(ctx, p, t, n)
	}
	if n != nil && n.Counts != nil {
		s.endCount(p, before, n.Counts, err)
	} else {
		s.noCount(p, before)
	}
	if err != nil {
		return err
	}
	pushes.WithLabelValues(outcome).Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p.queue) > 0 && p.queue[0] == it {
		p.queue = p.queue[1:]
	}
	return nil
}

// deliverBadge sends the user's unread count if it differs from the one last sent to the gateway.
func (s *Service) deliverBadge(ctx context.Context, p *pusher, t *target) error {
	before := s.beginCount(p)
	if !before.due || t.noBadge {
		before.due = false
		s.noCount(p, before)
		return nil
	}
	count, err := s.badge(ctx, p.user.nid)
	if err != nil || count == before.shown {
		before.due = err != nil
		s.noCount(p, before)
		return err
	}
	n := &notification{Prio: "low", Counts: &counts{Unread: count}}
	if err = s.send(ctx, p, t, n); err == nil {
		pushes.WithLabelValues("badge").Inc()
	}
	s.endCount(p, before, n.Counts, err)
	return err
}

// shownCount is what a pusher's gateway shows, as far as is known, and whether another count is due.
type shownCount struct {
	shown int64
	due   bool
}

// beginCount is called before an unread count is read and sent. A change while that goes on makes the next count due,
// since nobody knows which one the gateway will show. endCount or noCount must follow.
func (s *Service) beginCount(p *pusher) (before shownCount) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before = shownCount{p.shown, p.badgeDue}
	p.shown, p.badgeDue = unknownBadge, false
	return before
}

// endCount records that a count was sent. After an error, the gateway may show it or not.
func (s *Service) endCount(p *pusher, before shownCount, sent *counts, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		p.badgeDue = p.badgeDue || before.due
		return
	}
	p.shown = sent.Unread
}

// noCount records that no count was sent.
func (s *Service) noCount(p *pusher, before shownCount) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.shown, p.badgeDue = before.shown, p.badgeDue || before.due
}

// send sends a notification for one pusher. It removes the pusher if the gateway rejects the pushkey.
func (s *Service) send(ctx context.Context, p *pusher, t *target, n *notification) error {
	n.Devices = []device{{AppID: t.appID, Pushkey: t.pushkey, PushkeyTS: t.setAt, Data: t.data, Tweaks: n.tweaks}}
	body, err := json.Marshal(map[string]*notification{"notification": n})
	if err != nil {
		return err
	}
	begun := time.Now()
	rejected, err := s.post(ctx, t, body)
	if err != nil {
		return err
	}
	s.succeeded(p, time.Since(begun))
	if slices.Contains(rejected, t.pushkey) {
		return s.reject(ctx, p)
	}
	return nil
}

// refill fills an empty queue with further events from the database.
func (s *Service) refill(ctx context.Context, p *pusher) error {
	s.mu.Lock()
	needed, seen := p.missed && len(p.queue) == 0, p.seen
	s.mu.Unlock()
	if !needed {
		return nil
	}
	if err := s.db.Flush(ctx); err != nil { // so that the snapshot includes everything that was queued
		return err
	}
	var found []item
	var settled, reached storage.Pos
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		settled = tx.Settled()
		found, reached, err = missedItems(tx, p.user.nid, seen, settled)
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p.queue = append(p.queue, found...)
	p.seen = reached
	p.missed = reached < settled || p.top > settled
	return nil
}

// missedItems returns the oldest events after a position that may notify a user, and the position up to which it
// searched.
func missedItems(tx *storage.Tx, user ident.UserNID, after, upTo storage.Pos) (found []item, reached storage.Pos, err error) {
	events, reached, err := tx.NotifyingAfter(user, after, upTo, maxQueue)
	if err != nil {
		return nil, 0, err
	}
	for _, e := range events {
		found = append(found, item{pos: e.Position, room: e.Room})
	}
	invites, err := tx.InvitesOf(user, after, reached, maxQueue)
	if err != nil {
		return nil, 0, err
	}
	if len(invites) == maxQueue {
		reached = invites[maxQueue-1].Position
		found = slices.DeleteFunc(found, func(it item) bool { return it.pos > reached })
	}
	for _, m := range invites {
		found = append(found, item{pos: m.Position, room: m.Room, invite: true})
	}
	slices.SortFunc(found, func(a, b item) int { return cmp.Compare(a.pos, b.pos) })
	return found, reached, nil
}
