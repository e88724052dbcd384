package federation

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/storagetest"
	"ebb/wake"
)

func events(n int) []json.RawMessage {
	out := make([]json.RawMessage, n)
	for i := range out {
		out[i] = json.RawMessage(`{}`)
	}
	return out
}

func TestEventsThatWaitForAnotherTryAreBounded(t *testing.T) {
	now := time.UnixMilli(1_750_000_000_000)
	l := newLater()
	for i := range 2 * maxLaterRooms {
		l.add(now, laterKey{"evil", id.RoomID(fmt.Sprint("!", i))}, events(1))
	}
	if len(l.waiting) != maxLaterRooms {
		t.Errorf("%d rooms of one server wait", len(l.waiting))
	}
	for i := range 2 * maxLater {
		l.add(now, laterKey{fmt.Sprint("s", i), "!r"}, events(1))
	}
	if len(l.waiting) != maxLater {
		t.Errorf("%d rooms wait", len(l.waiting))
	}
	one := laterKey{"s1", "!r"}
	for range 5 {
		l.add(now, one, events(50))
	}
	if n := len(l.waiting[one].pdus); n != maxLaterEvents {
		t.Errorf("%d events of one room wait", n)
	}
}

func TestEventsAreTriedLessAndLessOften(t *testing.T) {
	now := time.UnixMilli(1_750_000_000_000)
	l := newLater()
	key := laterKey{"s", "!r"}
	l.add(now, key, events(1))
	var pauses []time.Duration
	for last := now; len(l.waiting) > 0; now = now.Add(time.Second) {
		for key, w := range l.due(now) {
			pauses = append(pauses, now.Sub(last))
			last = now
			l.again(now, key, w)
		}
		if len(pauses) > 10 {
			t.Fatal("there is no end")
		}
	}
	want := []time.Duration{2 * time.Second, 8 * time.Second, 32 * time.Second, 128 * time.Second, 512 * time.Second, 2048 * time.Second}
	if fmt.Sprint(pauses) != fmt.Sprint(want) {
		t.Errorf("tried after %v, want %v", pauses, want)
	}
}

