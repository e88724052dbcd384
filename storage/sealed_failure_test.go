package storage_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/sealing"
	"ebb/storage/storagetest"
)

// mustFail fails the test unless a message in a room cannot be stored, and unless the error matches a target.
func (w *sealedWorld) mustFail(room ident.RoomNID, target error) {
	w.Helper()
	err := w.Write(ctx, func(tx *storage.Tx) error { return tx.InsertEvent(message(tx, room, "refused")) })
	if !errors.Is(err, target) {
		w.Errorf("a message in room %d: %v, want %v", room, err, target)
	}
}

// counts returns how many events there are, and how many keys are to be destroyed.
func (w *sealedWorld) counts() (events, due int64) {
	w.Helper()
	return w.number(`SELECT count(*) FROM events`), w.number(`SELECT count(*) FROM body_keys WHERE dirty_ts > 0`)
}

func TestMessagesAndDeletionsOutliveAFolderOfKeysThatIsAway(t *testing.T) {
	w := newSealedWorld(t)
	kept, gone := w.send(1, "kept"), w.send(2, "gone")
	_, file := w.keyOf(gone)
	w.reopen() // so that no key is in memory
	here := w.send(1, "here")
	w.purge(gone)
	away := w.keys + ".away"
	ok(t, os.Rename(w.keys, away))
	ok(t, os.Mkdir(w.keys, 0o700)) // as an unmounted disk leaves it

	also := w.send(1, "also") // its key is in memory
	w.mustFail(3, storage.ErrKeys)
	if err := w.RetireKeys(ctx, true); !errors.Is(err, storage.ErrKeys) {
		t.Errorf("keys are destroyed in an empty folder: %v", err)
	}
	if err := w.Health(ctx); !errors.Is(err, storage.ErrKeys) {
		t.Errorf("the database without keys is healthy: %v", err)
	}
	if events, due := w.counts(); events != 3 || due != 1 {
		t.Errorf("%d events, %d keys are to be destroyed", events, due)
	}

	ok(t, os.Remove(w.keys))
	ok(t, os.Rename(away, w.keys))
	if !exists(file) {
		t.Error("the key went while the folder was away")
	}
	ok(t, w.Health(ctx))
	ok(t, w.RetireKeys(ctx, true))
	if _, due := w.counts(); due != 0 || exists(file) {
		t.Errorf("afterwards %d keys are to be destroyed", due)
	}
	w.send(3, "taken again")
	w.reopen()
	for p, text := range map[storage.Pos]string{kept: "kept", here: "here", also: "also"} {
		w.mustHave(p, text)
	}
}

func TestNothingIsLostWhenTheDiskOfTheKeysIsFullOrCannotBeWritten(t *testing.T) {
	w := &sealedWorld{T: t, dsn: storagetest.Postgres(t)}
	disk := storagetest.TinyDisk(t, 4<<20)
	w.keys = filepath.Join(disk, "keys")
	w.now.Store(time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC).UnixMilli())
	w.open()
	t.Cleanup(func() { _ = w.Close() })
	sent := map[storage.Pos]ident.RoomNID{}
	send := func() (room ident.RoomNID, err error) { // the first message of another room
		room = ident.RoomNID(len(sent) + 1)
		return room, w.Write(ctx, func(tx *storage.Tx) error {
			e := message(tx, room, "n")
			if err := tx.InsertEvent(e); err != nil {
				return err
			}
			sent[e.Position] = room
			return nil
		})
	}
	_, err := send()
	ok(t, err)
	filler := filepath.Join(disk, "filler")
	storagetest.Fill(t, filler)
	for err == nil && len(sent) < 10*sealing.SpareKeys {
		_, err = send() // until there is no spare key
	}
	if !errors.Is(err, storage.ErrFull) {
		t.Fatalf("%d rooms began on a full disk: %v", len(sent), err)
	}
	for p, room := range sent { // the last one failed
		if _, found := w.event(p); !found {
			delete(sent, p)
			t.Logf("room %d did not begin", room)
		}
	}
	if err := w.Health(ctx); !errors.Is(err, storage.ErrKeys) {
		t.Errorf("the server is healthy with a full disk of keys: %v", err)
	}
	gone := storage.Pos(0)
	for p := range sent {
		gone = p
	}
	delete(sent, gone)
	_, file := w.keyOf(gone)
	w.purge(gone)
	ok(t, os.Remove(filler))
	ok(t, syscall.Mount("", disk, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	if err := w.RetireKeys(ctx, true); !errors.Is(err, storage.ErrKeys) || !exists(file) {
		t.Errorf("a key is destroyed on a disk that cannot be written: %v", err)
	}
	if _, due := w.counts(); due != 1 {
		t.Errorf("%d keys are to be destroyed, want 1", due)
	}
	ok(t, syscall.Mount("", disk, "", syscall.MS_REMOUNT, ""))
	ok(t, w.Health(ctx))
	ok(t, w.RetireKeys(ctx, true))
	if _, due := w.counts(); due != 0 || exists(file) {
		t.Errorf("afterwards %d keys are to be destroyed", due)
	}
	_, err = send()
	ok(t, err)
	w.reopen()
	for p := range sent {
		w.mustHave(p, "n")
	}
	if n := w.number(`SELECT count(*) FROM events`); n != int64(len(sent)) {
		t.Errorf("%d events are stored, %d were acknowledged", n, len(sent))
	}
}

func TestADamagedKeyDoesNotKeepOthersFromBeingDestroyed(t *testing.T) {
	w := newSealedWorld(t)
	var files []string
	for room := range ident.RoomNID(5) {
		first, second := w.send(room+1, "first"), w.send(room+1, "second")
		_, file := w.keyOf(first)
		files = append(files, file)
		w.purge(first)
		_ = second
	}
	raw, err := os.ReadFile(files[0])
	ok(t, err)
	ok(t, os.WriteFile(files[0], raw[:20], 0o600))
	w.reopen()
	if err := w.RetireKeys(ctx, true); !errors.Is(err, storage.ErrKeys) {
		t.Errorf("what is under a damaged key cannot be sealed again: %v", err)
	}
	for _, file := range files[1:] {
		if exists(file) {
			t.Errorf("%s is still there", file)
		}
	}
	if _, due := w.counts(); due != 1 {
		t.Errorf("%d keys are to be destroyed, want the damaged one", due)
	}
	ok(t, os.WriteFile(files[0], raw, 0o600))
	ok(t, w.RetireKeys(ctx, true))
	if _, due := w.counts(); due != 0 || exists(files[0]) {
		t.Errorf("afterwards %d keys are to be destroyed", due)
	}
}
