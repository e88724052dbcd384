package stateres_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ebb/rooms/stateres"

	"maunium.net/go/mautrix/id"
)

// goldenRooms holds a folder for each room, named after what happens in it and its version; see the README there.
const goldenRooms = "../../testdata/rooms"

func TestGoldenRoomsResolveAsExpected(t *testing.T) {
	rooms, err := os.ReadDir(goldenRooms)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, room := range rooms {
		if !room.IsDir() {
			continue
		}
		seen++
		t.Run(room.Name(), func(t *testing.T) {
			dir := filepath.Join(goldenRooms, room.Name())
			_, version, _ := cutLast(room.Name(), "-v")
			var states [][]byte
			names, _ := filepath.Glob(filepath.Join(dir, "state-*.json"))
			if len(names) > 0 {
				states = readMatching(t, filepath.Join(dir, "state-*.json"))
			}
			pdus, want := readFiles(t, dir, "pdus"), readFiles(t, dir, "expected")[0]
			checkResolves(t, id.RoomVersion(version), pdus, states, want)
			checkResolves(t, "", pdus, states, want) // by the version in the create event
			slices.Reverse(states)
			checkResolves(t, "", pdus, states, want)
		})
	}
	if seen < 15 {
		t.Errorf("only %d golden rooms", seen)
	}
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

func TestResolveFilesRefusesWhatItCannotRead(t *testing.T) {
	const create = `{"event_id":"$c","type":"m.room.create","sender":"@a:x","state_key":"","content":{"room_version":"12"},"prev_events":[],"auth_events":[]}`
	const text = `{"event_id":"$m","room_id":"!c","type":"m.room.message","sender":"@a:x","content":{},"prev_events":["$c"],"auth_events":[]}`
	circle := func(eventID, prev string) string {
		return `{"event_id":"` + eventID + `","room_id":"!c","type":"t","sender":"@a:x","state_key":"","content":{},"prev_events":["` + prev + `"],"auth_events":[]}`
	}
	for _, tc := range []struct {
		name, version, pdus, states, want string
	}{
		{"version", "99", `[]`, ``, `room version "99" is not known`},
		{"no version", "", `[]`, ``, `room version "" is not known`},
		{"version of a create event behind others", "", `[` + text + `,{"type":"m.room.create","content":{"room_version":"99"}}]`, ``, `room version "99" is not known`},
		{"PDUs are no JSON", "12", `[`, ``, "PDU file 1 is not a JSON array"},
		{"PDUs are no array", "12", create, ``, "PDU file 1 is not a JSON array"},
		{"PDU without id", "12", `[{"type":"m.room.create"}]`, ``, "PDU 1: event has no event_id"},
		{"PDU is no object", "12", `[7]`, ``, "PDU 1"},
		{"states are no array", "12", `[` + create + `]`, `{}`, "state file 1 is not a JSON array of event ids"},
		{"unknown event in a state", "12", `[` + create + `]`, `["$x"]`, `state file 1: event "$x" is not among the PDUs`},
		{"message in a state", "12", `[` + create + `,` + text + `]`, `["$m"]`, `state file 1: event "$m" is not a state event`},
		{"graph in a circle", "12", `[` + create + `,` + circle("$1", "$2") + `,` + circle("$2", "$1") + `]`, ``, "the prev_events of 2 PDUs form a cycle"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var states [][]byte
			if tc.states != "" {
				states = [][]byte{[]byte(tc.states)}
			}
			out, err := stateres.ResolveFiles(id.RoomVersion(tc.version), [][]byte{[]byte(tc.pdus)}, states)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("ResolveFiles = %s, %v; want an error with %q", out, err, tc.want)
			}
		})
	}
}

func TestResolveFilesPassesOverWhatIsNotThere(t *testing.T) {
	const pdus = `[{"event_id":"$c","type":"m.room.create","sender":"@a:x","state_key":"","content":{"room_version":"12"},"prev_events":[],"auth_events":[]},
		{"event_id":"$<t>","room_id":"!c","type":"t","sender":"@a:x","state_key":"","content":{},"prev_events":["$c","$unknown"],"auth_events":["$lost"]},
		{"event_id":"$m","room_id":"!c","type":"m.room.message","sender":"@a:x","content":{},"prev_events":["$<t>"],"auth_events":[]},
		{"event_id":"$m","room_id":"!c","type":"again","sender":"@a:x","content":{},"prev_events":["$<t>"],"auth_events":[]}]`
	checkResolves(t, "12", [][]byte{[]byte(pdus)}, nil, []byte(`[{"type":"m.room.create","state_key":"","event_id":"$c"},{"type":"t","state_key":"","event_id":"$<t>"}]`))
	checkResolves(t, "", [][]byte{[]byte(`[]`), []byte(pdus)}, nil, []byte(`[{"type":"m.room.create","state_key":"","event_id":"$c"},{"type":"t","state_key":"","event_id":"$<t>"}]`))
}

// $new replaces $old on one branch and $text follows $old on the other. $old is newer by origin_server_ts, so it wins.
func TestResolveFilesKeepsTheStateOfAForkForEveryBranch(t *testing.T) {
	const fork = `{"event_id":"$c","type":"m.room.create","sender":"@a:x","state_key":"","content":{"room_version":"12"},"prev_events":[],"auth_events":[]},
		{"event_id":"$j","room_id":"!c","type":"m.room.member","sender":"@a:x","state_key":"@a:x","content":{"membership":"join"},"prev_events":["$c"],"auth_events":[]},
		{"event_id":"$old","room_id":"!c","type":"t","sender":"@a:x","state_key":"","content":{},"origin_server_ts":2,"prev_events":["$j"],"auth_events":["$j"]},
		{"event_id":"$new","room_id":"!c","type":"t","sender":"@a:x","state_key":"","content":{},"origin_server_ts":1,"prev_events":["$old"],"auth_events":["$j"]},
		{"event_id":"$text","room_id":"!c","type":"m.room.message","sender":"@a:x","content":{},"prev_events":["$old"],"auth_events":["$j"]}`
	const want = `[{"type":"m.room.create","state_key":"","event_id":"$c"},{"type":"m.room.member","state_key":"@a:x","event_id":"$j"},{"type":"t","state_key":"","event_id":"$old"}]`
	const merge = `{"event_id":"$merge","room_id":"!c","type":"m.room.message","sender":"@a:x","content":{},"prev_events":["$new","$text"],"auth_events":["$j"]}`
	checkResolves(t, "", [][]byte{[]byte(`[` + fork + `]`)}, nil, []byte(want))
	checkResolves(t, "", [][]byte{[]byte(`[` + fork + `,` + merge + `]`)}, nil, []byte(want))
}

func TestNothingResolvesToNothing(t *testing.T) {
	checkResolves(t, "11", nil, nil, []byte(`[]`))
}
