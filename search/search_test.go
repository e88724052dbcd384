package search

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebb/ident"
	"ebb/rooms/words"
	"ebb/storage"
	"ebb/storage/pace"
	"ebb/storage/postings"
	"ebb/storage/storagetest"
)

var allFields = []postings.Field{postings.Body, postings.Name, postings.Topic}

// house is a database with events and a search index.
type house struct {
	testing.TB
	db *storage.DB
	*Index
}

func newHouse(t testing.TB, db *storage.DB, flushAt int) *house {
	t.Helper()
	h := &house{TB: t, db: db}
	h.open(flushAt)
	return h
}

// open creates the index anew, as the start of the server does.
func (h *house) open(flushAt int) {
	h.Helper()
	var err error
	if h.Index, err = New(h.Context(), Options{DB: h.db, Log: slog.New(slog.DiscardHandler), FlushAt: flushAt}); err != nil {
		h.Fatal(err)
	}
}

func (h *house) write(f func(tx *storage.Tx) error) {
	h.Helper()
	if err := h.db.Write(h.Context(), f); err != nil {
		h.Fatal(err)
	}
}

// say stores messages in a room and returns their positions.
func (h *house) say(room ident.RoomNID, bodies ...string) (positions []storage.Pos) {
	h.Helper()
	return h.sayAt(orderOf, room, bodies...)
}

// sayAt stores messages with the orders that a function returns.
func (h *house) sayAt(order func(storage.Pos) ident.Order, room ident.RoomNID, bodies ...string) (positions []storage.Pos) {
	h.Helper()
	h.write(func(tx *storage.Tx) error {
		for _, body := range bodies {
			p := tx.NextPos()
			positions = append(positions, p)
			e := storage.EventRow{
				Position: p, Room: room, Order: order(p), EventID: fmt.Sprint("$", p), Type: "m.room.message", Sender: 1, OriginTS: 1000 + int64(p), ReceivedTS: 1000 + int64(p),
				JSON: fmt.Appendf(nil, `{"content":{"body":%q}}`, body),
			}
			if err := tx.InsertEvent(&e); err != nil {
				return err
			}
		}
		return nil
	})
	return positions
}

// found returns the positions of the events that a search finds.
func (h *house) found(term string, rooms ...ident.RoomNID) []storage.Pos {
	h.Helper()
	q, ok := words.Parse(term)
	if !ok {
		h.Fatal("too many words")
	}
	finder := h.Begin()
	out := []storage.Pos{}
	err := h.db.Read(h.Context(), func(tx *storage.Tx) error {
		_, err := finder.Find(tx, Request{Rooms: rooms, Query: q, Fields: allFields}, func(hit Hit) { out = append(out, hit.Pos) })
		return err
	})
	if err != nil {
		h.Fatal(err)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (h *house) ok(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *house) flush() {
	h.Helper()
	h.ok(h.CatchUp(h.Context()))
	h.ok(h.Flush(h.Context()))
}

// blocks returns the number of events in each block of a room, in order.
func (h *house) blocks(rooms ...ident.RoomNID) (docs []int) {
	h.Helper()
	h.ok(h.db.Read(h.Context(), func(tx *storage.Tx) error {
		blocks, err := tx.SearchBlocks(rooms, 1000)
		for _, b := range slices.Backward(blocks) {
			docs = append(docs, b.Docs)
		}
		return err
	}))
	return docs
}

func (h *house) expect(term string, want []storage.Pos, rooms ...ident.RoomNID) {
	h.Helper()
	if got := h.found(term, rooms...); !slices.Equal(got, want) {
		h.Errorf("%q is found at %d positions, want %d: %.200s, want %.200s", term, len(got), len(want), fmt.Sprint(got), fmt.Sprint(want))
	}
}

func TestEventsAreFoundInTheTailAndInBlocks(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db, 0)
		a := h.say(1, "hello world", "goodbye world")
		h.say(2, "hello elsewhere")
		for range 2 {
			h.expect("hello", a[:1], 1)
			h.expect("world", a, 1)
			h.expect("hello goodbye", []storage.Pos{}, 1)
			h.expect("hello", []storage.Pos{}, 3)
			h.flush()
		}
		b := h.say(1, "hello again")
		h.expect("hello", []storage.Pos{a[0], b[0]}, 1)
		h.open(0)
		h.expect("hello", []storage.Pos{a[0], b[0]}, 1)
	})
}

