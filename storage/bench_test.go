package storage

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// cpuTime returns the CPU time that this process has used, user and system.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchWrites lets 16 writers run do, b.N times in total.
func benchWrites(b *testing.B, delay time.Duration, do func(*Tx) error) {
	batches := 0
	db, err := Open(context.Background(), Config{
		DSN: "sqlite:" + filepath.Join(b.TempDir(), "ebb.db"), CommitDelay: delay, OnBatch: func(int, time.Duration) { batches++ },
	})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	var wg sync.WaitGroup
	per := b.N/16 + 1
	b.ResetTimer()
	before := cpuTime(b)
	for range 16 {
		wg.Go(func() {
			for range per {
				if err := db.Write(context.Background(), do); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	n := float64(16 * per)
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/n/1000, "cpu-µs/write")
	b.ReportMetric(n/float64(max(1, batches)), "writes/commit")
}

func BenchmarkWrites(b *testing.B) {
	toDevice := func(tx *Tx) error {
		_, err := tx.AddToDevice(1, `{"content":{},"sender":"@a:b","type":"x"}`, ToDeviceFrom{})
		return err
	}
	body := []byte(`{"body":"` + strings.Repeat("x", 700) + `"}`)
	event := func(tx *Tx) error {
		pos := tx.NextPos()
		_, err := tx.exec(`INSERT INTO events (position, room_nid, ord, id_hash, event_id, type, state_key, sender_nid, origin_ts, received_ts, snapshot, flags, json)
VALUES ($1, 7, $2, $3, $4, $5, NULL, 3, $6, $6, 9, 0, $7)`, pos, int64(pos)*65536, int64(uint64(pos)*0x9e3779b97f4a7c15), "$J4gEnBXBQ2y5ioWKGQC2bmIBfZQkXOl6hRTVvrGGYvE", "m.room.message", tx.Now().UnixMilli(), body)
		return err
	}
	b.Run("row", func(b *testing.B) { benchWrites(b, 0, toDevice) })
	b.Run("row-5ms", func(b *testing.B) { benchWrites(b, 5*time.Millisecond, toDevice) })
	b.Run("event", func(b *testing.B) { benchWrites(b, 0, event) })
	b.Run("empty", func(b *testing.B) { benchWrites(b, 0, func(*Tx) error { return nil }) })
}

func BenchmarkReads(b *testing.B) {
	ctx := context.Background()
	db, err := Open(ctx, Config{DSN: "sqlite:" + filepath.Join(b.TempDir(), "ebb.db")})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	if err := db.Write(ctx, func(tx *Tx) error {
		for range 10000 {
			if _, err := tx.AddToDevice(1, `{"content":{},"sender":"@a:b","type":"x"}`, ToDeviceFrom{}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	before := cpuTime(b)
	b.ResetTimer()
	for i := range b.N {
		if err := db.Read(ctx, func(tx *Tx) error {
			_, _, err := one(tx, scanString, `SELECT json FROM to_device WHERE position = $1`, i%10000)
			return err
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64((cpuTime(b)-before).Nanoseconds())/float64(b.N)/1000, "cpu-µs/read")
}
