package pdu

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"ebb/canonjson"
)

// fullEvent has every member that some redaction algorithm keeps, and others.
const fullEvent = `{"auth_events":[],"content":%s,"depth":1,"event_id":"$e:domain","extra":1,"hashes":{"sha256":"h"},"membership":"join",` +
	`"origin":"domain","origin_server_ts":1,"prev_events":[],"prev_state":[],"redacts":"$r:domain","room_id":"!r:domain","sender":"@u:domain",` +
	`"signatures":{"domain":{"ed25519:1":"s"}},"state_key":"","type":%s,"unsigned":{"age":1}}`

// Spec: rooms/v1#redactions, rooms/v6#redactions, rooms/v8#redactions, rooms/v9#redactions, rooms/v11#redactions
func TestRedactionKeepsWhatTheVersionProtects(t *testing.T) {
	const levels = `{"ban":1,"events":{"m.x":2},"events_default":3,"invite":4,"kick":5,"notifications":{"room":6},"redact":7,"state_default":8,"users":{"@u:domain":9},"users_default":10}`
	for name, c := range map[string]struct {
		typ, content string
		want         map[int]string // what is left, from that room version on
	}{
		"message": {"m.room.message", `{"body":"b","membership":"join","msgtype":"m.text"}`, map[int]string{1: `{}`}},
		"topic":   {"m.room.topic", `{"topic":"t"}`, map[int]string{1: `{}`}},
		"member": {
			typeMember, `{"displayname":"d","join_authorised_via_users_server":"@v:domain","membership":"join","reason":"r"}`,
			map[int]string{1: `{"membership":"join"}`, 9: `{"join_authorised_via_users_server":"@v:domain","membership":"join"}`},
		},
		"third-party invite": {
			typeMember, `{"membership":"invite","third_party_invite":{"display_name":"d","signed":{"mxid":"@v:domain","token":"t"}}}`,
			map[int]string{1: `{"membership":"invite"}`, 11: `{"membership":"invite","third_party_invite":{"signed":{"mxid":"@v:domain","token":"t"}}}`},
		},
		"third-party invite unsigned": {
			typeMember, `{"membership":"invite","third_party_invite":{"display_name":"d"}}`,
			map[int]string{1: `{"membership":"invite"}`, 11: `{"membership":"invite","third_party_invite":{}}`},
		},
		"third-party invite of another type": {
			typeMember, `{"membership":"invite","third_party_invite":"signed"}`, map[int]string{1: `{"membership":"invite"}`},
		},
		"signed of another member": {typeMember, `{"membership":"invite","other":{"signed":{}}}`, map[int]string{1: `{"membership":"invite"}`}},
		"third-party invite of a message": {
			"m.room.message", `{"third_party_invite":{"signed":{}}}`, map[int]string{1: `{}`},
		},
		"create": {
			typeCreate, `{"creator":"@u:domain","m.federate":false,"room_version":"x","type":"m.space"}`,
			map[int]string{1: `{"creator":"@u:domain"}`, 11: `{"creator":"@u:domain","m.federate":false,"room_version":"x","type":"m.space"}`},
		},
		"join rules": {
			typeJoinRules, `{"allow":[{"room_id":"!a:domain"}],"join_rule":"restricted","other":1}`,
			map[int]string{1: `{"join_rule":"restricted"}`, 8: `{"allow":[{"room_id":"!a:domain"}],"join_rule":"restricted"}`},
		},
		"power levels": {
			typePowerLevels, levels,
			map[int]string{
				1:  `{"ban":1,"events":{"m.x":2},"events_default":3,"kick":5,"redact":7,"state_default":8,"users":{"@u:domain":9},"users_default":10}`,
				11: `{"ban":1,"events":{"m.x":2},"events_default":3,"invite":4,"kick":5,"redact":7,"state_default":8,"users":{"@u:domain":9},"users_default":10}`,
			},
		},
		"aliases":            {typeAliases, `{"aliases":["#a:domain"],"other":1}`, map[int]string{1: `{"aliases":["#a:domain"]}`, 6: `{}`}},
		"history visibility": {typeHistoryVisibility, `{"history_visibility":"shared","other":1}`, map[int]string{1: `{"history_visibility":"shared"}`}},
		"redaction":          {typeRedaction, `{"reason":"r","redacts":"$r:domain"}`, map[int]string{1: `{}`, 11: `{"redacts":"$r:domain"}`}},
	} {
		t.Run(name, func(t *testing.T) {
			eachVersion(t, func(t *testing.T, v *Version) {
				raw := strings.Replace(strings.Replace(fullEvent, "%s", c.content, 1), "%s", `"`+c.typ+`"`, 1)
				drop := []string{"extra", "redacts", "unsigned"}
				if number(t, v) >= 11 {
					drop = append(drop, "membership", "origin", "prev_state")
				}
				content := ""
				for from := range 13 {
					if text, ok := c.want[from]; ok && from <= number(t, v) {
						content = text
					}
				}
				want := with(t, canonjson.Without([]byte(raw), drop...), "content", content)
				e, err := ParseStored(v, "$id", []byte(raw))
				if err != nil {
					t.Fatal(err)
				}
				got, err := e.Redact()
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got.JSON(), want) {
					t.Errorf("got  %s\nwant %s", got.JSON(), want)
				}
				if got.ID() != e.ID() || got.Type() != e.Type() || got.Unsigned() != nil || got.OriginServerTS() != 1 {
					t.Errorf("other fields: %+v", got)
				}
			})
		})
	}
}

