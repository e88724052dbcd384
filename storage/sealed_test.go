package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/postings"
	"ebb/storage/storagetest"
)

// sealedWorld is a database on PostgreSQL whose message bodies are encrypted.
type sealedWorld struct {
	*testing.T
	*storage.DB
	dsn, keys string
	now       atomic.Int64 // ms
	statement func(string)
}

func newSealedWorld(t *testing.T) *sealedWorld {
	t.Helper()
	w := &sealedWorld{T: t, dsn: storagetest.Postgres(t)}
	w.keys = storagetest.Keys(t, w.dsn)
	w.now.Store(time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC).UnixMilli())
	w.open()
	t.Cleanup(func() { _ = w.Close() })
	return w
}

func (w *sealedWorld) config() storage.Config {
	return storage.Config{
		DSN: w.dsn, BodyKeys: w.keys, Now: func() time.Time { return time.UnixMilli(w.now.Load()) },
		OnStatement: func(_ context.Context, q string) {
			if f := w.statement; f != nil {
				f(q)
			}
		},
	}
}

func (w *sealedWorld) open() {
	w.Helper()
	db, err := storage.Open(ctx, w.config())
	if err != nil {
		w.Fatal(err)
	}
	w.DB = db
}

func (w *sealedWorld) reopen() {
	w.Helper()
	ok(w.T, w.Close())
	w.open()
}

// message returns an event of a room with a text.
func message(tx *storage.Tx, room ident.RoomNID, text string) *storage.EventRow {
	p := tx.NextPos()
	return &storage.EventRow{
		Position: p, Room: room, Order: ident.Order(p) << 16, EventID: fmt.Sprint("$", p), Type: "m.room.message", Sender: 1, TxnID: "txn " + text,
		OriginTS: tx.Now().UnixMilli(), ReceivedTS: tx.Now().UnixMilli(), JSON: fmt.Appendf(nil, `{"content":{"body":%q}}`, text),
	}
}

// send stores an event and returns its position.
func (w *sealedWorld) send(room ident.RoomNID, text string) (p storage.Pos) {
	w.Helper()
	ok(w.T, w.Write(ctx, func(tx *storage.Tx) error {
		e := message(tx, room, text)
		p = e.Position
		return tx.InsertEvent(e)
	}))
	return p
}

// event reads an event.
func (w *sealedWorld) event(p storage.Pos) (e storage.EventRow, found bool) {
	w.Helper()
	ok(w.T, w.Read(ctx, func(tx *storage.Tx) (err error) {
		e, found, err = tx.EventAt(p)
		return err
	}))
	return e, found
}

func (w *sealedWorld) mustHave(p storage.Pos, text string) {
	w.Helper()
	e, found := w.event(p)
	if !found || !strings.Contains(string(e.JSON), fmt.Sprintf(`"body":%q`, text)) || e.TxnID != "txn "+text {
		w.Errorf("event %d is %s, sent as %q (%v)", p, e.JSON, e.TxnID, found)
	}
}

func (w *sealedWorld) purge(p storage.Pos) {
	w.Helper()
	ok(w.T, w.Write(ctx, func(tx *storage.Tx) error { return tx.PurgeEvent(p, fmt.Sprint("$", p)) }))
}

// number runs a query with one number as its result.
func (w *sealedWorld) number(query string, args ...any) (n int64) {
	w.Helper()
	ok(w.T, w.Read(ctx, func(tx *storage.Tx) (err error) {
		n, err = tx.Int64(query, args...)
		return err
	}))
	return n
}

