// Package federation runs three real processes that share a room, with clocks that differ by up to twenty minutes.
// Their network fails, one of them is stopped and one is killed. Afterwards all servers must agree.
package federation

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"ebb/test/process"
)

// rounds returns how often all faults are injected: EBB_TEST_KILLS/10 times, but at least once.
func rounds() int {
	n, err := strconv.Atoi(os.Getenv("EBB_TEST_KILLS"))
	if err != nil {
		return 1
	}
	return max(1, n/10)
}

// world is three servers with one user each, who share a room.
type world struct {
	*network
	users []*process.Client
	room  string

	mu    sync.Mutex     // guards acked and asked
	acked map[string]int // acknowledged messages, with the server that acknowledged each
	asked int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{network: newNetwork(t, 3), acked: map[string]int{}}
	for i, s := range w.servers {
		w.users = append(w.users, s.Register(t, fmt.Sprint("user", i)))
	}
	levels := process.Object{}
	for _, u := range w.users[1:] {
		levels[u.UserID] = 50
	}
	created := w.users[0].Must(t, http.MethodPost, process.Path("createRoom"), process.Object{
		"preset": "public_chat", "power_level_content_override": process.Object{"users": levels},
	})
	w.room = process.Text(created, "room_id")
	for _, u := range w.users[1:] {
		u.Must(t, http.MethodPost, process.Path("join", w.room)+"?via="+url.QueryEscape(w.names[0]), process.Object{})
	}
	return w
}

