package pdu

import (
	"bytes"
	"encoding/json"
	"testing"

	"ebb/canonjson"
)

// Whatever Parse takes is within its limits, keeps its id through its own bytes and through a redaction, and has a form
// for clients.
func FuzzParse(f *testing.F) {
	s := specKey(f)
	for n, room := range Versions() {
		v := versionOf(f, room)
		for _, p := range clientProtos(v) {
			f.Add(byte(n), mustBuild(f, v, p, s).JSON())
		}
	}
	f.Fuzz(func(t *testing.T, n byte, raw []byte) {
		v := &versions[int(n)%len(versions)]
		e, err := Parse(v, raw)
		if err != nil {
			return
		}
		if len(e.JSON()) > MaxSize || len(e.PrevEvents()) > MaxPrevEvents || len(e.AuthEvents()) > MaxAuthEvents || e.Depth() < 0 {
			t.Fatalf("beyond the limits: %s", e.JSON())
		}
		again, err := Parse(v, e.JSON())
		if err != nil || again.ID() != e.ID() || !bytes.Equal(again.JSON(), e.JSON()) || again.RoomID() != e.RoomID() {
			t.Fatalf("%s as %s is then %+v, %v", e.JSON(), e.ID(), again, err)
		}
		redacted, err := e.Redact()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := EventIDOf(v, redacted.JSON()); err != nil || got != e.ID() {
			t.Fatalf("%s is redacted %s with id %s, %v; want %s", e.JSON(), redacted.JSON(), got, err, e.ID())
		}
		if canonical, err := canonjson.Canonical(redacted.JSON(), v.StrictCanonicalJSON); err != nil || !bytes.Equal(canonical, redacted.JSON()) {
			t.Fatalf("redacted form %s is not canonical: %v", redacted.JSON(), err)
		}
		if form := e.ClientJSON(true); !json.Valid(form) {
			t.Fatalf("%s is not JSON", form)
		}
		for server, keyID := range e.Signatures() {
			_ = e.VerifySignature(server, keyID, publicKey(Signer{Key: specKey(t).Key}))
		}
		e.CheckContentHash()
		RequiredSigners(e)
	})
}
