package appservice

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"ebb/history"
	"ebb/ident"
	"ebb/keyed"
	"ebb/rooms"
	"ebb/storage"
)

const (
	// maxQueue bounds the positions of undelivered events that are kept in memory for one application service; later
	// events are read from the database.
	maxQueue = 10_000
	// maxTxnEvents and maxTxnBytes bound the events of one transaction.
	maxTxnEvents = 100
	maxTxnBytes  = 4 << 20
	// maxRetry is the longest delay between attempts to reach an application service.
	maxRetry = 5 * time.Minute
	// storeEvery is how often the position is stored for an application service to which nothing is delivered.
	storeEvery = time.Minute
	// pollEvery is how often a waiting worker checks the clock, which tests may advance.
	pollEvery = 200 * time.Millisecond
)

// retries doubles the delay with each failure, starting at one second.
var retries = keyed.Backoff{First: time.Second, Max: maxRetry}

// worker delivers events to one application service. Its goroutine executes run; committed passes commits to it.
type worker struct {
	svc   *Service
	app   atomic.Pointer[app]
	known atomic.Pointer[interest]
	wake  chan struct{} // capacity one
	stop  context.CancelFunc

	more    bool                                // whether the last transaction had no room for all news about devices
	counted *keyed.Map[ident.DeviceNID, string] // the key counts last reported for each device

	// mu guards the fields below; a leaf lock.
	mu    sync.Mutex
	queue []history.Placed // undelivered events, in order
	// seen is the position up to which the queue is complete. If behind is set, later events have to be read from the
	// database, and commits add nothing to the queue.
	seen   storage.Pos
	behind bool
	falls  int  // number of calls of fallBehind and rewind
	hurry  bool // whether to retry at once, because the application service is known to be up
	dirty  bool // whether row differs from the stored one
	row    storage.AppService
	volatile
}

func newWorker(s *Service, a *app, row storage.AppService) *worker {
	w := &worker{svc: s, wake: make(chan struct{}, 1), row: row, seen: row.Position, behind: true, more: true,
		counted: keyed.NewMap[ident.DeviceNID, string](maxCounts)}
	w.noted = map[ident.UserNID]bool{}
	w.app.Store(a)
	w.known.Store(newInterest())
	return w
}

// signal wakes the worker's goroutine.
func (w *worker) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// committed adds the events of a commit that concern the application service to the queue. It runs in the committer.
func (w *worker) committed(c *rooms.Commit) {
	a, known := w.app.Load(), w.known.Load()
	a.observe(known, c)
	if len(a.Aliases) > 0 && (c.Aliases || c.Created) {
		w.fallBehind() // the room's aliases are only in the database
		return
	}
	woken := false
	for i := range c.Events {
		if e := &c.Events[i]; !e.Past && (!e.Hidden() || e.Flags == storage.OutlierEvent) {
			woken = w.enqueue(e.Event, a.concernsEvent(known, c.Room, e.Event)) || woken
		}
	}
	for _, e := range c.Revealed {
		woken = w.enqueue(e, a.concernsEvent(known, c.Room, e)) || woken
	}
	if w.noteReceipts(a, known, c) || woken {
		w.signal()
	}
}

// enqueue adds an event to the queue if it concerns the application service, and reports whether the worker has to be
// woken.
func (w *worker) enqueue(e *rooms.Event, concerns bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.behind: // scan will find it
		return concerns
	case concerns && len(w.queue) >= maxQueue:
		w.behind = true
		return true
	case concerns:
		w.queue = append(w.queue, history.Placed{Pos: e.Pos, Room: e.Room})
	}
	w.seen = max(w.seen, e.Pos)
	return concerns
}

// fallBehind makes the worker read further events from the database. Until it has caught up, commits add nothing to its
// queue.
func (w *worker) fallBehind() {
	w.mu.Lock()
	w.behind = true
	w.falls++
	w.mu.Unlock()
	w.signal()
}

// rewind makes the worker read all events again that the application service has not confirmed.
func (w *worker) rewind() {
	w.mu.Lock()
	w.queue, w.behind, w.seen = nil, true, w.row.Position
	w.falls++
	w.mu.Unlock()
}

// run delivers events until ctx ends.
func (w *worker) run(ctx context.Context) {
	w.resumePending(ctx)
	for ctx.Err() == nil {
		worked, err := w.deliver(ctx)
		if err != nil && ctx.Err() == nil {
			w.svc.opts.Log.ErrorContext(ctx, "cannot read the events to deliver to an application service", "appservice", w.app.Load().ID, "err", err)
		}
		if !worked || err != nil {
			w.pause(ctx)
		}
	}
}

// pause waits until there may be something to deliver. If nothing happens for a minute, it stores the progress.
func (w *worker) pause(ctx context.Context) {
	w.saveProgress(ctx, false)
	timer := time.NewTimer(storeEvery)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-w.wake:
	case <-timer.C:
		w.saveProgress(ctx, true)
	}
}

