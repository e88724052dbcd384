package export

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/ed25519"
	"database/sql"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	_ "github.com/mattn/go-sqlite3" // the driver "sqlite3"
	"maunium.net/go/mautrix/id"

	"ebb/audit"
	"ebb/export/archive"
	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/secrets"
	"ebb/storage"
	"ebb/storage/storagetest"
	"ebb/wake"
)

// coverage is what docs/storage.md says about a table.
type coverage struct {
	files   []string        // of the archive; empty: the table is not exported
	leftOut map[string]bool // columns
}

// listedCoverage reads the section of docs/storage.md about exports.
func listedCoverage(t *testing.T) map[string]*coverage {
	t.Helper()
	page, err := os.ReadFile("../docs/storage.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## What an export of an account has\n")
	section, _, _ = strings.Cut(section, "\n## ")
	listed := map[string]*coverage{}
	for _, row := range regexp.MustCompile(`(?m)^\| ([^|`+"`"+`]+) \| (`+"`"+`[^|]+) \| ?([^|]*) ?\|$`).FindAllStringSubmatch(section, -1) {
		for _, table := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[2], -1) {
			if listed[table[1]] != nil {
				t.Errorf("docs/storage.md lists the export of %s twice", table[1])
			}
			c := &coverage{leftOut: map[string]bool{}}
			if row[1] != "not exported" {
				c.files = strings.Split(row[1], ", ")
			} else if strings.TrimSpace(row[3]) == "" {
				t.Errorf("docs/storage.md does not say why %s is not exported", table[1])
			}
			for _, columns := range regexp.MustCompile("((?:`[a-z_]+`(?:, | and )?)+) of `"+table[1]+"`").FindAllStringSubmatch(row[3], -1) {
				for _, column := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(columns[1], -1) {
					c.leftOut[column[1]] = true
				}
			}
			listed[table[1]] = c
		}
	}
	return listed
}

// fixture is a database in which every table has a row about alice, with a marker in each column of text.
type fixture struct {
	t       *testing.T
	db      *storage.DB
	raw     *sql.DB
	rooms   *rooms.Service
	commits *rooms.Commits
	alice   ident.UserNID
	room    ident.RoomNID
	event   storage.Pos // a redacted message of alice
	number  int64
	tables  map[string]map[string]bool // the columns of each table, and whether they are texts
}

const aliceID id.UserID = "@alice:here"

// filled lists the tables that real operations fill; they cannot have rows without meaning.
var filled = map[string]bool{
	"meta": true, "users": true, "rooms": true, "events": true, "memberships": true, "state_snapshots": true, "state_deltas": true, "current_state": true,
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	dsn := storagetest.SQLite(t)
	f := &fixture{t: t, db: storagetest.Open(t, storage.Config{DSN: dsn}), number: 5000, tables: map[string]map[string]bool{}}
	var err error
	if f.raw, err = sql.Open("sqlite3", strings.TrimPrefix(dsn, "sqlite:")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.raw.Close() })
	f.start()
	if f.alice, err = f.rooms.UserNID(t.Context(), aliceID); err != nil {
		t.Fatal(err)
	}
	if _, err := f.rooms.Create(t.Context(), ident.Requester{UserNID: f.alice, UserID: aliceID}, rooms.CreateRoom{Name: "a room of alice"}); err != nil {
		t.Fatal(err)
	}
	row := f.raw.QueryRow(`SELECT position, room_nid FROM events WHERE type = 'm.room.name'`)
	if err := row.Scan(&f.event, &f.room); err != nil {
		t.Fatal(err)
	}
	f.columns()
	return f
}

// start opens the rooms, as a start of the server does.
func (f *fixture) start() {
	f.t.Helper()
	var err error
	f.commits = rooms.NewCommits()
	f.rooms, err = rooms.New(f.t.Context(), rooms.Options{
		DB: f.db, Server: "here", Hub: wake.New(), Commits: f.commits, Retention: rooms.Retention{Redacted: 24 * time.Hour},
		Signer: pdu.Signer{Server: "here", KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))},
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// columns reads the schema.
func (f *fixture) columns() {
	rows, err := f.raw.Query(`SELECT m.name, c.name, c.type FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'`)
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var table, column, kind string
		if err := rows.Scan(&table, &column, &kind); err != nil {
			f.t.Fatal(err)
		}
		if f.tables[table] == nil {
			f.tables[table] = map[string]bool{}
		}
		f.tables[table][column] = kind != "BIGINT" && kind != "INTEGER"
	}
	if err := rows.Err(); err != nil || len(f.tables) < 90 {
		f.t.Fatalf("%d tables, %v", len(f.tables), err)
	}
}

