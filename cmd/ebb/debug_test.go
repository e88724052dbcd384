package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestPDUAndStateFlagsAcceptWordsUpToTheNextFlag(t *testing.T) {
	for _, c := range []struct{ in, want []string }{
		{[]string{"--pdus", "a", "b", "--state", "c", "d", "--room-version", "12"}, []string{"--pdus", "a", "--pdus", "b", "--state", "c", "--state", "d", "--room-version", "12"}},
		{[]string{"--room-version", "12", "-pdus", "a"}, []string{"--room-version", "12", "--pdus", "a"}},
		{[]string{"--pdus=a", "b", "--state=c", "d"}, []string{"--pdus=a", "--pdus", "b", "--state=c", "--state", "d"}},
		{[]string{"--pdus", "a", "--config", "x", "b"}, []string{"--pdus", "a", "--config", "x", "b"}},
		{[]string{"--pdus", "a", "--state"}, []string{"--pdus", "a", "--state"}},
		{[]string{"--state", "--pdus", "a"}, []string{"--state", "--pdus", "a"}},
		{[]string{"alice", "--admin"}, []string{"alice", "--admin"}},
	} {
		if got := spread(c.in); !slices.Equal(got, c.want) {
			t.Errorf("%q becomes %q, want %q", c.in, got, c.want)
		}
	}
}

func TestResolveStateRefusesUnreadableInput(t *testing.T) {
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.json"), filepath.Join(dir, "bad.json")
	write(t, good, "[]")
	write(t, bad, "{")
	for _, c := range []struct {
		code int
		text string
		args []string
	}{
		{exitUsage, "--pdus is missing", nil},
		{exitUsage, "needs an argument", []string{"--pdus"}},
		{exitUsage, "needs an argument", []string{"--pdus", good, "--state"}},
		{exitUsage, "unexpected", []string{"--pdus", good, "--room-version", "12", "more"}},
		{exitFailed, "room version", []string{"--pdus", good, "--room-version", "99"}},
		{exitFailed, "not a JSON array", []string{"--pdus", good, bad, "--room-version", "12"}},
	} {
		refusedWith(t, c.code, c.text, "", append([]string{"debug", "resolve-state"}, c.args...)...)
	}
}

// resolves runs the command and compares its output with want, ignoring white space.
func resolves(t *testing.T, want string, args ...string) {
	t.Helper()
	var got, expected bytes.Buffer
	if err := json.Compact(&got, []byte(must(t, "", append([]string{"debug", "resolve-state"}, args...)...))); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	var entries []struct {
		Type     string `json:"type"`
		StateKey string `json:"state_key"`
		EventID  string `json:"event_id"`
	}
	if err := json.Unmarshal(raw, &entries); err != nil {
		t.Fatal(err)
	}
	if raw, err = json.Marshal(entries); err != nil {
		t.Fatal(err)
	}
	if err := json.Compact(&expected, raw); err != nil {
		t.Fatal(err)
	}
	if got.String() != expected.String() {
		t.Errorf("resolved to\n%s\nwant\n%s", &got, &expected)
	}
}

func TestResolveStateOfTheGoldenRooms(t *testing.T) {
	rooms, err := filepath.Glob("../../testdata/rooms/*/expected.json")
	if err != nil || len(rooms) == 0 {
		t.Fatalf("no golden rooms: %v", err)
	}
	for _, want := range rooms {
		dir := filepath.Dir(want)
		t.Run(filepath.Base(dir), func(t *testing.T) {
			args := []string{"--pdus", filepath.Join(dir, "pdus.json")}
			if states, _ := filepath.Glob(filepath.Join(dir, "state-*.json")); len(states) > 0 {
				args = append(append(args, "--state"), states...)
			}
			resolves(t, want, args...)
		})
	}
}

// TestResolveStateOfTheVectors follows the README of the vectors, whose cases are files of PDUs that form one graph, or
// state sets over them.
func TestResolveStateOfTheVectors(t *testing.T) {
	root := os.Getenv("MATRIX_VECTORS_DIR")
	if root == "" {
		t.Skip("SKIP state resolution vectors: MATRIX_VECTORS_DIR is not set")
	}
	file := func(name string) string { return filepath.Join(root, "stateres", name+".json") }
	states, err := filepath.Glob(file("MSC4297-problem-A/state-*"))
	if err != nil || len(states) < 2 {
		t.Fatalf("state sets: %v %v", states, err)
	}
	for want, pdus := range map[string][]string{
		"minimal_private_chat":      {"bootstrap-private-chat"},
		"minimal_public_chat":       {"bootstrap-public-chat"},
		"origin_server_ts_tiebreak": {"bootstrap-private-chat", "origin-server-ts-tiebreak"},
		"ban_vs_power_levels":       {"bootstrap-public-chat", "ban-vs-power-levels-alice", "ban-vs-power-levels-bob"},
		"join_rules_vs_join":        {"bootstrap-public-chat", "join-rules-vs-join-common", "join-rules-vs-join-alice", "join-rules-vs-join-ella"},
	} {
		args := []string{"--pdus"}
		for _, name := range pdus {
			args = append(args, file(name))
		}
		resolves(t, file("expected-"+want), args...)
	}
	for version, want := range map[string]string{"11": "msc4297_problem_a_state_res_v2_0", "12": "msc4297_problem_a_state_res_v2_1"} {
		args := append([]string{"--room-version", version, "--state"}, states...)
		resolves(t, file("expected-"+want), append(args, "--pdus", file("MSC4297-problem-A/pdus-v"+version))...)
	}
}
