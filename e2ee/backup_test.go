package e2ee

import (
	"encoding/json"
	"fmt"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/storage"
)

func TestTotalSizeOfAUsersKeyBackupsIsBounded(t *testing.T) {
	f := newFixture(t)
	alice, bob := f.device("alice", "A"), f.device("bob", "B")
	const algorithm = "m.megolm_backup.v1.curve25519-aes-sha2"
	auth := json.RawMessage(`{"public_key":"k"}`)
	old := must(f.CreateBackup(t.Context(), alice.UserNID, algorithm, auth))
	version := must(f.CreateBackup(t.Context(), alice.UserNID, algorithm, auth))
	zero, no := int64(0), false
	session := func(data string) BackupSession {
		return BackupSession{FirstMessageIndex: &zero, ForwardedCount: &zero, IsVerified: &no, SessionData: json.RawMessage(data)}
	}
	size := func() (n int64) {
		err := f.opts.DB.Read(t.Context(), func(tx *storage.Tx) (err error) {
			n, err = tx.BackupBytes(alice.UserNID)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	empty := size()
	rooms := BackupRooms{"!r:test": {"a": session(`{"c":"xy"}`), "b": session(`{}`)}}
	must(f.PutBackupKeys(t.Context(), alice.UserNID, version, rooms))
	if got, want := size()-empty, int64(2*128+2*len("!r:test")+2+len(`{"c":"xy"}`)+len(`{}`)); got != want {
		t.Errorf("two sessions count %d bytes, want %d", got, want)
	}
	yes := true
	better := session(`{"c":"longer"}`)
	better.IsVerified = &yes
	must(f.PutBackupKeys(t.Context(), alice.UserNID, version, BackupRooms{"!r:test": {"a": better}}))
	if got, want := size()-empty, int64(2*128+2*len("!r:test")+2+len(`{"c":"longer"}`)+len(`{}`)); got != want {
		t.Errorf("after one was replaced they count %d bytes, want %d", got, want)
	}
	must(f.DeleteBackupKeys(t.Context(), alice.UserNID, version, "!r:test", "a"))
	must(f.DeleteBackupKeys(t.Context(), alice.UserNID, version, "", ""))
	if got := size() - empty; got != 0 {
		t.Errorf("without sessions there are %d bytes", got)
	}

	// The older backup is made nearly full by counting as if it had a large session.
	err := f.opts.DB.Write(t.Context(), func(tx *storage.Tx) error {
		return tx.SetBackupKey(alice.UserNID, 1, storage.BackupKey{RoomID: "!r:test", SessionID: "s", SessionData: `{}`}, empty-maxBackups+356)
	})
	if err != nil {
		t.Fatal(err)
	}
	must(f.PutBackupKeys(t.Context(), alice.UserNID, version, BackupRooms{"!r:test": {"c": session(`{}`)}}))
	_, err = f.PutBackupKeys(t.Context(), alice.UserNID, version, BackupRooms{"!r:test": {"d": session(`{"c":"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"}`)}})
	wantCode(t, err, mxerr.CodeTooLarge)
	if _, err := f.BackupSession(t.Context(), alice.UserNID, version, "!r:test", "d"); mxerr.Code(err) != mxerr.CodeNotFound {
		t.Errorf("the refused session: %v", err)
	}
	_, err = f.CreateBackup(t.Context(), alice.UserNID, algorithm, json.RawMessage(`{"public_key":"0123456789012345678901234567890123456789012345678901234567890123456789"}`))
	wantCode(t, err, mxerr.CodeTooLarge)
	other := must(f.CreateBackup(t.Context(), bob.UserNID, algorithm, auth)) // other users are not affected
	must(f.PutBackupKeys(t.Context(), bob.UserNID, other, rooms))
	if err := f.DeleteBackup(t.Context(), alice.UserNID, old); err != nil {
		t.Fatal(err)
	}
}

// All other writes wait for the write of a user's request, which may have more than 100,000 sessions.
func TestLargeKeyBackupsAreStoredAndDeletedInParts(t *testing.T) {
	f := newFixture(t)
	alice := f.device("alice", "A")
	const algorithm, sessions = "m.megolm_backup.v1.curve25519-aes-sha2", 2*backupBatch + 1
	version := must(f.CreateBackup(t.Context(), alice.UserNID, algorithm, json.RawMessage(`{}`)))
	zero, no := int64(0), false
	rooms := BackupRooms{"!a:test": {}, "!b:test": {}}
	for i := range sessions {
		room := []id.RoomID{"!a:test", "!b:test"}[i%2]
		rooms[room][fmt.Sprint(i)] = BackupSession{FirstMessageIndex: &zero, ForwardedCount: &zero, IsVerified: &no, SessionData: json.RawMessage(`{}`)}
	}
	if change := must(f.PutBackupKeys(t.Context(), alice.UserNID, version, rooms)); change.Count != sessions || change.ETag != "3" {
		t.Errorf("after %d sessions were stored: %+v, want three writes", sessions, change)
	}
	if change := must(f.PutBackupKeys(t.Context(), alice.UserNID, version, rooms)); change.Count != sessions || change.ETag != "3" {
		t.Errorf("after the same sessions were sent again: %+v", change)
	}
	if change := must(f.DeleteBackupKeys(t.Context(), alice.UserNID, version, "!a:test", "")); change.Count != sessions/2 || change.ETag != "5" {
		t.Errorf("after those of one room were deleted: %+v, want two writes", change)
	}
	for range 3 {
		if err := f.DeleteBackup(t.Context(), alice.UserNID, version); err != nil {
			t.Fatal(err)
		}
		version = must(f.CreateBackup(t.Context(), alice.UserNID, algorithm, json.RawMessage(`{}`)))
	}
	if version != "4" {
		t.Errorf("the version after three deleted ones is %s", version)
	}
	err := f.opts.DB.Read(t.Context(), func(tx *storage.Tx) error {
		keys, err := tx.BackupKeys(alice.UserNID, 1, "", "")
		if err != nil || len(keys) > 0 {
			t.Errorf("%d keys of the deleted backup are left, %v", len(keys), err)
		}
		size, err := tx.BackupBytes(alice.UserNID)
		if want := int64(2 * (128 + len(`{}`))); size != want { // that of the newest deleted one and the new one
			t.Errorf("the rows of empty backups take %d bytes, want %d", size, want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
