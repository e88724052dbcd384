package storage_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"weak"

	"ebb/storage"
	"ebb/storage/storagetest"
)

var ctx = context.Background()

const addQuery = `INSERT INTO to_device (position, device_nid, json) VALUES ($1, 1, $2)`

// add appends one row.
func add(tx *storage.Tx, json string) error {
	_, err := tx.Exec(addQuery, tx.NextPos(), json)
	return err
}

func adding(json string) storage.Write {
	return storage.Write{Do: func(tx *storage.Tx) error { return add(tx, json) }}
}

// rows returns the rows that add has added and the database has kept.
func rows(t *testing.T, db *storage.DB) string {
	t.Helper()
	var got []string
	if err := db.Read(ctx, func(tx *storage.Tx) error {
		return tx.Each(func(r storage.Row) error {
			var s string
			err := r.Scan(&s)
			got = append(got, s)
			return err
		}, `SELECT json FROM to_device ORDER BY position`)
	}); err != nil {
		t.Fatal(err)
	}
	return strings.Join(got, " ")
}

// batch commits the writes as one batch, by queueing them behind a closure that waits for them.
func batch(db *storage.DB, writes ...storage.Write) []*storage.Pending {
	begun, gate := make(chan struct{}), make(chan struct{})
	db.Enqueue(storage.Write{Do: func(*storage.Tx) error { close(begun); <-gate; return nil }})
	<-begun // otherwise the first write could still join the closure's batch
	var out []*storage.Pending
	for _, w := range writes {
		out = append(out, db.Enqueue(w))
	}
	close(gate)
	return out
}

func wait(t *testing.T, pending ...*storage.Pending) {
	t.Helper()
	for _, p := range pending {
		if err := p.Wait(ctx); err != nil {
			t.Error(err)
		}
	}
}

func TestFailingAndPanickingClosuresLeaveTheOthersAlone(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		boom := errors.New("boom")
		p := batch(db,
			adding("a"),
			storage.Write{Do: func(tx *storage.Tx) error { return errors.Join(add(tx, "b"), boom) }},
			storage.Write{Do: func(tx *storage.Tx) error { _ = add(tx, "c"); panic("no") }},
			adding("d"))
		wait(t, p[0], p[3])
		if err := p[1].Wait(ctx); !errors.Is(err, boom) {
			t.Errorf("failing closure: %v", err)
		}
		if err := p[2].Wait(ctx); !errors.Is(err, storage.ErrPanic) {
			t.Errorf("panic: %v", err)
		}
		if got := rows(t, db); got != "a d" {
			t.Errorf("kept %q", got)
		}
	})
}

func TestLoneFailingClosureLeavesNothing(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		for _, do := range []func(tx *storage.Tx) error{
			func(tx *storage.Tx) error { return errors.Join(add(tx, "a"), errors.New("boom")) },
			func(tx *storage.Tx) error { _ = add(tx, "b"); panic("no") },
		} {
			if err := db.Write(ctx, do); err == nil {
				t.Error("a failed write was acknowledged")
			}
		}
		wait(t, db.Enqueue(adding("c")))
		if got := rows(t, db); got != "c" {
			t.Errorf("kept %q", got)
		}
	})
}

func TestSwallowedErrorOfAStatementFailsTheWrite(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		p := batch(db, adding("a"), storage.Write{Do: func(tx *storage.Tx) error {
			_ = add(tx, "b")
			_, _ = tx.Exec(`INSERT INTO no_such_table VALUES (1)`)
			_ = add(tx, "c")
			return nil
		}}, adding("d"))
		wait(t, p[0], p[2])
		if p[1].Wait(ctx) == nil {
			t.Error("a write with a failed statement was acknowledged")
		}
		if got := rows(t, db); got != "a d" {
			t.Errorf("kept %q", got)
		}
	})
}

func TestCancelledRequestIsWrittenAndHurtsNobody(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		request, cancel := context.WithCancel(ctx)
		p := batch(db, adding("a"), storage.Write{Do: func(tx *storage.Tx) error { cancel(); return add(tx, "b") }}, adding("c"))
		if err := p[1].Wait(request); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		wait(t, p...)
		if got := rows(t, db); got != "a b c" {
			t.Errorf("kept %q", got)
		}
	})
}