// deliver sends the next transaction, and reports whether there was one.
func (w *worker) deliver(ctx context.Context) (bool, error) {
	if err := w.refill(ctx); err != nil {
		return false, err
	}
	t, err := w.next(ctx)
	if err != nil || t == nil {
		return false, err
	}
	if err := w.begin(ctx, t); err != nil {
		w.rewind()
		return false, err
	}
	return true, w.complete(ctx, t)
}

// refill reads events from the database if the queue is empty and incomplete.
func (w *worker) refill(ctx context.Context) error {
	for {
		w.mu.Lock()
		after, falls, needed := w.seen, w.falls, w.behind && len(w.queue) == 0
		w.mu.Unlock()
		if !needed {
			return nil
		}
		upTo := w.svc.opts.DB.Announced()
		known := newInterest()
		var err error
		a := w.app.Load()
		if known.aliased, err = w.svc.readAliases(ctx, a); err != nil {
			return err
		}
		found, done, err := w.svc.scan(ctx, a, known, after, upTo)
		if err != nil {
			return err
		}
		w.known.Store(known)
		w.found(found, done, upTo, falls)
	}
}

// found adds the events that scan has found to the queue. Once the queue is complete up to the newest commit, new
// commits are added to it directly again.
func (w *worker) found(events []history.Placed, done, upTo storage.Pos, falls int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, events...)
	w.seen = max(w.seen, done)
	w.behind = done < upTo || w.svc.newest.Load() > int64(upTo) || w.falls != falls
}

// saveProgress stores the progress at once after a transaction. If nothing was delivered but the position has advanced,
// it stores the progress once a minute.
func (w *worker) saveProgress(ctx context.Context, minute bool) {
	w.mu.Lock()
	if !w.behind && len(w.queue) == 0 && w.row.Txn == "" && w.row.Position < w.seen {
		w.row.Position, w.dirty = w.seen, w.dirty || minute
	}
	dirty := w.dirty
	w.mu.Unlock()
	if !dirty {
		return
	}
	if err := w.store(ctx); err != nil && ctx.Err() == nil {
		w.svc.opts.Log.ErrorContext(ctx, "cannot store the progress of an application service", "appservice", w.app.Load().ID, "err", err)
	}
}

// store stores the progress of the delivery and deletes the to-device messages that were delivered.
func (w *worker) store(ctx context.Context, delivered ...storage.Pos) error {
	w.mu.Lock()
	row := w.row
	w.dirty = false
	w.mu.Unlock()
	err := w.svc.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := tx.DropToDevice(delivered); err != nil {
			return err
		}
		return tx.SetAppService(row)
	})
	if err != nil {
		w.mu.Lock()
		w.dirty = true
		w.mu.Unlock()
	}
	return err
}

// transaction is the content of one request to an application service.
type transaction struct {
	id     string
	about  about
	body   []byte     // nil if it has to be made again
	counts deviceNews // includes the key counts, which are not stored
}

// about is the part of a transaction that the database stores until the application service has confirmed it.
type about struct {
	Events   []history.Placed `json:"events,omitempty"`
	UpTo     storage.Pos      `json:"up_to"`
	Devices  storage.Pos      `json:"devices"`
	ToDevice []storage.Pos    `json:"to_device,omitempty"`
	Changed  []string         `json:"changed,omitempty"` // users whose device lists changed
	Left     []string         `json:"left,omitempty"`    // users who no longer share a room
}

// next makes the next transaction, or returns nil if there is nothing to deliver.
func (w *worker) next(ctx context.Context) (*transaction, error) {
	w.mu.Lock()
	candidates := slices.Clone(w.queue[:min(len(w.queue), maxTxnEvents)])
	w.mu.Unlock()
	events, err := w.svc.opts.History.AppEvents(ctx, candidates)
	if err != nil {
		return nil, err
	}
	events, taken := fitting(candidates, events)
	t := &transaction{id: rand.Text()}
	for _, e := range events {
		t.about.Events = append(t.about.Events, e.Placed)
	}
	news, err := w.deviceNews(ctx, t, events)
	if err != nil {
		return nil, err
	}
	ephemeral := w.takeEphemeral()
	t.about.UpTo = w.take(taken)
	if len(events) == 0 && len(ephemeral) == 0 && news.empty() {
		if taken > 0 { // everything was redacted or has expired: try the next events
			w.signal()
		}
		return nil, nil
	}
	t.body, t.counts = body(events, ephemeral, news, w.app.Load().OldEphemeral), news
	return t, nil
}

// fitting returns as many of the first events as fit into one transaction. events are those of the candidates that are
// still to be sent. fitting also returns how many of the candidates can be removed from the queue: the returned events,
// and the candidates between them that are not sent.
func fitting(candidates []history.Placed, events []history.AppEvent) ([]history.AppEvent, int) {
	size := 0
	for i, e := range events {
		if size += len(e.JSON); size > maxTxnBytes && i > 0 {
			return events[:i], slices.Index(candidates, e.Placed)
		}
	}
	return events, len(candidates)
}

