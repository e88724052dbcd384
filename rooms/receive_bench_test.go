package rooms

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
)

// BenchmarkReceive receives transactions of 50 messages, each of which follows the previous one.
func BenchmarkReceive(b *testing.B) {
	n := newNetwork(b)
	s := &siege{n: n, peer: n.add("here")}
	s.evil = n.stranger("evil", s.peer)
	s.alice, s.mallory = s.user("alice"), s.evil.user("mallory")
	s.room = s.create(s.alice, CreateRoom{Preset: "public_chat", RoomVersion: id.RoomV11})
	s.evil.join(s.room, s.mallory)
	head := s.ends()
	var sent [][]json.RawMessage
	for range b.N {
		var raws []json.RawMessage
		for i := range 50 {
			e := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, Content: json.RawMessage(fmt.Sprintf(`{"body":"message %d"}`, i)), PrevEvents: head})
			head, raws = []id.EventID{e.ID()}, append(raws, e.JSON())
		}
		sent = append(sent, raws)
	}
	b.ResetTimer()
	start := time.Now()
	for _, raws := range sent {
		s.receive(raws...)
	}
	b.ReportMetric(float64(50*b.N)/time.Since(start).Seconds(), "events/s")
	b.StopTimer()
	s.whole()
}

// BenchmarkReceiveFork receives transactions of 50 messages that all follow the same older event, in a room with 2,000
// members.
func BenchmarkReceiveFork(b *testing.B) {
	n := newNetwork(b)
	s := &siege{n: n, peer: n.add("here")}
	s.evil = n.stranger("evil", s.peer)
	s.alice, s.mallory = s.user("alice"), s.evil.user("mallory")
	s.room = s.create(s.alice, CreateRoom{Preset: "public_chat", RoomVersion: id.RoomV11})
	s.evil.join(s.room, s.mallory)
	for range 40 {
		var events []*pdu.Event
		head := s.ends()
		for i := range 50 {
			user := s.evil.user(fmt.Sprint("user", len(s.evil.made), ".", i))
			key := string(user)
			e := s.evil.make(s.room, pdu.Proto{Type: typeMember, StateKey: &key, Sender: user, Content: json.RawMessage(`{"membership":"join"}`), PrevEvents: head})
			events, head = append(events, e), []id.EventID{e.ID()}
		}
		s.evil.sendGood(s.room, events...)
	}
	old := s.ends()
	s.set(s.alice, s.room, typeTopic, "", `{"topic":"new"}`)
	b.ResetTimer()
	start := time.Now()
	for range b.N {
		var raws []json.RawMessage
		for i := range 50 {
			raws = append(raws, s.evil.say(s.room, s.mallory, fmt.Sprint("fork ", i), old...).JSON())
		}
		s.receive(raws...)
	}
	b.ReportMetric(float64(50*b.N)/time.Since(start).Seconds(), "events/s")
	b.StopTimer()
	s.whole()
}
