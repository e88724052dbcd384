package stateres_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"ebb/rooms/pdu"
	"ebb/rooms/stateres"

	"maunium.net/go/mautrix/id"
)

// stateEntry is one element of a resolved state as ResolveFiles prints it.
type stateEntry struct {
	Type     string     `json:"type"`
	StateKey string     `json:"state_key"`
	EventID  id.EventID `json:"event_id"`
}

func readFiles(t *testing.T, dir string, names ...string) [][]byte {
	t.Helper()
	files := make([][]byte, len(names))
	for i, name := range names {
		file, err := os.ReadFile(filepath.Join(dir, name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		files[i] = file
	}
	return files
}

func decodeState(t *testing.T, raw []byte) []stateEntry {
	t.Helper()
	var state []stateEntry
	if err := json.Unmarshal(raw, &state); err != nil {
		t.Fatalf("resolved state is not a list of entries: %v\n%s", err, raw)
	}
	return state
}

func checkResolves(t *testing.T, version id.RoomVersion, pdus, states [][]byte, want []byte) {
	t.Helper()
	got, err := stateres.ResolveFiles(version, pdus, states)
	if err != nil {
		t.Fatal(err)
	}
	if g, w := decodeState(t, got), decodeState(t, want); !slices.Equal(g, w) {
		t.Errorf("resolved to\n%s\nwant\n%s", got, want)
	}
}

// TestStateResolutionVectors resolves the vectors below MATRIX_VECTORS_DIR/stateres, whose README says what is what.
func TestStateResolutionVectors(t *testing.T) {
	root := os.Getenv("MATRIX_VECTORS_DIR")
	if root == "" {
		t.Skip("MATRIX_VECTORS_DIR is not set")
	}
	dir := filepath.Join(root, "stateres")
	for _, tc := range []struct {
		want    string
		version id.RoomVersion
		pdus    []string
		states  string // pattern of the state set files
	}{
		{"minimal_private_chat", "", []string{"bootstrap-private-chat"}, ""},
		{"minimal_public_chat", "", []string{"bootstrap-public-chat"}, ""},
		{"origin_server_ts_tiebreak", "", []string{"bootstrap-private-chat", "origin-server-ts-tiebreak"}, ""},
		{"ban_vs_power_levels", "", []string{"bootstrap-public-chat", "ban-vs-power-levels-alice", "ban-vs-power-levels-bob"}, ""},
		{"join_rules_vs_join", "", []string{"bootstrap-public-chat", "join-rules-vs-join-common", "join-rules-vs-join-alice", "join-rules-vs-join-ella"}, ""},
		{"msc4297_problem_a_state_res_v2_0", id.RoomV11, []string{"MSC4297-problem-A/pdus-v11"}, "MSC4297-problem-A/state-*.json"},
		{"msc4297_problem_a_state_res_v2_1", id.RoomV12, []string{"MSC4297-problem-A/pdus-v12"}, "MSC4297-problem-A/state-*.json"},
	} {
		t.Run(tc.want, func(t *testing.T) {
			var states [][]byte
			if tc.states != "" {
				states = readMatching(t, filepath.Join(dir, tc.states))
			}
			checkResolves(t, tc.version, readFiles(t, dir, tc.pdus...), states, readFiles(t, dir, "expected-"+tc.want)[0])
		})
	}
}

func readMatching(t *testing.T, pattern string) [][]byte {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) < 2 {
		t.Fatalf("no state sets at %s: %v", pattern, err)
	}
	var files [][]byte
	for _, name := range names {
		file, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	return files
}

var _ stateres.Store = (*mapStore)(nil)

// mapStore is a Store in memory.
type mapStore struct {
	events   map[id.EventID]*pdu.Event
	rejected map[id.EventID]bool
}

func (s *mapStore) Event(eventID id.EventID) *pdu.Event { return s.events[eventID] }
func (s *mapStore) Rejected(eventID id.EventID) bool    { return s.rejected[eventID] }
