package rooms

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
)

// BenchmarkReceive takes in transactions of 50 messages, each after the one before it.
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
