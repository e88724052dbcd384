package rooms

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/ident"
	"ebb/rooms/expiry"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Bounds of the requests to other servers for one reader.
const (
	maxBackfillPage    = 100 // events per request
	maxBackfillServers = 4   // servers that are asked one after the other
	maxBackfillAnchors = 300 // timeline events between which others are inserted
	maxHistoryGaps     = 100 // missing events of the history that are considered at a join
	// maxBackfillEdges bounds the missing events that one request names.
	maxBackfillEdges = pdu.MaxPrevEvents
	// backfillTime bounds one round, for which the reader waits.
	backfillTime = 15 * time.Second
	// historyStep is the distance between two events of the history in the timeline, so that others can be inserted
	// between them.
	historyStep = 16
)

// Backfill fetches events from other servers that are missing from the timeline just before the event at order above,
// and stores them. It returns true if nothing more can be fetched for now; then the caller need not ask for the same
// gap again soon.
// Spec: server-server-api#backfilling-and-retrieving-missing-events
func (s *Service) Backfill(ctx context.Context, r *Room, above ident.Order) (exhausted bool) {
	limited, cancel := context.WithTimeout(ctx, backfillTime)
	defer cancel()
	more, exhausted := s.backfill(limited, r, above)
	return exhausted || !more && ctx.Err() == nil
}

// backfill does the work of Backfill. more reports whether the room has more events than before. refused reports
// whether some of the missing events were rejected, so that the gap stays.
func (s *Service) backfill(ctx context.Context, r *Room, above ident.Order) (more, refused bool) {
	ctx, letGo := fedclient.HoldAnswers(ctx, false)
	defer letGo()
	r, release, err := s.hold(ctx, r.id, fetching)
	if err != nil {
		return false, false
	}
	defer release()
	q, err := s.findGap(ctx, r, above)
	if err != nil {
		s.log.WarnContext(ctx, "cannot read the missing events of a room", "room", r.id, "err", err)
		return false, false
	}
	if len(q.missing) == 0 { // another request has fetched them
		return q.above != nil, false
	}
	for _, server := range q.servers {
		n, refused, err := s.backfillFrom(ctx, r, server, q)
		if err != nil {
			s.log.DebugContext(ctx, "cannot backfill from a server", "room", r.id, "server", server, "err", err)
		}
		if n > 0 {
			return true, refused
		}
		if ctx.Err() != nil {
			break
		}
	}
	return false, false
}

// gap describes a gap in the timeline and the request that fills it.
type gap struct {
	missing []id.EventID
	above   *Event   // the first event above the gap
	anchors []anchor // the timeline from there downwards, as far as events may be inserted
	servers []string
}

// anchor is an event of the timeline below which others can be inserted.
type anchor struct {
	order ident.Order
	depth int64
}

// findGap finds the gap before the event at order above. Other gaps that follow directly below it are filled by the
// same request.
func (s *Service) findGap(ctx context.Context, r *Room, above ident.Order) (q gap, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.Timeline(r.nid, 0, above, true, maxBackfillAnchors)
		if err != nil || len(rows) == 0 || rows[0].Order != above { // it was purged, like everything before it
			return err
		}
		if err := q.addAnchors(r, rows); err != nil {
			return err
		}
		edges, err := tx.BackwardEdges(r.nid, q.anchors[len(q.anchors)-1].order, above, maxBackfillEdges)
		for _, e := range edges {
			q.missing = append(q.missing, id.EventID(e.Missing))
		}
		return err
	})
	if err == nil && q.above != nil {
		q.servers = r.backfillServers(q.above.Sender())
	}
	return q, err
}

// addAnchors adds the events of the timeline from the gap downwards. It stops at the first event that arrived as new
// and has no missing prev_event.
func (q *gap) addAnchors(r *Room, rows []storage.EventRow) (err error) {
	if q.above, err = graph.LoadEvent(r.version, &rows[0]); err != nil {
		return err
	}
	for i := range rows {
		e, err := graph.LoadEvent(r.version, &rows[i])
		if err != nil {
			return err
		}
		q.anchors = append(q.anchors, anchor{e.Order, e.Depth()})
		if i > 0 && !graph.IsBackfilled(rows[i]) && e.Flags&storage.GapEvent == 0 {
			return nil
		}
	}
	if len(rows) < maxBackfillAnchors {
		q.anchors = append(q.anchors, anchor{}) // the beginning of the timeline
	}
	return nil
}

// backfillServers returns servers that are likely to have the events before an event of the given sender. The sender's
// server comes first.
func (r *Room) backfillServers(sender id.UserID) []string {
	first := ident.ServerOf(sender)
	out := r.others(maxBackfillServers)
	if first == r.svc.opts.Server || !r.HasServer(first) {
		return out
	}
	out = append([]string{first}, slices.DeleteFunc(out, func(server string) bool { return server == first })...)
	return out[:min(len(out), maxBackfillServers)]
}