func marker(table, column string) string { return "<" + table + "." + column + ">" }

// value returns what a column of the row about alice has.
func (f *fixture) value(table, column string, text bool) any {
	now := time.Now().UnixMilli()
	switch table + "." + column {
	case "devices.nid", "accounts.nid":
		return map[string]int64{"devices": 4000, "accounts": int64(f.alice)}[table]
	case "oauth_clients.client_id":
		return marker("oauth_sessions", "client_id")
	case "audit.body":
		return fmt.Sprintf(`{"user":%q,"more":%q}`, aliceID, marker(table, column))
	case "originals.json":
		return fmt.Sprintf(`{"type":"m.room.name","state_key":"","sender":%q,"content":{"name":%q}}`, aliceID, marker(table, column))
	case "originals.position", "thread_subscriptions.root":
		return int64(f.event)
	case "originals.readable":
		return 1
	case "media.expires_ts", "accounts.deactivated_ts", "accounts.leaving", "backup_versions.deleted", "web_sessions.pending":
		return 0
	}
	f.number++
	switch column {
	case "user_nid", "sender_nid", "reporter_nid", "creator_nid", "signer_nid", "target_nid":
		return int64(f.alice)
	case "device_nid":
		return 4000
	case "room_nid":
		return int64(f.room)
	case "body_key":
		return 0
	}
	switch {
	case text:
		return marker(table, column)
	case column == "expires_ts":
		return now + time.Hour.Milliseconds()
	case strings.HasSuffix(column, "_ts"):
		return now
	}
	return f.number
}

// fill adds a row to a table.
func (f *fixture) fill(table string) {
	f.t.Helper()
	var names, marks []string
	var values []any
	for column, text := range f.tables[table] {
		names, marks, values = append(names, column), append(marks, "?"), append(values, f.value(table, column, text))
	}
	if _, err := f.raw.Exec(`INSERT INTO `+table+` (`+strings.Join(names, ", ")+`) VALUES (`+strings.Join(marks, ", ")+`)`, values...); err != nil {
		f.t.Fatalf("%s: %v", table, err)
	}
}

type anyUpload struct{}

func (anyUpload) OpenUpload(context.Context, string) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("a file")), nil
}

// archive returns all files of an export of alice.
func (f *fixture) archive() map[string]string {
	f.t.Helper()
	s, err := New(Options{Dir: filepath.Join(f.t.TempDir(), "exports"), Server: "here", DB: f.db, Rooms: f.rooms, Files: anyUpload{}})
	if err != nil {
		f.t.Fatal(err)
	}
	defer s.Close()
	var out bytes.Buffer
	b := &builder{s: s, ctx: f.t.Context(), leftOut: map[storage.Pos]bool{}, e: &export{user: aliceID}, user: f.alice, out: archive.NewWriter(&out, time.Now().Add(time.Hour))}
	if b.members, err = f.rooms.Memberships(f.t.Context(), f.alice); err != nil {
		f.t.Fatal(err)
	}
	for _, part := range sections() {
		if part.write == nil {
			continue
		}
		if err := part.write(b); err != nil {
			f.t.Fatalf("%s: %v", part.name, err)
		}
	}
	if err := b.out.Finish(archive.Manifest{}, func(string) ([]byte, error) { return nil, nil }); err != nil {
		f.t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil {
		f.t.Fatal(err)
	}
	files := map[string]string{}
	for _, part := range z.File {
		in, err := part.Open()
		if err != nil {
			f.t.Fatal(err)
		}
		raw, err := io.ReadAll(in)
		if err != nil {
			f.t.Fatal(err)
		}
		if strings.HasSuffix(part.Name, ".json") && !json.Valid(raw) {
			f.t.Errorf("%s is not JSON: %s", part.Name, raw)
		}
		files[part.Name] = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">").Replace(string(raw))
	}
	return files
}

// meddler is an upload that redacts a message while it is opened.
type meddler struct {
	f     *fixture
	s     *Service
	event storage.Pos
	left  int // how often it does so
	opens int
}

