package storage_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// expireElsewhere lists the tables with a time of expiry that DropExpired leaves alone.
var expireElsewhere = map[string]string{
	"access_tokens":       "an expired token still tells its client to refresh; it goes with its device",
	"registration_tokens": "is of nobody; administrators see that it has expired",
	"media":               "DeleteExpiredMedia",
	"url_previews":        "DeleteExpiredURLPreviews",
	"disavowals":          "ExpireDisavowals",
	"sticky_events":       "EndSticky",
}

func TestRowsOfEveryTableWithATimeOfExpiryAreSwept(t *testing.T) {
	sweeps := storage.PassingTables()
	for table := range tablesWith(t, "expires_ts") {
		if _, swept := sweeps[table]; swept == (expireElsewhere[table] != "") {
			t.Errorf("table %s: swept %v; other reason: %q", table, swept, expireElsewhere[table])
		}
	}
	const now = int64(10_000_000)
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		for table, kept := range sweeps {
			for i, expires := range []int64{now - kept - 2, now - kept - 1, now - kept, now - kept + 1} {
				ok(t, addRowOf(t, tx, table, int64(i), expires))
			}
		}
		for pass, want := range []struct {
			more bool
			left int64
		}{{true, 2}, {false, 1}} {
			more, err := tx.DropExpired(now, 2)
			if ok(t, err); more != want.more {
				t.Errorf("pass %d: more is %v", pass, more)
			}
			for table := range sweeps {
				if n, err := tx.Int64(`SELECT count(*) FROM ` + table); err != nil || n != want.left {
					t.Errorf("pass %d: %d rows are left in %s, %v", pass, n, table, err)
				}
			}
		}
		return nil
	})
}

// tablesWith returns the tables of a fresh database that have a column, each with its columns and their types.
func tablesWith(t *testing.T, column string) map[string]map[string]string {
	t.Helper()
	db := storagetest.Open(t, storage.Config{})
	tables := map[string]map[string]string{}
	ok(t, db.Read(ctx, func(tx *storage.Tx) error {
		return tx.Each(func(r storage.Row) error {
			var table, name, kind string
			err := r.Scan(&table, &name, &kind)
			if tables[table] == nil {
				tables[table] = map[string]string{}
			}
			tables[table][name] = kind
			return err
		}, `SELECT m.name, c.name, c.type FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'`)
	}))
	maps.DeleteFunc(tables, func(_ string, columns map[string]string) bool { return columns[column] == "" })
	return tables
}

// addRowOf adds a row with a number to a table.
func addRowOf(t *testing.T, tx *storage.Tx, table string, number, expires int64) error {
	columns := tablesWith(t, "expires_ts")[table]
	names := slices.Sorted(maps.Keys(columns))
	marks, values := make([]string, len(names)), make([]any, len(names))
	for i, name := range names {
		marks[i], values[i] = fmt.Sprintf("$%d", i+1), any(fmt.Sprintf("value %d", number))
		if columns[name] == "BIGINT" || columns[name] == "INTEGER" {
			values[i] = number
		}
		if name == "expires_ts" {
			values[i] = expires
		}
	}
	_, err := tx.Exec(`INSERT INTO `+table+` (`+strings.Join(names, ", ")+`) VALUES (`+strings.Join(marks, ", ")+`)`, values...)
	return err
}

func TestOldReportsAreDeletedUnlessAHoldCoversThem(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		alice, held := got[ident.UserNID](t)(tx.UserNID("@alice:x")), got[ident.UserNID](t)(tx.UserNID("@held:x"))
		_, err := tx.Exec(`INSERT INTO rooms (nid, room_id, version, created_ts, generation, snapshot, extremities, depth, last_order) VALUES (900, '!held:x', '12', 1, 1, 0, '[]', 1, 1)`)
		ok(t, err)
		reports := []storage.Report{
			{Reporter: alice, TS: 10, Room: "!a:x", Reason: "old"}, {Reporter: alice, TS: 10, User: "@bob:x", Reason: "old, of a user"},
			{Reporter: alice, TS: 10, Room: "!held:x", Reason: "held room"}, {Reporter: alice, TS: 10, User: "@held:x", Reason: "held user"},
			{Reporter: held, TS: 10, Room: "!a:x", Reason: "held reporter"}, {Reporter: alice, TS: 50, Room: "!a:x", Reason: "new"},
		}
		for _, r := range reports {
			ok(t, tx.AddReport(r, []storage.Pos{1}, 100, 100))
		}
		var holds []int64
		for _, h := range []storage.LegalHold{{Room: 900, Reason: "court"}, {User: held, Reason: "court"}} {
			nid, err := tx.AddLegalHold(h)
			ok(t, err)
			holds = append(holds, nid)
		}
		left := func() (reasons []string) {
			rows, err := tx.Reports(0, 100)
			ok(t, err)
			for _, r := range rows {
				reasons = append(reasons, r.Reason)
			}
			return reasons
		}
		for _, want := range []int{1, 1, 0} {
			if n, err := tx.DropReports(50, 1); err != nil || n != want {
				t.Fatalf("%d reports were deleted, %v", n, err)
			}
		}
		if now := left(); !slices.Equal(now, []string{"held room", "held user", "held reporter", "new"}) {
			t.Errorf("the reports %q are left", now)
		}
		for _, nid := range holds {
			_, err := tx.LiftLegalHold(nid, "@admin:x", 60)
			ok(t, err)
		}
		if n, err := tx.DropReports(50, 100); err != nil || n != 3 {
			t.Errorf("%d reports were deleted, %v", n, err)
		}
		if n, err := tx.Int64(`SELECT count(*) FROM report_events`); err != nil || n != 1 {
			t.Errorf("%d rows of report_events are left, %v", n, err)
		}
		return nil
	})
}

