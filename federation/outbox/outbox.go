// Package outbox delivers to other servers what they are to get: events of this server's users, and ephemeral data. An event
// is one row, whatever the number of servers; for which ones it is was known in the commit that stored it. Each server has a
// worker of its own while something waits for it, so that a slow one delays nobody.
//
// An event travels: the write that stores it adds the row → its Committed hook (Sent) puts its position into the queues of
// the servers in the room → the worker of each reads it from the database, as it is by then, and sends it with others in one
// transaction → the flusher stores how far everybody is, and removes rows that nobody waits for.
//
// A server that does not answer is tried again, less and less often, until it answers or asks for something itself. One that
// has missed much is told of the newest events of its rooms only: it asks for what lies between.
package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/federation/fedclient"
	"ebb/rooms"
	"ebb/storage"
	"ebb/telemetry"
)

// Sender sends a transaction; fedclient.Client is one.
type Sender interface {
	SendTransaction(ctx context.Context, server, txnID string, pdus, edus []json.RawMessage) (refused map[id.EventID]string, err error)
}

// Options is what a Service is made of.
type Options struct {
	DB     *storage.DB
	Rooms  *rooms.Service
	Sender Sender
	Now    func() time.Time
	Log    *slog.Logger
}

const (
	// Bounds of a transaction.
	// Spec: server-server-api#transactions
	maxPDUs = 50
	maxEDUs = 100
	// maxQueue is how many events wait for one server before it is only told of the newest ones of its rooms.
	maxQueue = 1000
	// maxVolatile bounds the receipts, typing and presence that wait for one server.
	maxVolatile = 500
	// maxDurable bounds the messages between devices that wait for one server.
	maxDurable = 20_000
	// maxSending is how many servers are sent to at the same time.
	maxSending = 200
	// flushEvery is how long a crash can make servers get something a second time.
	flushEvery = time.Second
	// A server that does not answer is tried again after a second, then after twice as long each time, up to an hour.
	firstRetry = time.Second
	maxRetry   = time.Hour
	// failFast is the number of failures in a row from which on other requests do not wait for a server either.
	failFast = 4
)

// Service is safe for concurrent use.
type Service struct {
	Options
	boot    string
	count   atomic.Uint64
	sending chan struct{} // slots
	started chan struct{} // closed once Run has read what waits
	workers sync.WaitGroup
	flush   chan struct{}

	// mu guards what follows; a leaf.
	mu    sync.Mutex
	ctx   context.Context // of Run; nil before and after
	known map[string]*destination
	gone  map[string]map[int64]bool // destination_rooms that are to be removed
	top   storage.Pos               // newest event that was queued
}

// destination is another server. Service.mu guards it.
type destination struct {
	server   string
	queue    []queued
	behind   map[int64]bool // rooms of which it is told the newest events only
	newly    map[int64]bool // those that are not stored yet
	volatile []volatile
	durable  bool // edu_outbox may have something

	delivered    storage.Pos
	failures     int64
	failingSince time.Time
	retry        time.Time
	reached      time.Time
	dirty        bool

	running bool
	wake    chan struct{} // of the worker that waits to try again
}

type queued struct {
	pos  storage.Pos
	room int64
}

type volatile struct {
	key  string
	json json.RawMessage
}

// New makes a Service.
func New(o Options) *Service {
	return &Service{
		Options: o, boot: strconv.FormatInt(o.Now().UnixNano(), 36), sending: make(chan struct{}, maxSending), started: make(chan struct{}),
		flush: make(chan struct{}, 1), known: map[string]*destination{}, gone: map[string]map[int64]bool{},
	}
}

var (
	sentTransactions = telemetry.NewCounterVec("ebb_federation_sent_transactions_total", "Transactions to other servers, by result (taken, refused, unreachable).", "result")
	sentItems        = telemetry.NewCounterVec("ebb_federation_sent_items_total", "Events and ephemeral data that other servers were sent, by kind (pdu, edu) and result (taken, refused, dropped).", "kind", "result")
)

// Sent queues an event for servers. It is called in the commit hook of the event, in the order of positions.
func (s *Service) Sent(room int64, pos storage.Pos, servers []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.top = max(s.top, pos)
	for _, server := range servers {
		d := s.destination(server)
		s.enqueue(d, queued{pos, room})
		s.start(d)
	}
}

