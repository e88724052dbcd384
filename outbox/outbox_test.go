package outbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/history"
	"ebb/ident"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// The tests run in synctest bubbles, in which time passes only while all goroutines wait.

// world simulates the other servers and the rooms.
type world struct {
	t  *testing.T
	db *storage.DB
	*Service
	end func()

	mu       sync.Mutex
	answer   func(server string, pdus, edus []json.RawMessage) error // nil accepts everything
	tries    []try
	since    map[string]storage.Pos // the servers of every room, with the time since which they are in it
	redacted map[storage.Pos]bool
	expired  map[storage.Pos]bool
	rooms    map[storage.Pos]ident.RoomNID
	newest   []storage.Pos
	sticky   []storage.Pos
	slow     time.Duration // how long every response takes
}

// try is a transaction that was sent to a server.
type try struct {
	at     time.Time
	server string
	txn    string
	pdus   []string
	edus   []string
	err    error
}

func (w *world) SendTransaction(ctx context.Context, server, txn string, pdus, edus []json.RawMessage) (map[id.EventID]string, error) {
	w.mu.Lock()
	answer := w.answer
	w.mu.Unlock()
	var err error
	select {
	case <-time.After(w.slow):
	case <-ctx.Done():
	}
	if answer != nil {
		err = answer(server, pdus, edus)
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tries = append(w.tries, try{time.Now(), server, txn, texts(pdus), texts(edus), err})
	return nil, err
}

func texts(raws []json.RawMessage) (out []string) {
	for _, r := range raws {
		out = append(out, strings.Trim(string(r), `"`))
	}
	return out
}

func (w *world) OutgoingEvents(_ context.Context, positions []storage.Pos) (out []history.OutgoingEvent, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range positions {
		text := fmt.Sprint(p)
		if w.redacted[p] || w.expired[p] {
			text = "redacted " + text
		}
		out = append(out, history.OutgoingEvent{Pos: p, Room: w.rooms[p], JSON: json.RawMessage(`"` + text + `"`), Expired: w.expired[p]})
	}
	return out, nil
}

func (w *world) NewestEvents(_ context.Context, _ string, _ ident.RoomNID, after storage.Pos) (events []storage.Pos, more bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.sticky {
		if p > after && len(events) < 2 {
			events = append(events, p)
		}
	}
	if len(events) > 0 {
		return events, true, nil
	}
	return slices.Clone(w.newest), false, nil
}

func (w *world) HasLocalSticky(ident.RoomNID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.sticky) > 0
}

func (w *world) ServersSince(context.Context, ident.RoomNID, storage.Pos) (stays []history.ServerPeriod, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for server, since := range w.since {
		stays = append(stays, history.ServerPeriod{Server: server, From: since})
	}
	return stays, nil
}

// in runs a test in a bubble with a running outbox.
func in(t *testing.T, f func(w *world)) {
	t.Helper()
	dsn := storagetest.SQLite(t)
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, since: map[string]storage.Pos{}, redacted: map[storage.Pos]bool{}, expired: map[storage.Pos]bool{}, rooms: map[storage.Pos]ident.RoomNID{}}
		var err error
		if w.db, err = storage.Open(context.Background(), storage.Config{DSN: dsn}); err != nil {
			t.Fatal(err)
		}
		w.start()
		defer func() {
			w.end()
			if err := w.db.Close(); err != nil {
				t.Error(err)
			}
		}()
		f(w)
	})
}

