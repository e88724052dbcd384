// Package search is the index that finds events by the words of their text. It says which events have all the words of
// a query; whether the text really matches, and who may see it, is up to package history, which looks at the events.
//
// An event is indexed twice over. From its commit on it is part of the tail: everything above a position that the
// database records (storage.Tx.SearchedUpTo). The tail is not stored, since the events are; what is in memory of it is
// a cache, which is read from the events again after a restart. So a send writes nothing for the index, and no event
// that was acknowledged can be missing. When the tail has grown, Run moves it to blocks: compressed lists of which
// words occur in which events of one room (storage/postings), which are merged into larger ones as a room grows.
//
// Redaction, rejection and purge remove an event from its block in the write that removes its text
// (storage.dependents). Events from before the index existed, or from while it was switched off, are gaps, which Run
// fills, the newest first.
package search

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"ebb/ident"
	"ebb/rooms/words"
	"ebb/storage"
	"ebb/storage/postings"
	"ebb/telemetry"
)

const (
	// maxTail bounds the events that are in memory because they are in no block yet. An entry has some 150 bytes.
	maxTail = 16384
	// flushAt is how many events the tail has when it is moved to blocks. The more there are, the more of them belong
	// to the same rooms, and the less is written for each.
	flushAt = 4096
	// readBatch is how many events are read at a time.
	readBatch = 256
	// maxBacklog is the distance, in positions, from which on the events since the last run are a gap, so that those
	// that arrive now are found at once.
	maxBacklog = 50_000
	// maxGaps bounds the gaps that are known at a time; others are found when these are filled.
	maxGaps = 16
	// maxWriteDocs bounds the events that one write adds to blocks, so that sends do not wait long.
	maxWriteDocs = 512
	// every is how often Run looks for new events.
	every = time.Second
	// pause is what Run leaves to others between two parts of a gap.
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

// Index is the index. It is safe for concurrent use.
type Index struct {
	db      *storage.DB
	log     *slog.Logger
	key     []byte
	flushAt int

	flushing sync.Mutex // held by whoever moves the tail to blocks; held during database work, and taken before mu

	mu   sync.Mutex // guards tail; a leaf
	tail tail
}

// tail has the events above a position, up to another one, that have text. The docs are only ever appended to, so that
// a copy of the struct stays valid.
type tail struct {
	after, upTo storage.Pos
	docs        []tailDoc
}

type tailDoc struct {
	room ident.RoomNID
	postings.Doc
}

// New returns an Index, for which Run has to run.
func New(ctx context.Context, o Options) (*Index, error) {
	x := &Index{db: o.DB, log: o.Log, key: o.DB.Secret("search"), flushAt: o.FlushAt}
	if x.flushAt == 0 {
		x.flushAt = flushAt
	}
	return x, x.begin(ctx)
}

// begin reads how far the index is. If it is far behind, what is missing becomes a gap.
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
			x.log.Error("the search index cannot be updated and will be tried again", "err", err)
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

// step moves the tail to blocks if it has grown, and fills a part of a gap. It reports whether there is more to do.
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
	return len(x.tail.docs) >= x.flushAt
}

// current returns the tail as it is.
func (x *Index) current() tail {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.tail
}

// CatchUp reads events into the tail until it has the newest, or is as large as it may be.
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

// extend reads at most limit events into a copy of the tail, and shares it unless the tail has changed meanwhile. It
// reports whether there are more.
func (x *Index) extend(tx *storage.Tx, t *tail, limit int) (more bool, err error) {
	limit = min(limit, maxTail-len(t.docs))
	if t.upTo >= tx.Settled() || limit <= 0 {
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
		x.tail.docs = append(x.tail.docs, docs...)
		x.tail.upTo = upTo
		*t = x.tail
	} else {
		t.docs, t.upTo = append(slices.Clip(t.docs), docs...), upTo
	}
	return upTo < tx.Settled(), nil
}

// read returns the docs of at most limit events above a position, and the position up to which these are all.
func (x *Index) read(tx *storage.Tx, after, upTo storage.Pos, limit int) (docs []tailDoc, end storage.Pos, err error) {
	rows, err := tx.SearchableEvents(after, upTo, limit)
	if err != nil {
		return nil, after, err
	}
	h := words.NewHasher(x.key)
	edits := map[ident.RoomNID][]edit{}
	for i := range rows {
		d, original, found := docOf(h, &rows[i])
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

// docOf returns what the index stores about an event, and the ID of the event that it edits, if any. It returns false if
// the event has no words.
func docOf(h *words.Hasher, e *storage.SearchableEvent) (d tailDoc, original string, found bool) {
	text, found := TextOf(e.Type, e.JSON)
	if !found {
		return d, "", false
	}
	terms, size := h.Terms(nil, text.Text)
	if len(terms) == 0 {
		return d, "", false
	}
	d = tailDoc{room: e.Room, Doc: postings.Doc{Pos: int64(e.Position), Time: min(e.OriginTS, e.ReceivedTS), Field: text.Field, Size: size, Terms: terms}}
	if e.Order != orderOf(e.Position) {
		d.Order = int64(e.Order)
	}
	return d, text.Edits, true
}

// edit is a doc, by its index, with the text of an edit of another event.
type edit struct {
	doc      int
	original string // an event ID
}

// placeEdits gives the docs of edits in a room the place and the time of the events that they edit, since these are what
// a search finds. An edit whose original is not stored keeps its own.
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

// orderStep is the distance of the orders of two new events (rooms.OrderStep).
const orderStep = 1 << 16

func orderOf(p storage.Pos) ident.Order { return ident.Order(p) * orderStep }

// Clear deletes the index, bit by bit. It is for servers on which search is switched off.
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
