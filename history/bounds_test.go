package history

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/graph"
	"ebb/storage"
)

// counted is a context that counts the database statements of reads: storage checks it before each of them.
type counted struct {
	context.Context
	statements *atomic.Int64
}

func (c counted) Err() error {
	c.statements.Add(1)
	return c.Context.Err()
}

// statements returns the number of statements in a read.
func (l *library) statements(read func(ctx context.Context) error) int64 {
	l.t.Helper()
	ctx := counted{l.t.Context(), new(atomic.Int64)}
	l.check(read(ctx))
	return ctx.statements.Load()
}

func TestRelationsThatTheReaderMayNotSeeAreWalkedOverQuickly(t *testing.T) {
	l := newLibrary(t)
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "shared")
	l.join(bob, room)
	root := l.say(alice, room, "root")
	shown := l.relate(alice, room, relThread, root, "shown")
	for range 300 {
		l.relate(bob, room, relThread, root, "hidden")
	}
	l.ignore(alice, bob)
	for _, recurse := range []bool{false, true} {
		var page RelationsPage
		n := l.statements(func(ctx context.Context) (err error) {
			page, err = l.svc.Relations(ctx, room, root, alice, RelationsRequest{Limit: 1, Recurse: recurse})
			return err
		})
		if n > 80 {
			t.Errorf("recurse %v: %d statements", recurse, n)
		}
		if got := eventIDs(l.parseAll(page.Chunk)); !slices.Equal(got, []id.EventID{shown}) || page.NextBatch != "" {
			t.Errorf("recurse %v: %v, next %q", recurse, got, page.NextBatch)
		}
	}
}

func TestRelationsOfAnotherKindAreWalkedOverQuickly(t *testing.T) {
	l := newLibrary(t)
	alice := l.user("alice")
	room := l.room(alice, "shared")
	root := l.say(alice, room, "root")
	l.check(l.db.Write(t.Context(), func(tx *storage.Tx) error {
		return l.plantRelations(tx, room, root, maxScan+1000)
	}))
	var page RelationsPage
	n := l.statements(func(ctx context.Context) (err error) {
		page, err = l.svc.Relations(ctx, room, root, alice, RelationsRequest{RelType: relReference, Limit: 1})
		return err
	})
	if n > maxScan/scanBatch+20 || len(page.Chunk) != 0 || page.NextBatch == "" {
		t.Errorf("%d statements, %d events, next %q", n, len(page.Chunk), page.NextBatch)
	}
	next, err := l.svc.Relations(t.Context(), room, root, alice, RelationsRequest{RelType: relReference, Limit: 1, From: page.NextBatch})
	if err != nil || next.NextBatch != "" {
		t.Errorf("the next page: %q, %v", next.NextBatch, err)
	}
}

// plantRelations stores relation rows without events.
func (l *library) plantRelations(tx *storage.Tx, room id.RoomID, parent id.EventID, n int) error {
	r, err := l.rooms.Room(l.t.Context(), room)
	if err != nil {
		return err
	}
	for i := range n {
		row := storage.RelationRow{
			Position: storage.Pos(1_000_000 + i), Room: r.NID(), Parent: string(parent), RelType: "m.annotation", Type: "m.reaction", Sender: 1, Order: ident.Order(1_000_000+i) * graph.OrderStep,
		}
		if err := tx.InsertRelation(row); err != nil {
			return err
		}
	}
	return nil
}