// start starts the outbox as a new process does.
func (w *world) start() {
	w.t.Helper()
	w.Service = New(Options{DB: w.db, Server: "here", History: w, Sender: w, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	w.end = func() {
		cancel()
		if err := <-ended; err != nil {
			w.t.Error(err)
		}
	}
	synctest.Wait()
}

// restart stops the outbox and starts it again.
func (w *world) restart() {
	w.t.Helper()
	w.end()
	w.start()
}

// crash is like restart, but nothing is stored before the stop.
func (w *world) crash() {
	w.t.Helper()
	stored, edus := w.snapshot()
	w.end()
	w.restore(stored, edus)
	w.start()
}

// snapshot returns the stored state.
func (w *world) snapshot() (d []storage.Destination, rows []storage.OutboxRow) {
	w.t.Helper()
	err := w.db.Read(context.Background(), func(tx *storage.Tx) (err error) {
		if d, err = tx.Destinations(); err != nil {
			return err
		}
		rows, err = tx.Outbox(0, 1_000_000)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return d, rows
}

// restore writes a stored state back.
func (w *world) restore(destinations []storage.Destination, rows []storage.OutboxRow) {
	w.t.Helper()
	err := w.db.Write(context.Background(), func(tx *storage.Tx) error {
		if _, err := tx.PruneOutbox(1 << 60); err != nil {
			return err
		}
		for _, r := range rows {
			if err := tx.AddOutbox(r); err != nil {
				return err
			}
		}
		now, err := tx.Destinations()
		if err != nil {
			return err
		}
		for _, d := range now {
			if err := tx.PutDestination(storage.Destination{Server: d.Server}); err != nil {
				return err
			}
		}
		for _, d := range destinations {
			if err := tx.PutDestination(d); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// event stores an event and announces its commit.
func (w *world) event(room ident.RoomNID, servers ...string) storage.Pos {
	return w.events(1, room, servers...)
}

// events calls event n times and returns the position of the last event.
func (w *world) events(n int, room ident.RoomNID, servers ...string) (last storage.Pos) {
	w.t.Helper()
	w.mu.Lock()
	for _, server := range servers {
		if _, there := w.since[server]; !there {
			w.since[server] = 0
		}
	}
	w.mu.Unlock()
	var positions []storage.Pos
	p := w.db.Enqueue(storage.Write{
		Do: func(tx *storage.Tx) error {
			for range n {
				p := tx.NextPos()
				positions = append(positions, p)
				w.mu.Lock()
				w.newest = []storage.Pos{p}
				w.rooms[p] = room
				w.mu.Unlock()
				e := storage.EventRow{Position: p, Room: room, EventID: fmt.Sprint("$", p), Type: "m.room.message", JSON: []byte("{}")}
				if err := errors.Join(tx.InsertEvent(&e), tx.AddOutbox(storage.OutboxRow{Position: p, Room: room})); err != nil {
					return err
				}
			}
			return nil
		},
		Committed: func() {
			for _, p := range positions {
				w.queueEvent(room, p, servers)
			}
		},
	})
	if err := p.Wait(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	return positions[n-1]
}

// edu stores an EDU that must not be lost.
func (w *world) edu(server, text string) {
	w.t.Helper()
	p := w.db.Enqueue(storage.Write{
		Do:        func(tx *storage.Tx) error { return w.AddEDU(tx, server, "", json.RawMessage(`"`+text+`"`)) },
		Committed: func() { w.Kick(server) },
	})
	if err := p.Wait(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) answers(f func(server string, pdus, edus []json.RawMessage) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.answer = f
}

// dead makes servers unreachable.
func (w *world) dead(servers ...string) {
	w.answers(func(server string, _, _ []json.RawMessage) error {
		if slices.Contains(servers, server) {
			return fmt.Errorf("%w: the network is down", fedclient.ErrUnreachable)
		}
		return nil
	})
}

// after lets time pass and returns the transactions sent in the meantime.
func (w *world) after(d time.Duration) []try {
	time.Sleep(d)
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.tries
	w.tries = nil
	return out
}

// taken returns the events and EDUs that a server accepted.
func taken(tries []try, server string) (pdus, edus []string) {
	for _, t := range tries {
		if t.server == server && t.err == nil {
			pdus, edus = append(pdus, t.pdus...), append(edus, t.edus...)
		}
	}
	return pdus, edus
}

func wantTaken(t *testing.T, tries []try, server string, want ...storage.Pos) {
	t.Helper()
	got, _ := taken(tries, server)
	var texts []string
	for _, p := range want {
		texts = append(texts, fmt.Sprint(p))
	}
	if !slices.Equal(got, texts) {
		t.Errorf("%s took %v, want %v", server, got, texts)
	}
}

func upTo(last storage.Pos, n int) (out []storage.Pos) {
	for p := last - storage.Pos(n) + 1; p <= last; p++ {
		out = append(out, p)
	}
	return out
}

func refusedWith(status int) error {
	return &fedclient.RemoteError{Server: "a", Status: status, Code: "M_UNKNOWN"}
}

func TestEventsGoToEachServerInOrderInFullTransactions(t *testing.T) {
	in(t, func(w *world) {
		last := w.events(120, 1, "a", "b")
		tries := w.after(time.Minute)
		wantTaken(t, tries, "a", upTo(last, 120)...)
		wantTaken(t, tries, "b", upTo(last, 120)...)
		ids := map[string]bool{}
		for _, try := range tries {
			if len(try.pdus) > 50 {
				t.Errorf("a transaction of %d events", len(try.pdus))
			}
			ids[try.txn] = true
		}
		if len(ids) != len(tries) || len(tries) > 8 { // the first one may be sent before the others exist
			t.Errorf("%d transactions with %d ids", len(tries), len(ids))
		}
		if _, rows := w.snapshot(); len(rows) != 0 {
			t.Errorf("%d rows stay in the table", len(rows))
		}
	})
}

func TestADeadServerIsRetriedLessAndLessOftenAndDelaysNobody(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		p := w.event(1, "a", "b")
		tries := w.after(30 * time.Minute)
		wantTaken(t, tries, "b", p)
		if len(tries) < 8 || len(tries) > 14 {
			t.Errorf("%d tries in half an hour", len(tries))
		}
		tries = slices.DeleteFunc(tries, func(t try) bool { return t.server != "a" })
		var last time.Duration
		for i := 1; i < len(tries); i++ {
			wait := tries[i].at.Sub(tries[i-1].at)
			if tries[i].txn != tries[0].txn {
				t.Error("another transaction, before the first was answered")
			}
			if wait < last {
				t.Errorf("the wait went from %v to %v", last, wait)
			}
			last = wait
		}
		w.answers(nil)
		tries = w.after(2 * time.Hour)
		wantTaken(t, tries, "a", p)
	})
}

func TestARequestFromADeadServerEndsItsDelay(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		p := w.event(1, "a")
		w.after(time.Hour)
		w.answers(nil)
		w.Heard("a")
		wantTaken(t, w.after(0), "a", p)
	})
}

func TestRequestsFromAnUnreachableServerDoNotEachCauseARetry(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		w.event(1, "a")
		w.after(time.Hour)
		for range 100 {
			w.Heard("a")
			synctest.Wait()
		}
		if tries := w.after(0); len(tries) != 1 {
			t.Errorf("%d tries", len(tries))
		}
	})
}

// Regression: a server that answered every transaction with an error of its own was retried immediately, without end.
func TestAServerThatRejectsEveryTransactionIsRetriedWithDelays(t *testing.T) {
	for _, status := range []int{401, 403, 404, 429, 500, 502} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			in(t, func(w *world) {
				w.answers(func(server string, _, _ []json.RawMessage) error {
					w.Succeeded(server) // as fedclient does for every response
					return refusedWith(status)
				})
				p := w.event(1, "a")
				if tries := w.after(10 * time.Minute); len(tries) < 5 || len(tries) > 12 {
					t.Errorf("%d tries in ten minutes", len(tries))
				}
				w.answers(nil)
				wantTaken(t, w.after(time.Hour), "a", p)
			})
		})
	}
}

func TestRetryAfterOfAServerIsRespected(t *testing.T) {
	in(t, func(w *world) {
		w.answers(func(string, []json.RawMessage, []json.RawMessage) error {
			return &fedclient.RemoteError{Server: "a", Status: http.StatusTooManyRequests, Code: "M_LIMIT_EXCEEDED", RetryAfter: 30 * time.Minute}
		})
		w.event(1, "a")
		if tries := w.after(20 * time.Minute); len(tries) != 1 {
			t.Errorf("%d tries", len(tries))
		}
	})
}

func TestOneBadItemBlocksNothing(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		last := w.events(40, 1, "a")
		w.after(time.Second / 2)
		w.edu("a", "good")
		w.edu("a", "poison")
		w.edu("a", "better")
		bad := fmt.Sprint(last - 7)
		w.answers(func(_ string, pdus, edus []json.RawMessage) error {
			if slices.Contains(texts(pdus), bad) || slices.Contains(texts(edus), "poison") {
				return refusedWith(400)
			}
			return nil
		})
		tries := w.after(time.Minute)
		wantTaken(t, tries, "a", append(upTo(last-8, 32), upTo(last, 7)...)...)
		if _, edus := taken(tries, "a"); !slices.Equal(edus, []string{"good", "better"}) {
			t.Errorf("took %v", edus)
		}
		if len(tries) > 40 {
			t.Errorf("%d tries", len(tries))
		}
		next := w.event(1, "a")
		wantTaken(t, w.after(time.Second), "a", next)
	})
}

