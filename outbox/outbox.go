// Package outbox delivers events of local users and ephemeral data to other servers. An event is one row, whatever the
// number of servers; its destinations are determined in the commit that stored it. Each server has its own worker while
// something is pending for it, so that a slow one delays nobody.
//
// The write that stores an event adds a row for it → its rooms.Commit reaches the outbox (committed), which adds its
// position to the queues of the servers in the room → the worker of each server reads the current form of the event
// from the database and sends it with others in one transaction → every second the progress of all servers is stored,
// and rows that are no longer needed are removed.
//
// A server that does not respond is retried with growing delays until it responds or sends a request itself. Meanwhile
// its events stay in the table. A server that has missed too much gets only the newest events of its rooms, and
// requests the events between from there.
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

	"ebb/history"
	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// Sender sends a transaction; fedclient.Client implements it.
type Sender interface {
	SendTransaction(ctx context.Context, server, txnID string, pdus, edus []json.RawMessage) (refused map[id.EventID]string, err error)
}

// History provides the events; history.Service implements it.
type History interface {
	// OutgoingEvents returns the events at these positions in the form sent to other servers; it leaves out deleted
	// ones.
	OutgoingEvents(ctx context.Context, positions []storage.Pos) ([]history.OutgoingEvent, error)
	// NewestEvents returns the positions of a room's newest events.
	NewestEvents(ctx context.Context, room ident.RoomNID) ([]storage.Pos, error)
	// ServersSince returns when other servers were in a room, without those that left before the position.
	ServersSince(ctx context.Context, room ident.RoomNID, after storage.Pos) ([]history.ServerPeriod, error)
}

// Options are the dependencies and settings of a Service.
type Options struct {
	DB      *storage.DB
	Server  string // this server's name
	History History
	Sender  Sender
	// Commits reports the events to deliver; nil if there are none.
	Commits *rooms.Commits
	Now     func() time.Time
	Log     *slog.Logger
}

const (
	// Bounds of a transaction.
	// Spec: server-server-api#transactions
	maxPDUs = 50
	maxEDUs = 100
	// maxQueue bounds the positions of events that are kept in memory for one server; later ones are read from the
	// table.
	maxQueue = 1000
	// maxMissed and maxPatience are how many events and how long a server may miss before it gets only the newest
	// events of its rooms. 10,000 events are 200 transactions, which take some seconds.
	maxMissed   = 10_000
	maxPatience = 24 * time.Hour
	// maxRows bounds the table: beyond it, servers that do not respond get only the newest events.
	maxRows = 100_000
	// maxVolatile bounds the pending receipts, typing notifications and presence for one server.
	maxVolatile = 500
	// maxDurable bounds the pending to-device messages for one server.
	maxDurable = 20_000
	// maxSending bounds the servers with a request in progress; maxTrying bounds those among them that failed the last
	// time, each of which may take half a minute, so that they do not delay others.
	maxSending = 200
	maxTrying  = 50
	// storeEvery bounds the period whose deliveries may be repeated after a crash.
	storeEvery = time.Second
)

// Service implements the package. It is safe for concurrent use.
type Service struct {
	opts    Options
	boot    string // prefix of the transaction IDs of this run
	count   atomic.Uint64
	sending chan struct{} // slots
	trying  chan struct{}
	workers sync.WaitGroup
	senders senders

	receipts chan *rooms.Commit // commits with receipts to queue

	// mu guards the fields below; a leaf lock.
	mu        sync.Mutex
	loading   bool            // events from before the start are being loaded
	loaded    bool            // they have been loaded
	ctx       context.Context // the context of Run; nil while Run is not running
	known     map[string]*destination
	gone      map[string]map[ident.RoomNID]bool // destination_rooms to delete
	announced storage.Pos                       // newest event that was committed
	top       storage.Pos                       // newest event that was queued
	rows      int64                             // approximate number of rows in the table
	stamp     uint64                            // last stamp used in destination.behind
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

// committed is a rooms.Listener that queues the events and receipts of a commit for other servers.
func (s *Service) committed(c *rooms.Commit) {
	for i := range c.Events {
		if e := &c.Events[i]; e.Outgoing {
			s.sent(e.Room, e.Pos, e.Servers)
		}
	}
	s.noteReceipts(c)
}

// sent queues an event for servers. It must be called in the order of positions.
func (s *Service) sent(room ident.RoomNID, pos storage.Pos, servers []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announced = pos
	if !s.loaded || pos <= s.top { // load reads it from the table, or has done so
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

// AddEDU stores an EDU for a server in the caller's write. It counts against sender; the empty ID is this server
// itself. Call Kick once the write is committed.
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

// trimEvery is the average number of EDUs between checks of a backlog: a check reads the whole backlog, so only one EDU
// in 64, at random, causes one.
const trimEvery = 64

// Kick starts the delivery of what was stored for a server.
func (s *Service) Kick(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.destination(server)
	d.kicked++
	s.start(d)
}

// Queue queues an EDU that may be lost. It replaces a pending one with the same key.
func (s *Service) Queue(server, key string, edu json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.destination(server)
	if d.failures >= failFast {
		return // it would be outdated once the server responds
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

// Run delivers until ctx ends. What is still pending then is delivered after the next start.
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
			s.opts.Log.ErrorContext(ctx, "Cannot store the delivery progress", "err", err)
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

// begin starts a worker for every server with something pending.
func (s *Service) begin(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
	for _, d := range s.known {
		s.start(d)
	}
}
