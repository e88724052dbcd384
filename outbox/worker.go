package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"ebb/fedclient"
	"ebb/history"
	"ebb/ident"
	"ebb/storage"
	"ebb/telemetry"
)

var (
	sentTransactions = telemetry.NewCounterVec("ebb_federation_sent_transactions_total", "Transactions to other servers, by result (accepted, refused, unreachable).", "result")
	sentItems        = telemetry.NewCounterVec("ebb_federation_sent_items_total", "Events and ephemeral data sent to other servers, by kind (pdu, edu) and result (accepted, refused, dropped).", "kind", "result")
	failingServers   = telemetry.NewGauge("ebb_federation_failing_servers", "Servers that do not respond and for which something is pending.")
)

// start starts a worker for a server that has something pending. The caller holds mu.
func (s *Service) start(d *destination) {
	if d.running || s.ctx == nil || s.ctx.Err() != nil || !d.hasWork() {
		return
	}
	d.running = true
	ctx := s.ctx
	s.workers.Go(func() { s.work(ctx, d) })
}

// work sends transactions until nothing is pending or the service stops.
func (s *Service) work(ctx context.Context, d *destination) {
	for s.waitForRetry(ctx, d) {
		slots := s.slots(d)
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			s.stopped(d)
			return
		}
		err := s.sendSome(ctx, d)
		<-slots
		if err != nil && ctx.Err() == nil {
			s.opts.Log.ErrorContext(ctx, "Cannot send to another server", "server", d.server, "err", err)
			s.fail(d.server, err, true) // with the delay for a server that rejects transactions
		}
		if s.finished(d) {
			return
		}
	}
	s.stopped(d)
}

// slots returns the semaphore that limits the concurrent requests. A server whose last request failed shares a smaller
// semaphore with other such servers.
func (s *Service) slots(d *destination) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.failures > 0 {
		return s.trying
	}
	return s.sending
}

// finished ends the worker and returns true, unless something is pending.
func (s *Service) finished(d *destination) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.hasWork() {
		return false
	}
	d.running = false
	return true
}

func (s *Service) stopped(d *destination) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d.running = false
}

// waitForRetry waits until a failing server may be tried again. It returns false if the service stops before that.
func (s *Service) waitForRetry(ctx context.Context, d *destination) bool {
	for {
		s.mu.Lock()
		wait := d.retry.Sub(s.opts.Now())
		failing := d.failures > 0
		s.mu.Unlock()
		if !failing || wait <= 0 {
			return ctx.Err() == nil
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			s.mu.Lock()
			d.retry = time.Time{}
			s.mu.Unlock()
		case <-d.wake:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return false
		}
	}
}

// transaction is a transaction for a server. It keeps its ID and its set of events until the server has responded. The
// events are read again for each attempt, because they may be redacted or expire in the meantime.
// Spec: server-server-api#put_matrixfederationv1sendtxnid
type transaction struct {
	id       string
	queue    []queued                 // events from the queue
	behind   map[ident.RoomNID]behind // rooms of which it contains sticky or newest events
	newest   []storage.Pos            // positions of these events
	durable  []storage.OutgoingEDU    // EDUs from the table
	kicked   uint64                   // destination.kicked when the table was read
	more     bool                     // whether the table has more EDUs
	volatile []volatile
	dropped  int // number of queued events that are not sent
}

// behind describes the events in a transaction that belong to a room for which the server gets only sticky and newest
// events.
type behind struct {
	stamp  uint64               // of the destination
	sticky map[storage.Pos]bool // sticky events; nil: it contains the newest events
}

// maxBehindRooms bounds the rooms in one transaction to a server that has missed too much.
const maxBehindRooms = 2 // each has up to 20 newest events, or 10 sticky ones

// sendSome sends one transaction. If the server rejects it, sendSome counts the failure and returns no error.
func (s *Service) sendSome(ctx context.Context, d *destination) error {
	t, err := s.next(ctx, d)
	if err != nil {
		return err
	}
	pdus, err := s.events(ctx, d, t)
	if err != nil {
		return err
	}
	edus := t.edus()
	asked := len(pdus)+len(edus) > 0
	if asked {
		if err := s.transact(ctx, d.server, t.id, pdus, edus); err != nil {
			s.keep(ctx, d, t, err)
			return nil
		}
	}
	return s.delivered(ctx, d, t, asked)
}