func TestPendingItemsSurviveARestart(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		last := w.events(3, 1, "a", "b")
		w.edu("a", "message")
		wantTaken(t, w.after(time.Minute), "b", upTo(last, 3)...)
		w.restart()
		w.answers(nil)
		tries := w.after(time.Hour)
		wantTaken(t, tries, "a", upTo(last, 3)...)
		wantTaken(t, tries, "b")
		if _, edus := taken(tries, "a"); !slices.Equal(edus, []string{"message"}) {
			t.Errorf("took %v", edus)
		}
	})
}

func TestAServiceThatIsStoppedAtOnceHasNotFailed(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		last := w.events(3, 1, "a")
		w.after(time.Minute)
		w.end()
		stopped, stop := context.WithCancel(context.Background())
		stop()
		w.Service = New(Options{DB: w.db, Server: "here", History: w, Sender: w, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err := w.Run(stopped); err != nil {
			t.Errorf("Run: %v", err)
		}
		if _, err := w.Status(stopped, ""); err == nil {
			t.Error("the status was read although the request had ended")
		}
		if all, err := w.Status(context.Background(), "a"); err != nil || len(all) != 1 || all[0].Events != 3 {
			t.Errorf("the status after that: %+v, %v", all, err)
		}
		w.start()
		w.answers(nil)
		wantTaken(t, w.after(time.Hour), "a", upTo(last, 3)...)
	})
}

