package storage_test

import (
	"fmt"
	"strings"
	"testing"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// BenchmarkEventsOnPostgreSQL stores and reads events in batches of 64, with and without keys.
func BenchmarkEventsOnPostgreSQL(b *testing.B) {
	for _, sealed := range []bool{false, true} {
		cfg := storage.Config{DSN: storagetest.Postgres(b)}
		if sealed {
			cfg.BodyKeys = storagetest.Keys(b, cfg.DSN)
		}
		db, err := storage.Open(ctx, cfg)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = db.Close() })
		text := strings.Repeat("a message ", 60)
		var positions []storage.Pos
		b.Run(fmt.Sprintf("store/sealed=%v", sealed), func(b *testing.B) {
			for b.Loop() {
				positions = positions[:0]
				err := db.Write(ctx, func(tx *storage.Tx) error {
					for range 64 {
						e := message(tx, ident.RoomNID(1), text)
						positions = append(positions, e.Position)
						if err := tx.InsertEvent(e); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("read/sealed=%v", sealed), func(b *testing.B) {
			for b.Loop() {
				err := db.Read(ctx, func(tx *storage.Tx) error { _, err := tx.EventsAt(positions); return err })
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
