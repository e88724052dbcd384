package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// manyRooms is the number of rooms of the user whose first sync is measured. Each has perRoom messages.
const (
	manyRooms = 500
	perRoom   = 20
)

// syncs measures first syncs and syncs that find nothing new.
func (b *bench) syncs() error {
	p, err := b.startEbb("sync", 0)
	if err != nil {
		return err
	}
	defer p.stop()
	people, err := p.register("p", 2)
	if err != nil {
		return err
	}
	alice, bob := people[0], people[1]
	for range manyRooms {
		if _, err := fillRoom(bob, alice); err != nil {
			return err
		}
	}
	limit, err := b.startLimit(0)
	if err != nil {
		return err
	}
	defer limit.kill()
	var nothing, elsewhere, bare samples
	var first, wall []float64
	for round := range b.rounds {
		if err := bare.add(measureLimit(limit, "/bare/", 4, b.duration/2)); err != nil {
			return err
		}
		err := b.profiled(p, fmt.Sprint("sync-nothing-", round), func() error { return nothing.add(nothingNew(p, alice, b.duration)) })
		if err != nil {
			return err
		}
		if err := elsewhere.add(newsElsewhere(p, alice, bob, b.duration/2)); err != nil {
			return err
		}
		err = b.profiled(p, fmt.Sprint("sync-first-", round), func() error {
			s, err := firstSyncs(p, alice, b.duration)
			first, wall = append(first, s.cpu.Seconds()/float64(s.ops)), append(wall, s.wall.Seconds()/float64(s.ops))
			return err
		})
		if err != nil {
			return err
		}
	}
	b.print(
		figure{"/sync with nothing new, in 500 rooms", "CPU ms", nothing.of(spent.millis), bare.of(spent.millis), "< 0.15"},
		figure{"/sync with news only in rooms of others", "CPU ms", elsewhere.of(spent.millis), bare.of(spent.millis), ""},
		figure{"first /sync of 500 rooms of 20 messages, warm", "s", wall, nil, "< 0.2"},
		figure{"first /sync of 500 rooms of 20 messages, warm", "CPU s", first, nil, ""},
	)
	return nil
}

// fillRoom creates a room whose members all send messages.
func fillRoom(people ...*account) (string, error) {
	room, err := people[0].createRoom()
	if err != nil {
		return "", err
	}
	for _, guest := range people[1:] {
		if err := guest.join(room); err != nil {
			return "", err
		}
	}
	for i := range perRoom {
		if err := people[i%len(people)].send(room); err != nil {
			return "", err
		}
	}
	return room, nil
}

// nothingNew measures syncs that find nothing new, four at a time.
func nothingNew(p *process, a *account, d time.Duration) (spent, error) {
	since, err := a.settled("")
	if err != nil {
		return spent{}, err
	}
	clients := make([]*account, 4)
	for i := range clients {
		clients[i] = &account{conn: newConn(a.addr, a.token)}
		defer clients[i].close()
	}
	return p.measure(func() (int, error) {
		return concurrently(len(clients), d, func(i, _ int) error {
			next, answer, err := clients[i].sync(since, 0)
			if err == nil && next != since {
				err = fmt.Errorf("there was something new: %.300s", answer)
			}
			return err
		})
	})
}

// newsElsewhere is like nothingNew, with a token that is older than some events in rooms of other users.
func newsElsewhere(p *process, a, other *account, d time.Duration) (spent, error) {
	since, err := a.settled("")
	if err != nil {
		return spent{}, err
	}
	room, err := other.createRoom()
	if err != nil {
		return spent{}, err
	}
	if err := other.send(room); err != nil {
		return spent{}, err
	}
	return p.measure(func() (int, error) {
		return concurrently(1, d, func(int, int) error {
			_, _, err := a.sync(since, 0)
			return err
		})
	})
}

// firstSyncs measures the first sync of a new device. It does not measure the very first one, which fills the caches.
func firstSyncs(p *process, a *account, d time.Duration) (spent, error) {
	if _, _, err := a.sync("", 0); err != nil {
		return spent{}, err
	}
	return p.measure(func() (int, error) {
		return concurrently(1, d, func(int, int) error {
			_, answer, err := a.sync("", 0)
			if err == nil && len(answer) < manyRooms*1000 {
				err = fmt.Errorf("the first sync has %d bytes only", len(answer))
			}
			return err
		})
	})
}