// keyOf returns the number and the file of the key of an event.
func (w *sealedWorld) keyOf(p storage.Pos) (n int64, file string) {
	w.Helper()
	n = w.number(`SELECT body_key FROM events WHERE position = $1`, int64(p))
	name := fmt.Sprintf("%016x", n)
	return n, filepath.Join(w.keys, name[14:], name)
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

// filesWith returns the files of the database server whose bytes include a text.
func (w *sealedWorld) filesWith(text string) []string {
	w.Helper()
	return storagetest.PostgresFiles(w.T, w.dsn, func(content []byte) bool { return bytes.Contains(content, []byte(text)) })
}

// marker returns a word that is in no file yet.
func marker(name string) string { return fmt.Sprintf("%s%016x", name, rand.Uint64()) }

func TestNothingThatUsersWriteIsInTheFilesOfPostgreSQL(t *testing.T) {
	w := newSealedWorld(t)
	secret, control := marker("secret"), marker("control")
	w.send(1, secret)
	ok(t, w.Write(ctx, func(tx *storage.Tx) error {
		user, err := tx.UserNID("@a:test")
		if err != nil {
			return err
		}
		ok(t, tx.InsertRoom(&storage.RoomRow{NID: 1, RoomID: "!1", Version: "12"}))
		ok(t, tx.AddDelayedEvent(&storage.DelayedEvent{DelayID: "d", User: user, Room: 1, Type: "m.room.message", Content: `{"body":"` + secret + `"}`}))
		ok(t, tx.AddRelatedRedaction(&storage.RelatedRedaction{User: user, Room: 1, EventID: "$x", RelTypes: "[]", Reason: "~" + secret}))
		ok(t, tx.SetStrippedState(user, 1, `["`+secret+`"]`))
		doc := postings.Doc{Pos: 1, Field: postings.Body, Terms: []uint32{1}}
		ok(t, tx.InsertSearchBlock(1, []postings.Doc{doc}, postings.Block{Head: []byte(secret), Parts: [][]byte{[]byte(secret)}}))
		ok(t, tx.PutMediaFile("blob", storage.MediaFile{Name: "file", SealedKey: "id." + secret}))
		ok(t, tx.InsertMedia(storage.Media{ID: "m", User: user, Blob: "blob"}))
		ok(t, tx.SetRemoteMedia(storage.RemoteMedia{Server: "far", ID: "m", Blob: "blob"}))
		ok(t, tx.PutURLPreview(storage.URLPreview{URLHash: "h", FetchedTS: 1, ExpiresTS: 10, JSON: `{"og:title":"` + secret + `"}`}))
		ok(t, tx.AddReport(storage.Report{Reporter: user, Room: "!1", Reason: "~" + secret}, nil, 10, 10))
		ok(t, tx.AddOwnRedaction(&storage.OwnRedaction{User: user, Reason: secret}))
		return tx.SetProfileField(user, storage.ProfileField{Name: "displayname", Value: `"` + control + `"`})
	}))
	ok(t, w.Read(ctx, func(tx *storage.Tx) error {
		user, _, err := tx.LookupUser("@a:test")
		ok(t, err)
		d, _, err := tx.DelayedEvent("d")
		if err != nil || d.Content != `{"body":"`+secret+`"}` {
			t.Errorf("the delayed event has %q (%v)", d.Content, err)
		}
		r, err := tx.RelatedRedactions(0, 10)
		if err != nil || len(r) != 1 || r[0].Reason != "~"+secret {
			t.Errorf("the redactions are %v (%v)", r, err)
		}
		s, err := tx.StrippedState(user, 1)
		all, err2 := tx.StrippedStates(user)
		if err := errors.Join(err, err2); err != nil || s != `["`+secret+`"]` || all[1] != s {
			t.Errorf("the stripped state is %q, %v (%v)", s, all, err)
		}
		blocks, err := tx.SearchBlocks([]ident.RoomNID{1}, 10)
		if err != nil || len(blocks) != 1 {
			t.Fatalf("the blocks are %v (%v)", blocks, err)
		}
		b, err := tx.ReadSearchBlock(blocks[0])
		if err != nil || string(b.Head) != secret || string(b.Parts[0]) != secret {
			t.Errorf("the block is %v (%v)", b, err)
		}
		return nil
	}))
	w.mustHaveApart(secret)
	if len(w.filesWith(control)) == 0 {
		t.Error("the search through the files finds nothing")
	}
	if found := w.filesWith(secret); len(found) > 0 {
		t.Errorf("the text is in %v", found)
	}
}

// mustHaveApart reads the texts that belong to no room.
func (w *sealedWorld) mustHaveApart(secret string) {
	w.Helper()
	ok(w.T, w.Read(ctx, func(tx *storage.Tx) error {
		user, _, err := tx.LookupUser("@a:test")
		ok(w.T, err)
		m, _, err := tx.Media("m")
		remote, _, err2 := tx.RemoteMedia("far", "m")
		file, _, err3 := tx.MediaFile("blob")
		keys, err4 := tx.MediaKeys("", 10)
		list, err5 := tx.ListMedia(storage.MediaFilter{Before: 1}, storage.Media{Created: -1}, 10)
		if err := errors.Join(err, err2, err3, err4, err5); err != nil || len(keys) != 1 || len(list) != 1 {
			w.Fatalf("media files: %v, %v (%v)", keys, list, err)
		}
		for _, f := range []storage.MediaFile{m.File, remote.File, file, keys[0].MediaFile, list[0].File} {
			if f.Name != "file" || f.SealedKey != "id."+secret {
				w.Errorf("the media file is %+v", f)
			}
		}
		p, _, err := tx.URLPreview("h", 5)
		if err != nil || p.JSON != `{"og:title":"`+secret+`"}` {
			w.Errorf("the preview is %q (%v)", p.JSON, err)
		}
		reports, err := tx.Reports(0, 10)
		if err != nil || len(reports) != 1 || reports[0].Reason != "~"+secret {
			w.Errorf("the reports are %+v (%v)", reports, err)
		}
		own, err := tx.OwnRedactions(user, 10)
		if err != nil || len(own) != 1 || own[0].Reason != secret {
			w.Errorf("the requests are %+v (%v)", own, err)
		}
		return nil
	}))
}

// Without its key in the database, a deleted file cannot be decrypted, whatever is left of it.
func TestTheKeysOfDeletedMediaAreDestroyed(t *testing.T) {
	w := newSealedWorld(t)
	ok(t, w.Write(ctx, func(tx *storage.Tx) error {
		for _, blob := range []string{"a", "b"} {
			ok(t, tx.PutMediaFile(blob, storage.MediaFile{Name: "file of " + blob, SealedKey: "key of " + blob}))
			ok(t, tx.InsertMedia(storage.Media{ID: blob, User: 1, Blob: blob}))
		}
		return nil
	}))
	old := w.number(`SELECT max(body_key) FROM media_files`)
	ok(t, w.Write(ctx, func(tx *storage.Tx) error { _, err := tx.DeleteMedia("a"); return err }))
	ok(t, w.RetireKeys(ctx, true))
	if w.number(`SELECT count(*) FROM body_keys WHERE nid = $1`, old) != 0 {
		t.Error("the key of the deleted file is still there")
	}
	rotate := func(to string) {
		ok(t, w.Write(ctx, func(tx *storage.Tx) error { return tx.ResealMediaKey("b", to) }))
	}
	mustBe := func(want string) {
		t.Helper()
		ok(t, w.Read(ctx, func(tx *storage.Tx) error {
			f, found, err := tx.MediaFile("b")
			if err != nil || !found || f.Name != "file of b" || f.SealedKey != want {
				t.Errorf("the file is %+v (%v)", f, err)
			}
			return nil
		}))
	}
	mustBe("key of b")
	old = w.number(`SELECT max(body_key) FROM media_files`)
	rotate("another key of b")
	mustBe("another key of b")
	ok(t, w.RetireKeys(ctx, true))
	if w.number(`SELECT count(*) FROM body_keys WHERE nid = $1`, old) != 0 {
		t.Error("the key of the replaced text is still there")
	}
	mustBe("another key of b")
	ok(t, w.Write(ctx, func(tx *storage.Tx) error { _, err := tx.DeleteMedia("b"); return err }))
	ok(t, w.RetireKeys(ctx, false))
	if n := w.number(`SELECT count(*) FROM body_keys WHERE state <> 0`); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}

// What users write goes with its row also where it belongs to no room.
func TestTheKeysOfDeletedReasonsAndPreviewsAreDestroyed(t *testing.T) {
	w := newSealedWorld(t)
	var own storage.OwnRedaction
	ok(t, w.Write(ctx, func(tx *storage.Tx) error {
		ok(t, tx.PutURLPreview(storage.URLPreview{URLHash: "h", FetchedTS: 1, ExpiresTS: 10, JSON: `{}`}))
		ok(t, tx.AddReport(storage.Report{Reporter: 1, Room: "!1", Reason: "r"}, nil, 10, 10))
		own = storage.OwnRedaction{User: 1, Reason: "r"}
		return tx.AddOwnRedaction(&own)
	}))
	if n := w.number(`SELECT count(*) FROM body_keys WHERE state <> 0`); n != 2 {
		t.Errorf("%d keys are used, want one for previews and one for reasons", n)
	}
	ok(t, w.Write(ctx, func(tx *storage.Tx) error {
		ok(t, tx.DeleteExpiredURLPreviews(10))
		ok(t, tx.DeleteOwnRedaction(own.Position))
		return tx.AddReport(storage.Report{Reporter: 1, Room: "!1"}, nil, 1, 1)
	}))
	ok(t, w.RetireKeys(ctx, false))
	if n := w.number(`SELECT count(*) FROM body_keys WHERE state <> 0`); n != 0 {
		t.Errorf("%d keys are left", n)
	}
}

func TestAKeyGoesWithTheLastMessageUnderIt(t *testing.T) {
	w := newSealedWorld(t)
	a, b := w.send(1, "a"), w.send(1, "b")
	other := w.send(2, "other")
	n, file := w.keyOf(a)
	if same, _ := w.keyOf(b); n == 0 || n != same || !exists(file) {
		t.Fatalf("the key is %d, of the same day %d", n, same)
	}
	if third, _ := w.keyOf(other); third == n {
		t.Error("two rooms share a key")
	}
	w.now.Add((24 * time.Hour).Milliseconds())
	if next, _ := w.keyOf(w.send(1, "next day")); next == n {
		t.Error("two days share a key")
	}
	key, err := os.ReadFile(file)
	ok(t, err)
	w.purge(a)
	ok(t, w.RetireKeys(ctx, false))
	if !exists(file) {
		t.Error("the key of a day was destroyed early, although a message is left")
	}
	w.mustHave(b, "b")
	w.purge(b)
	ok(t, w.RetireKeys(ctx, false))
	if exists(file) || w.number(`SELECT count(*) FROM body_keys WHERE nid = $1`, n) != 0 {
		t.Error("the key is still there")
	}
	ok(t, filepath.WalkDir(w.keys, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if raw, err := os.ReadFile(path); err != nil || bytes.Contains(raw, key[8:40]) {
				t.Errorf("%s has the key (%v)", path, err)
			}
		}
		return err
	}))
	w.mustHave(other, "other")
	w.reopen()
	w.mustHave(other, "other")
}

