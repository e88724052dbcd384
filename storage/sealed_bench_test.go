package storage_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

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

// BenchmarkPurgeOnPostgreSQL purges messages, and messages that show a file each, with and without keys. It reports the
// messages, and the files, per second; the keys are destroyed within that time.
func BenchmarkPurgeOnPostgreSQL(b *testing.B) {
	for _, sealed := range []bool{false, true} {
		cfg := storage.Config{DSN: storagetest.Postgres(b), Server: "test"}
		if sealed {
			cfg.BodyKeys = storagetest.Keys(b, cfg.DSN)
		}
		db, err := storage.Open(ctx, cfg)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = db.Close() })
		for _, files := range []bool{false, true} {
			b.Run(fmt.Sprintf("files=%v/sealed=%v", files, sealed), func(b *testing.B) { benchmarkPurge(b, db, files) })
		}
	}
}

func benchmarkPurge(b *testing.B, db *storage.DB, files bool) {
	b.Helper()
	const batch, perRun = 250, 500
	must := func(err error) {
		if err != nil {
			b.Fatal(err)
		}
	}
	var spent time.Duration
	for range b.N {
		var events []storage.PurgeCandidate
		with := map[storage.Pos]bool{}
		must(db.Write(ctx, func(tx *storage.Tx) error {
			for range perRun {
				e := message(tx, 1, strings.Repeat("a message ", 60))
				if files {
					media := fmt.Sprint("m", e.Position)
					e.JSON = fmt.Appendf(nil, `{"content":{"url":"mxc://test/%s"}}`, media)
					must(tx.PutMediaFile(media, storage.MediaFile{Name: "file" + media, SealedKey: strings.Repeat("k", 80)}))
					must(tx.InsertMedia(storage.Media{ID: media, User: 1, Blob: media}))
				}
				events, with[e.Position] = append(events, storage.PurgeCandidate{Position: e.Position, EventID: e.EventID}), files
				must(tx.InsertEvent(e))
			}
			return nil
		}))
		start := time.Now()
		for part := range slices.Chunk(events, batch) {
			must(db.Write(ctx, func(tx *storage.Tx) error { return tx.PurgeEvents(part, with, true) }))
		}
		must(db.RetireKeys(ctx, false))
		spent += time.Since(start)
	}
	b.ReportMetric(float64(b.N*perRun)/spent.Seconds(), "purged/s")
}
