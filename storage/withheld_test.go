package storage_test

import (
	"testing"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// Earlier versions sent clients redactions that had no effect. After the migration these are withheld.
func TestAnUpgradeWithholdsRedactionsWithoutEffect(t *testing.T) {
	dsn := storagetest.SQLite(t)
	db, err := storage.Open(ctx, storage.Config{DSN: dsn})
	if err != nil {
		t.Fatal(err)
	}
	event := func(tx *storage.Tx, eventID, typ string, isState bool, by storage.Pos) (p storage.Pos) {
		p = tx.NextPos()
		row := storage.EventRow{Position: p, Room: 2, Order: ident.Order(p) << 16, EventID: eventID, Type: typ, IsState: isState, RedactedBy: by, JSON: []byte("{}")}
		if err := tx.InsertEvent(&row); err != nil {
			t.Error(err)
		}
		return p
	}
	err = db.Write(ctx, func(tx *storage.Tx) error {
		good := event(tx, "$good", "m.room.redaction", false, 0)
		event(tx, "$target", "m.room.message", false, good)
		event(tx, "$bad", "m.room.redaction", false, 0)
		event(tx, "$state", "m.room.redaction", true, 0)
		_, err := tx.Exec(`DELETE FROM meta WHERE name = 'migration 0028_purged_events.sql'`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, dsn, func(tx *storage.Tx) error {
		for eventID, withheld := range map[string]bool{"$good": false, "$target": false, "$bad": true, "$state": false} {
			row, found, err := tx.EventByID(2, eventID)
			if err != nil || !found || (row.Flags == storage.WithheldEvent) != withheld {
				t.Errorf("%s has flags %d (%t %v)", eventID, row.Flags, found, err)
			}
		}
		return nil
	})
}