func TestTheKeyOfARedactedMessageIsDestroyedWithinADay(t *testing.T) {
	w := newSealedWorld(t)
	var positions []storage.Pos
	for i := range 150 { // more than one batch
		positions = append(positions, w.send(1, fmt.Sprint("n", i)))
	}
	n, file := w.keyOf(positions[0])
	ok(t, w.Write(ctx, func(tx *storage.Tx) error {
		return tx.RedactEvent(1, positions[7], fmt.Sprint("$", positions[7]), []byte(`{"content":{}}`), positions[9])
	}))
	redacted := func() {
		t.Helper()
		if e, _ := w.event(positions[7]); string(e.JSON) != `{"content":{}}` || e.TxnID != "txn n7" || e.RedactedBy != positions[9] {
			t.Errorf("the redacted event is %+v", e)
		}
	}
	redacted()
	w.now.Add(storage.MaxDirty.Milliseconds() - 1000)
	ok(t, w.RetireKeys(ctx, false))
	if same, _ := w.keyOf(positions[0]); same != n || !exists(file) {
		t.Error("the key was destroyed although it is not due")
	}
	w.now.Add(2000)
	ok(t, w.RetireKeys(ctx, false))
	if exists(file) || w.number(`SELECT count(*) FROM events WHERE body_key = $1`, n) != 0 {
		t.Error("the key is still there")
	}
	w.reopen()
	redacted()
	for i, p := range positions {
		if i != 7 {
			w.mustHave(p, fmt.Sprint("n", i))
		}
	}
	if keys := w.number(`SELECT count(*) FROM body_keys WHERE state <> 0`); keys != 1 {
		t.Errorf("there are %d keys", keys)
	}
}