func TestBlocksOfAGrowingRoomAreMerged(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}), 0)
	var all []storage.Pos
	for range 100 {
		all = append(all, h.say(1, "same words here", "same words there", "same again")...)
		h.flush()
	}
	h.expect("same", all, 1)
	if blocks := h.blocks(1); len(blocks) > 8 {
		t.Errorf("300 events that came one after the other are in blocks of %v", blocks)
	}
	var many []string
	for range 3 * postings.MaxDocs / 2 {
		many = append(many, "same")
	}
	all = append(all, h.say(1, many...)...)
	h.flush()
	h.expect("same", all, 1)
	for _, n := range h.blocks(1) {
		if n > postings.MaxDocs {
			t.Errorf("a block has %d events", n)
		}
	}
}

// A few long texts have as many terms as thousands of short ones, and cost as much memory and as much work when one of
// them is deleted.
func TestLongTextsFillBlocksAndTheTailSooner(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}), 0)
	const long = 10_000 // words of one text
	text := func(n int) string {
		b := []byte("needle")
		for i := range long {
			b = strconv.AppendInt(append(b, ' '), int64(n*long+i), 36)
		}
		return string(b)
	}
	var all []storage.Pos
	for n := range 2 * postings.MaxPostings / long {
		all = append(all, h.say(1, text(n))...)
		if n == postings.MaxPostings/long/2 {
			h.ok(h.CatchUp(t.Context()))
			if h.grown() {
				t.Errorf("a tail of %d events with %d terms is to be flushed already", len(h.current().docs), h.current().terms)
			}
			h.flush() // later ones are merged with its blocks
		}
	}
	for range 2 {
		all = append(all, h.say(1, text(0), text(1))...)
		h.flush()
	}
	h.expect("needle", all, 1)
	h.ok(h.db.Read(t.Context(), func(tx *storage.Tx) error {
		blocks, err := tx.SearchBlocks([]ident.RoomNID{1}, 1000)
		h.ok(err)
		for _, b := range blocks {
			block, err := tx.ReadSearchBlock(b)
			h.ok(err)
			set, err := postings.Decode(block)
			h.ok(err)
			if set.Postings() > postings.MaxPostings {
				t.Errorf("a block has %d events with %d terms", b.Docs, set.Postings())
			}
		}
		return nil
	}))
	for n := range 2 * flushTermsAt / long {
		h.say(1, text(n))
	}
	h.ok(h.CatchUp(t.Context()))
	if tail := h.current(); !h.grown() || tail.terms < flushTermsAt || tail.terms > maxTailTerms+readBatch*(long+1) {
		t.Errorf("the tail has %d events with %d terms", len(tail.docs), tail.terms)
	}
}

// A server that is killed between two writes of the index has stored some rooms. After the restart, it stores them
// again.
func TestAnInterruptedFlushIsRepeated(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db, 0)
		old := h.say(1, "needle old")
		h.flush()
		all := append(old, h.say(1, "needle one", "needle two")...)
		h.ok(h.CatchUp(t.Context()))
		h.ok(h.store(t.Context(), h.current().docs)) // without recording that it is done
		h.open(0)
		h.expect("needle", all, 1)
		all = append(all, h.say(1, "needle three")...)
		h.flush()
		h.expect("needle", all, 1)
		total := 0
		for _, n := range h.blocks(1) {
			total += n
		}
		if total != len(all) {
			t.Errorf("the blocks %v have %d events, want %d", h.blocks(1), total, len(all))
		}
	})
}

func TestEventsFromBeforeTheIndexAreIndexedNewestGapFirst(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db, 2)
		one := h.say(1, "needle a", "needle b", "needle c", "needle d", "needle e")
		two := h.say(1, "needle f", "needle g")
		h.write(func(tx *storage.Tx) error {
			h.ok(tx.AddSearchGap(storage.SearchGap{After: 0, UpTo: one[4]}))
			h.ok(tx.AddSearchGap(storage.SearchGap{After: one[4], UpTo: two[1]}))
			return tx.SetSearchedUpTo(two[1])
		})
		h.open(2)
		three := h.say(1, "needle h")
		h.expect("needle", three, 1)
		if more, err := h.fill(t.Context()); !more || err != nil {
			t.Fatal(more, err)
		}
		h.expect("needle", append(two, three...), 1)
		h.open(2) // continues after a restart
		for more := true; more; {
			var err error
			more, err = h.fill(t.Context())
			h.ok(err)
		}
		h.expect("needle", slices.Concat(one, two, three), 1)
		h.flush()
		h.expect("needle", slices.Concat(one, two, three), 1)
		h.ok(db.Read(t.Context(), func(tx *storage.Tx) error {
			if left, err := Backlog(tx); left != 0 || err != nil {
				t.Errorf("backlog %d, %v", left, err)
			}
			return nil
		}))
	})
}

