package storage_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ebb/storage"
	"ebb/storage/storagetest"
)

// testdata/v1.db.gz is an SQLite database as the first release creates it, with a row in every table. It is never
// created again, and each later release must still open it. EBB_TEST_FREEZE=testdata/vN.db.gz writes another one; a
// release that changes the schema adds it. The tests upgrade all of them and so cover every upgrade path: v1 through
// all later migrations, v2 through those after it, and so on.
//
// Until the first release, a change to a migration requires v1 to be written again.
const frozenDatabases = "testdata/v*.db.gz"

// freezeVariable is the environment variable with the name of the file to write.
const freezeVariable = "EBB_TEST_FREEZE"

func TestAnUpgradedDatabaseEqualsAFreshOne(t *testing.T) {
	if name := os.Getenv(freezeVariable); name != "" {
		freeze(t, name)
	}
	names, err := filepath.Glob(frozenDatabases)
	if err != nil || len(names) == 0 {
		t.Fatalf("no frozen database: %v", err)
	}
	fresh := schema(t, storagetest.SQLite(t))
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			dsn := thaw(t, name)
			if old := schema(t, dsn); !slices.Equal(old, fresh) {
				t.Errorf("the upgraded database has\n%s\nand a fresh one has\n%s", strings.Join(without(old, fresh), "\n"), strings.Join(without(fresh, old), "\n"))
			}
			checkRows(t, dsn)
		})
	}
}

func TestAnUpgradeThatAFullDiskInterruptsIsRepeated(t *testing.T) {
	old, err := os.ReadFile(strings.TrimPrefix(thaw(t, "testdata/v1.db.gz"), "sqlite:"))
	if err != nil {
		t.Fatal(err)
	}
	disk := storagetest.TinyDisk(t, len(old)+16<<20)
	dsn, ballast := "sqlite:"+filepath.Join(disk, "old.db"), filepath.Join(disk, "ballast")
	if err := os.WriteFile(filepath.Join(disk, "old.db"), old, 0o600); err != nil {
		t.Fatal(err)
	}
	storagetest.Fill(t, ballast)
	if db, err := storage.Open(ctx, storage.Config{DSN: dsn}); !errors.Is(err, storage.ErrFull) {
		if err == nil {
			err = db.Close()
		}
		t.Fatalf("an upgrade on a full disk: %v, want ErrFull", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	checkRows(t, dsn)
}

// without returns the elements of a that are not in b.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}

// thaw unpacks a frozen database.
func thaw(t *testing.T, name string) (dsn string) {
	t.Helper()
	in, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	unpacked, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "old.db")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, unpacked)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
	return "sqlite:" + path
}

// schema opens a database, which upgrades it, and returns its tables, columns, indexes and migrations.
func schema(t *testing.T, dsn string) (all []string) {
	t.Helper()
	within(t, dsn, func(tx *storage.Tx) error {
		return tx.Each(func(r storage.Row) error {
			var line string
			err := r.Scan(&line)
			all = append(all, line)
			return err
		}, `SELECT 'column ' || m.name || '.' || c.name || ' ' || c.type || ' ' || c."notnull" || ' ' || coalesce(c.dflt_value, '-') || ' key ' || c.pk
FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'
UNION ALL SELECT 'index ' || tbl_name || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_master WHERE type = 'index'
UNION ALL SELECT 'other ' || type || ' ' || name || ' ' || sql FROM sqlite_master WHERE type NOT IN ('table', 'index')
UNION ALL SELECT name FROM meta WHERE name LIKE 'migration %'
ORDER BY 1`)
	})
	return all
}

// within opens a database and runs f in a read.
func within(t *testing.T, dsn string, f func(*storage.Tx) error) {
	t.Helper()
	db, err := storage.Open(ctx, storage.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Read(ctx, f), db.Close()); err != nil {
		t.Fatal(err)
	}
}

