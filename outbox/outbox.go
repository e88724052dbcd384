// Package outbox delivers events of local users and ephemeral data to other servers. An event is stored as one row, no
// matter how many servers there are; its destinations are determined in the commit that stored it. While something is
// pending for a server, the server has a worker of its own, so that a slow server does not delay the others.
//
// The write that stores an event adds a row for it. The listener (committed) receives the rooms.Commit and adds the
// event's position to the queues of the servers in the room. The worker of each server reads the current form of the
// event from the database and sends it with others in one transaction. Every second, the progress of all servers is
// stored, and rows that are no longer needed are deleted.
//
// A server that does not respond is retried with growing delays until it responds or sends a request itself. Meanwhile
// its events stay in the table. To a server that has missed too much, only the newest events of its rooms are sent; it
// can request the events before them. A server that has missed too much or has just joined a room is also sent the
// events of local users that are still sticky (MSC4354), before the newest events.
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
	// OutgoingEvents returns the events at the given positions in the form for other servers. It leaves out deleted
	// events.
	OutgoingEvents(ctx context.Context, positions []storage.Pos) ([]history.OutgoingEvent, error)
	// NewestEvents returns the positions of the events to send to a server that is not sent all of them: sticky events
	// of local users after a position and, when no such events are left, a room's newest events. more is false for the
	// latter.
	NewestEvents(ctx context.Context, server string, room ident.RoomNID, after storage.Pos) (events []storage.Pos, more bool, err error)
	// HasLocalSticky reports whether a room may have sticky events of local users.
	HasLocalSticky(room ident.RoomNID) bool
	// ServersSince returns the periods in which other servers were in a room, except for servers that left before the
	// given position.
	ServersSince(ctx context.Context, room ident.RoomNID, after storage.Pos) ([]history.ServerPeriod, error)
}

// Options are the dependencies and settings of a Service.
type Options struct {
	DB      *storage.DB
	Server  string // this server's name
	History History
	Sender  Sender
	// Commits reports the events to deliver; may be nil.
	Commits *rooms.Commits
	Now     func() time.Time
	Log     *slog.Logger
}

const (
	// maxPDUs and maxEDUs bound a transaction.
	// Spec: server-server-api#transactions
	maxPDUs = 50
	maxEDUs = 100
	// maxQueue bounds the positions of events that are kept in memory for one server; later ones are read from the
	// table.
	maxQueue = 1000
	// maxMissed and maxPatience bound how many events, and for how long, a server may miss. Beyond that, only the
	// newest events of its rooms are sent to it. 10,000 events are 200 transactions, which take some seconds.
	maxMissed   = 10_000
	maxPatience = 24 * time.Hour
	// maxRows bounds the table. Beyond it, only the newest events are sent to servers that do not respond.
	maxRows = 100_000
	// maxVolatile bounds the pending receipts, typing notifications and presence for one server.
	maxVolatile = 500
	// maxDurable bounds the pending to-device messages for one server.
	maxDurable = 20_000
	// maxSending bounds the servers with a request in progress. maxTrying bounds those among them whose last request
	// failed; each such request may take half a minute and would otherwise delay the other servers.
	maxSending = 200
	maxTrying  = 50
	// storeEvery is how often the progress is stored. At most the deliveries of such an interval are repeated after a
	// crash.
	storeEvery = time.Second
)

// Service delivers events and EDUs to other servers. It is safe for concurrent use.
type Service struct {
	opts    Options
	boot    string // prefix of the transaction IDs of this process
	count   atomic.Uint64
	sending chan struct{} // semaphores for maxSending and maxTrying
	trying  chan struct{}
	workers sync.WaitGroup
	senders senders

	receipts chan *rooms.Commit // commits whose receipts have to be queued

	// mu guards the fields below; a leaf lock.
	mu        sync.Mutex
	loading   bool            // whether events from before the start are being loaded
	loaded    bool            // whether they have been loaded
	ctx       context.Context // the context of Run; nil while Run is not running
	known     map[string]*destination
	gone      map[string]map[ident.RoomNID]bool // rows of destination_rooms to delete
	announced storage.Pos                       // the newest committed event
	top       storage.Pos                       // the newest queued event
	rows      int64                             // approximate number of rows in the table
	stamp     uint64                            // last stamp used in destination.behind
}

// New returns a Service. Run starts it.
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
			s.queueEvent(e.Room, e.Pos, e.Servers)
		}
	}
	s.noteReceipts(c)
	s.noteArrivals(c)
}

// noteArrivals makes sure that servers which have come into a room get the sticky events of local users. Since these
// are old events, each such server is treated like one that has missed too many events of the room: it gets the sticky
// events and the newest ones. This change is only made in memory, because the write of the commit has stored it. Spec:
// MSC4354
func (s *Service) noteArrivals(c *rooms.Commit) {
	if len(c.Arrived) == 0 || !s.opts.History.HasLocalSticky(c.Room.NID()) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, server := range c.Arrived {
		d := s.destination(server)
		delete(d.caught, c.Room.NID())
		s.fallBehind(d, c.Room.NID())
		s.start(d)
	}
}

// queueEvent adds an event to the queues of the given servers. It must be called in the order of the events' positions.
func (s *Service) queueEvent(room ident.RoomNID, pos storage.Pos, servers []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.announced = pos
	if !s.loaded || pos <= s.top { // load will read it from the table, or has done so
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

// AddEDU stores an EDU for a server in the caller's write. It counts towards the bounds of sender; an empty sender
// means this server itself. The caller must call Kick once the write has been committed.
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

// trimEvery is the average number of EDUs between two checks of a backlog. A check reads the whole backlog, so it is
// made at random for one EDU in 64.
const trimEvery = 64

// Kick starts the delivery of EDUs that were stored for a server.
func (s *Service) Kick(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.destination(server)
	d.kicked++
	s.start(d)
}

// Queue queues an EDU that may be lost. The EDU replaces a pending one with the same key.
func (s *Service) Queue(server, key string, edu json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.destination(server)
	if d.failures >= failFast {
		return // the EDU would be outdated by the time the server responds
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

// Run delivers until ctx ends. Anything still pending is delivered after the next start.
func (s *Service) Run(ctx context.Context) error {
	switch err := s.load(ctx); {
	case ctx.Err() != nil: // stopped as soon as it was started
		return nil
	case err != nil:
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

// begin starts a worker for every server for which something is pending.
func (s *Service) begin(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
	for _, d := range s.known {
		s.start(d)
	}
}
