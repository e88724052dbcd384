package history

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/graph"
	"ebb/storage"
)

// sayAt sends a message with a timestamp of the sender's choice.
func (l *library) sayAt(s ident.Requester, room id.RoomID, ts int64, text string) id.EventID {
	l.t.Helper()
	e, err := l.rooms.Send(l.t.Context(), rooms.NewEvent{
		Room: room, Sender: s, Type: "m.room.message", Content: json.RawMessage(`{"msgtype":"m.text","body":"` + text + `"}`), Timestamp: ts,
	})
	l.check(err)
	return e
}

// timed is an event as the tests know it, in the order of the timeline.
type timed struct {
	id id.EventID
	ts int64
}

// closestOf returns the event that TimestampToEvent should find, "" for none.
func closestOf(events []timed, ts int64, backwards bool) (found id.EventID) {
	var at int64
	for _, e := range events {
		if e.ts == ts && found != "" && at == ts && !backwards {
			continue
		}
		onSide := e.ts >= ts && !backwards || e.ts <= ts && backwards
		if onSide && (found == "" || nearer(e.ts, at, backwards) || backwards && e.ts == at) {
			found, at = e.id, e.ts
		}
	}
	return found
}

func TestTheClosestVisibleEventIsFoundWhateverTheTimestamps(t *testing.T) {
	onBoth(t, theClosestVisibleEventIsFound)
}

func theClosestVisibleEventIsFound(t *testing.T, l *library) {
	random := rand.New(rand.NewPCG(7, 7))
	alice, bob, carol := l.user("alice"), l.user("bob"), l.user("carol")
	room := l.room(alice, "joined")
	l.join(carol, room)
	var sent []id.EventID
	say := func(n int) {
		for range n {
			ts := 1 + random.Int64N(500)
			if random.IntN(20) == 0 {
				ts = 1<<53 - 1 - random.Int64N(3)
			}
			sender := alice
			if random.IntN(3) == 0 {
				sender = carol
			}
			sent = append(sent, l.sayAt(sender, room, ts, fmt.Sprint(len(sent))))
		}
	}
	say(60)
	l.join(bob, room)
	say(60)
	l.state(alice, room, typeHistoryVisibility, "", `{"history_visibility":"shared"}`)
	say(60)
	l.leave(bob, room)
	say(60)
	l.ignore(alice, carol)
	_, err := l.rooms.Redact(t.Context(), alice, room, sent[70], "", nil)
	l.check(err)
	for _, who := range []ident.Requester{alice, bob, carol} {
		all, _ := l.messages(alice, room, PageRequest{})
		seen := map[id.EventID]bool{}
		var events []timed
		for _, e := range append(sent, eventIDs(all)...) {
			if !seen[e] && l.mayGet(who, room, e) {
				events = append(events, timed{e, l.get(who, room, e).TS})
			}
			seen[e] = true
		}
		l.sortByTimeline(room, events)
		for ts := int64(0); ts < 510; ts += 5 {
			l.closestIs(who, room, events, ts)
		}
		for _, ts := range []int64{l.now.UnixMilli() - 1, l.now.UnixMilli(), l.now.UnixMilli() + 1, 1<<53 - 2, 1<<53 - 1, 1 << 53, math.MaxInt64} {
			l.closestIs(who, room, events, ts)
		}
	}
}

func (l *library) sortByTimeline(room id.RoomID, events []timed) {
	l.t.Helper()
	order := map[id.EventID]ident.Order{}
	r := l.load(room)
	l.check(l.db.Read(l.t.Context(), func(tx *storage.Tx) error {
		for _, e := range events {
			row, _, err := tx.EventByID(r.NID(), string(e.id))
			if err != nil {
				return err
			}
			order[e.id] = row.Order
		}
		return nil
	}))
	slices.SortFunc(events, func(a, b timed) int { return cmp.Compare(order[a.id], order[b.id]) })
}

func (l *library) closestIs(who ident.Requester, room id.RoomID, events []timed, ts int64) {
	l.t.Helper()
	for _, backwards := range []bool{false, true} {
		got, _, err := l.svc.TimestampToEvent(l.t.Context(), room, who, time.UnixMilli(ts), backwards)
		if mxerr.Code(err) == mxerr.CodeNotFound {
			err = nil
		}
		l.check(err)
		if want := closestOf(events, ts, backwards); got != want {
			l.t.Errorf("%s at %d, backwards %v: %q, want %q", who.UserID, ts, backwards, got, want)
		}
	}
}

