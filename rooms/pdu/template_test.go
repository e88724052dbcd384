package pdu

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
)

func TestTemplatesAreReadAsTheyWereWritten(t *testing.T) {
	hash := sha256.Sum256([]byte("x"))
	eachVersion(t, func(t *testing.T, v *Version) {
		p, key := message(v), "@u:domain"
		p.Type, p.StateKey = typeMember, &key
		p.ReferenceHash = func(eventID id.EventID) ([sha256.Size]byte, bool) { return hash, eventID != eventID2(v) }
		raw, err := Template(v, p)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadTemplate(v, raw)
		if err != nil {
			t.Fatal(err)
		}
		if got.RoomID != p.RoomID || got.Type != p.Type || got.Sender != p.Sender || got.StateKey != key || got.Depth != p.Depth ||
			!slices.Equal(got.PrevEvents, p.PrevEvents) || !slices.Equal(got.AuthEvents, p.AuthEvents) || string(got.Content) != `{"body":"hi","msgtype":"m.text"}` {
			t.Errorf("%s is read as %+v", raw, got)
		}
		for _, ref := range []id.EventID{eventID(v, 1), eventID(v, 2), eventID(v, 3)} {
			h, ok := got.ReferenceHash(ref)
			if want := v.EventIDFormat == EventIDFromServer && ref != eventID2(v); ok != want || ok && h != hash {
				t.Errorf("hash of %s: %x, %v", ref, h, ok)
			}
		}
		p.Type = ""
		if raw, err := Template(v, p); err == nil {
			t.Errorf("a template without type: %s", raw)
		}
	})
}

// eventID2 is the event whose hash the template lacks.
func eventID2(v *Version) id.EventID { return eventID(v, 2) }

func TestMalformedTemplatesAreRefused(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *Version) {
		good, err := Template(v, message(v))
		if err != nil {
			t.Fatal(err)
		}
		for name, tc := range map[string]struct {
			raw  json.RawMessage
			kind Kind
		}{
			"as long as the limit":   {append(slices.Clip(good), bytes.Repeat([]byte(" "), maxRawSize-len(good))...), 0},
			"longer than the limit":  {append(slices.Clip(good), bytes.Repeat([]byte(" "), maxRawSize-len(good)+1)...), TooLarge},
			"not JSON":               {json.RawMessage(`{`), BadJSON},
			"not an object":          {json.RawMessage(`[]`), BadJSON},
			"no prev_events":         {canonjson.Without(good, "prev_events"), BadShape},
			"no auth_events":         {canonjson.Without(good, "auth_events"), BadShape},
			"content is not object":  {with(t, good, "content", `[]`), BadShape},
			"a member is missing":    {canonjson.Without(good, "type"), 0}, // for the caller to judge
			"the hash is not base64": {with(t, good, "prev_events", reference(v, `{"sha256":"!"}`)), 0},
			"the hash is too short":  {with(t, good, "prev_events", reference(v, `{"sha256":"AAAA"}`)), 0},
		} {
			got, err := ReadTemplate(v, tc.raw)
			kind := Kind(0)
			if bad := (*Error)(nil); errors.As(err, &bad) {
				kind = bad.Kind
			}
			if kind != tc.kind {
				t.Errorf("%s: error of kind %d (%v), want %d", name, kind, err, tc.kind)
			}
			if err != nil {
				continue
			}
			if _, ok := got.ReferenceHash("$e:domain"); ok {
				t.Errorf("%s: there is a hash", name)
			}
		}
	})
}

// reference is a list of one event as room version v writes it.
func reference(v *Version, hashes string) string {
	if v.EventIDFormat == EventIDFromServer {
		return `[["$e:domain",` + hashes + `]]`
	}
	return `["$e:domain"]`
}