func TestAfterACrashNothingIsMissingAndIDsAreNew(t *testing.T) {
	in(t, func(w *world) {
		w.after(5 * time.Second) // just after the state was stored
		w.after(100 * time.Millisecond)
		last := w.events(3, 1, "a")
		before := w.after(0)
		wantTaken(t, before, "a", upTo(last, 3)...)
		w.crash()
		again := w.after(time.Minute)
		wantTaken(t, again, "a", upTo(last, 3)...)
		if before[0].txn == again[0].txn {
			t.Error("a transaction of the new run has the id of an old one: it would be taken for that one")
		}
	})
}

func TestTheDelayOfADeadServerSurvivesARestart(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		w.event(1, "a")
		w.after(20 * time.Minute)
		w.restart()
		if tries := w.after(5 * time.Minute); len(tries) > 1 {
			t.Errorf("%d tries in the five minutes after the start", len(tries))
		}
	})
}

func TestMissedEventsAreSentInOrderFromTheTable(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		last := w.events(3*maxQueue+7, 1, "a", "b")
		w.after(time.Minute)
		w.mu.Lock()
		w.since["late"] = last
		w.mu.Unlock()
		w.answers(nil)
		w.Heard("a")
		synctest.Wait()
		next := w.event(1, "a", "late")
		tries := w.after(time.Minute)
		wantTaken(t, tries, "a", append(upTo(last, 3*maxQueue+7), next)...)
		wantTaken(t, tries, "late", next)
	})
}

func TestManyMissedEventsSurviveARestart(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		last := w.events(2*maxQueue, 1, "a")
		w.after(time.Minute)
		w.restart()
		w.answers(nil)
		wantTaken(t, w.after(time.Hour), "a", upTo(last, 2*maxQueue)...)
	})
}

func TestAServerThatMissedTooMuchGetsTheNewestEvents(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		last := w.events(maxQueue+maxMissed+1, 1, "a")
		w.after(time.Minute)
		w.restart()
		w.answers(nil)
		wantTaken(t, w.after(time.Hour), "a", last)
		if _, rows := w.snapshot(); len(rows) != 0 {
			t.Errorf("%d rows stay in the table", len(rows))
		}
		next := w.event(1, "a")
		wantTaken(t, w.after(time.Minute), "a", next)
		w.restart()
		wantTaken(t, w.after(time.Minute), "a")
	})
}

func TestAServerThatIsDeadForLongHoldsNothingBack(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		last := w.event(1, "a")
		w.after(maxPatience + 2*time.Hour)
		if _, rows := w.snapshot(); len(rows) != 0 {
			t.Errorf("%d rows stay in the table", len(rows))
		}
		w.answers(nil)
		if got, _ := taken(w.after(2*time.Hour), "a"); !slices.Contains(got, fmt.Sprint(last)) {
			t.Errorf("took %v, not %d", got, last)
		}
	})
}

// Regression: an event that arrived while the newest events were being sent to a server was lost.
func TestAnEventDuringTheSendingOfTheNewestIsNotLost(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		w.events(maxQueue+maxMissed+1, 1, "a")
		w.after(time.Second)
		var next storage.Pos
		w.answers(func(string, []json.RawMessage, []json.RawMessage) error {
			if next == 0 {
				next = w.event(1, "a")
			}
			return nil
		})
		tries := w.after(time.Minute)
		got, _ := taken(tries, "a")
		if !slices.Contains(got, fmt.Sprint(next)) {
			t.Errorf("took %v, not %d", got, next)
		}
	})
}