// After the index was not updated for a long time, new messages are found before the old ones are indexed.
func TestALongBacklogBecomesAGap(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}), 0)
	old := h.say(1, "needle old")
	h.write(func(tx *storage.Tx) error {
		for range maxBacklog {
			tx.NextPos()
		}
		return nil
	})
	h.open(0)
	h.expect("needle", []storage.Pos{}, 1)
	fresh := h.say(1, "needle new")
	h.expect("needle", fresh, 1)
	for more := true; more; {
		var err error
		more, err = h.fill(t.Context())
		h.ok(err)
	}
	h.expect("needle", append(old, fresh...), 1)
}

func TestRemovedEventsLeaveTheirBlocks(t *testing.T) {
	redact := func(tx *storage.Tx, p storage.Pos) error {
		return tx.RedactEvent(1, p, fmt.Sprint("$", p), []byte(`{"content":{}}`), 1)
	}
	purge := func(tx *storage.Tx, p storage.Pos) error { return tx.PurgeEvent(p, fmt.Sprint("$", p)) }
	reject := func(tx *storage.Tx, p storage.Pos) error {
		return tx.RejudgeEvent(p, fmt.Sprint("$", p), 0, 0, storage.RejectedEvent)
	}
	skeleton := func(tx *storage.Tx, p storage.Pos) error {
		return tx.SkeletonizeEvent(p, fmt.Sprint("$", p), 0, []byte(`{"content":{}}`))
	}
	for name, remove := range map[string]func(*storage.Tx, storage.Pos) error{"redacted": redact, "purged": purge, "rejected": reject, "skeleton": skeleton} {
		t.Run(name, func(t *testing.T) {
			purged := name == "purged" || name == "skeleton"
			storagetest.Each(t, func(t *testing.T, db *storage.DB) {
				h := newHouse(t, db, 0)
				var bodies []string
				for i := range 1000 {
					bodies = append(bodies, fmt.Sprintf("needle number %d of some", i))
				}
				all := h.say(1, bodies...)
				h.flush()
				h.expect("needle 500", all[500:501], 1)
				h.write(func(tx *storage.Tx) error { return remove(tx, all[500]) })
				h.expect("needle 500", []storage.Pos{}, 1)
				h.expect("needle", slices.Concat(all[:500], all[501:]), 1)
				h.write(func(tx *storage.Tx) error {
					for i, p := range all {
						if i != 500 && i != 7 {
							h.ok(remove(tx, p))
						}
					}
					return nil
				})
				h.expect("needle", all[7:8], 1)
				h.write(func(tx *storage.Tx) error { return remove(tx, all[7]) })
				if cleaned := h.clean(); cleaned != purged {
					t.Errorf("there were blocks to clean: %v", cleaned)
				}
				if left := h.blocks(1); len(left) > 0 {
					t.Errorf("blocks of %v events are left", left)
				}
			})
		})
	}
}

// An event can be redacted after the index has read its text and before the text is stored.
func TestTextThatIsRemovedWhileItIsIndexedIsNotStored(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}), 0)
	all := h.say(1, "needle one", "needle two")
	h.ok(h.CatchUp(t.Context()))
	h.write(func(tx *storage.Tx) error {
		return tx.RedactEvent(1, all[0], fmt.Sprint("$", all[0]), []byte(`{"content":{}}`), 1)
	})
	h.ok(h.Flush(t.Context()))
	h.expect("needle", all[1:], 1)
	more := h.say(1, "needle three")
	a := addition{room: 1, docs: []postings.Doc{{Pos: int64(more[0]), Field: postings.Body, Terms: []uint32{1}}}}
	h.ok(h.db.Read(t.Context(), func(tx *storage.Tx) error { return a.prepare(tx) }))
	h.write(func(tx *storage.Tx) error {
		return tx.RedactEvent(1, all[1], fmt.Sprint("$", all[1]), []byte(`{"content":{}}`), 1)
	})
	err := h.Index.write(t.Context(), []addition{a})
	if err == nil {
		t.Error("a block that has changed is replaced by what it was")
	}
}