// chatter makes every user send messages, and occasionally state, until stop is called. A request without a response is
// repeated with the same transaction ID.
func (w *world) chatter(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for i := range w.users {
		all.Go(func() {
			for ctx.Err() == nil {
				w.say(t, i)
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	return func() { cancel(); all.Wait() }
}

// say sends a message, and sets the topic together with every tenth message.
func (w *world) say(t *testing.T, by int) {
	w.mu.Lock()
	w.asked++
	body := fmt.Sprintf("message %d", w.asked)
	topic := w.asked%10 == 0
	w.mu.Unlock()
	w.put(t, by, process.Path("rooms", w.room, "send", "m.room.message", body), process.Object{"msgtype": "m.text", "body": body})
	w.mu.Lock()
	w.acked[body] = by
	w.mu.Unlock()
	if topic {
		w.put(t, by, process.Path("rooms", w.room, "state", "m.room.topic", ""), process.Object{"topic": body})
	}
}

// put repeats a request until there is a response.
func (w *world) put(t *testing.T, by int, path string, content process.Object) {
	for {
		status, answer, err := w.users[by].Do(context.Background(), http.MethodPut, path, content)
		switch {
		case err == nil && status == http.StatusOK:
			return
		case err == nil:
			t.Errorf("%s: %d %v", path, status, answer)
			return
		case t.Context().Err() != nil:
			return
		}
		time.Sleep(50 * time.Millisecond) // the server is down
	}
}

// timeline returns how often each text occurs in the room, as seen by one server.
func (w *world) timeline(ctx context.Context, on int) (map[string]int, error) {
	texts, err := w.bodies(ctx, on)
	if err != nil {
		return nil, err
	}
	counts := map[string]int{}
	for _, text := range texts {
		counts[text]++
	}
	return counts, nil
}

// bodies reads the room back to its beginning through one server, and returns the bodies of messages, newest first.
func (w *world) bodies(ctx context.Context, on int) (out []string, err error) {
	seen := map[string]bool{}
	for from, first := "", true; first || from != ""; first = false {
		path := process.Path("rooms", w.room, "messages") + "?dir=b&limit=500"
		if !first {
			path += "&from=" + url.QueryEscape(from)
		}
		status, page, err := w.users[on].Do(ctx, http.MethodGet, path, nil)
		if err != nil || status != http.StatusOK {
			return nil, fmt.Errorf("%s: %d %v %w", path, status, page, err)
		}
		for _, e := range process.List(page, "chunk") {
			event := process.Text(e, "event_id")
			if seen[event] {
				return nil, fmt.Errorf("server %d has %s twice", on, event)
			}
			seen[event] = true
			if body := process.Text(e, "content", "body"); body != "" {
				out = append(out, body)
			}
		}
		from = process.Text(page, "end")
	}
	return out, nil
}

// state returns the room's state as seen by one server: event IDs by type and state key.
func (w *world) state(ctx context.Context, on int) (map[string]string, error) {
	path := process.Path("rooms", w.room, "members")
	status, answer, err := w.users[on].Do(ctx, http.MethodGet, path, nil)
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("%s: %d %v %w", path, status, answer, err)
	}
	out := map[string]string{}
	for _, e := range process.List(answer, "chunk") {
		out["m.room.member "+process.Text(e, "state_key")] = process.Text(e, "event_id")
	}
	for _, typ := range []string{"m.room.topic", "m.room.power_levels", "m.room.join_rules", "m.room.create"} {
		path := process.Path("rooms", w.room, "state", typ, "") + "?format=event"
		status, e, err := w.users[on].Do(ctx, http.MethodGet, path, nil)
		if err != nil || status != http.StatusOK && status != http.StatusNotFound {
			return nil, fmt.Errorf("%s: %d %v %w", path, status, e, err)
		}
		out[typ] = process.Text(e, "event_id")
	}
	return out, nil
}

// agree waits until every server has every acknowledged message exactly once, and all servers have the same state.
func (w *world) agree(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, func(ctx context.Context) error {
		for on := range w.servers {
			bodies, err := w.timeline(ctx, on)
			if err != nil {
				return err
			}
			for body, by := range w.acked {
				if bodies[body] != 1 {
					return fmt.Errorf("server %d has %q of server %d %d times; it has %d of %d", on, body, by, bodies[body], len(bodies), len(w.acked))
				}
			}
		}
		return nil
	})
	eventually(t, time.Minute, func(ctx context.Context) error {
		first, err := w.state(ctx, 0)
		if err != nil {
			return err
		}
		for on := range w.servers[1:] {
			other, err := w.state(ctx, on+1)
			if err != nil {
				return err
			}
			if !maps.Equal(first, other) {
				return fmt.Errorf("the state is %v on server 0 and %v on server %d", first, other, on+1)
			}
		}
		return nil
	})
	t.Logf("all agree on %d messages", len(w.acked))
}

func TestThreeServersAgreeAfterFaultsOfAllKinds(t *testing.T) {
	w := newWorld(t)
	faults := []struct {
		name string
		do   func()
		mend func()
	}{ // faults of the network come first: nobody sends any more when they have healed
		{"two are parted", func() { w.part(0, 1) }, w.heal},
		{"one is parted from all", func() { w.part(2, 0); w.part(2, 1) }, w.heal},
		{"a third of what one is asked is lost", func() { w.lose(1, 0.3) }, w.heal},
		{"one is slow", func() { w.slow(2, 400*time.Millisecond) }, w.heal},
		{"one stops", func() { w.stop(t, 1) }, func() { w.servers[1].Up(t) }},
		{"one is killed", func() { w.servers[0].Kill() }, func() { w.servers[0].Up(t) }},
		{"all but one are killed while parted", func() {
			w.part(0, 2)
			w.servers[0].Kill()
			w.servers[2].Kill()
		}, func() { w.servers[0].Up(t); w.servers[2].Up(t); w.heal() }},
	}
	for range rounds() {
		for i, f := range faults {
			quiet := i < 4
			t.Log(f.name)
			stop := w.chatter(t)
			time.Sleep(500 * time.Millisecond) // these are real processes in real time; gives them time to send
			f.do()
			time.Sleep(1500 * time.Millisecond)
			if quiet {
				stop()
			}
			f.mend()
			if !quiet {
				time.Sleep(500 * time.Millisecond)
				stop()
			}
			if t.Failed() {
				return
			}
			if quiet || i == len(faults)-1 {
				w.agree(t)
			}
		}
	}
}

func (w *world) stop(t *testing.T, i int) {
	t.Helper()
	if err := w.servers[i].Stop(); err != nil {
		t.Errorf("server %d: %v", i, err)
	}
}

// TestServerThatWasDownReceivesEverythingInOrder checks that messages sent while a server was down reach /sync in the
// order in which they were sent.
func TestServerThatWasDownReceivesEverythingInOrder(t *testing.T) {
	w := newWorld(t)
	w.stop(t, 2)
	const n = 1500
	for i := range n {
		w.put(t, 0, process.Path("rooms", w.room, "send", "m.room.message", strconv.Itoa(i)), process.Object{"msgtype": "m.text", "body": strconv.Itoa(i)})
	}
	w.servers[2].Up(t)
	var got []string
	eventually(t, 2*time.Minute, func(ctx context.Context) error {
		var err error
		if got, err = w.bodies(ctx, 2); err == nil && len(got) < n {
			err = fmt.Errorf("%d of %d are there", len(got), n)
		}
		return err
	})
	for i, body := range slices.Backward(got) {
		if body != strconv.Itoa(n-1-i) {
			t.Fatalf("%d from the end is %q", i, body)
		}
	}
}