func TestOnlyTemporaryFailuresAreRetried(t *testing.T) {
	for err, want := range map[error]bool{
		rooms.ErrLater: true, context.DeadlineExceeded: true, errors.New("the disk is odd"): true,
		fmt.Errorf("%w: index out of range", errPanic): false, mxerr.Forbidden("you are not in it"): false,
	} {
		if got := mayTryAgain(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
	if mayTryAgain(nil) {
		t.Error("what was taken in is tried again")
	}
}

// measured returns the bytes of the kept events, in total and by server, and compares them with the counters.
func (l *later) measured(t *testing.T) (all int, servers map[string]int) {
	t.Helper()
	servers = map[string]int{}
	for key, w := range l.waiting {
		for _, raw := range w.pdus {
			all += len(raw)
			servers[key.origin] += len(raw)
		}
	}
	if all != l.bytes || len(servers) != len(l.servers) {
		t.Errorf("%d bytes of %d servers are kept, %d of %d counted", all, len(servers), l.bytes, len(l.servers))
	}
	return all, servers
}

func TestEventsThatWaitForAnotherTryAreBoundedInBytes(t *testing.T) {
	now := time.UnixMilli(1_750_000_000_000)
	l := newLater()
	large := make([]json.RawMessage, maxLaterEvents)
	for i := range large {
		large[i] = make(json.RawMessage, 300<<10)
	}
	for i := range maxLaterRooms {
		l.add(now, laterKey{"evil", id.RoomID(fmt.Sprint("!", i))}, large)
	}
	if all, _ := l.measured(t); all > maxLaterServer || all < maxLaterServer/2 {
		t.Errorf("%d bytes of one server", all)
	}
	for i := range 100 {
		l.add(now, laterKey{fmt.Sprint("evil", i), "!r"}, large)
	}
	all, servers := l.measured(t)
	if all > maxLaterBytes || all < maxLaterBytes/2 {
		t.Errorf("%d bytes of all servers", all)
	}
	for server, bytes := range servers {
		if bytes > maxLaterServer {
			t.Errorf("%d bytes of %s", bytes, server)
		}
	}
	// events that are put back again and again disappear in the end
	for try := now; len(l.waiting) > 0; try = try.Add(time.Hour) {
		for key, w := range l.due(try) {
			l.add(try, key, large)
			l.again(try, key, w)
		}
		if all, _ := l.measured(t); all > maxLaterBytes {
			t.Fatalf("%d bytes after another try", all)
		}
		if try.Sub(now) > 100*time.Hour {
			break
		}
	}
}

// hall returns a server with a room that has a remote member, and an event sent by this member.
func hall(t *testing.T) (a *API, room id.RoomID, said json.RawMessage) {
	seed := func(server string) pdu.Signer {
		sum := sha256.Sum256([]byte(server))
		return pdu.Signer{Server: server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(sum[:])}
	}
	there := seed("there")
	svc, err := rooms.New(t.Context(), rooms.Options{
		DB: storagetest.Open(t, storage.Config{}), Server: "here", Hub: wake.New(), Signer: seed("here"),
		Keys: oneKey{there.Key.Public().(ed25519.PublicKey)},
	})
	if err != nil {
		t.Fatal(err)
	}
	alice := ident.Requester{UserID: "@alice:here"}
	if alice.UserNID, err = svc.UserNID(t.Context(), alice.UserID); err != nil {
		t.Fatal(err)
	}
	if room, err = svc.Create(t.Context(), alice, rooms.CreateRoom{Preset: "public_chat", RoomVersion: id.RoomV11}); err != nil {
		t.Fatal(err)
	}
	user := id.UserID("@bob:there")
	template, err := svc.Template(t.Context(), "there", room, user, rooms.Join, nil)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := pdu.VersionOf(id.RoomV11)
	places, err := pdu.ReadTemplate(v, template.Event)
	if err != nil {
		t.Fatal(err)
	}
	key := string(user)
	join, err := pdu.Build(v, pdu.Proto{
		RoomID: room, Type: "m.room.member", StateKey: &key, Sender: user, Content: places.Content, PrevEvents: places.PrevEvents,
		AuthEvents: places.AuthEvents, Depth: places.Depth, OriginServerTS: 1_750_000_000_000,
	}, there)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := svc.AcceptJoin(t.Context(), rooms.Handshake{Origin: "there", Room: room, Event: join.ID(), PDU: join.JSON()}); err != nil {
		t.Fatal(err)
	}
	message, err := pdu.Build(v, pdu.Proto{
		RoomID: room, Type: "m.room.message", Sender: user, Content: json.RawMessage(`{}`), PrevEvents: []id.EventID{join.ID()},
		AuthEvents: append(places.AuthEvents[:1:1], join.ID()), Depth: places.Depth + 1, OriginServerTS: 1_750_000_000_000,
	}, there)
	if err != nil {
		t.Fatal(err)
	}
	return New(API{Rooms: svc, Log: slog.New(slog.DiscardHandler)}), room, message.JSON()
}

type oneKey struct{ ed25519.PublicKey }

func (k oneKey) Keys(_ context.Context, wants []fedclient.KeyWant) map[fedclient.KeyWant]ed25519.PublicKey {
	out := map[fedclient.KeyWant]ed25519.PublicKey{}
	for _, want := range wants {
		out[want] = k.PublicKey
	}
	return out
}

// The sender considers events delivered even if this server fails to process them, so they must be tried again, unless
// the sending server is not in the room.
func TestEventsThatThisServerFailsToProcessAreRetried(t *testing.T) {
	a, room, said := hall(t)
	over, cancel := context.WithCancel(t.Context())
	cancel() // like the end of transactionTime
	pdus := []json.RawMessage{said}
	for _, origin := range []string{"there", "elsewhere"} {
		if _, err := a.receivePDUs(over, origin, pdus); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.receivePDUs(over, "there", []json.RawMessage{[]byte(`{"room_id":"!unknown:there"}`)}); err != nil {
		t.Fatal(err)
	}
	if w := a.later.waiting[laterKey{"there", room}]; w == nil || len(w.pdus) != 1 {
		t.Errorf("%v waits", w)
	}
	if len(a.later.waiting) != 1 {
		t.Errorf("events of servers that are not in the room wait too: %v", a.later.waiting)
	}
}
