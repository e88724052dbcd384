package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// slidingRooms is the number of rooms of the measured user.
	slidingRooms = 1000
	// slidingClients is the number of the user's devices that wait for events while memory is measured. Each has
	// received all rooms.
	slidingClients = 200
)

// slidingState is the required_state that Element X requests.
const slidingState = `[["m.room.name",""],["m.room.encryption",""],["m.room.member","$LAZY"],["m.room.member","$ME"],["m.room.topic",""],["m.room.avatar",""],` +
	`["m.room.canonical_alias",""],["m.room.power_levels",""],["m.room.create",""],["m.room.join_rules",""],["m.room.tombstone",""],["m.room.history_visibility",""]]`

// slidingBody returns the body of a request for the rooms from 0 to the given index.
func slidingBody(to, limit int) []byte {
	return fmt.Appendf(nil, `{"conn_id":"room-list","lists":{"all_rooms":{"ranges":[[0,%d]],"timeline_limit":%d,"required_state":%s,"filters":{"not_room_types":["m.space"]}}},`+
		`"extensions":{"account_data":{"enabled":true},"receipts":{"enabled":true,"rooms":["*"]},"typing":{"enabled":true}}}`, to, limit, slidingState)
}

// slide sends a sliding sync request, and returns the next pos and the response. timeout is in ms.
func (a *account) slide(pos string, timeout int, body []byte) (next string, answer []byte, err error) {
	path := fmt.Sprintf("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=%d", timeout)
	if pos != "" {
		path += "&pos=" + url.QueryEscape(pos)
	}
	if answer, err = a.do("POST", path, body); err != nil {
		return "", nil, err
	}
	_, rest, found := bytes.Cut(answer, []byte(`"pos":"`))
	value, _, ends := bytes.Cut(rest, []byte{'"'})
	if !found || !ends {
		return "", nil, fmt.Errorf("no pos in %.200s", answer)
	}
	return string(value), answer, nil
}

// sliding measures sliding sync: first responses, responses without changes, messages to waiting clients, and the
// memory that waiting clients use.
func (b *bench) sliding() error {
	p, err := b.startEbb("sliding", 0)
	if err != nil {
		return err
	}
	defer func() { p.stop() }()
	people, err := p.register("p", 2)
	if err != nil {
		return err
	}
	alice, bob := people[0], people[1]
	for range slidingRooms {
		if _, err := fillRoom(bob, alice); err != nil {
			return err
		}
	}
	var first, wall []float64
	var nothing samples
	for round := range b.rounds {
		err := b.profiled(p, fmt.Sprint("sliding-first-", round), func() error {
			s, err := slidingFirst(p, alice, b.duration)
			first, wall = append(first, s.millis()), append(wall, 1000*s.wall.Seconds()/float64(s.ops))
			return err
		})
		if err != nil {
			return err
		}
		err = b.profiled(p, fmt.Sprint("sliding-nothing-", round), func() error { return nothing.add(slidingNothing(p, alice, b.duration)) })
		if err != nil {
			return err
		}
	}
	if err := b.slidingFanOut(p); err != nil {
		return err
	}
	memory, err := b.slidingWaiting(p, alice)
	if err != nil {
		return err
	}
	bare, err := b.bareWaiting()
	if err != nil {
		return err
	}
	b.print(
		figure{"first sliding answer, 20 of 1,000 rooms, warm", "ms", wall, nil, "< 15"},
		figure{"first sliding answer, 20 of 1,000 rooms, warm", "CPU ms", first, nil, ""},
		figure{"sliding sync with nothing new, in 1,000 rooms", "CPU ms", nothing.of(spent.millis), nil, "< 0.15"},
		figure{"memory of a waiting client with 1,000 rooms", "KB", []float64{memory}, []float64{bare}, "≤ 24"},
	)
	return nil
}

// slidingFirst measures first responses. It does not measure the very first one, which fills the caches.
func slidingFirst(p *process, a *account, d time.Duration) (spent, error) {
	body := slidingBody(19, 1)
	if _, _, err := a.slide("", 0, body); err != nil {
		return spent{}, err
	}
	return p.measure(func() (int, error) {
		return concurrently(1, d, func(int, int) error {
			_, _, err := a.slide("", 0, body)
			return err
		})
	})
}

// slidingNothing measures responses without changes, to a client that has received all rooms.
func slidingNothing(p *process, a *account, d time.Duration) (spent, error) {
	body := slidingBody(slidingRooms-1, 1)
	pos, _, err := a.slide("", 0, body)
	if err != nil {
		return spent{}, err
	}
	return p.measure(func() (int, error) {
		return concurrently(1, d, func(int, int) (err error) {
			var answer []byte
			if pos, answer, err = a.slide(pos, 0, body); err == nil && !bytes.Contains(answer, []byte(`"rooms":{}`)) {
				err = fmt.Errorf("there was something new: %.300s", answer)
			}
			return err
		})
	})
}

