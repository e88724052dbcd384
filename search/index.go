// Package search maintains the index that finds events by the words in their text. It returns the events that may
// contain all words of a query. Package history reads these events and decides whether their text really matches and
// who may see them.
//
// From its commit on, an event is part of the tail, which consists of all events above a position that the database
// records (storage.Tx.SearchedUpTo). The tail is not stored. Memory holds a cache of it, which is rebuilt from the
// events after a restart. Hence a send writes nothing for the index, and no acknowledged event can be missing. When the
// tail has grown, Run moves it into blocks. A block is a compressed list of which words occur in which events of one
// room (storage/postings). Blocks are merged into larger ones as a room grows.
//
// Redaction and rejection remove an event from its block in the write that removes its text (storage.dependents). A
// purge marks the block as stale in that write; no search finds the event from then on, and Clean removes its words
// from the block at the end of the run. Events from before the index existed, or from while search was disabled, form
// gaps, which Run fills, newest events first.
package search

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"ebb/ident"
	"ebb/keyed"
	"ebb/rooms/words"
	"ebb/storage"
	"ebb/storage/postings"
	"ebb/telemetry"
)

const (
	// maxTail bounds the events in the tail that are in memory. An entry takes about 100 bytes, and 4 for each term.
	maxTail = 16384
	// maxTailTerms bounds the terms of these events: 16 MB.
	maxTailTerms = 4 << 20
	// flushAt is the size of the tail, in events, at which it is moved into blocks. A larger tail has more events of
	// the same rooms, so that less is written for each event.
	flushAt = 4096
	// flushTermsAt is the number of terms at which the tail is moved into blocks although it has fewer events.
	flushTermsAt = 1 << 20
	// readBatch is the number of events that are read at a time.
	readBatch = 256
	// maxBacklog bounds the positions that are indexed before new events after a start. If more were added since the
	// last run, they become a gap, so that new events are found immediately.
	maxBacklog = 50_000
	// maxGaps bounds the gaps that are read at a time; others are read when these have been filled.
	maxGaps = 16
	// maxWriteDocs and maxWriteTerms bound what one write adds to blocks, so that it does not delay sends for long.
	maxWriteDocs  = 512
	maxWriteTerms = 1 << 18
	// every is the interval at which Run looks for new events.
	every = time.Second
	// pause is the time that Run leaves to other work between two parts of a gap.
	pause = 20 * time.Millisecond
)

var unindexed = telemetry.NewGauge("ebb_search_backlog", "Positions of the stream of changes that the search index has yet to go through, apart from the newest.")

// Options are the dependencies of an Index.
type Options struct {
	DB  *storage.DB
	Log *slog.Logger
	// FlushAt replaces flushAt in tests.
	FlushAt int
}

// Index is the search index. It is safe for concurrent use.
type Index struct {
	db      *storage.DB
	log     *slog.Logger
	key     []byte
	flushAt int
	heads   *keyed.Map[storage.Pos, []Hit] // the events of blocks, which are the same for as long as the block exists

	flushing sync.Mutex // held while the tail is moved to blocks, including database work; taken before mu

	mu   sync.Mutex // guards tail; a leaf lock
	tail tail
}

// tail holds the docs (index entries) of the events with text between two positions. docs is only ever appended to, so
// that a copy of the struct stays valid.
type tail struct {
	after, upTo storage.Pos
	docs        []tailDoc
	terms       int // of all docs
}

// with returns the tail with further docs, which are complete up to a position.
func (t tail) with(docs []tailDoc, upTo storage.Pos) tail {
	t.docs, t.upTo, t.terms = append(t.docs, docs...), upTo, t.terms+termsOf(docs)
	return t
}

func termsOf(docs []tailDoc) (n int) {
	for i := range docs {
		n += len(docs[i].Terms)
	}
	return n
}

type tailDoc struct {
	room ident.RoomNID
	postings.Doc
}

// New returns an Index. Run must be started to keep it up to date.
func New(ctx context.Context, o Options) (*Index, error) {
	x := &Index{db: o.DB, log: o.Log, key: o.DB.Secret("search"), flushAt: o.FlushAt}
	x.heads = keyed.NewSizedMap(maxHeads, func(_ storage.Pos, hits []Hit) int64 { return int64(len(hits)) * hitSize })
	if x.flushAt == 0 {
		x.flushAt = flushAt
	}
	return x, x.begin(ctx)
}

// begin reads up to which position events are indexed. If that is far behind, it turns the missing positions into a
// gap.
func (x *Index) begin(ctx context.Context) error {
	var upTo storage.Pos
	now := x.db.Settled()
	err := x.db.Read(ctx, func(tx *storage.Tx) (err error) {
		upTo, err = tx.SearchedUpTo()
		return err
	})
	if err != nil {
		return err
	}
	if now-upTo > maxBacklog {
		err := x.db.Write(ctx, func(tx *storage.Tx) error {
			if err := tx.AddSearchGap(storage.SearchGap{After: upTo, UpTo: now}); err != nil {
				return err
			}
			return tx.SetSearchedUpTo(now)
		})
		if err != nil {
			return err
		}
		upTo = now
	}
	x.tail = tail{after: upTo, upTo: upTo}
	return nil
}

// Run keeps the index up to date until ctx ends.
func (x *Index) Run(ctx context.Context) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		more, err := x.step(ctx)
		if err != nil && ctx.Err() == nil {
			x.log.Error("Cannot update the search index; trying again", "err", err)
		}
		wait := tick.C
		if more && err == nil {
			wait = time.After(pause)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil
		}
	}
}