func TestAnExpiredMessageIsNotFoundByTime(t *testing.T) { onBoth(t, anExpiredMessageIsNotFoundByTime) }

func anExpiredMessageIsNotFoundByTime(t *testing.T, l *library) {
	alice := l.user("alice")
	room := l.room(alice, "shared", rooms.InitialState{Type: "m.room.retention", Content: json.RawMessage(`{"max_lifetime":86400000}`)})
	at := func(ts int64, backwards bool) id.EventID {
		found, _, err := l.svc.TimestampToEvent(t.Context(), room, alice, time.UnixMilli(ts), backwards)
		if mxerr.Code(err) == mxerr.CodeNotFound {
			err = nil
		}
		l.check(err)
		return found
	}
	message := l.say(alice, room, "expires")
	ts := l.get(alice, room, message).TS
	before := at(ts-1, true)
	if at(ts, false) != message || at(ts, true) != message || before == "" || before == message {
		t.Fatalf("before it expires: %q, %q; before it is %q", at(ts, false), at(ts, true), before)
	}
	l.now = l.now.Add(25 * time.Hour)
	if forwards, backwards := at(ts, false), at(ts, true); forwards != "" || backwards != before {
		t.Errorf("the only message, once it has expired: %q, and backwards %q, want %q", forwards, backwards, before)
	}
	later := l.say(alice, room, "later")
	if forwards, backwards := at(ts, false), at(ts, true); forwards != later || backwards != before {
		t.Errorf("with a later message: %q, want %q; backwards %q, want %q", forwards, later, backwards, before)
	}
}

func TestManyEventsThatTheReaderMayNotSeeArePassedOverByTime(t *testing.T) {
	const many = 100_000
	l := newLibrary(t)
	alice, bob := l.user("alice"), l.user("bob")
	room := l.room(alice, "joined")
	first := l.say(alice, room, "before bob")
	l.plantCopies(room, first, many)
	l.now = l.now.Add(2 * many * time.Millisecond)
	l.join(bob, room)
	visibility := l.load(room).State(typeHistoryVisibility, "").ID() // the last event before bob joined that he may see
	joined := l.load(room).State(typeMember, string(bob.UserID)).ID()
	start := l.get(alice, room, first).TS
	for _, c := range []struct {
		who       ident.Requester
		ts        int64
		backwards bool
		want      id.EventID
	}{
		{alice, start + 500, false, "$copy500"},
		{alice, start + 500, true, "$copy500"},
		{alice, start + many - 1, true, id.EventID(fmt.Sprint("$copy", many-1))},
		{bob, start, false, joined},
		{bob, start + many/2, false, joined},
		{bob, start + many, true, visibility},
	} {
		var got id.EventID
		n := l.statements(func(ctx context.Context) (err error) {
			got, _, err = l.svc.TimestampToEvent(ctx, room, c.who, time.UnixMilli(c.ts), c.backwards)
			if mxerr.Code(err) == mxerr.CodeNotFound {
				err = nil
			}
			return err
		})
		if got != c.want || n > 60 {
			t.Errorf("%s at %d, backwards %v: %q after %d statements, want %q", c.who.UserID, c.ts, c.backwards, got, n, c.want)
		}
	}
}

// plantCopies stores copies of a message, named $copy1 and so on, one millisecond apart.
func (l *library) plantCopies(room id.RoomID, of id.EventID, n int) {
	l.t.Helper()
	r := l.load(room)
	l.check(l.db.Write(l.t.Context(), func(tx *storage.Tx) error {
		row, _, err := tx.EventByID(r.NID(), string(of))
		if err != nil {
			return err
		}
		json := string(row.JSON)
		ts := strconv.FormatInt(row.OriginTS, 10)
		start := row.OriginTS
		for i := range n {
			row.Position = tx.NextPos()
			row.Order = ident.Order(row.Position) * graph.OrderStep
			row.EventID, row.OriginTS = fmt.Sprint("$copy", i+1), start+int64(i+1)
			row.JSON = []byte(strings.Replace(json, `"origin_server_ts":`+ts, `"origin_server_ts":`+strconv.FormatInt(row.OriginTS, 10), 1))
			if err := tx.InsertEvent(&row); err != nil {
				return err
			}
		}
		return nil
	}))
}
