package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// pushed is the number of users in the room who have a pusher, and pushRate the number of messages per second. Together
// they make 1,000 notifications per second.
const (
	pushed   = 200
	pushRate = 5
)

// fastGateway is a push gateway that accepts everything at once.
type fastGateway struct {
	url      string
	received atomic.Int64
	server   *http.Server
}

func startGateway() (*fastGateway, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	g := &fastGateway{url: "http://" + l.Addr().String() + "/_matrix/push/v1/notify"}
	g.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the content does not matter
		g.received.Add(1)
		answer(w, []byte(`{"rejected":[]}`))
	})}
	go func() { _ = g.server.Serve(l) }() // ends with an error when the server is closed
	return g, nil
}

// await waits until the gateway has received n notifications.
func (g *fastGateway) await(n int64) error {
	for deadline := time.Now().Add(time.Minute); g.received.Load() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("the gateway received %d of %d notifications", g.received.Load(), n)
		}
	}
	return nil
}

// push measures notifications to a fast push gateway.
func (b *bench) push() (err error) {
	g, err := startGateway()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.server.Close()) }()
	p, err := b.startEbb("push", 0)
	if err != nil {
		return err
	}
	defer p.stop()
	sender, room, err := p.pushedRoom(g)
	if err != nil {
		return err
	}
	if _, err := g.notify(sender, room, 5, time.Second/pushRate); err != nil { // the server sends more at a time once the gateway has proved to be fast
		return err
	}
	var paced, flat samples
	for round := range b.rounds {
		err := b.profiled(p, fmt.Sprintf("push-%d", round), func() error {
			return paced.add(p.measure(func() (int, error) {
				return g.notify(sender, room, int(b.duration.Seconds()*pushRate), time.Second/pushRate)
			}))
		})
		if err != nil {
			return err
		}
		if err := flat.add(p.measure(func() (int, error) { return g.notify(sender, room, 50, 0) })); err != nil {
			return err
		}
	}
	b.print(
		figure{name: "notify a push gateway, 1,000 per second", unit: "CPU s per 1,000", values: paced.of(spent.per1000), aim: "0.15"},
		figure{name: "notify a push gateway, as many as possible", unit: "per second", values: flat.of(spent.perSecond)},
	)
	return nil
}

// pushedRoom creates a room whose members have pushers, and a sender in it.
func (p *process) pushedRoom(g *fastGateway) (*account, string, error) {
	senders, err := p.register("push-sender", 1)
	if err != nil {
		return nil, "", err
	}
	room, err := senders[0].createRoom()
	if err != nil {
		return nil, "", err
	}
	members, err := p.register("pushed", pushed)
	if err != nil {
		return nil, "", err
	}
	return senders[0], room, parallel(8, pushed, func(i int) error {
		if err := members[i].join(room); err != nil {
			return err
		}
		return members[i].post("/_matrix/client/v3/pushers/set", map[string]any{
			"kind": "http", "app_id": "org.example.app", "pushkey": members[i].user, "app_display_name": "App", "device_display_name": "Phone", "lang": "en",
			"data": map[string]any{"url": g.url},
		}, nil)
	})
}

// notify sends messages at a pace and waits until all members have been notified of all of them.
func (g *fastGateway) notify(sender *account, room string, messages int, pace time.Duration) (int, error) {
	before := g.received.Load()
	for range messages {
		next := time.Now().Add(pace)
		if err := sender.send(room); err != nil {
			return 0, err
		}
		time.Sleep(time.Until(next))
	}
	return messages * pushed, g.await(before + int64(messages*pushed))
}
