package storage

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

func openTest(t testing.TB) *DB {
	t.Helper()
	db, err := Open(context.Background(), Config{DSN: "sqlite:" + filepath.Join(t.TempDir(), "ebb.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestFailingAndPanickingClosuresLeaveTheOthersAlone(t *testing.T) {
	db := openTest(t)
	ctx := context.Background()
	boom := errors.New("boom")
	a := db.Enqueue(Write{Do: func(tx *Tx) error { _, err := tx.AddToDevice(1, "a"); return err }})
	b := db.Enqueue(Write{Do: func(tx *Tx) error { _, _ = tx.AddToDevice(1, "b"); return boom }})
	c := db.Enqueue(Write{Do: func(tx *Tx) error { _, _ = tx.AddToDevice(1, "c"); panic("no") }})
	d := db.Enqueue(Write{Do: func(tx *Tx) error { _, err := tx.AddToDevice(1, "d"); return err }})
	if err := errors.Join(a.Wait(ctx), d.Wait(ctx)); err != nil {
		t.Fatal(err)
	}
	if err := b.Wait(ctx); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	if c.Wait(ctx) == nil {
		t.Fatal("a panic was acknowledged")
	}
	var got []ToDevice
	if err := db.Read(ctx, func(tx *Tx) (err error) { got, err = tx.ToDevice(1, 0, db.Settled(), 10); return err }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].JSON != "a" || got[1].JSON != "d" {
		t.Fatalf("%+v", got)
	}
}

func BenchmarkWrite16(b *testing.B) {
	for _, delay := range []time.Duration{0, 5 * time.Millisecond} {
		b.Run(delay.String(), func(b *testing.B) {
			db, err := Open(context.Background(), Config{DSN: "sqlite:" + filepath.Join(b.TempDir(), "ebb.db"), CommitDelay: delay})
			if err != nil {
				b.Fatal(err)
			}
			defer db.Close()
			var wg sync.WaitGroup
			per := b.N/16 + 1
			b.ResetTimer()
			for range 16 {
				wg.Go(func() {
					for range per {
						if err := db.Write(context.Background(), func(tx *Tx) error {
							_, err := tx.AddToDevice(1, `{"content":{},"sender":"@a:b","type":"x"}`)
							return err
						}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}