func number(t *testing.T, v *Version) int {
	n, err := strconv.Atoi(string(v.ID))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A redaction changes neither id nor signatures, and a second one changes nothing.
func TestRedactedEventsKeepTheirIDAndSignature(t *testing.T) {
	s := specKey(t)
	eachVersion(t, func(t *testing.T, v *Version) {
		rng := rand.New(rand.NewPCG(5, 6))
		for range randomEvents() {
			e := mustBuild(t, v, randomProto(rng, v), s)
			redacted, err := e.Redact()
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := Parse(v, redacted.JSON())
			if err != nil {
				t.Fatalf("Parse(%s): %v", redacted.JSON(), err)
			}
			if parsed.ID() != e.ID() || parsed.RoomID() != e.RoomID() || parsed.ReferenceHash() != e.ReferenceHash() {
				t.Errorf("%s in %s became %s in %s", e.ID(), e.RoomID(), parsed.ID(), parsed.RoomID())
			}
			if err := parsed.VerifySignature(s.Server, string(s.KeyID), publicKey(s)); err != nil {
				t.Error(err)
			}
			if parsed.CheckContentHash() != bytes.Equal(parsed.JSON(), e.JSON()) {
				t.Errorf("content hash of %s holds: %v", parsed.JSON(), parsed.CheckContentHash())
			}
			if again, err := parsed.Redact(); err != nil || !bytes.Equal(again.JSON(), redacted.JSON()) {
				t.Errorf("redacted again: %s, %v; once: %s", again.JSON(), err, redacted.JSON())
			}
		}
	})
}

func TestRedactionAlgorithmsDifferAtTheVersionsTheSpecificationSays(t *testing.T) {
	raw := strings.Replace(strings.Replace(fullEvent, "%s", `{}`, 1), "%s", `"m.room.message"`, 1)
	var changes []string
	last := ""
	for _, room := range Versions() {
		e, err := ParseStored(versionOf(t, room), "$id", []byte(raw))
		if err != nil {
			t.Fatal(err)
		}
		redacted, err := e.Redact()
		if err != nil {
			t.Fatal(err)
		}
		if string(redacted.JSON()) != last {
			changes, last = append(changes, string(room)), string(redacted.JSON())
		}
	}
	if !slices.Equal(changes, []string{"1", "11"}) {
		t.Errorf("the top level is treated anew in versions %v", changes)
	}
}