// enqueue adds an event; a server for which too much waits falls behind. mu is held.
func (s *Service) enqueue(d *destination, q queued) {
	if len(d.queue) >= maxQueue || d.behind[q.room] {
		for _, old := range append(d.queue, q) {
			s.fallBehind(d, old.room)
		}
		d.queue = nil
		return
	}
	d.queue = append(d.queue, q)
}

func (s *Service) fallBehind(d *destination, room int64) {
	if !d.behind[room] {
		d.behind[room], d.newly[room], d.dirty = true, true, true
	}
	delete(s.gone[d.server], room)
}

// AddEDU stores, in a write of the caller, ephemeral data that a server is to get. Kick it once that is committed.
func (s *Service) AddEDU(tx *storage.Tx, server string, edu json.RawMessage) error {
	if err := tx.AddEDU(server, edu); err != nil {
		return err
	}
	if tx.NextPos()%trimEvery != 0 {
		return nil
	}
	return tx.TrimEDUs(server, maxDurable)
}

// trimEvery: looking for the end of a backlog costs a walk over it, so one in 64, by chance, does it.
const trimEvery = 64

// Kick begins to deliver what was stored for a server.
func (s *Service) Kick(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.destination(server)
	d.durable = true
	s.start(d)
}

// Queue hands over ephemeral data that may be lost: what has the same key takes the place of what waits.
func (s *Service) Queue(server, key string, edu json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.destination(server)
	if d.failures >= failFast {
		return // it will be old news once the server answers
	}
	i := slices.IndexFunc(d.volatile, func(v volatile) bool { return v.key == key })
	switch {
	case i >= 0:
		d.volatile[i].json = edu
	case len(d.volatile) >= maxVolatile:
		sentItems.WithLabelValues("edu", "dropped").Inc()
		d.volatile = append(d.volatile[1:], volatile{key, edu})
	default:
		d.volatile = append(d.volatile, volatile{key, edu})
	}
	s.start(d)
}

// Heard is told of a request of a server: it is there, so what waits for it is sent at once.
func (s *Service) Heard(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.known[server]
	if d == nil || d.failures == 0 {
		return
	}
	d.retry = time.Time{}
	s.hurry(d)
}

// hurry wakes a worker that waits to try again. mu is held.
func (s *Service) hurry(d *destination) {
	select {
	case d.wake <- struct{}{}:
	default:
	}
	s.start(d)
}

func (s *Service) destination(server string) *destination {
	d := s.known[server]
	if d == nil {
		d = &destination{server: server, behind: map[int64]bool{}, newly: map[int64]bool{}, wake: make(chan struct{}, 1)}
		s.known[server] = d
	}
	return d
}

func (d *destination) empty() bool {
	return len(d.queue) == 0 && len(d.behind) == 0 && len(d.volatile) == 0 && !d.durable
}

// start gives a destination a worker, if something waits for it. mu is held.
func (s *Service) start(d *destination) {
	if d.running || s.ctx == nil || s.ctx.Err() != nil || d.empty() {
		return
	}
	d.running = true
	ctx := s.ctx
	s.workers.Go(func() { s.work(ctx, d) })
}

// work sends until nothing is left or the service ends.
func (s *Service) work(ctx context.Context, d *destination) {
	for s.waitForRetry(ctx, d) {
		select {
		case s.sending <- struct{}{}:
		case <-ctx.Done():
			s.stopped(d)
			return
		}
		more, err := s.sendSome(ctx, d)
		<-s.sending
		if err != nil && ctx.Err() == nil {
			s.Log.ErrorContext(ctx, "sending to another server", "server", d.server, "err", err)
			s.Failed(d.server, err) // as for a server that does not answer: later
		}
		if !more && s.finished(d) {
			return
		}
	}
	s.stopped(d)
}

