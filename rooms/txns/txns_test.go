package txns

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
)

func newTable(t *testing.T) *Table {
	now := func() time.Time { return time.UnixMilli(1_750_000_000_000) }
	return New(storagetest.Open(t, storage.Config{Now: now}), now)
}

// request makes a request that is answered with answer, and reports what the client gets and whether it was run.
func request(t *testing.T, table *Table, device ident.DeviceNID, txn *Txn, answer id.EventID) (got id.EventID, ran bool) {
	t.Helper()
	got, err := table.Once(t.Context(), device, txn, func(c *Claim) (id.EventID, error) {
		ran = true
		if c == nil {
			return answer, nil
		}
		return answer, table.db.Write(t.Context(), func(tx *storage.Tx) error {
			_, err := tx.InsertTxn(c.Device, storage.TxnRow{Hash: c.Hash, Answer: string(answer)})
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return got, ran
}

func TestARepeatedRequestGetsTheFirstAnswer(t *testing.T) {
	table := newTable(t)
	first := &Txn{Path: "/send/a", ID: "1"}
	for _, c := range []struct {
		why    string
		device ident.DeviceNID
		txn    *Txn
		answer id.EventID
		ran    bool
	}{
		{"the first request", 7, first, "$1", true},
		{"it is repeated", 7, first, "$1", false},
		{"another path", 7, &Txn{Path: "/send/b", ID: "1"}, "$2", true},
		{"another ID", 7, &Txn{Path: "/send/a", ID: "2"}, "$3", true},
		{"path and ID are told apart", 7, &Txn{Path: "/send/", ID: "a1"}, "$4", true},
		{"another device", 8, first, "$5", true},
		{"without a transaction ID", 7, nil, "$6", true},
		{"without a device", 0, first, "$7", true},
		{"again without a device", 0, first, "$8", true},
	} {
		if got, ran := request(t, table, c.device, c.txn, c.answer); got != c.answer || ran != c.ran {
			t.Errorf("%s: %s, run: %v", c.why, got, ran)
		}
	}
	restarted := New(table.db, table.now)
	if got, ran := request(t, restarted, 7, first, "$9"); got != "$1" || ran {
		t.Errorf("after a restart: %s, run: %v", got, ran)
	}
}

func TestARepeatedRequestThatIsNotInMemoryGetsTheFirstAnswerEvenIfItWouldFailNow(t *testing.T) {
	table := newTable(t)
	first := &Txn{Path: "/send", ID: "1"}
	request(t, table, 7, first, "$1")
	restarted := New(table.db, table.now)
	request(t, restarted, 7, &Txn{Path: "/send", ID: "2"}, "$2")
	got, err := restarted.Once(t.Context(), 7, first, func(*Claim) (id.EventID, error) { return "", errors.New("the sender is banned now") })
	if got != "$1" || err != nil {
		t.Errorf("the repeated request got %q, %v", got, err)
	}
}

func TestAFailedRequestMayBeRepeated(t *testing.T) {
	table := newTable(t)
	txn := &Txn{Path: "/send", ID: "1"}
	fault := errors.New("a fault")
	_, err := table.Once(t.Context(), 7, txn, func(*Claim) (id.EventID, error) { return "", fault })
	if !errors.Is(err, fault) {
		t.Fatal(err)
	}
	func() {
		defer func() { _ = recover() }()
		_, _ = table.Once(t.Context(), 7, txn, func(*Claim) (id.EventID, error) { panic("a fault") })
	}()
	if got, ran := request(t, table, 7, txn, "$1"); got != "$1" || !ran {
		t.Errorf("after a failure and a panic: %s, run: %v", got, ran)
	}
}

func TestARequestInProgressIsAwaited(t *testing.T) {
	table := newTable(t)
	txn := &Txn{Path: "/send", ID: "1"}
	fail := make(chan error)
	started := make(chan struct{}, 2)
	do := func(*Claim) (id.EventID, error) {
		started <- struct{}{}
		return "$1", <-fail
	}
	type result struct {
		event id.EventID
		err   error
	}
	results := make(chan result, 2)
	for range 2 {
		go func() {
			event, err := table.Once(t.Context(), 7, txn, do)
			results <- result{event, err}
		}()
	}
	<-started
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := table.Once(stopped, 7, txn, do); !errors.Is(err, context.Canceled) {
		t.Errorf("a request whose client went away: %v", err)
	}
	fail <- errors.New("a fault")
	if r := <-results; r.err == nil {
		t.Error("the request that failed got an answer")
	}
	<-started // the waiting one is run now
	fail <- nil
	if r := <-results; r.event != "$1" || r.err != nil {
		t.Errorf("the request that waited: %s, %v", r.event, r.err)
	}
}

func TestAnswersInMemoryAreBounded(t *testing.T) {
	table := newTable(t)
	for i := range maxPerDevice + 50 {
		request(t, table, 7, &Txn{Path: "/send", ID: fmt.Sprint(i)}, id.EventID(fmt.Sprint("$", i)))
	}
	d := table.devices[7]
	if len(d.claims) != maxPerDevice || len(d.finished) != maxPerDevice || d.inProgress != 0 {
		t.Errorf("%d claims, %d finished, %d in progress", len(d.claims), len(d.finished), d.inProgress)
	}
	for nid := ident.DeviceNID(10); nid < maxDevices+20; nid++ {
		request(t, table, nid, &Txn{Path: "/send", ID: "1"}, "$1")
	}
	if len(table.devices) > maxDevices {
		t.Errorf("%d devices are in memory", len(table.devices))
	}
}

func TestOldAnswersAreDeleted(t *testing.T) {
	table := newTable(t)
	now := table.now()
	table.now = func() time.Time { return now }
	err := table.db.Write(t.Context(), func(tx *storage.Tx) error {
		for i := range int64(700) { // more than one batch
			if _, err := tx.InsertTxn(7, storage.TxnRow{Hash: i, Answer: "$"}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	count := func() (n int) {
		err := table.db.Read(t.Context(), func(tx *storage.Tx) error {
			for i := range int64(700) {
				_, found, err := tx.Txn(7, i)
				if err != nil {
					return err
				}
				if found {
					n++
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	now = now.Add(47 * time.Hour)
	if err := table.Prune(t.Context()); err != nil || count() != 700 {
		t.Errorf("after 47 hours %d answers are left, %v", count(), err)
	}
	now = now.Add(2 * time.Hour)
	if err := table.Prune(t.Context()); err != nil || count() != 0 {
		t.Errorf("after 49 hours %d answers are left, %v", count(), err)
	}
}