// Regression: an EDU that was stored while a transaction was in progress waited for the next one.
func TestAnEDUStoredDuringATransactionIsSent(t *testing.T) {
	in(t, func(w *world) {
		first := true
		w.answers(func(string, []json.RawMessage, []json.RawMessage) error {
			if first {
				first = false
				w.edu("a", "message")
			}
			return nil
		})
		w.event(1, "a")
		if _, edus := taken(w.after(time.Second), "a"); !slices.Equal(edus, []string{"message"}) {
			t.Errorf("took %v", edus)
		}
	})
}

func TestStoredEDUsAreSentInOrderOnceInBoundedTransactions(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		var want []string
		for i := range 250 {
			want = append(want, fmt.Sprint("message ", i))
			w.edu("a", want[i])
		}
		w.answers(nil)
		tries := w.after(time.Hour)
		if _, edus := taken(tries, "a"); !slices.Equal(edus, want) {
			t.Errorf("took %d messages: %v", len(edus), edus)
		}
		for _, try := range tries {
			if len(try.edus) > 100 {
				t.Errorf("a transaction with %d EDUs", len(try.edus))
			}
		}
		w.restart()
		if tries := w.after(time.Minute); len(tries) != 0 {
			t.Errorf("sent again: %v", tries)
		}
	})
}

func TestVolatileDataIsReplacedByKeyAndBounded(t *testing.T) {
	in(t, func(w *world) {
		release := make(chan struct{})
		w.answers(func(string, []json.RawMessage, []json.RawMessage) error { <-release; return nil })
		w.event(1, "a")
		synctest.Wait() // the request is in progress
		for i := range 3 {
			w.Queue("a", "typing !r @u", json.RawMessage(fmt.Sprintf(`"typing %d"`, i)))
		}
		for i := range maxVolatile + 10 {
			w.Queue("a", fmt.Sprint("receipt ", i), json.RawMessage(fmt.Sprintf(`"receipt %d"`, i)))
		}
		close(release)
		_, edus := taken(w.after(time.Minute), "a")
		if len(edus) != maxVolatile || edus[0] != "receipt 10" {
			t.Errorf("took %d, the first %q", len(edus), edus[0])
		}
	})
}

func TestVolatileDataDoesNotWaitForADeadServer(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		w.event(1, "a")
		w.after(10 * time.Minute)
		w.Queue("a", "typing", json.RawMessage(`"typing"`))
		w.answers(nil)
		if _, edus := taken(w.after(time.Hour), "a"); len(edus) != 0 {
			t.Errorf("took %v, which is old news", edus)
		}
	})
}

func TestAnEventRedactedWhilePendingIsSentRedacted(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		p := w.event(1, "a")
		w.after(time.Minute)
		w.mu.Lock()
		w.redacted[p] = true
		w.mu.Unlock()
		w.answers(nil)
		if got, _ := taken(w.after(time.Hour), "a"); !slices.Equal(got, []string{fmt.Sprint("redacted ", p)}) {
			t.Errorf("took %v", got)
		}
	})
}

// expire makes events expire.
func (w *world) expire(positions ...storage.Pos) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range positions {
		w.expired[p] = true
	}
}

func TestAnEventExpiredWhilePendingIsDroppedUnlessSomethingFollows(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		first, middle, last := w.event(1, "a"), w.event(1, "a"), w.event(1, "a")
		other := w.event(2, "a")
		w.after(time.Minute)
		w.expire(first, last)
		w.answers(nil)
		got, _ := taken(w.after(time.Hour), "a")
		if want := []string{fmt.Sprint("redacted ", first), fmt.Sprint(middle), fmt.Sprint(other)}; !slices.Equal(got, want) {
			t.Errorf("took %v, want %v", got, want)
		}
		next := w.event(1, "a")
		wantTaken(t, w.after(time.Minute), "a", next)
	})
}

func TestALaterTransactionKeepsExpiredEventsBeforeIt(t *testing.T) {
	// With the largest number, some events are only in the table.
	for _, n := range []int{maxPDUs + 20, 3 * maxPDUs, maxQueue + 200} {
		in(t, func(w *world) {
			w.dead("a")
			gone := upTo(w.events(n, 1, "a"), n)
			kept := w.event(1, "a")
			tail := w.events(5, 1, "a")
			w.after(time.Minute)
			w.expire(append(gone, upTo(tail, 5)...)...)
			w.answers(nil)
			got, _ := taken(w.after(time.Hour), "a")
			if len(got) != n+1 || got[0] != fmt.Sprint("redacted ", gone[0]) || got[n] != fmt.Sprint(kept) {
				t.Errorf("%d events: took %d, %v to %v", n, len(got), got[0], got[len(got)-1])
			}
		})
	}
}