// frozenEvent is an event that must still be readable after the upgrade of v1.
const frozenEvent = `{"content":{"body":"from the first release","msgtype":"m.text"},"type":"m.room.message"}`

// checkRows reads the frozen rows with today's queries and fails if the upgrade lost any.
func checkRows(t *testing.T, dsn string) {
	t.Helper()
	within(t, dsn, func(tx *storage.Tx) error {
		event, found, err := tx.EventByID(2, "$frozen:test")
		if err != nil || !found || string(event.JSON) != frozenEvent {
			t.Errorf("the event of the first release is %s (%v %v)", event.JSON, found, err)
		}
		nid, found, err := tx.LookupUser("@frozen:test")
		if err != nil || !found {
			t.Errorf("the user of the first release is not there: %v", err)
		}
		account, found, err := tx.Account(nid)
		if err != nil || !found || account.Localpart != "frozen" {
			t.Errorf("the account of the first release is %+v (%v %v)", account, found, err)
		}
		return nil
	})
	within(t, dsn, func(tx *storage.Tx) error {
		return tx.Each(func(r storage.Row) error {
			var verdict string
			err := r.Scan(&verdict)
			if verdict != "ok" {
				t.Errorf("integrity_check: %s", verdict)
			}
			return err
		}, `PRAGMA integrity_check`)
	})
}