// next returns the unanswered transaction, if there is one. Otherwise it returns a new one with as much of the pending
// data as fits.
func (s *Service) next(ctx context.Context, d *destination) (*transaction, error) {
	if err := s.refill(ctx, d); err != nil {
		return nil, err
	}
	s.mu.Lock()
	if t := d.unanswered; t != nil {
		s.mu.Unlock()
		return t, nil
	}
	t := &transaction{id: s.boot + strconv.FormatUint(s.count.Add(1), 36), behind: map[ident.RoomNID]behind{}, kicked: d.kicked}
	after := map[ident.RoomNID]storage.Pos{}
	for room, stamp := range d.behind {
		if len(t.behind) < maxBehindRooms {
			t.behind[room], after[room] = behind{stamp: stamp}, d.caught[room]
		}
	}
	durable := d.kicked != d.drained
	s.mu.Unlock()
	if err := s.takeNewest(ctx, d.server, t, after); err != nil {
		return nil, err
	}
	if durable {
		if err := s.takeDurable(ctx, d.server, t); err != nil {
			return nil, err
		}
	}
	s.takeQueued(d, t)
	return t, nil
}

// takeNewest adds to a transaction the newest events of the rooms in t.behind. If a room has sticky events after the
// given position, it adds those instead, as many as fit.
func (s *Service) takeNewest(ctx context.Context, server string, t *transaction, after map[ident.RoomNID]storage.Pos) error {
	for room, b := range t.behind {
		newest, more, err := s.opts.History.NewestEvents(ctx, server, room, after[room])
		if err != nil {
			return err
		}
		if more {
			b.sticky = make(map[storage.Pos]bool, len(newest))
			for _, pos := range newest {
				b.sticky[pos] = true
			}
			t.behind[room] = b
		}
		t.newest = append(t.newest, newest...)
	}
	t.newest = t.newest[:min(len(t.newest), maxPDUs)]
	return nil
}

func (s *Service) takeDurable(ctx context.Context, server string, t *transaction) error {
	return s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		t.durable, err = tx.EDUs(server, maxEDUs)
		t.more = len(t.durable) == maxEDUs
		return err
	})
}

// takeQueued adds queued events and volatile EDUs to a transaction.
func (s *Service) takeQueued(d *destination, t *transaction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.queue = slices.Clone(d.queue[:min(len(d.queue), maxPDUs-len(t.newest))])
	n := min(len(d.volatile), maxEDUs-len(t.durable))
	t.volatile, d.volatile = slices.Clone(d.volatile[:n]), d.volatile[n:]
}

// events reads the current form of a transaction's events. It leaves out an expired message, unless a later event of
// the room will be sent to the server: that event refers to the message, so the server would request it. The newest
// events of a room in behind are always sent, because the server needs them to find the events that it missed.
func (s *Service) events(ctx context.Context, d *destination, t *transaction) (pdus []json.RawMessage, err error) {
	newest, err := s.opts.History.OutgoingEvents(ctx, t.newest)
	if err != nil {
		return nil, err
	}
	queue, err := s.opts.History.OutgoingEvents(ctx, positions(t.queue))
	if err != nil {
		return nil, err
	}
	t.dropped = 0
	followed := map[ident.RoomNID]bool{} // result of follows for each room
	for _, e := range slices.Backward(queue) {
		if _, known := followed[e.Room]; e.Expired && !known {
			if followed[e.Room], err = s.follows(ctx, d, t, e.Room); err != nil {
				return nil, err
			}
		}
		if e.Expired && !followed[e.Room] {
			t.dropped++
			continue
		}
		followed[e.Room] = true
		pdus = append(pdus, e.JSON)
	}
	for _, e := range slices.Backward(newest) {
		if !e.Expired || !t.behind[e.Room].sticky[e.Pos] {
			pdus = append(pdus, e.JSON)
		}
	}
	slices.Reverse(pdus)
	return pdus, nil
}

func positions(queue []queued) []storage.Pos {
	out := make([]storage.Pos, len(queue))
	for i, q := range queue {
		out[i] = q.pos
	}
	return out
}

// follows reports whether an unexpired event of a room will be sent to a server after a transaction. Events that are
// only in the table always count as unexpired.
func (s *Service) follows(ctx context.Context, d *destination, t *transaction, room ident.RoomNID) (bool, error) {
	s.mu.Lock()
	waits := d.missed > 0 && d.missedRooms[room] || d.behind[room] != 0
	last := t.queue[len(t.queue)-1].pos
	rest := slices.DeleteFunc(slices.Clone(d.queue), func(q queued) bool { return q.room != room || q.pos <= last })
	s.mu.Unlock()
	for !waits && len(rest) > 0 { // from the end, where unexpired events are most likely
		n := max(len(rest)-maxPDUs, 0)
		events, err := s.opts.History.OutgoingEvents(ctx, positions(rest[n:]))
		if err != nil {
			return false, err
		}
		waits = slices.ContainsFunc(events, func(e history.OutgoingEvent) bool { return !e.Expired })
		rest = rest[:n]
	}
	return waits, nil
}

