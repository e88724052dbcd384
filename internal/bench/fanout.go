package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// listeners is the number of clients that wait for each message, and rate the number of messages per second.
const (
	listeners = 200
	rate      = 20
)

// lazyFilter is the filter that most clients use.
const lazyFilter = `{"room":{"timeline":{"limit":20},"state":{"lazy_load_members":true}}}`

// syncPath returns the path of an incremental sync; timeout is in ms.
func syncPath(since string, timeout int) string {
	path := "/_matrix/client/v3/sync?filter=" + url.QueryEscape(lazyFilter) + "&timeout=" + strconv.Itoa(timeout)
	if since != "" {
		path += "&since=" + url.QueryEscape(since)
	}
	return path
}

// sync sends a /sync request, and returns the next token and the response.
func (a *account) sync(since string, timeout int) (next string, answer []byte, err error) {
	answer, err = a.do("GET", syncPath(since, timeout), nil)
	if err != nil {
		return "", nil, err
	}
	next, found := nextBatch(answer)
	if !found {
		return "", nil, fmt.Errorf("no next_batch in %.200s", answer)
	}
	return next, answer, nil
}

// nextBatch returns the token in a response.
func nextBatch(json []byte) (string, bool) {
	_, rest, found := bytes.Cut(json, []byte(`"next_batch":"`))
	if !found {
		return "", false
	}
	value, _, found := bytes.Cut(rest, []byte{'"'})
	return string(value), found
}

// settled syncs until there is nothing new, and returns the token.
func (a *account) settled(since string) (string, error) {
	for range 20 {
		next, _, err := a.sync(since, 0)
		if err != nil {
			return "", err
		}
		if next == since {
			return since, nil
		}
		since = next
	}
	return since, nil // other goroutines are still sending events
}

// fanOutResult is the result of one measurement.
type fanOutResult struct {
	spent
	latencies []float64 // in ms
}

// waiter syncs in a loop and reports each response.
type waiter struct {
	ask func() (numbers []int, err error)
	end func()
}

// fanOutOf calls send for the messages 0 to n-1, at a fixed rate. Each message wakes all waiters. It returns the
// latencies and the cost.
func fanOutOf(p *process, waiters []*waiter, n int, send func(i int) error) (fanOutResult, error) {
	sent := make([]time.Time, n)
	latencies := make([][]float64, len(waiters))
	var seen atomic.Int64
	var ending atomic.Bool
	var wg sync.WaitGroup
	errs := make([]error, len(waiters))
	var mu sync.RWMutex // guards sent
	for i, w := range waiters {
		wg.Go(func() {
			for {
				numbers, err := w.ask()
				if err != nil {
					if !ending.Load() {
						errs[i] = err
					}
					return
				}
				now := time.Now()
				mu.RLock()
				for _, number := range numbers {
					latencies[i] = append(latencies[i], float64(now.Sub(sent[number]).Microseconds())/1000)
				}
				mu.RUnlock()
				seen.Add(int64(len(numbers)))
			}
		})
	}
	time.Sleep(500 * time.Millisecond) // until all clients are waiting
	s, err := p.measure(func() (int, error) {
		start := time.Now()
		for i := range n {
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / rate)))
			mu.Lock()
			sent[i] = time.Now()
			mu.Unlock()
			if err := send(i); err != nil {
				return 0, err
			}
		}
		for deadline := time.Now().Add(10 * time.Second); seen.Load() < int64(n*len(waiters)); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				return 0, fmt.Errorf("%d of %d messages arrived", seen.Load(), n*len(waiters))
			}
		}
		return n * len(waiters), nil
	})
	ending.Store(true)
	for _, w := range waiters {
		w.end()
	}
	wg.Wait()
	r := fanOutResult{spent: s}
	for _, l := range latencies {
		r.latencies = append(r.latencies, l...)
	}
	return r, errors.Join(errors.Join(errs...), err)
}

// registerListeners creates a room with a host, and with guests whose clients wait for its messages.
func (p *process) registerListeners() (host *account, guests []*account, room string, err error) {
	hosts, err := p.register("host", 1)
	if err != nil {
		return nil, nil, "", err
	}
	if room, err = hosts[0].createRoom(); err != nil {
		return nil, nil, "", err
	}
	if guests, err = p.register("guest", listeners); err != nil {
		return nil, nil, "", err
	}
	err = parallel(4, len(guests), func(i int) error { return guests[i].join(room) })
	return hosts[0], guests, room, err
}