// take removes the first n events, which are going to be delivered now, from the queue. It returns the position up to
// which everything will have been delivered then.
func (w *worker) take(n int) storage.Pos {
	w.mu.Lock()
	defer w.mu.Unlock()
	upTo := w.row.Position
	if n > 0 {
		upTo = max(upTo, w.queue[n-1].Pos)
	}
	if w.queue = w.queue[n:]; len(w.queue) == 0 {
		w.queue, upTo = nil, max(upTo, w.seen)
	}
	return upTo
}

// begin stores the transaction before it is sent, so that it keeps its ID if the server stops in the meantime.
func (w *worker) begin(ctx context.Context, t *transaction) error {
	pending, err := json.Marshal(t.about)
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.row.Txn, w.row.Pending = t.id, string(pending)
	w.mu.Unlock()
	if err := w.store(ctx); err != nil {
		return fmt.Errorf("store the transaction: %w", err)
	}
	return nil
}

// complete sends a transaction until the application service confirms it, and records the confirmation. If ctx ends
// before that, the transaction remains stored.
func (w *worker) complete(ctx context.Context, t *transaction) error {
	for {
		err := w.renew(ctx, t)
		if err == nil {
			err = w.send(ctx, t)
		}
		if err == nil {
			return w.confirmed(ctx, t)
		}
		t.body = nil
		w.failed(ctx, err)
		if !w.awaitRetry(ctx) {
			return nil
		}
	}
}

// confirmed records that the application service has confirmed a transaction. If there are more events, the same write
// stores the next transaction.
func (w *worker) confirmed(ctx context.Context, t *transaction) error {
	w.mu.Lock()
	w.row = storage.AppService{ID: w.row.ID, Position: t.about.UpTo, Devices: max(t.about.Devices, w.row.Devices), ReachedTS: w.svc.now().UnixMilli()}
	w.dirty = true
	wait := len(w.queue) > 0 && len(t.about.ToDevice) == 0
	w.mu.Unlock()
	if wait {
		return nil
	}
	return w.store(ctx, t.about.ToDevice...)
}

// send sends a transaction once.
// Spec: application-service-api#put_matrixappv1transactionstxnid
func (w *worker) send(ctx context.Context, t *transaction) error {
	started := time.Now()
	_, err := w.svc.do(ctx, w.app.Load(), call{method: "PUT", path: "/_matrix/app/v1/transactions/" + t.id, legacy: "/transactions/" + t.id, body: t.body})
	observe(w.app.Load().ID, err, len(t.about.Events), time.Since(started))
	return err
}

// renew makes the body of a transaction again for another attempt. It leaves out ephemeral events, and events that have
// been redacted or have expired in the meantime. It does nothing before the first attempt.
func (w *worker) renew(ctx context.Context, t *transaction) error {
	if t.body != nil {
		return nil
	}
	events, err := w.svc.opts.History.AppEvents(ctx, t.about.Events)
	if err != nil {
		return err
	}
	news, err := w.readNews(ctx, t.about)
	if err != nil {
		return err
	}
	news.counts, news.fallback = t.counts.counts, t.counts.fallback
	t.body = body(events, nil, news, false)
	return nil
}

// resumePending delivers the transaction that had not been confirmed when the server last stopped.
func (w *worker) resumePending(ctx context.Context) {
	w.mu.Lock()
	row := w.row
	w.mu.Unlock()
	if row.Txn == "" {
		return
	}
	t := &transaction{id: row.Txn}
	err := json.Unmarshal([]byte(row.Pending), &t.about)
	w.mu.Lock()
	w.seen = max(w.seen, t.about.UpTo)
	w.mu.Unlock()
	if err == nil && row.RetryTS > w.svc.now().UnixMilli() && !w.awaitRetry(ctx) {
		return
	}
	if err == nil {
		err = w.complete(ctx, t)
	}
	if err != nil && ctx.Err() == nil {
		w.svc.opts.Log.ErrorContext(ctx, "cannot repeat the transaction of an application service", "appservice", row.ID, "err", err)
	}
}

// failed records a failed delivery.
func (w *worker) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	now := w.svc.now()
	w.mu.Lock()
	if w.row.Failures == 0 {
		w.row.FailingTS = now.UnixMilli()
	}
	delay := keyed.Jitter(retries.Delay(w.row.Failures), uint64(w.row.Failures))
	w.row.Failures++
	w.row.RetryTS = now.Add(delay).UnixMilli()
	row := w.row
	w.dirty = true
	w.mu.Unlock()
	if row.Failures == 1 {
		w.svc.opts.Log.WarnContext(ctx, "an application service does not take a transaction; it is repeated until it does", "appservice", row.ID, "err", err)
	}
	w.saveProgress(ctx, false)
}

// awaitRetry waits until the next attempt is due. It returns false if ctx ends before that.
func (w *worker) awaitRetry(ctx context.Context) bool {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		w.mu.Lock()
		due := w.hurry || w.row.RetryTS <= w.svc.now().UnixMilli()
		w.hurry = w.hurry && !due
		w.mu.Unlock()
		if due {
			return ctx.Err() == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// contacted records that the application service has sent a request. This shows that the service is up, so a delivery
// that waits for its next attempt is attempted at once.
func (w *worker) contacted() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hurry = w.row.Failures > 0
}