// freeze writes a database with a row in every table.
func freeze(t *testing.T, name string) {
	t.Helper()
	dsn := storagetest.SQLite(t)
	db, err := storage.Open(ctx, storage.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Write(ctx, func(tx *storage.Tx) error {
		for _, row := range frozenRows(tx) {
			if err := insert(tx, row); err != nil {
				return fmt.Errorf("%s: %w", row[0], err)
			}
		}
		for table := range textColumns(t) {
			if n, err := tx.Int64(`SELECT count(*) FROM ` + table); err != nil || n == 0 {
				return fmt.Errorf("table %s is empty (%v): give it a row in frozenRows", table, err)
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(strings.TrimPrefix(dsn, "sqlite:"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	packed := gzip.NewWriter(out)
	_, err = packed.Write(raw)
	if err := errors.Join(err, packed.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
}

// insert writes a row, given the table with its columns and the values.
func insert(tx *storage.Tx, row []any) error {
	marks := make([]string, len(row)-1)
	for i := range marks {
		marks[i] = fmt.Sprintf("$%d", i+1)
	}
	_, err := tx.Exec(fmt.Sprintf(`INSERT INTO %s VALUES (%s)`, row[0], strings.Join(marks, ", ")), row[1:]...)
	return err
}

// frozenRows returns one row for each table of the newest schema. Their values need not be consistent beyond what
// checkRows reads.
func frozenRows(tx *storage.Tx) [][]any {
	event := int64(tx.NextPos())
	hash := tx.IDHash("$frozen:test")
	return [][]any{
		{"users (nid, user_id)", 1, "@frozen:test"},
		{"rooms (nid, room_id, version, created_ts, generation, snapshot, extremities, depth, last_order)", 2, "!frozen:test", "12", 1, 1, 3, fmt.Sprintf("[%d]", event), 1, event * 65536},
		{"events (position, room_nid, ord, id_hash, event_id, type, sender_nid, origin_ts, received_ts, snapshot, flags, json)",
			event, 2, event * 65536, hash, "$frozen:test", "m.room.message", 1, 1, 1, 3, 0, frozenEvent},
		{"state_snapshots (nid, room_nid, prev, length)", 3, 2, 0, 0},
		{"state_deltas (snapshot, type, state_key, position)", 3, "m.room.create", "", event},
		{"current_state (room_nid, type, state_key, position)", 2, "m.room.create", "", event},
		{"memberships (user_nid, room_nid, membership, position)", 1, 2, "join", event},
		{"client_txns (device_nid, path_hash, created_ts, answer)", 4, 5, 1, "$frozen:test"},
		{"relations (position, room_nid, parent_hash, parent_id, rel_type, type, sender_nid, ord)", event, 2, hash, "$parent:test", "m.thread", "m.room.message", 1, 1},
		{"threads (root, room_nid, latest)", event, 2, 1},
		{"event_push (user_nid, room_nid, position, push)", 1, 2, event, 1},
		{"receipts (room_nid, user_nid, type, thread, event_id, ord, ts, position)", 2, 1, "m.read", "", "$frozen:test", 1, 1, event},
		{"account_data (user_nid, room_nid, type, content, position)", 1, 0, "m.direct", "{}", event},
		{"aliases (alias, room_nid, creator_nid)", "#frozen:test", 2, 1},
		{"filters (user_nid, nid, json)", 1, 6, "{}"},
		{"accounts (nid, localpart, password, created_ts, search)", 1, "frozen", "", 1, "@frozen:test frozen"},
		{"devices (nid, user_nid, device_id, created_ts, seen_ts)", 4, 1, "DEVICE", 1, 1},
		{"access_tokens (nid, hash, user_nid, device_nid, expires_ts, unused)", 7, "access", 1, 4, 0, 0},
		{"refresh_tokens (nid, hash, user_nid, device_nid, unused)", 8, "refresh", 1, 4, 0},
		{"login_tokens (hash, user_nid, expires_ts)", "login", 1, 1},
		{"registration_tokens (token, expires_ts, created_ts)", "welcome", 0, 1},
		{"profile_fields (user_nid, name, value)", 1, "displayname", `"Frozen"`},
		{"device_keys (device_nid, user_nid, json)", 4, 1, "{}"},
		{"one_time_keys (nid, device_nid, algorithm, key_id, json)", 9, 4, "signed_curve25519", "A", "{}"},
		{"fallback_keys (device_nid, algorithm, key_id, json, used)", 4, "signed_curve25519", "A", "{}", 0},
		{"cross_signing_keys (user_nid, usage, json)", 1, "master", "{}"},
		{"key_signatures (target_nid, target_key, signer_nid, key_id, signature)", 1, "DEVICE", 1, "ed25519:A", "signature"},
		{"backup_versions (user_nid, version, algorithm, auth_data, etag)", 1, 1, "m.megolm_backup.v1", "{}", 1},
		{"backup_keys (user_nid, version, room_id, session_id, first_message_index, forwarded_count, is_verified, session_data)", 1, 1, "!frozen:test", "S", 0, 0, 0, "{}"},
		{"to_device (position, device_nid, json)", event, 4, "{}"},
		{"device_list_changes (user_nid, position)", 1, event},
		{"device_list_outbox (stream_id, user_nid, device_id, prev_id)", event, 1, "DEVICE", 0},
		{"remote_device_lists (user_nid, stream_id, asked)", 12, 1, event},
		{"remote_devices (user_nid, device_id, display_name, json)", 12, "DEVICE", "", "{}"},
		{"received_messages (id_hash, received_ts)", 13, 1},
		{"key_signature_changes (signer_nid, target_nid, position)", 1, 1, event},
		{"dehydrated_devices (user_nid, device_nid, device_id, device_data)", 1, 10, "ASLEEP", "{}"},
		{"media (media_id, user_nid, blob, content_type, filename, size, created_ts, expires_ts)", "frozen", 1, "ab", "text/plain", "frozen.txt", 1, 1, 0},
		{"appservices (id, position, devices, txn, pending, failures, failing_ts, retry_ts, reached_ts)", "irc", event, event, "", "", 0, 0, 0, 0},
		{"appservice_rooms (app, network, room_nid)", "irc", "freenode", 2},
		{"sticky_events (position, room_nid, sender_nid, local, refused, expires_ts)", event, 2, 1, 1, 0, 1},
		{"push_rules (user_nid, json, position)", 1, "{}", event},
		{"erased_users (user_nid, position)", 11, event},
	}
}