// idle measures the memory of an idle server, and how much each waiting client adds.
func (b *bench) idle() error {
	p, err := b.startEbb("idle", 0)
	if err != nil {
		return err
	}
	defer func() { p.stop() }()
	time.Sleep(2 * time.Second) // until the memory used at startup has been released
	empty, err := p.used()
	if err != nil {
		return err
	}
	members, err := p.register("m", b.clients)
	if err != nil {
		return err
	}
	if err := gather(members); err != nil {
		return err
	}
	limit, err := b.startLimit(0)
	if err != nil {
		return err
	}
	defer limit.kill()
	since := make([]string, len(members))
	bare, err := b.waiting(limit, b.clients, func(int) (*conn, func() error) {
		c := newConn(limit.addr, "")
		return c, func() error {
			_, err := c.do("GET", "/poll?since=1", nil)
			return err
		}
	})
	if err != nil {
		return err
	}
	// This needs a new process, because the old one would reuse the memory from creating the accounts. A new process
	// has no user in its caches.
	wait := func(suffix string) (float64, error) {
		p.stop()
		if _, err := p.serve(0); err != nil {
			return 0, err
		}
		if err := settleAll(members, since); err != nil {
			return 0, err
		}
		return b.waiting(p, b.clients, func(i int) (*conn, func() error) {
			return members[i].conn, func() error {
				answer, err := members[i].do("GET", syncPath(since[i], 100_000)+suffix, nil)
				if err == nil {
					since[i], _ = nextBatch(answer)
				}
				return err
			}
		})
	}
	quiet, err := wait("&set_presence=offline")
	if err != nil {
		return err
	}
	seen, err := wait("")
	if err != nil {
		return err
	}
	b.print(
		figure{"memory of a server that was just started", "MB", []float64{float64(empty.rss) / 1e6}, nil, "< 40"},
		figure{fmt.Sprintf("memory of a waiting client, come online among %d", b.clients), "KB", []float64{seen}, []float64{bare}, "≤ 20"},
		figure{"the same, without presence", "KB", []float64{quiet}, []float64{bare}, "≤ 20"},
	)
	return nil
}

// settleAll brings all clients up to date without changing their presence, which would wake the others.
func settleAll(members []*account, since []string) error {
	return parallel(4, len(members), func(i int) error {
		defer members[i].close()
		answer, err := members[i].do("GET", syncPath(since[i], 0)+"&set_presence=offline", nil)
		if err == nil {
			since[i], _ = nextBatch(answer)
		}
		return err
	})
}

// gather joins all users to rooms with 200 members each.
func gather(members []*account) error {
	var rooms []string
	for i := 0; i < len(members); i += 200 {
		room, err := members[i].createRoom()
		if err != nil {
			return err
		}
		rooms = append(rooms, room)
	}
	return parallel(4, len(members), func(i int) error {
		if i%200 == 0 {
			return nil
		}
		return members[i].join(rooms[i/200])
	})
}

// waiting makes n clients wait for events, and sync again after each response. It returns by how many KB per client the
// memory of the server has grown.
func (b *bench) waiting(p *process, n int, client func(i int) (c *conn, ask func() error)) (float64, error) {
	return b.waitingUntil(p, n, client, func() error { return nil })
}

// calm is how long memory is left to settle before it is measured: the server returns what a burst has left behind when
// it is quiet, but rests after each time (package trim).
const calm = 40 * time.Second

// waitingUntil is like waiting, and calls look while the clients are waiting.
func (b *bench) waitingUntil(p *process, n int, client func(i int) (c *conn, ask func() error), look func() error) (float64, error) {
	time.Sleep(3 * time.Second)
	before, err := p.used()
	if err != nil {
		return 0, err
	}
	conns := make([]*conn, n)
	var wg sync.WaitGroup
	for i := range n {
		c, ask := client(i)
		conns[i] = c
		if err := c.dial(); err != nil {
			return 0, err
		}
		wg.Go(func() {
			for ask() == nil { // returns an error when the connection is closed
			}
		})
		if i%100 == 99 {
			time.Sleep(20 * time.Millisecond) // keeps the server's backlog of connections from overflowing
		}
	}
	time.Sleep(calm)
	after, err := p.used()
	err = errors.Join(err, look())
	if b.profile != "" && p.binary != "" {
		err = errors.Join(err, os.MkdirAll(b.profile, 0o750),
			p.fetch("heap", filepath.Join(b.profile, "waiting.pprof")),
			p.fetch("heap?debug=1", filepath.Join(b.profile, "waiting.txt")))
	}
	for _, c := range conns {
		c.interrupt()
	}
	wg.Wait()
	for _, c := range conns {
		c.close()
	}
	return float64(after.rss-before.rss) / 1000 / float64(n), err
}

// sizeOf returns the size of a file, or 0 if it does not exist.
func sizeOf(path string) (int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}