// clean removes the words of purged events, and reports whether there were any.
func (h *house) clean() bool {
	h.Helper()
	some, err := Clean(h.Context(), h.db)
	h.ok(err)
	return some
}

// purge purges events of room 1 in one write.
func (h *house) purge(positions ...storage.Pos) {
	h.Helper()
	h.write(func(tx *storage.Tx) error {
		for _, p := range positions {
			h.ok(tx.PurgeEvent(p, fmt.Sprint("$", p)))
		}
		return nil
	})
}

// stored returns how many events of a room have a word in the blocks of the index, whether or not a search finds them.
func (h *house) stored(word string, room ident.RoomNID) (n int) {
	h.Helper()
	q, _ := words.Parse(word)
	term := q.Terms(words.NewHasher(h.key))[0]
	h.ok(h.db.Read(h.Context(), func(tx *storage.Tx) error {
		blocks, err := tx.SearchBlocks([]ident.RoomNID{room}, 1000)
		h.ok(err)
		for _, b := range blocks {
			block, err := tx.ReadSearchBlock(b)
			h.ok(err)
			_, terms, err := postings.Docs(block.Head)
			h.ok(err)
			if b.Parts > 0 {
				terms = block.Parts[postings.PartOf(term, b.Parts)]
			}
			docs, err := postings.Find(nil, terms, term)
			h.ok(err)
			n += len(docs)
		}
		return nil
	}))
	return n
}

func TestWordsOfPurgedEventsAreNeverFoundAndGoAtTheEndOfThePurge(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db, 0)
		var bodies []string
		for i := range 1000 {
			bodies = append(bodies, fmt.Sprintf("needle number %d of some", i))
		}
		all := h.say(1, bodies...)
		history := func(p storage.Pos) ident.Order { return orderOf(all[0]) - 2 + ident.Order(p-all[999]-1) }
		all = append(all, h.sayAt(history, 1, "needle of old", "needle of old")...)
		few := h.say(2, "needle", "needle too") // a block without parts
		h.flush()
		h.expect("needle", all, 1) // which puts the head of the block into memory
		for part := range slices.Chunk(all[:300], 100) {
			h.purge(part...)
			h.expect("needle", all[slices.Index(all, part[99])+1:], 1)
		}
		h.purge(all[1000], few[0])
		all = slices.Delete(all, 1000, 1001)
		h.expect("needle", few[1:], 2)
		if !h.clean() || h.clean() {
			t.Error("the first cleaning finds nothing, or the second something")
		}
		if n, m := h.stored("needle", 1), h.stored("needle", 2); n != 701 || m != 1 {
			t.Errorf("the index has %d and %d events, want 701 and 1", n, m)
		}
		h.expect("needle", all[300:], 1)
		h.expect("needle", few[1:], 2)
	})
}

// A block is merged with new events, or loses a redacted event, while it is being cleaned, and the other way round.
func TestPurgedWordsDoNotComeBackByOtherChangesOfABlock(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}), 0)
	say := func(text string) (all []storage.Pos) {
		var bodies []string
		for i := range 200 {
			bodies = append(bodies, fmt.Sprint(text, " number ", i))
		}
		return h.say(1, bodies...)
	}
	all := say("needle")
	h.flush()
	h.purge(all[0])
	all = append(all, say("needle")...)
	h.flush() // merges the block, which is stale
	if n := h.stored("needle", 1); n != 399 {
		t.Errorf("the merged block has %d events, want 399", n)
	}

	h.purge(all[1])
	var c cleaning
	h.ok(h.db.Read(t.Context(), func(tx *storage.Tx) (err error) {
		c.block, _, err = tx.StaleSearchBlock()
		h.ok(err)
		return c.prepare(tx)
	}))
	h.write(func(tx *storage.Tx) error {
		return tx.RedactEvent(1, all[2], fmt.Sprint("$", all[2]), []byte(`{"content":{}}`), 1)
	})
	if err := c.write(t.Context(), h.db, pace.Fixed(10)); !errors.Is(err, storage.ErrSearchChanged) {
		t.Errorf("cleaning a block that has changed: %v", err)
	}
	if h.clean(); h.stored("needle", 1) != 397 {
		t.Errorf("after another cleaning, the block has %d events, want 397", h.stored("needle", 1))
	}

	a := addition{room: 1}
	for _, p := range say("more") {
		a.docs = append(a.docs, postings.Doc{Pos: int64(p), Field: postings.Body, Terms: []uint32{1}})
	}
	for range 2 { // the block is marked, and then is marked again
		h.ok(h.db.Read(t.Context(), func(tx *storage.Tx) error { return a.prepare(tx) }))
		h.purge(all[3])
		if err := h.Index.write(t.Context(), []addition{a}); len(a.blocks) != 1 || !errors.Is(err, storage.ErrSearchChanged) {
			t.Errorf("merging %d blocks that have lost an event: %v", len(a.blocks), err)
		}
		all = all[1:]
	}
}