func TestWaitPrefersTheResultToAnEndedContext(t *testing.T) {
	db := storagetest.Open(t, storage.Config{})
	ended, cancel := context.WithCancel(ctx)
	cancel()
	p := db.Enqueue(adding("a"))
	<-p.Done()
	for range 100 {
		if err := p.Wait(ended); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAWriteThatHasEndedKeepsNothingInMemory(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		for _, result := range []error{nil, errors.New("boom")} {
			p, held := enqueueHolding(db, result)
			<-p.Done()
			wait(t, db.Enqueue(adding("a"))) // the committer has gone on to another batch
			runtime.GC()
			if held.Value() != nil {
				t.Errorf("a write that ended with %v still refers to its closures", result)
			}
			runtime.KeepAlive(p)
		}
	})
}

// enqueueHolding queues a write with the given result. held is what its closures refer to.
func enqueueHolding(db *storage.DB, result error) (p *storage.Pending, held weak.Pointer[[64]byte]) {
	used := new([64]byte)
	return db.Enqueue(storage.Write{
		Do:        func(*storage.Tx) error { used[0]++; return result },
		Committed: func() { used[1]++ },
		Failed:    func(error) { used[2]++ },
	}), weak.Make(used)
}

func TestClosureThatEndsItsGoroutineFailsAndTheCommitterGoesOn(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		p := batch(db, adding("a"), storage.Write{Do: func(*storage.Tx) error { runtime.Goexit(); return nil }})
		if p[0].Wait(ctx) == nil || p[1].Wait(ctx) == nil {
			t.Error("acknowledged")
		}
		wait(t, db.Enqueue(adding("b")))
		if got := rows(t, db); got != "b" {
			t.Errorf("kept %q", got)
		}
	})
}

func TestBatchWhoseTransactionEndsFailsWhole(t *testing.T) {
	end := map[string]string{"sqlite": `ROLLBACK`, "postgres": `SELECT pg_terminate_backend(pg_backend_pid())`}
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		kind := t.Name()[strings.LastIndexByte(t.Name(), '/')+1:]
		ran, committed := false, 0
		var failed []string
		write := func(name string, do func(tx *storage.Tx) error) storage.Write {
			return storage.Write{Do: do, Committed: func() { committed++ }, Failed: func(error) { failed = append(failed, name) }}
		}
		p := batch(db,
			write("a", func(tx *storage.Tx) error { return add(tx, "a") }),
			write("b", func(tx *storage.Tx) error { _, _ = tx.Exec(end[kind]); return nil }),
			write("c", func(tx *storage.Tx) error { ran = true; return add(tx, "c") }))
		for i := range p {
			if err := p[i].Wait(ctx); !errors.Is(err, storage.ErrBatch) {
				t.Errorf("write %d: %v", i, err)
			}
		}
		if ran {
			t.Error("a closure ran after the transaction had ended")
		}
		if committed != 0 || strings.Join(failed, "") != "abc" {
			t.Errorf("%d committed, %v failed", committed, failed)
		}
		wait(t, db.Enqueue(adding("d")))
		if got := rows(t, db); got != "d" {
			t.Errorf("kept %q", got)
		}
	})
}

func TestLaterClosuresRunAfterTheFailureOfAnEarlierOneIsKnown(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		generation, seen := 0, -1
		p := batch(db,
			storage.Write{Do: func(*storage.Tx) error { return errors.New("boom") }, Failed: func(error) { generation++ }},
			storage.Write{Do: func(*storage.Tx) error { seen = generation; return nil }})
		wait(t, p[1])
		if seen != 1 {
			t.Errorf("the later closure saw generation %d", seen)
		}
	})
}

func TestCommittedHooksRunInOrderBeforeSettledAdvances(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		var order []int
		var pos [3]storage.Pos
		var writes []storage.Write
		for i := range 3 {
			writes = append(writes, storage.Write{
				Do: func(tx *storage.Tx) error { pos[i] = tx.NextPos(); return nil },
				Committed: func() {
					order = append(order, i)
					if db.Settled() >= pos[i] {
						t.Errorf("hook %d runs with %d settled", i, db.Settled())
					}
					if i == 1 {
						panic("a hook that panics takes nobody with it")
					}
				},
			})
		}
		wait(t, batch(db, writes...)...)
		if len(order) != 3 || order[0] != 0 || order[1] != 1 || order[2] != 2 {
			t.Errorf("order %v", order)
		}
		if db.Settled() != pos[2] || db.Announced() != pos[2] {
			t.Errorf("settled %d, last position %d", db.Settled(), pos[2])
		}
	})
}

