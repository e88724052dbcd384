package storage_test

import (
	"testing"

	"ebb/ident"
	"ebb/storage"
)

// Every table for an export is read on both databases. What the rows have is tested in package export.
func TestSmallTablesAreReadForAnExport(t *testing.T) {
	eachWrite(t, func(t *testing.T, tx *storage.Tx) error {
		alice := got[ident.UserNID](t)(tx.UserNID("@alice:x"))
		_, err := tx.Exec(`INSERT INTO filters (user_nid, nid, json) VALUES ($1, 1, '{"room":{}}'), ($1, 2, '{}'), ($2, 1, '{"other":1}')`, int64(alice), int64(alice)+1)
		ok(t, err)
		_, err = tx.Exec(`INSERT INTO erasures (user_nid, requested_ts, stage, finished_ts) VALUES ($1, 7, 1, 9)`, int64(alice))
		ok(t, err)
		found := map[string][]storage.PersonalRow{}
		for _, list := range [][]storage.PersonalTable{storage.SignIns, storage.OtherData} {
			for _, table := range list {
				rows, err := tx.PersonalRows(table, alice, 1)
				ok(t, err)
				if len(rows) > 0 {
					found[table.Kind] = rows
				}
			}
		}
		if len(found) != 2 || len(found["filters"]) != 1 || found["filters"][0]["filter"] != `{"room":{}}` {
			t.Errorf("the rows are %v", found)
		}
		if e := found["erasure"]; len(e) != 1 || e[0]["requested_ts"] != int64(7) || e[0]["finished_ts"] != int64(9) {
			t.Errorf("the erasure is %v", e)
		}
		return nil
	})
}