func TestAClearedIndexIsEmptyAndStartsAgain(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		h := newHouse(t, db, 0)
		var all []storage.Pos
		for room := ident.RoomNID(1); room <= 40; room++ {
			all = append(all, h.say(room, "needle")...)
		}
		h.flush()
		h.ok(Clear(t.Context(), db))
		if left := h.blocks(1, 2, 3); len(left) > 0 {
			t.Errorf("blocks of %v events are left", left)
		}
		h.open(0)
		h.flush()
		h.expect("needle", all[:2], 1, 2)
	})
}

// A search that runs while events are moved from the tail to blocks finds each of them.
func TestSearchesDuringAFlushFindEverything(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}), 0)
	all := h.say(1, "needle one", "needle two")
	h.ok(h.CatchUp(t.Context()))
	finder := h.Begin()
	q, _ := words.Parse("needle")
	h.ok(h.Flush(t.Context()))
	all = append(all, h.say(1, "needle three")...)
	h.flush()
	var got []storage.Pos
	h.ok(h.db.Read(t.Context(), func(tx *storage.Tx) error {
		_, err := finder.Find(tx, Request{Rooms: []ident.RoomNID{1}, Query: q, Fields: allFields}, func(hit Hit) { got = append(got, hit.Pos) })
		return err
	}))
	slices.Sort(got)
	if got = slices.Compact(got); !slices.Equal(got, all) {
		t.Errorf("found %v, want %v", got, all)
	}
}

func TestTheTailIsBounded(t *testing.T) {
	h := newHouse(t, storagetest.Open(t, storage.Config{}), 1<<30)
	var many []string
	for range maxTail + 500 {
		many = append(many, "x")
	}
	h.say(1, many...)
	h.ok(h.CatchUp(t.Context()))
	if n := len(h.current().docs); n != maxTail {
		t.Errorf("the tail has %d events", n)
	}
	h.ok(h.Flush(t.Context()))
	h.flush()
	if n := len(h.found("x", 1)); n != maxTail+500 {
		t.Errorf("%d events are found", n)
	}
}

// BenchmarkFind searches 200,000 messages in 50 rooms.
func BenchmarkFind(b *testing.B) {
	h := newHouse(b, storagetest.Open(b, storage.Config{}), 0)
	r := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(r, 1.07, 2, 60_000)
	var rooms []ident.RoomNID
	for room := ident.RoomNID(1); room <= 50; room++ {
		rooms = append(rooms, room)
	}
	for range 400 {
		room := rooms[r.IntN(1+r.IntN(50))]
		var bodies []string
		for range 500 {
			var body []string
			for range 1 + int(r.ExpFloat64()*11) {
				body = append(body, fmt.Sprint("w", zipf.Uint64()))
			}
			bodies = append(bodies, strings.Join(body, " "))
		}
		h.say(room, bodies...)
	}
	for h.current().upTo < h.db.Settled() {
		h.flush()
	}
	b.Log("blocks", len(h.blocks(rooms...)))
	for _, term := range []string{"w0", "w10", "w500", "w3 w7", "w20000"} {
		b.Run(term, func(b *testing.B) {
			q, _ := words.Parse(term)
			n := 0
			before := cpu(b)
			for b.Loop() {
				finder := h.Begin()
				_ = h.db.Read(context.Background(), func(tx *storage.Tx) error {
					_, err := finder.Find(tx, Request{Rooms: rooms, Query: q, Fields: allFields}, func(Hit) { n++ })
					return err
				})
			}
			b.ReportMetric(float64(n)/float64(b.N), "hits")
			b.ReportMetric((cpu(b)-before).Seconds()*1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// cpu returns the CPU time used by the process, which on a busy machine says more than the elapsed time.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
