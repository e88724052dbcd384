package crash

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"ebb/test/process"
)

const (
	senders     = 16  // number of concurrent senders, four per user
	minInFlight = 8   // requests without a response when the server is killed
	minAcked    = 100 // messages acknowledged in every round
)

// attempt is one request of the load. Its path contains the transaction ID, so the request can be repeated.
type attempt struct {
	client *process.Client
	path   string
	body   process.Object
	marker string // unique text in the request
	answer string // event ID, set once there is a response with status 200
	acked  bool
}

// try sends the request and records the response.
func (a *attempt) try(ctx context.Context) error {
	status, answer, err := a.client.Do(ctx, http.MethodPut, a.path, a.body)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return refused{fmt.Errorf("%s: %d %v", a.path, status, answer)}
	}
	id := process.Text(answer, "event_id")
	if a.acked && a.answer != id {
		return fmt.Errorf("%s was answered %s first and then %s", a.path, a.answer, id)
	}
	a.acked, a.answer = true, id
	return nil
}

// refused is the error for a response with a status other than 200, which a kill cannot cause.
type refused struct{ error }

// world holds the accounts and rooms, and all requests of all rounds.
type world struct {
	server  *process.Server
	reader  *process.Client
	writers []*process.Client
	rooms   []string

	mu       sync.Mutex // guards the fields below
	messages []*attempt
	toDevice []*attempt
	failure  error                // the first response with a status other than 200
	receipts map[string][]receipt // by room, in the order of the requests

	acked atomic.Int64 // messages acknowledged in this round
	asked atomic.Int64 // counter for unique transaction IDs
	seen  *observer
}

// receipt is a receipt sent by the reader.
type receipt struct {
	eventID string
	acked   bool
}

func newWorld(t *testing.T, s *process.Server) *world {
	t.Helper()
	w := &world{server: s, reader: s.Register(t, "reader"), receipts: map[string][]receipt{}}
	for i := range 4 {
		w.writers = append(w.writers, s.Register(t, fmt.Sprintf("writer%d", i)))
	}
	for i, owner := range w.writers[:2] {
		room := process.Text(owner.Must(t, http.MethodPost, process.Path("createRoom"), process.Object{"preset": "public_chat", "name": fmt.Sprint(i)}), "room_id")
		for _, c := range append([]*process.Client{w.reader}, w.writers...) {
			if c != owner {
				c.Must(t, http.MethodPost, process.Path("join", room), process.Object{})
			}
		}
		w.rooms = append(w.rooms, room)
	}
	w.seen = newObserver(t, w.reader)
	return w
}

// round makes all users send until the server is killed, and returns how many requests got no response.
func (w *world) round(t *testing.T, killAfter int64) (inFlight int) {
	t.Helper()
	w.acked.Store(0)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	enough := make(chan struct{})
	var all sync.WaitGroup
	for i := range senders {
		all.Go(func() { w.send(ctx, w.writers[i%len(w.writers)], w.rooms[i%len(w.rooms)], killAfter, enough) })
	}
	all.Go(func() { w.sendToDevice(ctx) })
	all.Go(func() { w.read(ctx) })
	all.Go(func() { w.seen.follow(ctx) })
	select {
	case <-enough:
	case <-ctx.Done():
		t.Fatalf("only %d messages were answered within a minute", w.acked.Load())
	}
	w.server.Kill()
	all.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range slices.Concat(w.messages, w.toDevice) {
		if !a.acked {
			inFlight++
		}
	}
	return inFlight
}

// send sends messages until the server is gone. The goroutine that receives response number killAfter closes enough.
func (w *world) send(ctx context.Context, c *process.Client, room string, killAfter int64, enough chan struct{}) {
	for {
		n := w.asked.Add(1)
		marker := fmt.Sprintf("message-%d-end", n)
		a := &attempt{client: c, marker: marker, path: process.Path("rooms", room, "send", "m.room.message", fmt.Sprintf("txn%d", n)),
			body: process.Object{"msgtype": "m.text", "body": marker}}
		if !w.ask(ctx, a, &w.messages) {
			return
		}
		if w.acked.Add(1) == killAfter {
			close(enough)
		}
	}
}

// ask records the attempt before sending it. It returns false once there is no response.
func (w *world) ask(ctx context.Context, a *attempt, list *[]*attempt) bool {
	w.mu.Lock()
	*list = append(*list, a)
	w.mu.Unlock()
	fresh := *a
	err := fresh.try(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	*a = fresh
	w.note(err)
	return err == nil
}

// note records the first refusal. The caller must hold mu.
func (w *world) note(err error) {
	if r := (refused{}); w.failure == nil && errors.As(err, &r) {
		w.failure = r
	}
}

func (w *world) sendToDevice(ctx context.Context) {
	for {
		n := w.asked.Add(1)
		marker := fmt.Sprintf("to-device-%d-end", n)
		a := &attempt{client: w.writers[0], marker: marker, path: process.Path("sendToDevice", "org.example.crash", fmt.Sprintf("txn%d", n)),
			body: process.Object{"messages": process.Object{w.reader.UserID: process.Object{w.reader.Device: process.Object{"marker": marker}}}}}
		if !w.ask(ctx, a, &w.toDevice) {
			return
		}
	}
}

// read moves the reader's receipts to recent messages, in one room after the other.
func (w *world) read(ctx context.Context) {
	for i := 0; ; i++ {
		room := w.rooms[i%len(w.rooms)]
		eventID := w.newest(room)
		if eventID == "" {
			if ctx.Err() != nil || w.reader.Gone(ctx) {
				return
			}
			continue
		}
		w.mu.Lock()
		w.receipts[room] = append(w.receipts[room], receipt{eventID: eventID})
		at := len(w.receipts[room]) - 1
		w.mu.Unlock()
		status, answer, err := w.reader.Do(ctx, http.MethodPost, process.Path("rooms", room, "receipt", "m.read", eventID), process.Object{})
		if err == nil && status != http.StatusOK {
			err = refused{fmt.Errorf("receipt: %d %v", status, answer)}
		}
		w.mu.Lock()
		w.receipts[room][at].acked = err == nil
		w.note(err)
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// newest returns the most recently sent message of the room that was acknowledged.
func (w *world) newest(room string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	prefix := process.Path("rooms", room, "send")
	for _, a := range slices.Backward(w.messages) {
		if a.acked && len(a.path) > len(prefix) && a.path[:len(prefix)] == prefix {
			return a.answer
		}
	}
	return ""
}
