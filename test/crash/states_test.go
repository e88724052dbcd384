package crash

import (
	"database/sql"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"ebb/test/process"
)

// The server is killed while it deletes states that nothing needs, and while the state changes.
func TestAKillDuringTheDeletionOfStatesLosesNoneThatIsNeeded(t *testing.T) {
	binary, err := process.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	l := &leaving{binary: binary, server: process.Start(t, binary, process.Options{Config: config + "\nretention: {purge_delay: 0s}"})}
	l.alice, l.bob = l.server.Register(t, "alice"), l.server.Register(t, "bob")
	room := process.Text(l.alice.Must(t, http.MethodPost, process.Path("createRoom"), process.Object{"preset": "public_chat"}), "room_id")
	change := func(from, to int) {
		for i := from; i < to; i++ {
			l.alice.Must(t, http.MethodPut, process.Path("rooms", room, "state", "m.room.topic", ""), process.Object{"topic": fmt.Sprintf("topic %d.", i)})
			send(t, l.alice, room, i, process.Object{"msgtype": "m.text", "body": fmt.Sprintf("stays-%d.", i)})
		}
	}
	change(0, 30)
	const unneeded, dangling = `SELECT count(*) FROM state_deltas WHERE type = 'org.example.unneeded'`, `SELECT count(*) FROM events e
WHERE e.snapshot <> 0 AND NOT EXISTS (SELECT 1 FROM state_snapshots s WHERE s.nid = e.snapshot)`
	for n := range kills(t) {
		l.server.Kill()
		addStates(t, l.server)
		l.server.Up(t)
		change(30+n*10, 40+n*10)
		l.killDuringPurge(t)
		var verdict string
		if fromFiles(t, l.server, "PRAGMA integrity_check", &verdict); verdict != "ok" {
			t.Fatalf("integrity_check: %s", verdict)
		}
		var missing, left int
		fromFiles(t, l.server, dangling, &missing)
		fromFiles(t, l.server, unneeded, &left)
		t.Logf("%d rows of unneeded states are left", left)
		if missing > 0 {
			t.Errorf("the state before %d events is lost", missing)
		}
		l.server.Up(t)
	}
	l.server.Command(t, "purge", "now", "--all")
	text := fmt.Sprint(l.alice.Must(t, http.MethodGet, process.Path("rooms", room, "messages")+"?dir=b&limit=1000", nil))
	for i := range 30 + 10*kills(t) {
		if !strings.Contains(text, fmt.Sprintf("stays-%d.", i)) || !strings.Contains(text, fmt.Sprintf("topic %d.", i)) {
			t.Errorf("message or topic %d is lost", i)
		}
	}
	l.server.Kill()
	var left int
	if fromFiles(t, l.server, unneeded, &left); left != 0 {
		t.Errorf("%d rows of states are left that nothing needs", left)
	}
	if fromFiles(t, l.server, dangling, &left); left != 0 {
		t.Errorf("the state before %d events is lost", left)
	}
}

// addStates adds states to which nothing refers to the rooms of a server that was killed, as forks of the graph leave
// them behind: chains that build on the states of the rooms.
func addStates(t *testing.T, s *process.Server) {
	t.Helper()
	db, err := sql.Open("sqlite3", filepath.Join(s.DataDir, "ebb.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, query := range []string{
		`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
INSERT INTO state_snapshots (nid, room_nid, prev, length)
SELECT (SELECT max(nid) FROM state_snapshots) + 100000 + n.i, r.nid, CASE n.i WHEN 1 THEN r.snapshot ELSE (SELECT max(nid) FROM state_snapshots) + 99999 + n.i END, n.i FROM n, rooms r`,
		`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10)
INSERT INTO state_deltas (snapshot, type, state_key, position)
SELECT s.nid, 'org.example.unneeded', CAST(n.i AS TEXT), 0 FROM state_snapshots s, n WHERE s.nid > (SELECT max(nid) FROM state_snapshots) - 200`,
		`INSERT INTO state_sweeps (room_nid, marked_ts, begun) SELECT nid, 1, 0 FROM rooms WHERE true ON CONFLICT (room_nid) DO UPDATE SET begun = 0`,
	} {
		if _, err := db.ExecContext(t.Context(), query); err != nil {
			t.Fatal(err)
		}
	}
}