// backfillFrom asks one server to fill a gap. It returns the number of events that were stored, and whether one of the
// missing events was rejected. The room's fetching slot is held.
func (s *Service) backfillFrom(ctx context.Context, r *Room, server string, q gap) (n int, refused bool, err error) {
	raws, err := s.opts.Remote.Backfill(ctx, server, r.id, q.missing, maxBackfillPage)
	if err != nil {
		return 0, false, err
	}
	a := newArrivals(r, server)
	g := newGathering(a, s.opts.Remote)
	if err := g.gatherHistoryAt(ctx, q.missing, raws[:min(len(raws), maxBackfillPage)]); err != nil {
		return 0, false, err
	}
	release, err := a.hold(ctx, receiving)
	if err != nil {
		return 0, false, err
	}
	defer release()
	n, err = newPlacing(a).placeHistory(ctx, q.above.Order)
	refused = slices.ContainsFunc(q.missing, func(missing id.EventID) bool { return g.invalid[missing] != nil })
	return n, refused, err
}

// gatherHistoryAt prepares raws, the response to a request for missing events, for being placed: it fetches auth events
// and states that the events lack.
func (g *gathering) gatherHistoryAt(ctx context.Context, missing []id.EventID, raws []json.RawMessage) error {
	g.admit(ctx, raws)
	g.admitUnproven(missing...)
	if err := g.lookUpStored(ctx); err != nil {
		return err
	}
	g.keepAncestors(missing)
	for _, eventID := range missing {
		if e := g.waiting[eventID]; e != nil {
			e.followed = true
		}
	}
	if err := g.gatherAuthEvents(ctx); err != nil {
		return err
	}
	return g.gatherStatesBefore(ctx)
}

// keepAncestors drops all waiting events except the missing ones that were requested and their ancestors. It also finds
// ancestors that only an invalid event connects with the missing ones.
func (g *gathering) keepAncestors(missing []id.EventID) {
	asked, passed := map[id.EventID]*incoming{}, map[*pdu.Event]bool{}
	for todo := slices.Clone(missing); len(todo) > 0; {
		e, bad := g.waiting[todo[0]], g.invalid[todo[0]]
		if todo = todo[1:]; bad != nil && !passed[bad] {
			passed[bad] = true
			todo = append(todo, bad.PrevEvents()...)
		}
		if e == nil || asked[e.ID()] != nil {
			continue
		}
		asked[e.ID()] = e
		todo = append(todo, e.PrevEvents()...)
	}
	g.waiting = asked
}

// gatherStatesBefore asks for the state before each event of the history that has a missing prev_event. If the server
// does not return the state, the event and those that follow it are left out.
func (g *gathering) gatherStatesBefore(ctx context.Context) error {
	for _, e := range g.lackingState() {
		before, err := g.from.stateBefore(ctx, e.ID())
		if err := ctx.Err(); err != nil {
			return err
		}
		if err != nil {
			g.svc.log.DebugContext(ctx, "the state before an event could not be fetched", "room", g.room.id, "event", e.ID(), "server", g.origin, "err", err)
			g.finish(e.ID(), errNoPrevEvent)
			continue
		}
		e.fetchedBefore = before
	}
	return nil
}

// isOver reports whether messages from the time of an event have expired or were purged. It decides about events of the
// history: min_lifetime does not apply to them, since otherwise messages that were purged could be fetched again.
func (r *Room) isOver(e *pdu.Event, receivedTS int64) bool {
	p := r.Retention()
	p.Min = nil
	purged := r.PurgedBefore() // 0 if nothing was purged; no message is from before 1970
	return expiry.Expired(p, e.OriginServerTS(), receivedTS, r.svc.opts.Now()) || purged != 0 && e.OriginServerTS() < purged
}

// hasExpired is like isOver, but decides about an event that arrives as new: if the room has a min_lifetime, the event
// is kept for that long, whatever time its sender claims, unless it was purged before.
func (r *Room) hasExpired(e *pdu.Event, receivedTS int64) (bool, error) {
	p := r.Retention()
	if p.Min == nil || !r.isOver(e, receivedTS) {
		return r.isOver(e, receivedTS), nil
	}
	if expiry.Expired(p, e.OriginServerTS(), receivedTS, r.svc.opts.Now()) {
		return true, nil
	}
	purged := false
	err := r.svc.db.ReadInner(context.Background(), func(tx *storage.Tx) (err error) {
		_, purged, err = tx.PurgedSender(r.nid, string(e.ID()))
		return err
	})
	return purged, err
}

// AskTimestampToEvent asks other servers for the event of a room that is closest to a time (ms). It returns the ID and
// the time of the event in the first response, or false if no server finds one.
// Spec: server-server-api#get_matrixfederationv1timestamp_to_eventroomid
func (s *Service) AskTimestampToEvent(ctx context.Context, r *Room, ts int64, backwards bool) (id.EventID, int64, bool) {
	ctx, cancel := context.WithTimeout(ctx, backfillTime)
	defer cancel()
	dir := "f"
	if backwards {
		dir = "b"
	}
	for _, server := range r.others(maxBackfillServers) {
		eventID, at, err := s.opts.Remote.TimestampToEvent(ctx, server, r.id, ts, dir)
		if err == nil && eventID != "" {
			return eventID, at, true
		}
	}
	return "", 0, false
}

// others returns up to limit other servers that are in the room.
func (r *Room) others(limit int) (out []string) {
	for server := range r.EachServer() {
		if server != r.svc.opts.Server && len(out) < limit {
			out = append(out, server)
		}
	}
	return out
}
