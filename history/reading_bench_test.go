package history

import (
	"testing"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

func benchHouse(b *testing.B, messages int) (*library, ident.Requester, *rooms.Room) {
	b.Helper()
	l := newLibrary(b)
	alice := l.user("alice")
	id := l.room(alice, "shared")
	for range messages {
		l.say(alice, id, "hello, this is a message of some length, as people write them")
	}
	r, err := l.rooms.Room(b.Context(), id)
	l.check(err)
	return l, alice, r
}

// BenchmarkView measures the form of one new event for one of many clients.
func BenchmarkView(b *testing.B) {
	l, alice, r := benchHouse(b, 1)
	news, _ := r.Recent(l.db.Settled() - 1)
	for b.Loop() {
		view := l.svc.View(r, alice)
		seen, err := view.Visible(b.Context(), nil, news)
		if err != nil || len(seen) != 1 {
			b.Fatal(seen, err)
		}
		if _, err := view.Append(b.Context(), nil, nil, seen, FormOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMessages measures a page of 50 events with their bundles.
func BenchmarkMessages(b *testing.B) {
	l, alice, r := benchHouse(b, 200)
	for b.Loop() {
		page, err := l.svc.Messages(b.Context(), r.ID(), alice, PageRequest{Backwards: true, Limit: 50})
		if err != nil || len(page.Chunk) != 50 {
			b.Fatal(len(page.Chunk), err)
		}
	}
}

// BenchmarkSights measures visibility checks of 50 events that each have a different state before them.
func BenchmarkSights(b *testing.B) {
	l, alice, r := benchHouse(b, 0)
	for range 200 {
		l.state(alice, r.ID(), "m.room.topic", "", `{"topic":"`+l.now.String()+`"}`)
	}
	var snapshots []int64
	l.check(l.db.Read(b.Context(), func(tx *storage.Tx) error {
		rows, err := tx.Timeline(r.NID(), 0, everything().upTo, true, 50)
		for _, row := range rows {
			snapshots = append(snapshots, row.Snapshot)
		}
		return err
	}))
	for b.Loop() {
		l.check(l.db.Read(b.Context(), func(tx *storage.Tx) error {
			_, err := tx.VisibilityStates(snapshots, string(alice.UserID))
			return err
		}))
	}
}