func TestReaderSeesEverythingUpToSettledOfItsTransaction(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		var writers, readers sync.WaitGroup
		stop := make(chan struct{})
		for range 4 {
			readers.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if err := db.Read(ctx, func(tx *storage.Tx) error {
						n, err := tx.Int64(`SELECT count(*) FROM to_device WHERE position <= $1`, tx.Settled())
						if n != int64(tx.Settled()) {
							t.Errorf("%d rows up to %d", n, tx.Settled())
						}
						return err
					}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for range 4 {
			writers.Go(func() {
				for range 100 {
					wait(t, db.Enqueue(adding("x")))
				}
			})
		}
		writers.Wait()
		close(stop)
		readers.Wait()
		if db.Settled() != 400 {
			t.Errorf("settled %d", db.Settled())
		}
	})
}

func TestReadIsOneSnapshotFromItsFirstQueryOn(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		wait(t, db.Enqueue(adding("a")))
		if err := db.Read(ctx, func(tx *storage.Tx) error {
			for range 2 {
				n, err := tx.Int64(`SELECT count(*) FROM to_device`)
				if err != nil || n != 1 {
					t.Errorf("%d rows, %v", n, err)
				}
				wait(t, db.Enqueue(adding("later")))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if got := rows(t, db); got != "a later later" {
			t.Errorf("afterwards %q", got)
		}
	})
}

func TestPositionsNeverComeTwice(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		open := func() *storage.DB {
			db, err := storage.Open(ctx, storage.Config{DSN: dsn})
			if err != nil {
				t.Fatal(err)
			}
			return db
		}
		db := open()
		var last storage.Pos
		next := func(fail error) {
			t.Helper()
			var p storage.Pos
			if err := db.Write(ctx, func(tx *storage.Tx) error { p = tx.NextPos(); return fail }); !errors.Is(err, fail) {
				t.Fatal(err)
			}
			if p <= last {
				t.Errorf("position %d after %d", p, last)
			}
			last = p
		}
		next(nil)
		next(errors.New("rolled back"))
		next(nil)
		if err := db.Write(ctx, func(tx *storage.Tx) error {
			_, err := tx.Exec(`DELETE FROM to_device`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		db = open()
		if db.Settled() != last {
			t.Errorf("settled %d after a restart, last position %d", db.Settled(), last)
		}
		next(nil)
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCloseCommitsTheQueueAndRefusesTheRest(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		db, err := storage.Open(ctx, storage.Config{DSN: dsn})
		if err != nil {
			t.Fatal(err)
		}
		p := batch(db, adding("a"), adding("b"))
		if err := errors.Join(db.Close(), db.Close()); err != nil {
			t.Fatal(err)
		}
		wait(t, p...)
		told := false
		late := db.Enqueue(storage.Write{Do: func(*storage.Tx) error { return nil }, Failed: func(error) { told = true }})
		if err := late.Wait(ctx); !errors.Is(err, storage.ErrClosed) || !told {
			t.Errorf("a write after Close: %v, told %v", err, told)
		}
		if err := db.Read(ctx, func(*storage.Tx) error { return nil }); err == nil {
			t.Error("a read after Close")
		}
		again := storagetest.Open(t, storage.Config{DSN: dsn})
		if got := rows(t, again); got != "a b" {
			t.Errorf("kept %q", got)
		}
	})
}

func TestFlushWaitsForWhatIsQueued(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		p := batch(db, adding("a"), adding("b"))
		if err := db.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		for _, p := range p {
			select {
			case <-p.Done():
			default:
				t.Error("Flush returned before a queued write was done")
			}
		}
	})
}

func TestStoredAsText(t *testing.T) {
	type kind string
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		wait(t, db.Enqueue(storage.Write{Do: func(tx *storage.Tx) error {
			_, err := tx.Exec(`CREATE TABLE v (n BIGINT, b BIGINT, s TEXT, j TEXT, empty TEXT, k TEXT, gone TEXT)`)
			if err != nil {
				return err
			}
			var none *string
			_, err = tx.Exec(`INSERT INTO v (gone, k, empty, j, s, b, n) VALUES ($7, $6, $5, $4, $3, $2, $1)`,
				storage.Pos(1<<40), true, "text $1 ü", []byte(`{"a":1}`), []byte{}, kind("k"), none)
			return err
		}}))
		if err := db.Read(ctx, func(tx *storage.Tx) error {
			return tx.Each(func(r storage.Row) error {
				var (
					n    storage.Pos
					b    bool
					s, e string
					j    []byte
					k    kind
					gone *string
				)
				if err := r.Scan(&n, &b, &s, &j, &e, &k, &gone); err != nil {
					return err
				}
				if n != 1<<40 || !b || s != "text $1 ü" || string(j) != `{"a":1}` || e != "" || k != "k" || gone != nil {
					t.Error(n, b, s, string(j), e, k, gone)
				}
				return nil
			}, `SELECT n, b, s, j, empty, k, gone FROM v WHERE j = $1 AND greatest(n, 5) = n AND least(n, 5) = 5 AND s <> 'greatest($1)'`, `{"a":1}`)
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestListOfPlaceholders(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		wait(t, batch(db, adding("a"), adding("b"), adding("c"), adding("d"))...)
		for n, want := range map[int]int64{0: 0, 1: 1, 3: 3} {
			list, args := storage.In(2, []string{"a", "b", "d"}[:n])
			if err := db.Read(ctx, func(tx *storage.Tx) error {
				got, err := tx.Int64(`SELECT count(*) FROM to_device WHERE device_nid = $1 AND json IN `+list, append([]any{1}, args...)...)
				if got != want {
					t.Errorf("%d of %d found", got, want)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestReadsCannotWriteNestOrOutliveTheirRequest(t *testing.T) {
	storagetest.Each(t, func(t *testing.T, db *storage.DB) {
		wait(t, db.Enqueue(adding("a")))
		if err := db.Read(ctx, func(tx *storage.Tx) error {
			_, err := tx.Exec(`DELETE FROM to_device`)
			return err
		}); err == nil {
			t.Error("a read deleted rows")
		}
		if err := db.Read(ctx, func(tx *storage.Tx) error {
			return tx.Each(func(storage.Row) error {
				_, err := tx.Int64(`SELECT 1`)
				return err
			}, `SELECT json FROM to_device`)
		}); !errors.Is(err, storage.ErrNested) {
			t.Errorf("nested query: %v", err)
		}
		request, cancel := context.WithCancel(ctx)
		if err := db.Read(request, func(tx *storage.Tx) error {
			cancel()
			_, err := tx.Int64(`SELECT 1`)
			return err
		}); !errors.Is(err, context.Canceled) {
			t.Errorf("a statement of an ended request: %v", err)
		}
		if got := rows(t, db); got != "a" {
			t.Errorf("kept %q", got)
		}
	})
}

func TestPanicInAReadGivesTheConnectionBack(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		db := storagetest.Open(t, storage.Config{DSN: dsn, ReadConns: 1})
		wait(t, db.Enqueue(adding("a")))
		for range 3 {
			func() {
				defer func() { _ = recover() }()
				_ = db.Read(ctx, func(tx *storage.Tx) error {
					return tx.Each(func(storage.Row) error { panic("no") }, `SELECT json FROM to_device`)
				})
			}()
		}
		if got := rows(t, db); got != "a" {
			t.Errorf("kept %q", got)
		}
	})
}

func TestIDHashIsKeyedByTheDatabase(t *testing.T) {
	a, b := storagetest.Open(t, storage.Config{}), storagetest.Open(t, storage.Config{})
	long := strings.Repeat("x", 1000)
	if first := a.IDHash("$a"); first != a.IDHash("$a") || a.IDHash("$a") == a.IDHash("$b") || a.IDHash("$a") == b.IDHash("$a") || a.IDHash(long) == a.IDHash(long+"x") {
		t.Error("not a keyed hash")
	}
}

func TestAddressThatIsNoDatabase(t *testing.T) {
	for _, dsn := range []string{"", "sqlite:", "sqlite::memory:", "mysql://root:secret@host/db", "/var/lib/ebb.db"} {
		db, err := storage.Open(ctx, storage.Config{DSN: dsn})
		if err == nil {
			t.Errorf("%q was opened: %v", dsn, db.Close())
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("the password stands in %v", err)
		}
	}
}