func TestASkeletonKeepsNothingOfItsMessage(t *testing.T) {
	w := newSealedWorld(t)
	p := w.send(1, "a")
	_, file := w.keyOf(p)
	ok(t, w.Write(ctx, func(tx *storage.Tx) error {
		return tx.SkeletonizeEvent(p, fmt.Sprint("$", p), 0, []byte(`{"content":{}}`))
	}))
	ok(t, w.RetireKeys(ctx, true))
	if e, _ := w.event(p); string(e.JSON) != `{"content":{}}` || e.TxnID != "" || e.Flags&storage.SkeletonEvent == 0 {
		t.Errorf("the skeleton is %+v", e)
	}
	if exists(file) {
		t.Error("the key is still there")
	}
}

// A block is merged with others every day. What was deleted before the merge is in older blocks.
func TestTheKeysOfTheSearchIndexGoWithItsBlocks(t *testing.T) {
	w := newSealedWorld(t)
	doc := postings.Doc{Pos: 1, Field: postings.Body, Terms: []uint32{1}}
	block := postings.Encode(postings.NewSet([]postings.Doc{doc}))
	message := w.send(1, "a")
	insert := func(tx *storage.Tx) error { return tx.InsertSearchBlock(1, []postings.Doc{doc}, block) }
	ok(t, w.Write(ctx, insert))
	old := w.number(`SELECT max(body_key) FROM search_parts`)
	w.now.Add((24 * time.Hour).Milliseconds())
	ok(t, w.Write(ctx, func(tx *storage.Tx) error {
		blocks, err := tx.SearchBlocks([]ident.RoomNID{1}, 10)
		if err != nil || len(blocks) != 1 {
			t.Fatalf("the blocks are %v (%v)", blocks, err)
		}
		return errors.Join(tx.DeleteSearchBlock(blocks[0], block.Head), insert(tx))
	}))
	ok(t, w.RetireKeys(ctx, false))
	if w.number(`SELECT count(*) FROM body_keys WHERE nid = $1`, old) != 0 {
		t.Error("the key of the old block is still there")
	}
	if n, _ := w.keyOf(message); w.number(`SELECT dirty_ts FROM body_keys WHERE nid = $1`, n) != 0 {
		t.Error("the merge made the key of the messages dirty")
	}
}

