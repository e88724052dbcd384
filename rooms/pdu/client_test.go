package pdu

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"maunium.net/go/mautrix/id"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The form for clients of a few events in a room of each version stands in testdata/client, one event a line.
func TestClientJSONEqualsTheGoldenFiles(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		var out bytes.Buffer
		for _, p := range clientProtos(v) {
			e := mustBuild(t, v, p, s)
			redacted, err := e.Redact()
			if err != nil {
				t.Fatal(err)
			}
			for _, form := range [][]byte{e.ClientJSON(true), e.ClientJSON(false), redacted.ClientJSON(false)} {
				if !json.Valid(form) {
					t.Errorf("%s is not JSON", form)
				}
				out.Write(append(form, '\n'))
			}
		}
		path := filepath.Join("testdata", "client", "v"+string(v.ID)+".jsonl")
		if *update {
			if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(out.Bytes(), want) {
			t.Errorf("%v; got\n%swant\n%s", err, out.Bytes(), want)
		}
	})
}

func clientProtos(v *Version) []Proto {
	empty, user := "", "@u:domain"
	create, member, text, redaction := message(v), message(v), message(v), message(v)
	create.Type, create.StateKey, create.PrevEvents, create.AuthEvents = typeCreate, &empty, nil, nil
	create.Content = json.RawMessage(`{"room_version":"` + string(v.ID) + `","creator":"@u:domain"}`)
	member.Type, member.StateKey, member.Content = typeMember, &user, json.RawMessage(`{"membership":"join","displayname":"U \"é\" 😀"}`)
	redaction.Type, redaction.Redacts, redaction.Content = typeRedaction, eventID(v, 5), json.RawMessage(`{"reason":"spam"}`)
	return []Proto{create, member, text, redaction}
}

// Whatever the room version, a client finds the target of a redaction at the top level and in the content.
func TestClientsFindRedactsInBothPlaces(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *Version) {
		p := message(v)
		p.Type, p.Redacts = typeRedaction, eventID(v, 5)
		var form struct {
			Redacts id.EventID
			Content struct{ Redacts id.EventID }
		}
		if err := json.Unmarshal(mustBuild(t, v, p, specKey(t)).ClientJSON(false), &form); err != nil {
			t.Fatal(err)
		}
		if form.Redacts != p.Redacts || form.Content.Redacts != p.Redacts {
			t.Errorf("%+v", form)
		}
	})
}

// What a stranger put at the top level of an event reaches no client.
func TestClientJSONLeavesFederationMembersOut(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *Version) {
		raw := with(t, mustBuild(t, v, message(v), specKey(t)).JSON(), "extra", `1`)
		raw = with(t, with(t, raw, "age", `1`), "redacts", `"$x:domain"`)
		e, err := Parse(v, with(t, raw, "unsigned", `{"transaction_id":"forged"}`))
		if err != nil {
			t.Fatal(err)
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(e.ClientJSON(true), &members); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"content", "event_id", "origin_server_ts", "room_id", "sender", "type"} {
			if members[key] == nil {
				t.Errorf("%s is missing", key)
			}
			delete(members, key)
		}
		if len(members) > 0 {
			t.Errorf("too much: %s", members)
		}
	})
}

// Some clients take content.redacts for the target, or a state event for a redaction; nobody has validated either.
func TestClientsFindNothingElseThatIsRedacted(t *testing.T) {
	eachVersion(t, func(t *testing.T, v *Version) {
		s, key := specKey(t), ""
		redaction, state := message(v), message(v)
		redaction.Type, redaction.Redacts = typeRedaction, eventID(v, 5)
		state.Type, state.StateKey, state.Redacts = typeRedaction, &key, eventID(v, 5)
		victim := eventID(v, 6)
		forged := with(t, mustBuild(t, v, redaction, s).JSON(), "content", `{"redacts":"`+string(victim)+`"}`)
		if v.RedactsInContent {
			forged = with(t, mustBuild(t, v, redaction, s).JSON(), "redacts", `"`+string(victim)+`"`)
		}
		withoutTarget := with(t, with(t, mustBuild(t, v, message(v), s).JSON(), "type", `"m.room.redaction"`), "content", `{"redacts":["`+string(victim)+`"]}`)
		for _, raw := range [][]byte{forged, withoutTarget, mustBuild(t, v, state, s).JSON()} {
			e, err := Parse(v, raw)
			if err != nil {
				t.Fatal(err)
			}
			for _, target := range []id.EventID{victim, state.Redacts} {
				if form := e.ClientJSON(false); bytes.Contains(form, []byte(target)) && (target == victim || e.IsState()) {
					t.Errorf("clients get %s", form)
				}
			}
		}
	})
}

func TestClientJSONOfASkeletonIsWhole(t *testing.T) {
	e, err := ParseStored(versionOf(t, "10"), "$e", []byte(`{"type":"m.room.redaction","redacts":"$r"}`))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"content":{"redacts":"$r"},"event_id":"$e","origin_server_ts":0,"redacts":"$r","sender":"","type":"m.room.redaction"}`
	if got := string(e.ClientJSON(false)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
