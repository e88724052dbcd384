package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// bridge is an application service that counts the events that it receives.
type bridge struct {
	*httptest.Server
	events atomic.Int64
	held   atomic.Pointer[chan struct{}] // if not nil, transactions get no response until the channel is closed
}

func newBridge() *bridge {
	b := &bridge{}
	b.Server = httptest.NewServer(b)
	return b
}

// ServeHTTP implements http.Handler.
func (b *bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if held := b.held.Load(); held != nil {
		<-*held
	}
	if err == nil {
		b.events.Add(int64(bytes.Count(raw, []byte(`"event_id":`))))
		_, _ = io.WriteString(w, "{}") // a server that does not read the response sends the transaction again
	}
}

// await waits until the bridge has received the given number of events.
func (b *bridge) await(events int64) error {
	for deadline := time.Now().Add(2 * time.Minute); b.events.Load() < events; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("the bridge got %d of %d events", b.events.Load(), events)
		}
	}
	return nil
}

// startBridged starts a server with an application service, whose namespace contains the users whose localparts begin
// with prefix.
func (b *bench) startBridged(name, prefix string, to *bridge) (*process, error) {
	p, err := b.startEbb(name, 0)
	if err != nil {
		return nil, err
	}
	p.stop()
	file := filepath.Join(p.dir, "bridge.yaml")
	registration := fmt.Sprintf("id: bridge\nurl: %s\nas_token: as\nhs_token: hs\nsender_localpart: bridgebot\nnamespaces: {users: [{regex: '@%s.*'}]}\n", to.URL, prefix)
	raw, err := os.ReadFile(p.config())
	if err == nil {
		err = errors.Join(os.WriteFile(file, []byte(registration), 0o600), os.WriteFile(p.config(), append(raw, "appservices: ["+file+"]\n"...), 0o600))
	}
	if err == nil {
		_, err = p.serve(0)
	}
	return p, err
}

// appservice measures what an application service adds to the cost of a send, in its rooms and in others, and how fast
// it receives the events of its rooms.
func (b *bench) appservice() error {
	to := newBridge()
	defer to.Close()
	var houses [3]*house
	for i, name := range [3]string{"bridge-none", "bridge-elsewhere", "bridge-here"} {
		var p *process
		var err error
		if i == 0 {
			p, err = b.startEbb(name, 0)
		} else {
			p, err = b.startBridged(name, [3]string{"", "nobody", "s"}[i], to)
		}
		if err != nil {
			return err
		}
		defer func() { p.stop() }()
		if houses[i], err = newHouse(p, 16, 1); err != nil {
			return err
		}
	}
	var taken [3]samples
	var delivered, drained samples
	for round := range b.rounds {
		for i, h := range houses[:2] {
			if err := taken[i].add(h.measure(func() (int, error) { return h.talk(b.duration) })); err != nil {
				return err
			}
		}
		if err := b.profiled(houses[2].process, fmt.Sprint("appservice-", round), func() error { return taken[2].add(b.deliver(houses[2], to)) }); err != nil {
			return err
		}
		delivered = append(delivered, taken[2][round])
		if err := drained.add(b.drain(houses[2], to)); err != nil {
			return err
		}
	}
	none := taken[0].of(spent.per1000)
	b.print(
		figure{"sends, a bridge elsewhere (limit: no bridge)", "CPU s/1000", taken[1].of(spent.per1000), none, "ratio ≤ 1.05"},
		figure{"sends and their delivery to a bridge (limit: no bridge)", "CPU s/1000", taken[2].of(spent.per1000), none, ""},
		figure{"sends and their delivery to a bridge", "events/s", delivered.of(spent.perSecond), nil, ""},
		figure{"a backlog is delivered to a bridge", "events/s", drained.of(spent.perSecond), nil, "≥ 2000"},
		figure{"a backlog is delivered to a bridge", "CPU s/1000", drained.of(spent.per1000), nil, ""},
	)
	return nil
}

// deliver sends for a while, and waits until the bridge has received everything.
func (b *bench) deliver(h *house, to *bridge) (spent, error) {
	return h.measure(func() (int, error) {
		before := to.events.Load()
		n, err := h.talk(b.duration)
		return n, errors.Join(err, to.await(before+int64(n)))
	})
}

// drain measures the delivery of events that were sent while the bridge did not respond.
func (b *bench) drain(h *house, to *bridge) (spent, error) {
	held := make(chan struct{})
	to.held.Store(&held)
	before := to.events.Load()
	n, err := h.talk(b.duration)
	if err != nil {
		return spent{}, err
	}
	return h.measure(func() (int, error) {
		to.held.Store(nil)
		close(held)
		return n, to.await(before + int64(n))
	})
}