func TestRecursionGoesLessDeepWhereThereIsTooMuch(t *testing.T) {
	onBoth(t, func(t *testing.T, l *library) {
		alice := l.user("alice")
		room := l.room(alice, "shared")
		root := l.say(alice, room, "root")
		reply := l.relate(alice, room, relThread, root, "reply")
		second := l.relate(alice, room, relReference, reply, "second")
		ask := func() RelationsPage {
			page, err := l.svc.Relations(t.Context(), room, root, alice, RelationsRequest{Limit: 10, Recurse: true, Forwards: true})
			l.check(err)
			return page
		}
		if page := ask(); page.RecursionDepth != relationDepth || len(page.Chunk) != 2 {
			t.Fatalf("depth %d, %d events", page.RecursionDepth, len(page.Chunk))
		}
		l.check(l.db.Write(t.Context(), func(tx *storage.Tx) error { return l.plantRelations(tx, room, second, maxRelationTree) }))
		if page := ask(); page.RecursionDepth != 2 || len(page.Chunk) != 2 {
			t.Errorf("depth %d, %d events", page.RecursionDepth, len(page.Chunk))
		}
	})
}

func TestThreadsThatTheReaderIsNotInAreWalkedOverWithinABound(t *testing.T) {
	l := newLibrary(t)
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "shared")
	l.join(bob, room)
	mine := l.say(bob, room, "mine")
	l.relate(alice, room, relThread, mine, "reply")
	for range 40 {
		l.relate(alice, room, relThread, l.say(alice, room, "root"), "reply")
	}
	var page ThreadsPage
	n := l.statements(func(ctx context.Context) (err error) {
		page, err = l.svc.Threads(ctx, room, bob, ThreadsRequest{Participated: true, Limit: 5})
		return err
	})
	if got := eventIDs(l.parseAll(page.Chunk)); !slices.Equal(got, []id.EventID{mine}) || page.NextBatch != "" {
		t.Errorf("%v, next %q", got, page.NextBatch)
	}
	if n > 60 {
		t.Errorf("%d statements", n)
	}
}

func TestPagesAreBoundedInBytes(t *testing.T) {
	l := newLibrary(t)
	alice := l.user("alice")
	room := l.room(alice, "shared")
	root := l.say(alice, room, "root")
	const each = 60_000
	text := strings.Repeat("x", each)
	const sent = maxPageBytes/each + 20
	for range sent {
		l.relate(alice, room, relThread, root, text)
	}
	size := func(chunk []json.RawMessage) (n int) {
		for _, raw := range chunk {
			n += len(raw)
		}
		return n
	}
	seen := 0
	for from, pages := "", 0; ; pages++ {
		page, err := l.svc.Messages(t.Context(), room, alice, PageRequest{Backwards: true, Limit: MaxPage, From: from})
		l.check(err)
		if n := size(page.Chunk); n > maxPageBytes+2*maxPageBytes/4 {
			t.Errorf("a page of %d bytes", n)
		}
		for _, e := range l.parseAll(page.Chunk) {
			if e.body() == text {
				seen++
			}
		}
		if from = page.End; from == "" || pages == 10 {
			break
		}
	}
	if seen != sent {
		t.Errorf("%d of %d messages on all pages", seen, sent)
	}
	relations, err := l.svc.Relations(t.Context(), room, root, alice, RelationsRequest{Limit: 500})
	if n := size(relations.Chunk); err != nil || n > maxPageBytes+2*each || relations.NextBatch == "" {
		t.Errorf("relations: %d bytes, next %q, %v", n, relations.NextBatch, err)
	}
}

func TestAggregationsOfAPageAreBoundedInBytes(t *testing.T) {
	l := newLibrary(t)
	alice := l.user("alice")
	room := l.room(alice, "shared")
	text := strings.Repeat("x", 60_000)
	const sent = maxPageBytes/60_000 + 20
	for i := range sent {
		l.relate(alice, room, relThread, l.say(alice, room, fmt.Sprint("root ", i)), text)
	}
	page, err := l.svc.Messages(t.Context(), room, alice, PageRequest{Backwards: true, Limit: MaxPage, Filter: EventFilter{}})
	l.check(err)
	n := 0
	for _, raw := range page.Chunk {
		n += len(raw)
	}
	if n > 3*maxPageBytes {
		t.Errorf("a page of %d bytes", n)
	}
}