func TestAFailedWriteLeavesNoKeyInUse(t *testing.T) {
	w := newSealedWorld(t)
	failed := errors.New("no")
	insert := func(text string, err error) storage.Write {
		return storage.Write{Do: func(tx *storage.Tx) error { return errors.Join(tx.InsertEvent(message(tx, 5, text)), err) }}
	}
	pending := batch(w.DB, insert("a", failed), insert("b", nil), insert("c", failed))
	for i, want := range []error{failed, nil, failed} {
		if err := pending[i].Wait(ctx); !errors.Is(err, want) {
			t.Errorf("write %d: %v", i, err)
		}
	}
	ok(t, w.RetireKeys(ctx, true))
	w.reopen()
	if n := w.number(`SELECT count(*) FROM events e JOIN body_keys k ON k.nid = e.body_key WHERE k.state = 1 AND k.room_nid = 5`); n != 1 {
		t.Errorf("%d events have a key that is in use", n)
	}
}

func TestManyRoomsBeginADayAtOnce(t *testing.T) {
	w := newSealedWorld(t)
	var writes []storage.Write
	for room := range ident.RoomNID(200) { // more than there are spare keys
		writes = append(writes, storage.Write{Do: func(tx *storage.Tx) error { return tx.InsertEvent(message(tx, room+1, "a")) }})
	}
	wait(t, batch(w.DB, writes...)...)
	w.reopen()
	if n := w.number(`SELECT count(DISTINCT body_key) FROM events`); n != 200 {
		t.Errorf("200 rooms have %d keys", n)
	}
	w.mustHave(storage.Pos(w.number(`SELECT max(position) FROM events`)), "a")
}