func (t *transaction) edus() (edus []json.RawMessage) {
	for _, e := range t.durable {
		edus = append(edus, e.JSON)
	}
	for _, v := range t.volatile {
		edus = append(edus, v.json)
	}
	return edus
}

// keep stores a transaction in memory, so that the next attempt sends the same one.
func (s *Service) keep(ctx context.Context, d *destination, t *transaction, err error) {
	if ctx.Err() != nil {
		return
	}
	var remote *fedclient.RemoteError
	refuses := errors.As(err, &remote)
	sentTransactions.WithLabelValues(map[bool]string{true: "refused", false: "unreachable"}[refuses]).Inc()
	s.opts.Log.DebugContext(ctx, "A server rejected a transaction or cannot be reached", "server", d.server, "err", err)
	s.fail(d.server, err, refuses) // has no effect if the gate has already counted the failure
	s.mu.Lock()
	defer s.mu.Unlock()
	d.unanswered = t
	if d.failures >= failFast {
		t.volatile, d.volatile = nil, nil
	}
}

// transact sends one transaction. If a server rejects it because of its content, transact divides it into halves and
// sends each half in the same way. An item that is rejected on its own is skipped, so that it cannot block the others.
func (s *Service) transact(ctx context.Context, server, txn string, pdus, edus []json.RawMessage) error {
	refused, err := s.opts.Sender.SendTransaction(ctx, server, txn, pdus, edus)
	if err == nil {
		sentTransactions.WithLabelValues("accepted").Inc()
		sentItems.WithLabelValues("pdu", "refused").Add(float64(len(refused)))
		sentItems.WithLabelValues("pdu", "accepted").Add(float64(max(len(pdus)-len(refused), 0)))
		sentItems.WithLabelValues("edu", "accepted").Add(float64(len(edus)))
		for eventID, why := range refused {
			s.opts.Log.DebugContext(ctx, "A server rejected an event", "server", server, "event", eventID, "why", why)
		}
		return nil
	}
	if !rejectsContent(err) {
		return err
	}
	if len(pdus)+len(edus) == 1 {
		s.opts.Log.WarnContext(ctx, "A server rejected an item, which will be skipped", "server", server, "err", err)
		sentItems.WithLabelValues(map[bool]string{true: "pdu", false: "edu"}[len(pdus) == 1], "refused").Inc()
		return nil
	}
	p, e := (len(pdus)+1)/2, (len(edus)+1)/2
	if len(pdus) > 0 && len(edus) > 0 {
		p, e = len(pdus), 0
	}
	if err := s.transact(ctx, server, txn+".1", pdus[:p], edus[:e]); err != nil {
		return err
	}
	return s.transact(ctx, server, txn+".2", pdus[p:], edus[e:])
}

// rejectsContent reports whether an error means that the server rejects the content of a transaction, as opposed to an
// error that concerns the server or the sender.
func rejectsContent(err error) bool {
	var remote *fedclient.RemoteError
	if !errors.As(err, &remote) {
		return false
	}
	switch remote.Status {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return true
	}
	return false
}

// delivered removes the items of a transaction from the queues, because the server has received them or they were
// dropped. answered reports whether the server has answered a request.
func (s *Service) delivered(ctx context.Context, d *destination, t *transaction, answered bool) error {
	if len(t.durable) > 0 {
		nids := make([]int64, len(t.durable))
		for i, e := range t.durable {
			nids[i] = e.NID
		}
		if err := s.opts.DB.Write(context.WithoutCancel(ctx), func(tx *storage.Tx) error { return tx.DeleteEDUs(nids) }); err != nil {
			return fmt.Errorf("delete what was delivered: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.unanswered, d.dirty = nil, true
	if answered {
		d.succeeded()
		d.reached = s.opts.Now()
	}
	sentItems.WithLabelValues("pdu", "dropped").Add(float64(t.dropped))
	for _, q := range t.queue {
		if len(d.queue) == 0 || d.queue[0] != q { // skip was called in the meantime
			break
		}
		d.queue = d.queue[1:]
		d.delivered = max(d.delivered, q.pos)
	}
	for room, b := range t.behind {
		if b.sticky == nil {
			s.caughtUp(d, room, b.stamp)
			continue
		}
		for pos := range b.sticky {
			d.caught[room] = max(d.caught[room], pos)
		}
	}
	if !t.more {
		d.drained = t.kicked
	}
	return nil
}
