package main

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// message is a message of typical length with a formatted body, as clients send it.
var message = []byte(`{"msgtype":"m.text","body":"` + text + ` ` + text + ` ` + text + `","format":"org.matrix.custom.html","formatted_body":"<p>` + text + `</p><p>` + text + `</p>"}`)

const text = "We could meet at the station at nine and walk from there, if the rain stops."

// txns generates unique transaction IDs.
var txns atomic.Int64

// account is a logged-in user.
type account struct {
	*conn
	user   string
	device string
}

// register creates n accounts. It does so in parallel, because hashing passwords takes long.
func (p *process) register(prefix string, n int) ([]*account, error) {
	accounts := make([]*account, n)
	err := parallel(8, n, func(i int) error {
		a := &account{conn: newConn(p.addr, "")}
		body := map[string]any{"username": prefix + strconv.Itoa(i), "password": "correct horse " + prefix, "auth": map[string]string{"type": "m.login.dummy"}}
		var in struct {
			UserID      string `json:"user_id"`
			AccessToken string `json:"access_token"`
			DeviceID    string `json:"device_id"`
		}
		if err := a.post("/_matrix/client/v3/register", body, &in); err != nil {
			return err
		}
		a.user, a.token, a.device = in.UserID, in.AccessToken, in.DeviceID
		accounts[i] = a
		return nil
	})
	return accounts, err
}

// parallel calls f for 0 to n-1, from width goroutines.
func parallel(width, n int, f func(i int) error) error {
	var next atomic.Int64
	errs := make([]error, width)
	var wg sync.WaitGroup
	for w := range width {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n) && errs[w] == nil; i = next.Add(1) - 1 {
				errs[w] = f(int(i))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// createRoom creates a public room.
func (a *account) createRoom() (string, error) {
	var made struct {
		RoomID string `json:"room_id"`
	}
	err := a.post("/_matrix/client/v3/createRoom", map[string]any{"preset": "public_chat"}, &made)
	return made.RoomID, err
}

func (a *account) join(room string) error {
	return a.post("/_matrix/client/v3/join/"+url.PathEscape(room), nil, nil)
}

func (a *account) send(room string) error {
	_, err := a.do("PUT", sendPath(room), message)
	return err
}

func sendPath(room string) string {
	return "/_matrix/client/v3/rooms/" + url.PathEscape(room) + "/send/m.room.message/" + strconv.FormatInt(txns.Add(1), 10)
}

// house is a server with rooms; senders[i] sends to the rooms in rooms[i].
type house struct {
	*process
	senders []*account
	rooms   [][]string
}

// newHouse creates the rooms and senders of a measurement, with four senders in each room, or with all senders in one
// room.
func newHouse(p *process, senders, rooms int) (*house, error) {
	h := &house{process: p, rooms: make([][]string, senders)}
	var err error
	if h.senders, err = p.register(fmt.Sprintf("s%d-%d-", senders, rooms), senders); err != nil {
		return nil, err
	}
	groups := 1
	if rooms > 1 {
		groups = senders / 4
	}
	for r := range rooms {
		var room string
		for i := r % groups; i < senders; i += groups {
			if room == "" {
				room, err = h.senders[i].createRoom()
			} else {
				err = h.senders[i].join(room)
			}
			if err != nil {
				return nil, err
			}
			h.rooms[i] = append(h.rooms[i], room)
		}
	}
	return h, nil
}

// talk makes all senders send messages for a duration, and returns how many they sent.
func (h *house) talk(d time.Duration) (int, error) {
	return concurrently(len(h.senders), d, func(i, n int) error {
		return h.senders[i].send(h.rooms[i][n%len(h.rooms[i])])
	})
}

// concurrently calls f from n goroutines for a duration, and returns the number of calls.
func concurrently(n int, d time.Duration, f func(i, n int) error) (int, error) {
	end := time.Now().Add(d)
	counts, errs := make([]int, n), make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for time.Now().Before(end) && errs[i] == nil {
				errs[i] = f(i, counts[i])
				counts[i]++
			}
		})
	}
	wg.Wait()
	total := 0
	for _, c := range counts {
		total += c
	}
	return total, errors.Join(errs...)
}

// measureLimit sends PUT requests to the reference server as fast as it responds, with one connection for each sender.
func measureLimit(p *process, path string, width int, d time.Duration) (spent, error) {
	conns := make([]*conn, width)
	for i := range conns {
		conns[i] = newConn(p.addr, "a token as long as those of the server are")
		defer conns[i].close()
	}
	return p.measure(func() (int, error) {
		return concurrently(width, d, func(i, n int) error {
			_, err := conns[i].do("PUT", path+strconv.Itoa(n), message)
			return err
		})
	})
}