func TestADatabaseIsNotOpenedWithoutItsKeys(t *testing.T) {
	w := newSealedWorld(t)
	p := w.send(1, "a")
	_, file := w.keyOf(p)
	ok(t, w.Close())
	refused := func(what, keys string) {
		t.Helper()
		cfg := w.config()
		cfg.BodyKeys = keys
		db, err := storage.Open(ctx, cfg)
		if !errors.Is(err, storage.ErrNoBodyKeys) || !strings.Contains(err.Error(), "database_keys") {
			t.Errorf("%s: %v", what, err)
		}
		if err == nil {
			ok(t, db.Close())
		}
	}
	refused("no keys are configured", "")
	refused("the folder is lost", filepath.Join(t.TempDir(), "lost"))
	other := newSealedWorld(t)
	other.send(1, "b")
	ok(t, other.Close())
	refused("the folder belongs to another database", other.keys)
	whole, err := os.ReadFile(file)
	ok(t, err)
	ok(t, os.Remove(file))
	refused("a key is lost", w.keys)
	ok(t, os.WriteFile(file, whole, 0o600))
	w.open()
	w.mustHave(p, "a")

	ok(t, w.Close())
	fresh := w.config()
	fresh.DSN = storagetest.Postgres(t)
	if db, err := storage.Open(ctx, fresh); !errors.Is(err, storage.ErrNoBodyKeys) {
		t.Errorf("a new database uses the keys of another one: %v", err)
		ok(t, db.Close())
	}
}

func TestADatabaseFromBeforeThereWereKeysIsSealed(t *testing.T) {
	w := &sealedWorld{T: t, dsn: storagetest.Postgres(t)}
	w.now.Store(time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC).UnixMilli())
	w.open()
	t.Cleanup(func() { _ = w.Close() })
	var positions []storage.Pos
	for i := range 100 {
		positions = append(positions, w.send(ident.RoomNID(i%3+1), fmt.Sprint("n", i)))
		w.now.Add((6 * time.Hour).Milliseconds())
	}
	doc := postings.Doc{Pos: 1, Field: postings.Body, Terms: []uint32{1}}
	ok(t, w.Write(ctx, func(tx *storage.Tx) error {
		for i := range 100 {
			ok(t, tx.PutMediaFile(fmt.Sprint("blob", i), storage.MediaFile{Name: fmt.Sprint("file", i), SealedKey: "key"}))
		}
		return tx.InsertSearchBlock(1, []postings.Doc{doc}, postings.Encode(postings.NewSet([]postings.Doc{doc})))
	}))
	w.keys = filepath.Join(t.TempDir(), "keys")
	w.reopen()
	check := func() {
		t.Helper()
		for i, p := range positions {
			w.mustHave(p, fmt.Sprint("n", i))
		}
	}
	check()
	for range 2 {
		ok(t, w.SealOld())
	}
	if n := w.number(`SELECT count(*) FROM events WHERE body_key = 0 OR json LIKE '%body%' OR txn_id IS NOT NULL`); n != 0 {
		t.Errorf("%d events are in plain text", n)
	}
	if n := w.number(`SELECT count(*) FROM search_parts WHERE body_key = 0`); n != 0 {
		t.Errorf("%d parts of the search index are in plain text", n)
	}
	if n := w.number(`SELECT count(*) FROM media_files WHERE body_key = 0 OR sealed_key = 'key'`); n != 0 {
		t.Errorf("%d keys of media are in plain text", n)
	}
	if n := w.number(`SELECT count(DISTINCT body_key) FROM events`); n < 70 {
		t.Errorf("the events of 25 days and 3 rooms have %d keys", n)
	}
	check()
	w.reopen()
	check()
}