// step moves the tail into blocks if it has grown large, and fills a part of a gap. It reports whether more work
// remains.
func (x *Index) step(ctx context.Context) (more bool, err error) {
	if err := x.CatchUp(ctx); err != nil {
		return false, err
	}
	if x.grown() {
		if err := x.Flush(ctx); err != nil {
			return false, err
		}
	}
	return x.fill(ctx)
}

func (x *Index) grown() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.full(len(x.tail.docs), x.tail.terms)
}

// full reports whether docs with that many terms in all are to be moved into blocks.
func (x *Index) full(docs, terms int) bool { return docs >= x.flushAt || terms >= flushTermsAt }

// current returns a copy of the tail.
func (x *Index) current() tail {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.tail
}

// CatchUp reads events into the tail until it includes the newest event or reaches its maximum size.
func (x *Index) CatchUp(ctx context.Context) error {
	for more := x.current().upTo < x.db.Settled(); more; {
		err := x.db.Read(ctx, func(tx *storage.Tx) (err error) {
			t := x.current()
			more, err = x.extend(tx, &t, readBatch)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// extend reads at most limit further events into t, which is a copy of the tail. It stores the result as the new tail
// unless the tail has changed in the meantime. It reports whether more events remain.
func (x *Index) extend(tx *storage.Tx, t *tail, limit int) (more bool, err error) {
	limit = min(limit, maxTail-len(t.docs))
	if t.upTo >= tx.Settled() || limit <= 0 || t.terms >= maxTailTerms {
		return false, nil
	}
	before := t.upTo
	docs, upTo, err := x.read(tx, before, tx.Settled(), limit)
	if err != nil {
		return false, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.tail.after == t.after && x.tail.upTo == before {
		x.tail = x.tail.with(docs, upTo)
		*t = x.tail
	} else {
		t.docs = slices.Clip(t.docs)
		*t = t.with(docs, upTo)
	}
	return upTo < tx.Settled(), nil
}

// read returns the docs of at most limit events above a position, and the position up to which they are complete.
func (x *Index) read(tx *storage.Tx, after, upTo storage.Pos, limit int) (docs []tailDoc, end storage.Pos, err error) {
	rows, err := tx.SearchableEvents(after, upTo, limit)
	if err != nil {
		return nil, after, err
	}
	r := reader{hasher: words.NewHasher(x.key)}
	edits := map[ident.RoomNID][]edit{}
	for i := range rows {
		d, original, found := r.doc(&rows[i])
		if !found {
			continue
		}
		if original != "" {
			edits[d.room] = append(edits[d.room], edit{doc: len(docs), original: original})
		}
		docs = append(docs, d)
	}
	for room, list := range edits {
		if err := placeEdits(tx, room, list, docs); err != nil {
			return nil, after, err
		}
	}
	if len(rows) == limit {
		upTo = rows[limit-1].Position
	}
	return docs, upTo, nil
}

// reader makes the index entries of events.
type reader struct {
	hasher *words.Hasher
	terms  []uint32 // of the last event, repetitions and spare room included
}

// doc returns the index entry of an event and, for an edit, the ID of the event that it edits. It returns false if the
// event has no words.
func (r *reader) doc(e *storage.SearchableEvent) (d tailDoc, original string, found bool) {
	text, found := TextOf(e.Type, e.JSON)
	if !found {
		return d, "", false
	}
	var size uint8
	if r.terms, size = r.hasher.Terms(r.terms[:0], text.Text); len(r.terms) == 0 {
		return d, "", false
	}
	d = tailDoc{room: e.Room, Doc: postings.Doc{
		Pos: int64(e.Position), Time: min(e.OriginTS, e.ReceivedTS), Field: text.Field, Size: size,
		Terms: slices.Clone(r.terms), // the entry stays in memory, so it must not keep the spare room
	}}
	if e.Order != orderOf(e.Position) {
		d.Order = int64(e.Order)
	}
	return d, text.Edits, true
}

// edit refers to a doc whose text is an edit of another event.
type edit struct {
	doc      int
	original string // event ID
}

// placeEdits changes the docs of edits: a doc gets the order and time of the event that is edited, since that is the
// event that a search finds. A doc stays as it is if the edited event is not stored.
func placeEdits(tx *storage.Tx, room ident.RoomNID, edits []edit, docs []tailDoc) error {
	ids := make([]string, len(edits))
	for i, e := range edits {
		ids[i] = e.original
	}
	rows, err := tx.EventsByID(room, ids)
	if err != nil {
		return err
	}
	originals := map[string]*storage.EventRow{}
	for i := range rows {
		if r := &rows[i]; originals[r.EventID] == nil || r.Order > originals[r.EventID].Order {
			originals[r.EventID] = r
		}
	}
	for _, e := range edits {
		if r := originals[e.original]; r != nil && r.Order > 0 {
			docs[e.doc].Order, docs[e.doc].Time = int64(r.Order), min(r.OriginTS, r.ReceivedTS)
		}
	}
	return nil
}

// orderStep is the difference between the orders of two consecutive new events (graph.OrderStep).
const orderStep = 1 << 16

func orderOf(p storage.Pos) ident.Order { return ident.Order(p) * orderStep }

// Clear deletes the index in small steps. It is used when search is disabled.
func Clear(ctx context.Context, db *storage.DB) error {
	for more := true; more; {
		err := db.Write(ctx, func(tx *storage.Tx) (err error) {
			more, err = tx.ClearSearch(16)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