// sends measures how fast the server accepts messages.
func (b *bench) sends() error { return b.sendFigures(0, "") }

// delayedSends is like sends, with a simulated slow disk.
func (b *bench) delayedSends() error { return b.sendFigures(5*time.Millisecond, ", +5 ms a commit") }

func (b *bench) sendFigures(delay time.Duration, suffix string) error {
	limit, err := b.startLimit(delay)
	if err != nil {
		return err
	}
	defer limit.kill()
	p, err := b.startEbb("sends"+strconv.Itoa(int(delay.Milliseconds())), delay)
	if err != nil {
		return err
	}
	defer p.stop()
	one, err := newHouse(p, 16, 1)
	if err != nil {
		return err
	}
	many, err := newHouse(p, 32, 200)
	if err != nil {
		return err
	}
	var parts [4]samples
	paths := [4]string{"/all/x/", "/bare/x/", "/built/x/", "/stored/x/"}
	var inOne, inMany, wide samples
	for round := range b.rounds {
		for i, path := range paths {
			if delay > 0 && i > 0 {
				continue // the parts are measured separately
			}
			if err := parts[i].add(measureLimit(limit, path, 16, b.duration)); err != nil {
				return err
			}
		}
		if err := wide.add(measureLimit(limit, "/all/x/", 32, b.duration)); err != nil {
			return err
		}
		for _, m := range []struct {
			house *house
			into  *samples
			name  string
		}{{one, &inOne, "one"}, {many, &inMany, "many"}} {
			err := b.profiled(p, fmt.Sprintf("sends-%s-%v-%d", m.name, delay, round), func() error {
				return m.into.add(p.measure(func() (int, error) { return m.house.talk(b.duration) }))
			})
			if err != nil {
				return err
			}
		}
	}
	b.printSends(suffix, inOne, inMany, parts[0], wide)
	if delay > 0 {
		return nil
	}
	b.printParts(parts)
	return b.leftBehind(one)
}

// leftBehind measures how much memory messages occupy for as long as the server runs. The room has had enough messages
// for older ones to leave memory as newer ones are sent.
func (b *bench) leftBehind(one *house) error {
	before, err := one.inUse()
	if err != nil {
		return err
	}
	n, err := one.talk(b.duration)
	if err != nil {
		return err
	}
	after, err := one.inUse()
	b.print(figure{"memory that a message leaves behind", "bytes", []float64{float64(after-before) / float64(n)}, nil, "< 500"})
	return err
}

// samples holds the measurements of one figure.
type samples []spent

func (s *samples) add(one spent, err error) error {
	*s = append(*s, one)
	return err
}

func (s samples) of(value func(spent) float64) []float64 {
	out := make([]float64, len(s))
	for i, one := range s {
		out[i] = value(one)
	}
	return out
}

// pooled combines all measurements into one. It is used if some costs occur less than once in a measurement, such as
// garbage collections of a large heap; a median would include them completely or not at all.
func (s samples) pooled() samples {
	var all spent
	for _, one := range s {
		all = spent{all.ops + one.ops, all.wall + one.wall, all.cpu + one.cpu}
	}
	return samples{all}
}

func (b *bench) printSends(suffix string, one, many, limit, wide samples) {
	speedAim, cpuAim := "ratio ≥ 0.40", "≤ 0.33"
	if suffix != "" {
		speedAim, cpuAim = "≥ 2000", ""
	}
	b.print(
		figure{"sends, one room, 16 senders" + suffix, "sends/s", one.of(spent.perSecond), limit.of(spent.perSecond), speedAim},
		figure{"sends, one room, 16 senders" + suffix, "CPU s/1000", one.of(spent.per1000), limit.of(spent.per1000), cpuAim},
		figure{"sends, 200 rooms, 32 senders" + suffix, "sends/s", many.of(spent.perSecond), wide.of(spent.perSecond), speedAim},
		figure{"sends, 200 rooms, 32 senders" + suffix, "CPU s/1000", many.of(spent.per1000), wide.of(spent.per1000), cpuAim},
	)
}

// printParts prints the parts of which the limit consists.
func (b *bench) printParts(parts [4]samples) {
	for i, name := range [4]string{"", "PUT alone", "PUT, build and sign", "PUT, group-committed insert"} {
		if i > 0 {
			fmt.Printf("%-58s %12s %12s\n", "limit: "+name+", CPU s/1000", "", number(median(parts[i].of(spent.per1000))))
		}
	}
}