// Without a decision of the administrator, keys are used only where everything can be encrypted from the beginning.
func TestAnOlderDatabaseIsNotSealedUnasked(t *testing.T) {
	w := &sealedWorld{T: t, dsn: storagetest.Postgres(t)}
	w.now.Store(time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC).UnixMilli())
	t.Cleanup(func() { _ = w.Close() })
	reopen := func(keys string, ifNew bool) {
		t.Helper()
		if w.DB != nil {
			ok(t, w.Close())
		}
		cfg := w.config()
		cfg.BodyKeys, cfg.KeysIfNew = keys, ifNew
		db, err := storage.Open(ctx, cfg)
		ok(t, err)
		w.DB = db
	}
	plain := func() int64 { return w.number(`SELECT count(*) FROM events WHERE body_key = 0`) }
	w.keys = filepath.Join(t.TempDir(), "keys")
	reopen("", false)
	a := w.send(1, "a")
	reopen(w.keys, true)
	b := w.send(1, "~b")
	ok(t, w.RetireKeys(ctx, true))
	if plain() != 2 || exists(w.keys) {
		t.Errorf("%d events are in plain text, and the folder is there: %v", plain(), exists(w.keys))
	}
	reopen(w.keys, false)
	ok(t, w.SealOld())
	reopen(w.keys, true)
	c := w.send(1, "c")
	if plain() != 0 {
		t.Errorf("%d events are in plain text", plain())
	}
	for p, text := range map[storage.Pos]string{a: "a", b: "~b", c: "c"} {
		w.mustHave(p, text)
	}
}

// A reader that began before the texts were sealed under another key needs the old key.
func TestAKeyIsNotDestroyedWhileItIsRead(t *testing.T) {
	w := newSealedWorld(t)
	a, b, c := w.send(1, "a"), w.send(1, "b"), w.send(1, "c")
	_, file := w.keyOf(a)
	w.purge(c)
	doomed := make(chan struct{})
	retired := make(chan error, 1)
	ok(t, w.Read(ctx, func(tx *storage.Tx) error {
		if _, _, err := tx.EventAt(a); err != nil {
			return err
		}
		w.statement = func(q string) {
			if strings.HasPrefix(q, "UPDATE body_keys SET state") {
				select {
				case doomed <- struct{}{}:
				default:
				}
			}
		}
		go func() { retired <- w.RetireKeys(ctx, true) }()
		<-doomed
		ok(t, w.Flush(ctx))
		if e, found, err := tx.EventAt(b); err != nil || !found || !strings.Contains(string(e.JSON), `"b"`) || !exists(file) {
			t.Errorf("the event is %s (%v)", e.JSON, err)
		}
		return nil
	}))
	ok(t, <-retired)
	if exists(file) {
		t.Error("the key is still there")
	}
	w.mustHave(b, "b")
}

const (
	retiringVariable = "EBB_TEST_RETIRING" // the address of the database and the folder of keys of the child process
	childLines       = "event %d %s\n"
)

// TestRetiringChild is the process that TestKeysSurviveAKill kills. It sends, purges and retires keys until then, and
// prints what it has done.
func TestRetiringChild(t *testing.T) {
	dsn, keys, isChild := strings.Cut(os.Getenv(retiringVariable), " ")
	if !isChild {
		t.Skip("SKIP: only TestKeysSurviveAKill runs this")
	}
	db, err := storage.Open(ctx, storage.Config{DSN: dsn, BodyKeys: keys})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			_ = db.RetireKeys(context.Background(), true)
		}
	}()
	var sent []storage.Pos
	for i := 0; ; i++ {
		text := fmt.Sprint("n", i)
		var p storage.Pos
		ok(t, db.Write(ctx, func(tx *storage.Tx) error {
			e := message(tx, ident.RoomNID(i%3+1), text)
			p = e.Position
			return tx.InsertEvent(e)
		}))
		fmt.Fprintf(os.Stdout, childLines, p, text)
		sent = append(sent, p)
		if i%5 == 4 {
			gone := sent[rand.IntN(len(sent))]
			fmt.Fprintf(os.Stdout, childLines, gone, "gone")
			ok(t, db.Write(ctx, func(tx *storage.Tx) error { return tx.PurgeEvent(gone, fmt.Sprint("$", gone)) }))
		}
	}
}