func TestADeadServerForWhichEverythingExpiredIsSentNothingAndStaysDead(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		n := maxPDUs + 20
		last := w.events(n, 1, "a")
		w.after(time.Minute)
		w.expire(upTo(last, n)...)
		if tries := w.after(2 * time.Hour); len(tries) != 0 {
			t.Errorf("%d tries, of %v", len(tries), tries[0].pdus)
		}
		status, err := w.Status(context.Background(), "a")
		if err != nil || status[0].Events != 0 || status[0].Failures == 0 || status[0].Reached != nil {
			t.Errorf("status %+v, %v", status, err)
		}
		w.answers(nil)
		w.restart()
		next := w.event(1, "a")
		wantTaken(t, w.after(2*time.Hour), "a", next)
	})
}

func TestTheNewestEventsAreSentEvenIfExpired(t *testing.T) {
	in(t, func(w *world) {
		w.dead("a")
		w.event(1, "a")
		w.after(maxPatience + 2*time.Hour)
		last := w.event(1, "a")
		w.after(time.Minute)
		w.expire(last)
		w.answers(nil)
		if got, _ := taken(w.after(2*time.Hour), "a"); len(got) == 0 || got[len(got)-1] != fmt.Sprint("redacted ", last) {
			t.Errorf("took %v: without the newest events the server learns of nothing that it missed", got)
		}
	})
}

func TestOtherRequestsDoNotWaitForADeadServer(t *testing.T) {
	in(t, func(w *world) {
		down := fmt.Errorf("%w: the network is down", fedclient.ErrUnreachable)
		for range failFast {
			if err := w.Allowed("a"); err != nil {
				t.Fatalf("a server that failed now and then: %v", err)
			}
			w.Failed("a", down)
			w.Failed("a", down) // for a request that was in progress
			time.Sleep(time.Minute)
		}
		w.Failed("a", down)
		if err := w.Allowed("a"); !errors.Is(err, fedclient.ErrUnreachable) {
			t.Errorf("asked at once: %v", err)
		}
		time.Sleep(time.Minute)
		if err := w.Allowed("a"); err != nil {
			t.Errorf("asked when it is time to: %v", err)
		}
		w.Failed("a", down)
		w.Succeeded("a")
		if err := w.Allowed("a"); err != nil {
			t.Errorf("asked after it answered: %v", err)
		}
	})
}

func TestServersThatOnlyGotRequestsLeaveNoTrace(t *testing.T) {
	in(t, func(w *world) {
		for i := range maxIdle + 500 {
			w.Failed(fmt.Sprintf("made-up-%d", i), fedclient.ErrUnreachable)
		}
		w.after(time.Minute)
		w.Service.mu.Lock()
		n := len(w.known)
		w.Service.mu.Unlock()
		if n > maxIdle {
			t.Errorf("%d servers in memory", n)
		}
		if d, _ := w.snapshot(); len(d) != 0 {
			t.Errorf("%d rows", len(d))
		}
	})
}

func TestStoppingDoesNotWaitForASlowServer(t *testing.T) {
	in(t, func(w *world) {
		w.slow = time.Hour
		p := w.event(1, "a")
		synctest.Wait()
		start := time.Now()
		w.end()
		if took := time.Since(start); took != 0 {
			t.Errorf("the end took %v", took)
		}
		w.slow = 0
		w.after(0)
		w.start()
		wantTaken(t, w.after(time.Second), "a", p)
	})
}

func TestDeadServersDoNotBlockOthers(t *testing.T) {
	in(t, func(w *world) {
		w.answers(func(server string, _, _ []json.RawMessage) error {
			if strings.HasPrefix(server, "dead") {
				time.Sleep(30 * time.Second)
				return fedclient.ErrUnreachable
			}
			return nil
		})
		var dead []string
		for i := range 400 {
			dead = append(dead, fmt.Sprint("dead", i))
		}
		w.event(1, dead...)
		w.after(10 * time.Minute)
		p := w.event(1, append(dead, "alive")...)
		wantTaken(t, w.after(time.Second), "alive", p)
	})
}
