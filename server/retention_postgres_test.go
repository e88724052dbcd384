package server_test

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"testing"

	"ebb/bodykeys"
	"ebb/internal/testserver"
	"ebb/storage/storagetest"
)

// On PostgreSQL, nothing overwrites what was deleted. So the messages must not be in any file of the database server in
// plain text, at any time, and their keys must be gone after the purge.

// messageKey is a key under which messages, or a part of the search index, are encrypted.
type messageKey struct {
	server *testserver.Server
	id     bodykeys.ID
}

// postgresFiles returns the files of the PostgreSQL server, which all servers of the world use, that contain a word.
// The types of events are not encrypted, so those that contain the word do not count.
func (w *fadingWorld) postgresFiles(word string) []string {
	w.Helper()
	return storagetest.PostgresFiles(w.T, w.hs1.Config().Database, func(content []byte) bool {
		return bytes.Count(content, []byte(word)) > bytes.Count(content, []byte("org.example."+word))
	})
}

// encrypted fails the test if the messages can be read in the files of the PostgreSQL server, or if the search through
// these would not find them.
func (w *fadingWorld) encrypted() {
	w.Helper()
	if len(w.postgresFiles(w.carol.User)) == 0 {
		w.Fatal("the search through the files of PostgreSQL finds nothing")
	}
	for _, word := range []string{goneEverywhere, goneHere, stays} {
		if files := w.postgresFiles(word); len(files) > 0 {
			w.Errorf("%v of PostgreSQL contain messages in plain text (%s)", files, word)
		}
	}
}

// recordKeys records the keys of the rooms in which messages are going to expire. All of a room's messages so far are
// from one day, so something expires under each of its keys. What a legal hold covers stays, so nothing need be deleted
// under the key of the messages there; but it is removed from the search index, which has a key of its own.
func (w *fadingWorld) recordKeys() {
	w.Helper()
	if !w.postgres {
		return
	}
	for s, rooms := range map[*testserver.Server][]*fadingRoom{w.hs1: w.rooms, w.hs2: w.shared()} {
		for _, r := range rooms {
			ids := usedKeys(w.T, s, r.id, s == w.hs1 && r.word == heldWord)
			want := 1
			if s == w.hs1 && r.word != heldWord {
				want = 2 // its search index is written to the database
			}
			if len(ids) < want {
				w.Errorf("%s has the keys %v for %s, want at least %d", s.Name(), ids, r.id, want)
			}
			for _, id := range ids {
				if !keyExists(w.T, s, id) {
					w.Errorf("%s does not have key %x", s.Name(), id)
				}
				w.keys = append(w.keys, messageKey{s, id})
			}
		}
	}
}

// usedKeys returns the keys under which a server encrypts what it has of a room, or only those of its search index.
func usedKeys(t *testing.T, s *testserver.Server, room string, index bool) (ids []bodykeys.ID) {
	t.Helper()
	db, err := sql.Open("pgx", s.Config().Database)
	ok(t, err)
	defer func() { ok(t, db.Close()) }()
	rows, err := db.QueryContext(t.Context(), `SELECT k.nid FROM body_keys k JOIN rooms r ON r.nid = k.room_nid WHERE r.room_id = $1 AND (k.kind = 1 OR NOT $2)`, room, index)
	ok(t, err)
	defer func() { ok(t, rows.Close()) }()
	for rows.Next() {
		var id bodykeys.ID
		ok(t, rows.Scan(&id))
		ids = append(ids, id)
	}
	ok(t, rows.Err())
	return ids
}

// keyExists reports whether the folder of keys of a server has a key.
func keyExists(t *testing.T, s *testserver.Server, id bodykeys.ID) bool {
	t.Helper()
	folder, err := bodykeys.Open(s.Config().BodyKeys())
	ok(t, err)
	_, err = folder.Key(id)
	if err != nil && !errors.Is(err, bodykeys.ErrMissing) {
		t.Fatal(err)
	}
	return err == nil
}

// keysGone fails the test if a key under which something has been deleted was not destroyed by the purge.
func (w *fadingWorld) keysGone() {
	w.Helper()
	for _, k := range w.keys {
		if keyExists(w.T, k.server, k.id) {
			w.Errorf("after the purge %s still has key %x, under which expired messages are encrypted: %s", k.server.Name(), k.id, recorded(w.T, k))
		}
	}
}

// recorded returns what the database has recorded about a key.
func recorded(t *testing.T, k messageKey) string {
	t.Helper()
	db, err := sql.Open("pgx", k.server.Config().Database)
	ok(t, err)
	defer func() { ok(t, db.Close()) }()
	var kind, state, dirty int64
	err = db.QueryRowContext(t.Context(), `SELECT kind, state, dirty_ts FROM body_keys WHERE nid = $1`, int64(k.id)).Scan(&kind, &state, &dirty)
	return fmt.Sprintf("kind %d, state %d, dirty since %d (%v)", kind, state, dirty, err)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
