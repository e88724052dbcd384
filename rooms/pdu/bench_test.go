package pdu

import (
	"crypto/ed25519"
	"encoding/json"
	"testing"

	"maunium.net/go/mautrix/id"
)

func benchProto() Proto {
	return Proto{
		RoomID: "!BcJY9cRxLsAFIsUgrqXOEDzqNYVrMfjYmjVUNZCRNRw", Type: "m.room.message", Sender: "@alice:example.org",
		Content:    json.RawMessage(`{"msgtype":"m.text","body":"Good morning, is the build green again? I think so.","m.mentions":{}}`),
		PrevEvents: []id.EventID{"$QsfBjbeyKnZoYXVYvUtWMDMQEEYwCKTY2rcHLBMpFVE"},
		AuthEvents: []id.EventID{"$1SDYUOGSPBkX41vpwcLGcvLcyqoUzSi3Lx2JiWVGWGQ", "$m1Ibr7dV0eFbDzzYXlxzhJKmCbZEGySHI6HUFAFhLCk"},
		Depth:      4711, OriginServerTS: 1767225600000,
	}
}

func BenchmarkBuild(b *testing.B) {
	v, _ := VersionOf(id.RoomV12)
	p, s := benchProto(), Signer{Server: "example.org", KeyID: "ed25519:a", Key: ed25519.NewKeyFromSeed(make([]byte, 32))}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Build(v, p, s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	e, raw := benchEvent(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(e.Version(), raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseStored(b *testing.B) {
	e, raw := benchEvent(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseStored(e.Version(), e.ID(), raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkClientJSON(b *testing.B) {
	e, _ := benchEvent(b)
	b.ReportAllocs()
	for b.Loop() {
		e.ClientJSON(false)
	}
}

func BenchmarkSignOnly(b *testing.B) {
	key, text := ed25519.NewKeyFromSeed(make([]byte, 32)), make([]byte, 500)
	for b.Loop() {
		ed25519.Sign(key, text)
	}
}

func benchEvent(b *testing.B) (*Event, []byte) {
	v, _ := VersionOf(id.RoomV12)
	s := Signer{Server: "example.org", KeyID: "ed25519:a", Key: ed25519.NewKeyFromSeed(make([]byte, 32))}
	e, err := Build(v, benchProto(), s)
	if err != nil {
		b.Fatal(err)
	}
	return e, e.JSON()
}
