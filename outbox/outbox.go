// Package outbox delivers to other servers what they are to get: events of this server's users, and ephemeral data. An event
// is one row, whatever the number of servers; for which ones it is was known in the commit that stored it. Each server has a
// worker of its own while something waits for it, so that a slow one delays nobody.
//
// An event travels: the write that stores it adds the row → its rooms.Commit reaches the outbox (committed), which puts its position into the queues of
// the servers in the room → the worker of each reads it from the database, as it is by then, and sends it with others in one
// transaction → every second it is stored how far everybody is, and rows that nobody waits for are removed.
//
// A server that does not answer is tried again, less and less often, until it answers or asks for something itself. What it
// misses waits in the table. One that has missed too much is told of the newest events of its rooms only: it asks for what
// lies between.
package outbox

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// Sender sends a transaction; fedclient.Client is one.
type Sender interface {
	SendTransaction(ctx context.Context, server, txnID string, pdus, edus []json.RawMessage) (refused map[id.EventID]string, err error)
}

// Rooms knows the events; rooms.Service is one.
type Rooms interface {
	// OutgoingEvents gives the events at these positions as other servers get them; those that are gone are left out.
	OutgoingEvents(ctx context.Context, positions []storage.Pos) ([]rooms.OutgoingEvent, error)
	// NewestEvents gives the positions of a room's newest events.
	NewestEvents(ctx context.Context, room ident.RoomNID) ([]storage.Pos, error)
	// ServersSince tells which other servers are or were in a room, and when: those that left before the position are left out.
	ServersSince(ctx context.Context, room ident.RoomNID, after storage.Pos) ([]rooms.Stay, error)
}

// Options is what a Service is made of.
type Options struct {
	DB     *storage.DB
	Server string // this server's name
	Rooms  Rooms
	Sender Sender
	// Commits tells which events are to be delivered; nil: none.
	Commits *rooms.Commits
	Now     func() time.Time
	Log     *slog.Logger
}

const (
	// Bounds of a transaction.
	// Spec: server-server-api#transactions
	maxPDUs = 50
	maxEDUs = 100
	// maxQueue is how many positions of events are in memory for one server; what comes behind is read from the table.
	maxQueue = 1000
	// maxMissed and maxPatience are how many events and how long a server may miss before it is told of the newest events of
	// its rooms only. 10,000 events are 200 transactions, which take some seconds.
	maxMissed   = 10_000
	maxPatience = 24 * time.Hour
	// maxRows bounds the table: servers that do not answer then wait for nothing but the newest events.
	maxRows = 100_000
	// maxVolatile bounds the receipts, typing and presence that wait for one server.
	maxVolatile = 500
	// maxDurable bounds the messages between devices that wait for one server.
	maxDurable = 20_000
	// maxSending is how many servers are sent to at the same time; maxTrying how many of those that did not answer the last
	// time, which cost half a minute each, so that they keep nobody else waiting.
	maxSending = 200
	maxTrying  = 50
	// storeEvery is how long a crash can make servers get something a second time.
	storeEvery = time.Second
)

// Service is safe for concurrent use.
type Service struct {
	opts    Options
	boot    string // begins the ids of this run's transactions
	count   atomic.Uint64
	sending chan struct{} // slots
	trying  chan struct{}
	workers sync.WaitGroup
	senders senders

	receipts chan *rooms.Commit // with receipts that are to be queued

	// mu guards what follows; a leaf.
	mu        sync.Mutex
	loading   bool            // what waits from before the start is read
	loaded    bool            // it was
	ctx       context.Context // of Run; nil before and after
	known     map[string]*destination
	gone      map[string]map[ident.RoomNID]bool // destination_rooms that are to be removed
	announced storage.Pos                       // newest event that was committed
	top       storage.Pos                       // newest event that was queued
	rows      int64                             // of the table, about
	stamp     uint64                            // of destination.behind
}

// New makes a Service; Run starts it.
func New(o Options) *Service {
	s := &Service{
		opts: o, boot: rand.Text()[:10], sending: make(chan struct{}, maxSending), trying: make(chan struct{}, maxTrying),
		senders: newSenders(), known: map[string]*destination{}, gone: map[string]map[ident.RoomNID]bool{}, receipts: make(chan *rooms.Commit, maxReceipts),
	}
	o.Commits.Subscribe(s.committed)
	return s
}

// committed is the rooms.Listener that queues the events and receipts of a commit for the servers that are to get them.
func (s *Service) committed(c *rooms.Commit) {
	for i := range c.Events {
		if e := &c.Events[i]; e.Outgoing {
			s.sent(e.Room, e.Pos, e.Servers)
		}
	}
	s.noteReceipts(c)
}

// sent queues an event for servers. It is called in the order of positions.
func (s *Service) sent(room ident.RoomNID, pos storage.Pos, servers []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announced = pos
	if !s.loaded || pos <= s.top { // load reads it from the table, or has
		return
	}
	s.top = pos
	s.rows++
	for _, server := range servers {
		d := s.destination(server)
		s.enqueue(d, queued{pos, room})
		s.start(d)
	}
}

// AddEDU stores, in a write of the caller, ephemeral data that a server is to get, of a user or, with the empty ID, of this
// server itself. Kick it once that is committed.
func (s *Service) AddEDU(tx *storage.Tx, server string, sender id.UserID, edu json.RawMessage) error {
	hash := int64(0)
	if sender != "" {
		hash = tx.IDHash(string(sender))
	}
	nid, err := tx.AddEDU(server, hash, edu)
	if err != nil {
		return err
	}
	if sender != "" && s.senders.add(hash, len(edu)) {
		if err := s.senders.trim(tx, hash); err != nil {
			return err
		}
	}
	if nid%trimEvery != 0 {
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
	d.kicked++
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

// Run delivers until ctx ends. What is not delivered by then waits for the next start.
func (s *Service) Run(ctx context.Context) error {
	if err := s.load(ctx); err != nil {
		return err
	}
	s.begin(ctx)
	s.workers.Go(func() { s.queueReceipts(ctx) })
	tick := time.NewTicker(storeEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		if err := s.store(context.WithoutCancel(ctx)); err != nil {
			s.opts.Log.ErrorContext(ctx, "storing what was delivered", "err", err)
		}
	}
	s.mu.Lock()
	s.ctx = nil
	s.mu.Unlock()
	s.workers.Wait()
	err := s.store(context.WithoutCancel(ctx))
	if errors.Is(err, storage.ErrClosed) {
		return nil
	}
	return err
}

// begin gives every server for which something waits a worker.
func (s *Service) begin(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
	for _, d := range s.known {
		s.start(d)
	}
}