func TestKeysSurviveAKill(t *testing.T) {
	w := newSealedWorld(t)
	w.now.Store(time.Now().UnixMilli())
	texts := map[storage.Pos]string{}
	for range 6 {
		ok(t, w.Close())
		runAndKill(t, w, texts)
		w.open()
		for p, text := range texts {
			if text != "gone" {
				w.mustHave(p, text)
			}
		}
	}
	ok(t, w.RetireKeys(ctx, true))
	if n := w.number(`SELECT count(*) FROM body_keys WHERE state > 1 OR dirty_ts > 0`); n != 0 {
		t.Errorf("%d keys remain to be destroyed", n)
	}
	if len(texts) == 0 {
		t.Error("nothing was sent")
	}
}

// runAndKill runs TestRetiringChild and kills it at a random moment after its first events.
func runAndKill(t *testing.T, w *sealedWorld, texts map[storage.Pos]string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestRetiringChild$")
	cmd.Env = append(os.Environ(), retiringVariable+"="+w.dsn+" "+w.keys)
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	left := 20 + rand.IntN(200)
	var p storage.Pos
	var text string
	for n := 2; n == 2; left-- {
		if left == 0 {
			ok(t, cmd.Process.Kill())
		}
		if n, _ = fmt.Fscanf(out, childLines, &p, &text); n == 2 {
			texts[p] = text
		}
	}
	_ = cmd.Wait() // the error is the signal
	if left > 0 {
		t.Fatalf("the child ended by itself: %v", cmd.ProcessState)
	}
}

// A backup of the database needs all keys that there were when it was made.
func TestKeysAreNotDestroyedDuringABackup(t *testing.T) {
	w := newSealedWorld(t)
	a, b := w.send(1, "a"), w.send(1, "b")
	_, file := w.keyOf(a)
	release, err := storage.HoldKeys(ctx, w.dsn)
	ok(t, err)
	w.purge(a)
	ok(t, w.RetireKeys(ctx, true))
	if !exists(file) {
		t.Error("the key was destroyed")
	}
	w.purge(b)
	ok(t, w.RetireKeys(ctx, true))
	if !exists(file) {
		t.Error("the key of a room without messages was destroyed")
	}
	ok(t, release())
	ok(t, w.RetireKeys(ctx, true))
	if exists(file) {
		t.Error("the key is still there after the backup")
	}
}

func TestTheOriginalOfARedactedMessageIsSealedAgain(t *testing.T) {
	w := newSealedWorld(t)
	p := w.send(1, "held")
	n, file := w.keyOf(p)
	ok(t, w.Write(ctx, func(tx *storage.Tx) error {
		err := tx.RedactKeepingOriginal(&storage.Original{Position: p, Room: 1}, fmt.Sprint("$", p), []byte(`{"content":{}}`), p)
		late := storage.Original{Position: p + 1, Room: 1, Sender: 1, JSON: []byte(`{"content":{"body":"late"}}`)}
		return errors.Join(err, tx.AddOriginal(&late))
	}))
	if original := w.number(`SELECT body_key FROM originals WHERE position = $1`, int64(p)); original != n {
		t.Errorf("the original is under key %d, the message was under %d", original, n)
	}
	ok(t, w.RetireKeys(ctx, true))
	if exists(file) {
		t.Error("the key is still there")
	}
	// Opening both again is what the next retirement does.
	again := w.number(`SELECT count(*) FROM originals o JOIN body_keys k ON k.nid = o.body_key WHERE o.json LIKE '~%' AND k.state = 1`)
	if e, _ := w.event(p); again != 2 || string(e.JSON) != `{"content":{}}` {
		t.Errorf("%d originals can be opened, and the event is %s", again, e.JSON)
	}
	for at, want := range map[storage.Pos]string{p: `{"content":{"body":"held"}}`, p + 1: `{"content":{"body":"late"}}`} {
		ok(t, w.Read(ctx, func(tx *storage.Tx) error {
			o, found, err := tx.OriginalOf(at)
			if err != nil || !found || string(o.JSON) != want {
				t.Errorf("the original at %d is %s, %v, %v; want %s", at, o.JSON, found, err, want)
			}
			return nil
		}))
	}
	ok(t, w.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteOriginal(p) }))
	ok(t, w.RetireKeys(ctx, true))
	if again := w.number(`SELECT count(*) FROM originals o JOIN body_keys k ON k.nid = o.body_key AND k.state = 1`); again != 1 {
		t.Errorf("%d originals are left", again)
	}
}