func (m *meddler) OpenUpload(ctx context.Context, mediaID string) (io.ReadCloser, error) {
	if m.opens++; m.left > 0 {
		m.left--
		room, err := m.f.rooms.RoomByNID(ctx, m.f.room)
		if err != nil {
			return nil, err
		}
		m.s.committed(&rooms.Commit{Room: room, Purged: []storage.Pos{m.event}})
	}
	return anyUpload{}.OpenUpload(ctx, mediaID)
}

// TestAnArchiveIsWrittenAgainIfSomethingInItGoes purges a message after it was written to an archive, before that
// archive is complete.
func TestAnArchiveIsWrittenAgainIfSomethingInItGoes(t *testing.T) {
	for _, c := range []struct {
		purges, opens int
		state         State
	}{{0, 1, Ready}, {1, 2, Ready}, {maxBuilds - 1, maxBuilds, Ready}, {maxBuilds, maxBuilds, ""}} {
		f := newFixture(t)
		for _, table := range []string{"accounts", "media"} {
			f.fill(table)
		}
		ring, err := secrets.Create(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		log := audit.New(audit.Options{DB: f.db, Server: "here", Secrets: ring})
		files := &meddler{f: f, event: f.event, left: c.purges}
		dir := filepath.Join(t.TempDir(), "exports")
		s, err := New(Options{Dir: dir, Server: "here", DB: f.db, Rooms: f.rooms, Files: files, Audit: log})
		if err != nil {
			t.Fatal(err)
		}
		files.s = s
		if _, err := s.Start(t.Context(), Owner{User: f.alice}, aliceID, false); err != nil {
			t.Fatal(err)
		}
		s.jobs.Wait()
		left, err := filepath.Glob(filepath.Join(dir, "*"))
		if got := s.Status(Owner{User: f.alice}).State; got != c.state || files.opens != c.opens || err != nil || (len(left) == 1) != (c.state == Ready) {
			t.Errorf("%d purges: state %q after %d builds with the files %v (%v), want %q after %d", c.purges, got, files.opens, left, err, c.state, c.opens)
		}
		s.Close()
	}
}

// TestAnExportHasAllThatTheTablesHold fills every table with a row about alice and a marker in each column of text. It
// compares the markers in an export with the list in docs/storage.md: what is not in the archive has a stated reason,
// and what is left out is nowhere in it.
func TestAnExportHasAllThatTheTablesHold(t *testing.T) {
	listed := listedCoverage(t)
	f := newFixture(t)
	for table := range f.tables {
		if listed[table] == nil {
			t.Errorf("docs/storage.md does not say whether an export of an account has table %s", table)
		}
		if !filled[table] {
			f.fill(table)
		}
	}
	files := f.archive()
	for table, c := range listed {
		columns := f.tables[table]
		if columns == nil {
			t.Errorf("docs/storage.md says what an export has of %s, which is not a table", table)
		}
		for column := range c.leftOut {
			if _, found := columns[column]; !found {
				t.Errorf("docs/storage.md says that %s.%s is not exported, which is not a column", table, column)
			}
		}
		if filled[table] {
			continue
		}
		for column, text := range columns {
			if text {
				checkMarker(t, files, c, table, column)
			}
		}
	}
	for name, text := range map[string]string{"messages/": "a room of alice", "rooms.json": `"membership":"join"`, "account.json": string(aliceID)} {
		found := false
		for file, content := range files {
			found = found || strings.HasPrefix(file, name) && strings.Contains(content, text)
		}
		if !found {
			t.Errorf("%s has no %q", name, text)
		}
	}
}

// checkMarker compares the places of the marker of a column with those where it should be.
func checkMarker(t *testing.T, files map[string]string, c *coverage, table, column string) {
	t.Helper()
	shown := false
	for name, content := range files {
		if name == archive.ManifestName || !strings.Contains(content, marker(table, column)) {
			continue
		}
		expected := false
		for _, file := range c.files {
			expected = expected || name == file
		}
		if !expected || c.leftOut[column] {
			t.Errorf("%s.%s is in %s; docs/storage.md says that an export has it in %q, and leaves out %v", table, column, name, c.files, c.leftOut)
		}
		shown = true
	}
	if !shown && len(c.files) > 0 && !c.leftOut[column] {
		t.Errorf("%s.%s is not in %q, and docs/storage.md does not say why", table, column, c.files)
	}
}