// finished ends the worker unless something came meanwhile.
func (s *Service) finished(d *destination) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.failures > 0 || !d.empty() {
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

// waitForRetry waits until a server that did not answer may be tried again; false at the end of the service.
func (s *Service) waitForRetry(ctx context.Context, d *destination) bool {
	for {
		s.mu.Lock()
		wait := d.retry.Sub(s.Now())
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

// batch is one transaction in the making.
type batch struct {
	queue    []queued // the events that it covers, sent or not
	behind   []int64  // rooms whose newest events it has
	pdus     []json.RawMessage
	edus     []json.RawMessage
	durable  []int64
	volatile []volatile
	moreEDUs bool
}

// sendSome sends one transaction; more tells that something is left.
func (s *Service) sendSome(ctx context.Context, d *destination) (more bool, err error) {
	b, err := s.gather(ctx, d)
	if err != nil {
		return true, err
	}
	if len(b.pdus)+len(b.edus) > 0 {
		err := s.transact(ctx, d.server, b.pdus, b.edus)
		if err != nil {
			var remote *fedclient.RemoteError
			result := "unreachable"
			if errors.As(err, &remote) {
				result = "refused"
			}
			sentTransactions.WithLabelValues(result).Inc()
			s.giveBack(d, b)
			return true, nil // the gate has counted the failure, and the worker waits
		}
	}
	return s.delivered(ctx, d, b)
}

// gather takes what waits for a server, as much as one transaction holds.
func (s *Service) gather(ctx context.Context, d *destination) (*batch, error) {
	b := &batch{}
	s.mu.Lock()
	n := min(len(d.queue), maxPDUs)
	b.queue = slices.Clone(d.queue[:n])
	for room := range d.behind {
		if len(b.queue) == 0 && len(b.behind) < maxBehindRooms {
			b.behind = append(b.behind, room)
		}
	}
	durable := d.durable
	s.mu.Unlock()
	if durable {
		err := s.DB.Read(ctx, func(tx *storage.Tx) error {
			rows, err := tx.EDUs(d.server, maxEDUs)
			for _, e := range rows {
				b.durable, b.edus = append(b.durable, e.NID), append(b.edus, e.JSON)
			}
			b.moreEDUs = len(rows) == maxEDUs
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	n = min(len(d.volatile), maxEDUs-len(b.edus))
	b.volatile, d.volatile = slices.Clone(d.volatile[:n]), d.volatile[n:]
	s.mu.Unlock()
	for _, v := range b.volatile {
		b.edus = append(b.edus, v.json)
	}
	return b, s.readEvents(ctx, b)
}

// maxBehindRooms is how many rooms of a server that has missed much one transaction is about.
const maxBehindRooms = 2 // each has up to 20 newest events

func (s *Service) readEvents(ctx context.Context, b *batch) (err error) {
	positions := make([]storage.Pos, len(b.queue))
	for i, q := range b.queue {
		positions[i] = q.pos
	}
	if b.pdus, err = s.Rooms.OutgoingEvents(ctx, positions); err != nil {
		return err
	}
	for _, room := range b.behind {
		newest, err := s.Rooms.NewestEvents(ctx, room)
		if err != nil {
			return err
		}
		b.pdus = append(b.pdus, newest...)
	}
	if len(b.pdus) > maxPDUs {
		b.pdus = b.pdus[:maxPDUs]
	}
	return nil
}

// giveBack puts back what was not delivered. Events and durable data are still where they were.
func (s *Service) giveBack(d *destination, b *batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.failures < failFast {
		d.volatile = append(b.volatile, d.volatile...)
		d.volatile = d.volatile[max(0, len(d.volatile)-maxVolatile):]
	}
}

// transact sends one transaction. A server that refuses it as such is sent its halves, and so on: what it refuses by itself is
// passed over, so that one bad item never blocks what waits behind it.
func (s *Service) transact(ctx context.Context, server string, pdus, edus []json.RawMessage) error {
	txn := s.boot + "-" + strconv.FormatUint(s.count.Add(1), 36)
	refused, err := s.Sender.SendTransaction(ctx, server, txn, pdus, edus)
	if err == nil {
		sentTransactions.WithLabelValues("taken").Inc()
		sentItems.WithLabelValues("pdu", "refused").Add(float64(len(refused)))
		sentItems.WithLabelValues("pdu", "taken").Add(float64(len(pdus) - min(len(pdus), len(refused))))
		sentItems.WithLabelValues("edu", "taken").Add(float64(len(edus)))
		for eventID, why := range refused {
			s.Log.DebugContext(ctx, "a server did not take an event", "server", server, "event", eventID, "why", why)
		}
		return nil
	}
	var remote *fedclient.RemoteError
	if !errors.As(err, &remote) || remote.Status != 400 && remote.Status != 413 {
		return err
	}
	switch {
	case len(pdus)+len(edus) == 1:
		s.Log.WarnContext(ctx, "a server refuses an item, which is passed over", "server", server, "err", err)
		sentItems.WithLabelValues(map[bool]string{true: "pdu", false: "edu"}[len(pdus) == 1], "refused").Inc()
		return nil
	case len(pdus) > 0 && len(edus) > 0:
		return errors.Join(s.transact(ctx, server, pdus, nil), s.transact(ctx, server, nil, edus))
	case len(pdus) > 0:
		return errors.Join(s.transact(ctx, server, pdus[:len(pdus)/2], nil), s.transact(ctx, server, pdus[len(pdus)/2:], nil))
	}
	return errors.Join(s.transact(ctx, server, nil, edus[:len(edus)/2]), s.transact(ctx, server, nil, edus[len(edus)/2:]))
}

// delivered forgets what a server has.
func (s *Service) delivered(ctx context.Context, d *destination, b *batch) (more bool, err error) {
	if len(b.durable) > 0 {
		if err := s.DB.Write(context.WithoutCancel(ctx), func(tx *storage.Tx) error { return tx.DeleteEDUs(b.durable) }); err != nil {
			return true, fmt.Errorf("forget what was delivered: %w", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.reached, d.dirty = s.Now(), true
	if n := len(b.queue); n > 0 && len(d.queue) >= n && d.queue[n-1] == b.queue[n-1] { // else it fell behind meanwhile
		d.queue = d.queue[n:]
		d.delivered = max(d.delivered, b.queue[n-1].pos)
	}
	for _, room := range b.behind {
		delete(d.behind, room)
		delete(d.newly, room)
		if s.gone[d.server] == nil {
			s.gone[d.server] = map[int64]bool{}
		}
		s.gone[d.server][room] = true
	}
	if len(b.durable) > 0 || !b.moreEDUs {
		d.durable = b.moreEDUs
	}
	return !d.empty(), nil
}

// Allowed makes a Service a fedclient.Gate: requests do not wait for a server that has not answered several times in a row.
func (s *Service) Allowed(server string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.known[server]
	if d == nil || d.failures < failFast || d.running && d.retry.IsZero() || !s.Now().Before(d.retry) {
		return nil
	}
	return fmt.Errorf("%w: %s has not answered %d times, it is tried again later", fedclient.ErrUnreachable, server, d.failures)
}

// Succeeded notes that a server answers.
func (s *Service) Succeeded(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.known[server]
	if d == nil || d.failures == 0 {
		return
	}
	d.failures, d.failingSince, d.retry, d.reached, d.dirty = 0, time.Time{}, time.Time{}, s.Now(), true
	s.hurry(d)
}

// Failed notes that a server does not answer.
func (s *Service) Failed(server string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.destination(server)
	now := s.Now()
	if d.failures == 0 {
		d.failingSince = now
	}
	wait := min(firstRetry<<min(d.failures, 20), maxRetry)
	var remote *fedclient.RemoteError
	if errors.As(err, &remote) {
		wait = max(wait, remote.RetryAfter)
	}
	d.failures++
	d.retry, d.dirty = now.Add(jitter(wait, s.count.Add(1))), true
}

// jitter spreads times by a quarter, so that servers which failed together are not tried together.
func jitter(d time.Duration, n uint64) time.Duration {
	return d - d/8 + time.Duration(n*2654435761%1000)*d/4000
}

// Run delivers until ctx ends. What is not delivered by then waits for the next start.
func (s *Service) Run(ctx context.Context) error {
	if err := s.resume(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		if err := s.store(context.WithoutCancel(ctx)); err != nil {
			s.Log.ErrorContext(ctx, "store what was delivered", "err", err)
		}
	}
	s.mu.Lock()
	s.ctx = nil
	s.mu.Unlock()
	s.workers.Wait()
	return s.store(context.WithoutCancel(ctx))
}

// resume reads what waits from before the start, and begins.
func (s *Service) resume(ctx context.Context) error {
	var destinations []storage.Destination
	var behind []storage.DestinationRoom
	var withEDUs []string
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if destinations, err = tx.Destinations(); err != nil {
			return err
		}
		if behind, err = tx.DestinationRooms(); err != nil {
			return err
		}
		withEDUs, err = tx.EDUServers()
		return err
	})
	if err != nil {
		return fmt.Errorf("read what waits for other servers: %w", err)
	}
	s.mu.Lock()
	for _, row := range destinations {
		s.destination(row.Server).read(row)
	}
	for _, row := range behind {
		s.destination(row.Server).behind[row.Room] = true
	}
	for _, server := range withEDUs {
		s.destination(server).durable = true
	}
	s.mu.Unlock()
	if err := s.requeue(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
	for _, d := range s.known {
		s.start(d)
	}
	close(s.started)
	return nil
}

func (d *destination) read(row storage.Destination) {
	d.delivered, d.failures = row.Delivered, row.Failures
	if row.FailingSince != 0 {
		d.failingSince, d.retry = time.UnixMilli(row.FailingSince), time.UnixMilli(row.RetryTS)
	}
	if row.ReachedTS != 0 {
		d.reached = time.UnixMilli(row.ReachedTS)
	}
}

// outboxPage is how many rows are read at a time.
const outboxPage = 1000

// requeue puts the events that are left from before the start into the queues.
func (s *Service) requeue(ctx context.Context) error {
	s.mu.Lock()
	newest := s.top // what was queued since the start of the program is queued
	first := map[string]storage.Pos{}
	for server, d := range s.known {
		if len(d.queue) > 0 {
			first[server] = d.queue[0].pos
		}
	}
	s.mu.Unlock()
	for after := storage.Pos(0); ; {
		var rows []storage.OutboxRow
		err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			rows, err = tx.Outbox(after, outboxPage)
			return err
		})
		if err != nil {
			return fmt.Errorf("read the outbox: %w", err)
		}
		for _, row := range rows {
			if after = row.Position; newest != 0 && row.Position > newest {
				return nil
			}
			servers, err := s.Rooms.ServersFor(ctx, row.Room, row.Position)
			if err != nil {
				return err
			}
			s.requeueOne(row, servers, first)
		}
		if len(rows) < outboxPage {
			return nil
		}
	}
}

func (s *Service) requeueOne(row storage.OutboxRow, servers []string, first map[string]storage.Pos) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.top = max(s.top, row.Position)
	for _, server := range servers {
		d := s.destination(server)
		if row.Position <= d.delivered || first[server] != 0 && row.Position >= first[server] {
			continue
		}
		s.enqueue(d, queued{row.Position, row.Room})
		slices.SortFunc(d.queue, func(a, b queued) int { return int(a.pos - b.pos) })
	}
}

// store writes how far everybody is, and removes what nobody waits for.
func (s *Service) store(ctx context.Context) error {
	s.mu.Lock()
	var rows []storage.Destination
	added, removed := map[string][]int64{}, map[string][]int64{}
	prune := s.top
	for server, d := range s.known {
		if len(d.queue) > 0 {
			prune = min(prune, d.queue[0].pos-1)
		}
		if !d.dirty {
			continue
		}
		d.dirty = false
		if len(d.queue) == 0 {
			d.delivered = max(d.delivered, s.top)
		}
		rows = append(rows, d.row())
		added[server] = slices.Collect(maps.Keys(d.newly))
		clear(d.newly)
	}
	for server, rooms := range s.gone {
		removed[server] = slices.Collect(maps.Keys(rooms))
	}
	clear(s.gone)
	s.forgetIdle()
	s.mu.Unlock()
	if len(rows) == 0 && len(removed) == 0 {
		return nil
	}
	return s.DB.Write(ctx, func(tx *storage.Tx) error {
		for _, row := range rows {
			if err := tx.PutDestination(row); err != nil {
				return err
			}
		}
		for server, rooms := range removed {
			for _, room := range rooms {
				if err := tx.DeleteDestinationRoom(server, room); err != nil {
					return err
				}
			}
		}
		for server, rooms := range added {
			for _, room := range rooms {
				if err := tx.AddDestinationRoom(server, room); err != nil {
					return err
				}
			}
		}
		return tx.PruneOutbox(prune)
	})
}

func (d *destination) row() storage.Destination {
	row := storage.Destination{Server: d.server, Delivered: d.delivered, Failures: d.failures}
	if d.failures > 0 {
		row.FailingSince, row.RetryTS = d.failingSince.UnixMilli(), max(d.retry.UnixMilli(), 0)
	}
	if !d.reached.IsZero() {
		row.ReachedTS = d.reached.UnixMilli()
	}
	return row
}

// maxIdle is how many servers for which nothing waits stay in memory.
const maxIdle = 10_000

// forgetIdle drops servers for which nothing waits. mu is held.
func (s *Service) forgetIdle() {
	if len(s.known) < maxIdle {
		return
	}
	for server, d := range s.known {
		if d.empty() && !d.running && d.failures == 0 && !d.dirty {
			delete(s.known, server)
		}
	}
}