func TestClosedAccountsAreEmptiedUnlessAHoldCoversThem(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		var users []ident.UserNID
		for i, name := range []string{"open", "closed", "held", "leaving"} {
			user := got[ident.UserNID](t)(tx.UserNID("@" + name + ":x"))
			users = append(users, user)
			leaving, deactivated := 0, 5
			if name == "leaving" {
				leaving = 1
			}
			if name == "open" {
				deactivated = 0
			}
			for _, row := range [][]any{
				{"accounts (nid, localpart, password, created_ts, search, deactivated_ts, leaving)", int64(user), name, "", 1, "", deactivated, leaving},
				{"account_data (user_nid, room_nid, type, content, position)", int64(user), 0, "m.direct", "{}", 1},
				{"filters (user_nid, nid, json)", int64(user), 100 + i, "{}"},
				{"push_rules (user_nid, json, position)", int64(user), "{}", 1},
				{"receipts (room_nid, user_nid, type, thread, event_id, ord, ts, position)", 2, int64(user), "m.read.private", "", "$e", 1, 1, 1},
				{"receipts (room_nid, user_nid, type, thread, event_id, ord, ts, position)", 2, int64(user), "m.read", "", "$e", 1, 1, 1},
				{"backup_versions (user_nid, version, algorithm, auth_data, etag)", int64(user), 1, "m.megolm_backup.v1", "{}", 1},
				{"profile_fields (user_nid, name, value)", int64(user), "displayname", `"Name"`},
			} {
				ok(t, insert(tx, row))
			}
		}
		hold := got[int64](t)(tx.AddLegalHold(storage.LegalHold{User: users[2], Reason: "court"}))
		check := func(emptied ...ident.UserNID) {
			t.Helper()
			for _, user := range users {
				want := int64(5) // tables with something that only the user could read
				if slices.Contains(emptied, user) {
					want = 0
				}
				n, err := tx.Int64(`SELECT (SELECT count(*) FROM account_data WHERE user_nid = $1) + (SELECT count(*) FROM filters WHERE user_nid = $1)
+ (SELECT count(*) FROM push_rules WHERE user_nid = $1) + (SELECT count(*) FROM receipts WHERE user_nid = $1 AND type = 'm.read.private')
+ (SELECT count(*) FROM backup_versions WHERE user_nid = $1)`, int64(user))
				others, err2 := tx.Int64(`SELECT (SELECT count(*) FROM profile_fields WHERE user_nid = $1) + (SELECT count(*) FROM receipts WHERE user_nid = $1 AND type = 'm.read')`, int64(user))
				if ok(t, err, err2); n != want || others != 2 {
					t.Errorf("user %d has %d private rows and %d that others see", user, n, others)
				}
			}
		}
		for i := range 501 { // more than one write deletes
			ok(t, insert(tx, []any{
				"backup_keys (user_nid, version, room_id, session_id, first_message_index, forwarded_count, is_verified, session_data)", int64(users[1]), 1, "!r", fmt.Sprint(i), 0, 0, 0, "{}",
			}))
		}
		for _, want := range []struct {
			accounts int
			keys     int64
		}{{1, 2}, {1, 0}, {0, 0}} { // the first write also deletes account data
			if n, err := tx.EmptyClosedAccounts(1); err != nil || n != want.accounts {
				t.Fatalf("%d accounts were emptied, %v", n, err)
			}
			if want.keys == 0 {
				check(users[1])
			}
			if n, err := tx.Int64(`SELECT count(*) FROM backup_keys`); err != nil || n != want.keys {
				t.Errorf("%d keys of backups are left, %v, want %d", n, err, want.keys)
			}
		}
		_, err := tx.LiftLegalHold(hold, "@admin:x", 60)
		ok(t, err, tx.HasLeft(users[3]))
		if n, err := tx.EmptyClosedAccounts(10); err != nil || n != 2 {
			t.Fatalf("%d accounts were emptied, %v", n, err)
		}
		check(users[1:]...)
		return nil
	})
}
