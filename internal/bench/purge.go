package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"
)

const (
	// purgeRooms is the number of rooms of the database that is purged. Of these, purgeKept have no policy, so that
	// their messages stay. Half of the others are purged while the server is idle, the rest while users send.
	purgeRooms = 40
	purgeKept  = 8
	// purgeSent is the number of messages that users really send to these rooms. The others are copies of them.
	purgeSent = 4000
	// purgeSenders is the number of users who send during a purge.
	purgeSenders = 32
)

// purge measures how fast expired messages and their media are removed, what that costs the users who send meanwhile,
// and what is left of the database.
func (b *bench) purge() error {
	for _, step := range []func() error{b.retentionCost, b.purgeMedia, b.purgeMessages} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// retentionCost compares sends to a room with a policy and to one without, in turn.
func (b *bench) retentionCost() error {
	p, err := b.startEbb("retention", 0)
	if err != nil {
		return err
	}
	defer p.stop()
	var houses [2]*house
	for i := range houses {
		if houses[i], err = newHouse(p, 16-i, 1); err != nil {
			return err
		}
	}
	if err := houses[0].expire("8760h", houses[0].rooms[0]); err != nil {
		return err
	}
	houses[0].senders, houses[0].rooms = houses[0].senders[:len(houses[1].senders)], houses[0].rooms[:len(houses[1].rooms)]
	var taken [2]samples
	for round := range 4 * b.rounds {
		for k := range houses {
			i := (k + round) % 2 // each is as often the first as the second
			if err := taken[i].add(p.measure(func() (int, error) { return houses[i].talk(b.duration / 2) })); err != nil {
				return err
			}
		}
	}
	b.print(figure{"sends with retention (limit: without)", "CPU s/1000", taken[0].pooled().of(spent.per1000), taken[1].pooled().of(spent.per1000), "ratio ≤ 1.03"})
	return nil
}

// expire sets a retention policy for rooms.
func (h *house) expire(lifetime string, rooms []string) error {
	for _, room := range rooms {
		if _, err := h.command("room retention set", "--max", lifetime, room); err != nil {
			return err
		}
	}
	return nil
}

// purgeNow removes everything that has expired, and returns the number of messages.
func (p *process) purgeNow() (int, error) {
	out, err := p.command("purge now", "--all", "--json")
	if err != nil {
		return 0, err
	}
	var report struct {
		Events int `json:"events"`
	}
	err = json.Unmarshal(out, &report)
	return report.Events, err
}

// purgeMessages measures the purge of a large database.
func (b *bench) purgeMessages() error {
	p, err := b.startEbb("purge", 0)
	if err != nil {
		return err
	}
	defer func() { p.stop() }()
	h, err := newHouse(p, 16, purgeRooms)
	if err != nil {
		return err
	}
	load, err := newHouse(p, purgeSenders, 200)
	if err != nil {
		return err
	}
	if err := h.sendProse(purgeSent); err != nil {
		return err
	}
	all := h.allRooms()
	twin, err := b.grow(h, all)
	if err != nil {
		return err
	}
	idle, busy := all[purgeKept:(purgeKept+purgeRooms)/2], all[(purgeKept+purgeRooms)/2:]
	if err := b.purgeIdle(h, idle); err != nil {
		return err
	}
	sent, err := b.purgeBusy(h, load, busy)
	if err != nil {
		return err
	}
	return b.purgedSize(h, load, sent, twin, all[purgeKept:])
}

// allRooms returns the rooms of the house, each once.
func (h *house) allRooms() (all []string) {
	seen := map[string]bool{}
	for _, list := range h.rooms {
		for _, room := range list {
			if !seen[room] {
				seen[room] = true
				all = append(all, room)
			}
		}
	}
	return all
}

// sendProse sends n messages, the same number to each room.
func (h *house) sendProse(n int) error {
	text := newProse(latin)
	return parallel(len(h.senders), len(h.senders), func(i int) error {
		r := rand.New(rand.NewPCG(uint64(i), 5))
		for k := range n / len(h.senders) {
			if _, err := h.senders[i].do("PUT", sendPath(h.rooms[i][k%len(h.rooms[i])]), text.message(r)); err != nil {
				return err
			}
		}
		return nil
	})
}

// grow fills the database with copies of the messages, and starts the server with it. It returns another server whose
// database has got only the copies in rooms that are not purged.
func (b *bench) grow(h *house, rooms []string) (twin *process, err error) {
	h.stop()
	twin = &process{dir: filepath.Join(b.dir, "purge-twin"), binary: b.binary, addr: h.addr}
	if err := copyServer(h.dir, twin.dir); err != nil {
		return nil, err
	}
	passes := max(1, b.messages/purgeSent-1)
	if err := multiply(filepath.Join(twin.dir, "ebb.db"), rooms[:purgeKept], passes); err != nil {
		return nil, err
	}
	if err := multiply(filepath.Join(h.dir, "ebb.db"), rooms, passes); err != nil {
		return nil, err
	}
	if _, err := h.serve(0); err != nil {
		return nil, err
	}
	return twin, h.indexed()
}

// purgeIdle measures a purge while nothing else happens.
func (b *bench) purgeIdle(h *house, rooms []string) error {
	if err := h.expire("1s", rooms); err != nil {
		return err
	}
	var s spent
	err := b.profiled(h.process, "purge", func() (err error) {
		s, err = h.measure(h.purgeNow)
		return err
	})
	if err != nil {
		return err
	}
	what := fmt.Sprintf("purge of %d of %d messages", s.ops, b.messages)
	b.print(
		figure{what, "events/s", []float64{s.perSecond()}, nil, "≥ 25000"},
		figure{what, "CPU s/1000", []float64{s.per1000()}, nil, ""},
	)
	s, err = h.measure(func() (int, error) { return 1, h.compacted() })
	if err != nil {
		return err
	}
	b.print(figure{"until the database is smaller then", "s", []float64{s.wall.Seconds()}, nil, ""})
	return nil
}

// compacted waits until the database is as small as it becomes after a purge.
func (p *process) compacted() error {
	for end := time.Now().Add(20 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		out, err := p.command("purge status", "--json")
		if err != nil {
			return err
		}
		var status struct {
			Compacting bool `json:"compacting"`
		}
		if err := json.Unmarshal(out, &status); err != nil || !status.Compacting {
			return err
		}
	}
	return errors.New("the database still becomes smaller after 20 minutes")
}

// purgeBusy measures a purge while users send a quarter of what they can. It returns the number of messages sent.
func (b *bench) purgeBusy(h, load *house, rooms []string) (sent int, err error) {
	most, err := h.measure(func() (int, error) { return load.talk(b.duration) })
	if err != nil {
		return 0, err
	}
	perSecond := most.perSecond() / 4
	before, err := load.paced(perSecond, time.After(2*b.duration))
	if err != nil {
		return 0, err
	}
	if err := h.expire("1s", rooms); err != nil {
		return 0, err
	}
	ended := make(chan time.Time)
	var s spent
	var purgeErr error
	go func() {
		defer close(ended)
		purgeErr = b.profiled(h.process, "purge-busy", func() (err error) {
			s, err = h.measure(h.purgeNow)
			return err
		})
	}()
	during, err := load.paced(perSecond, ended)
	<-ended
	if err := errors.Join(err, purgeErr); err != nil {
		return 0, err
	}
	smaller := make(chan time.Time)
	var smallerErr error
	start := time.Now()
	go func() {
		defer close(smaller)
		smallerErr = h.compacted()
	}()
	after, err := load.paced(perSecond, smaller)
	<-smaller
	if err := errors.Join(err, smallerErr); err != nil {
		return 0, err
	}
	b.print(
		figure{fmt.Sprintf("purge of %d messages, with %.0f sends/s", s.ops, perSecond), "events/s", []float64{s.perSecond()}, nil, "≥ 5000"},
		figure{"sends then (limit: without a purge), p50", "ms", []float64{percentile(during, 0.5)}, []float64{percentile(before, 0.5)}, ""},
		figure{"sends then (limit: without a purge), p99", "ms", []float64{percentile(during, 0.99)}, []float64{percentile(before, 0.99)}, "ratio ≤ 2"},
		figure{"until the database is smaller then", "s", []float64{time.Since(start).Seconds()}, nil, ""},
		figure{"sends meanwhile (limit: without a purge), p99", "ms", []float64{percentile(after, 0.99)}, []float64{percentile(before, 0.99)}, "ratio ≤ 2"},
	)
	return most.ops + len(before) + len(during) + len(after), nil
}

// paced sends messages at a fixed rate until end receives something or is closed. It returns how long each took, in ms,
// from when it was due.
func (h *house) paced(perSecond float64, end <-chan time.Time) ([]float64, error) {
	stop := make(chan struct{})
	go func() {
		<-end
		close(stop)
	}()
	took, errs := make([][]float64, len(h.senders)), make([]error, len(h.senders))
	between := time.Duration(float64(len(h.senders)) / perSecond * float64(time.Second))
	start := time.Now()
	var wg sync.WaitGroup
	for i, s := range h.senders {
		wg.Go(func() {
			first := start.Add(between * time.Duration(i) / time.Duration(len(h.senders)))
			for n := 0; errs[i] == nil; n++ {
				due := first.Add(time.Duration(n) * between)
				select {
				case <-stop:
					return
				case <-time.After(time.Until(due)):
				}
				errs[i] = s.send(h.rooms[i][n%len(h.rooms[i])])
				took[i] = append(took[i], float64(time.Since(due).Microseconds())/1000)
			}
		})
	}
	wg.Wait()
	var all []float64
	for _, t := range took {
		all = append(all, t...)
	}
	return all, errors.Join(errs...)
}

// purgedSize compares the size of the database with that of one that never had the messages. Both have had those that
// load sent, whose transaction IDs stay for two days.
func (b *bench) purgedSize(h, load *house, sent int, twin *process, rooms []string) error {
	if err := h.expire("1s", load.allRooms()); err != nil {
		return err
	}
	time.Sleep(1500 * time.Millisecond) // until the last messages have expired, too
	if _, err := h.purgeNow(); err != nil {
		return err
	}
	if err := h.compacted(); err != nil {
		return err
	}
	h.stop()
	if _, err := twin.serve(0); err != nil {
		return err
	}
	defer twin.stop()
	// The senders now send to the twin, which has the address and the accounts of the other.
	err := parallel(len(load.senders), sent, func(i int) error {
		sender := i % len(load.senders)
		c := newConn(twin.addr, load.senders[sender].token)
		defer c.close()
		_, err := c.do("PUT", sendPath(load.rooms[sender][i/len(load.senders)%len(load.rooms[sender])]), message)
		return err
	})
	other := &house{process: twin}
	if err := errors.Join(err, twin.indexed(), other.expire("1s", append(rooms, load.allRooms()...))); err != nil {
		return err
	}
	time.Sleep(1500 * time.Millisecond)
	if _, err := twin.purgeNow(); err != nil {
		return err
	}
	if err := twin.compacted(); err != nil {
		return err
	}
	twin.stop()
	defer func() { _, _ = twin.serve(0); _, _ = h.serve(0) }() // what is stopped later must run
	var sizes [2]float64
	for i, dir := range []string{h.dir, twin.dir} {
		size, err := sizeOf(filepath.Join(dir, "ebb.db"))
		if err != nil {
			return err
		}
		sizes[i] = float64(size) / 1e6
	}
	b.print(figure{"database after a purge (limit: never had the messages)", "MB", sizes[:1], sizes[1:], "ratio ≤ 1.10"})
	return nil
}