// slidingFanOut compares the cost of a message for each waiting client of sliding sync and of /sync.
func (b *bench) slidingFanOut(p *process) error {
	host, guests, room, err := p.registerListeners()
	if err != nil {
		return err
	}
	n := max(1, int(b.duration.Seconds()*rate))
	var classic, sliding samples
	var p50 []float64
	since, body := make([]string, len(guests)), slidingBody(19, 20)
	for round := range b.rounds {
		err := parallel(4, len(guests), func(i int) (err error) {
			since[i], err = guests[i].settled("")
			return err
		})
		if err != nil {
			return err
		}
		r, err := ebbFanOut(p, host, guests, since, room, n)
		if err != nil {
			return err
		}
		classic = append(classic, r.spent)
		err = parallel(4, len(guests), func(i int) (err error) {
			since[i], _, err = guests[i].slide("", 0, body)
			return err
		})
		if err != nil {
			return err
		}
		err = b.profiled(p, fmt.Sprint("sliding-fanout-", round), func() error {
			r, err = slidingFanOutOf(p, host, guests, since, room, n)
			return err
		})
		if err != nil {
			return err
		}
		sliding, p50 = append(sliding, r.spent), append(p50, percentile(r.latencies, 0.5))
	}
	b.print(
		figure{"message to 200 waiting sliding clients, a client; limit: /sync", "CPU µs", sliding.of(spent.micros), classic.of(spent.micros), "ratio ≤ 1.3"},
		figure{"message to 200 waiting sliding clients, 20/s, p50", "ms", p50, nil, ""},
	)
	return nil
}

// slidingFanOutOf calls fanOutToGuests for guests that wait in sliding sync requests.
func slidingFanOutOf(p *process, host *account, guests []*account, pos []string, room string, n int) (fanOutResult, error) {
	body := slidingBody(19, 20)
	waiters := make([]*waiter, len(guests))
	for i, g := range guests {
		waiters[i] = &waiter{end: g.interrupt, ask: func() ([]int, error) {
			next, answer, err := g.slide(pos[i], 60_000, body)
			if err != nil {
				return nil, err
			}
			pos[i] = next
			return numbersIn(answer), nil
		}}
	}
	return fanOutToGuests(p, host, guests, waiters, room, n)
}

// slidingWaiting returns how much memory, in KB, the server uses for each waiting device that has received all rooms of
// a user. Garbage does not count, because the responses that brought the devices up to date leave more garbage than 200
// clients use.
func (b *bench) slidingWaiting(p *process, a *account) (float64, error) {
	body := slidingBody(slidingRooms-1, 1)
	devices, pos := make([]*account, slidingClients), make([]string, slidingClients)
	err := parallel(4, len(devices), func(i int) (err error) {
		var in struct {
			AccessToken string `json:"access_token"`
		}
		login := map[string]any{"type": "m.login.password", "identifier": map[string]string{"type": "m.id.user", "user": a.user}, "password": "correct horse p"}
		d := &account{conn: newConn(p.addr, "")}
		if err := d.post("/_matrix/client/v3/login", login, &in); err != nil {
			return err
		}
		d.token, devices[i] = in.AccessToken, d
		defer d.close()
		pos[i], _, err = d.slide("", 0, body)
		return err
	})
	if err != nil {
		return 0, err
	}
	p.stop()
	if _, err := p.serve(0); err != nil {
		return 0, err
	}
	if _, _, err := a.slide("", 0, body); err != nil { // loads the rooms
		return 0, err
	}
	before, err := p.inUse()
	if err != nil {
		return 0, err
	}
	var after int64
	_, err = b.waitingUntil(p, len(devices), func(i int) (*conn, func() error) {
		return devices[i].conn, func() (err error) {
			pos[i], _, err = devices[i].slide(pos[i], 100_000, body)
			return err
		}
	}, func() (err error) {
		after, err = p.inUse()
		return err
	})
	return float64(after-before) / 1000 / float64(len(devices)), err
}

// bareWaiting is like slidingWaiting, for the limit, whose clients have received nothing.
func (b *bench) bareWaiting() (float64, error) {
	limit, err := b.startLimit(0)
	if err != nil {
		return 0, err
	}
	defer limit.kill()
	before, err := limit.inUse()
	if err != nil {
		return 0, err
	}
	var after int64
	_, err = b.waitingUntil(limit, slidingClients, func(int) (*conn, func() error) {
		c := newConn(limit.addr, "a token as long as those of the server are")
		return c, func() error {
			_, err := c.do("GET", "/poll?since=0", nil)
			return err
		}
	}, func() (err error) {
		after, err = limit.inUse()
		return err
	})
	return float64(after-before) / 1000 / slidingClients, err
}

// inUse returns the size in bytes of the heap and the stacks that the server uses after a garbage collection.
func (p *process) inUse() (total int64, err error) {
	if p.binary == "" { // the limit
		c := newConn(p.addr, "")
		defer c.close()
		answer, err := c.do("GET", "/inuse", nil)
		if err != nil {
			return 0, err
		}
		return strconv.ParseInt(string(answer), 10, 64)
	}
	file := filepath.Join(p.dir, "heap.txt")
	if err := errors.Join(p.fetch("heap?gc=1&debug=1", file), p.fetch("heap?gc=1&debug=1", file)); err != nil { // twice, because pools release their memory only at the second collection
		return 0, err
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for _, name := range []string{"# HeapAlloc = ", "# Stack = "} {
		_, rest, found := bytes.Cut(raw, []byte(name))
		var n int64
		if _, err := fmt.Sscan(string(rest[:min(len(rest), 20)]), &n); err != nil || !found {
			return 0, fmt.Errorf("no %q in the profile", name)
		}
		total += n
	}
	return total, nil
}