// fanOut measures how soon 200 waiting clients receive a message, and at what cost.
func (b *bench) fanOut() error {
	p, err := b.startEbb("fanout", 0)
	if err != nil {
		return err
	}
	defer p.stop()
	limit, err := b.startLimit(0)
	if err != nil {
		return err
	}
	defer limit.kill()
	host, guests, room, err := p.registerListeners()
	if err != nil {
		return err
	}
	n := max(1, int(b.duration.Seconds()*rate))
	var ebb, bare samples
	var p50, p99, bare50, bare99 []float64
	at := 0                              // index of the next message to the limit
	since := make([]string, len(guests)) // the sync token of each guest
	for round := range b.rounds {
		r, err := limitFanOut(limit, n, &at)
		if err != nil {
			return err
		}
		bare, bare50, bare99 = append(bare, r.spent), append(bare50, percentile(r.latencies, 0.5)), append(bare99, percentile(r.latencies, 0.99))
		err = parallel(4, len(guests), func(i int) (err error) {
			since[i], err = guests[i].settled(since[i])
			return err
		})
		if err != nil {
			return err
		}
		err = b.profiled(p, fmt.Sprint("fanout-", round), func() error {
			r, err = ebbFanOut(p, host, guests, since, room, n)
			return err
		})
		if err != nil {
			return err
		}
		ebb, p50, p99 = append(ebb, r.spent), append(p50, percentile(r.latencies, 0.5)), append(p99, percentile(r.latencies, 0.99))
	}
	b.print(
		figure{"message to 200 waiting clients, a client", "CPU µs", ebb.of(spent.micros), bare.of(spent.micros), "ratio ≤ 2"},
		figure{"message to 200 waiting clients, 20/s, p50", "ms", p50, bare50, ""},
		figure{"message to 200 waiting clients, 20/s, p99", "ms", p99, bare99, "< 50"},
	)
	return nil
}

// numberMark precedes the number of a message in its body.
const numberMark = "number "

func ebbFanOut(p *process, host *account, guests []*account, since []string, room string, n int) (fanOutResult, error) {
	waiters := make([]*waiter, len(guests))
	for i, g := range guests {
		waiters[i] = &waiter{end: g.interrupt, ask: func() ([]int, error) {
			next, answer, err := g.sync(since[i], 60_000)
			if err != nil {
				return nil, err
			}
			since[i] = next
			return numbersIn(answer), nil
		}}
	}
	return fanOutToGuests(p, host, guests, waiters, room, n)
}

// fanOutToGuests is like fanOutOf, for messages that host sends to a room in which the guests wait.
func fanOutToGuests(p *process, host *account, guests []*account, waiters []*waiter, room string, n int) (fanOutResult, error) {
	r, err := fanOutOf(p, waiters, n, func(i int) error {
		_, err := host.do("PUT", sendPath(room), fmt.Appendf(nil, `{"msgtype":"m.text","body":"%s%d. %s %s"}`, numberMark, i, text, text))
		return err
	})
	for _, g := range guests {
		g.close()
	}
	return r, err
}

// numbersIn returns the numbers of the messages in a /sync response.
func numbersIn(answer []byte) (numbers []int) {
	for {
		_, rest, found := bytes.Cut(answer, []byte(numberMark))
		if !found {
			return numbers
		}
		digits, rest, _ := bytes.Cut(rest, []byte{'.'})
		if n, err := strconv.Atoi(string(digits)); err == nil {
			numbers = append(numbers, n)
		}
		answer = rest
	}
}

func limitFanOut(p *process, n int, at *int) (fanOutResult, error) {
	first := *at
	waiters := make([]*waiter, listeners)
	for i := range waiters {
		c, since := newConn(p.addr, "a token as long as those of the server are"), first
		waiters[i] = &waiter{end: c.interrupt, ask: func() (numbers []int, err error) {
			body, err := c.do("GET", "/poll?since="+strconv.Itoa(since), nil)
			if err != nil {
				return nil, err
			}
			next, _ := nextBatch(body)
			to, err := strconv.Atoi(next)
			for ; since < to; since++ {
				numbers = append(numbers, since-first)
			}
			return numbers, err
		}}
	}
	c := newConn(p.addr, "")
	defer c.close()
	*at += n
	return fanOutOf(p, waiters, n, func(int) error {
		_, err := c.do("PUT", "/wake", message)
		return err
	})
}

// interrupt makes a waiting request fail. It may be called from another goroutine.
func (c *conn) interrupt() {
	if c.tcp != nil {
		_ = c.tcp.Close() // the request returns the error
	}
}
