package feed

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"maunium.net/go/mautrix/event"

	"ebb/ident"
	"ebb/wake"
)

const (
	// maxTimeout bounds a long poll. Proxies would break off longer ones anyway.
	maxTimeout = 5 * time.Minute
	// If at least crowd requests wait, and one of them is woken less than hasty after it began, it sleeps for coalesce
	// before it builds its answer. When events arrive so fast that requests are woken as soon as they wait, one answer
	// then has the events of that time together. In all other cases the answer is built at once.
	crowd    = 32
	hasty    = 20 * time.Millisecond
	coalesce = 5 * time.Millisecond
)

// Poll is a request that waits for news until its timeout. Whoever runs it calls Answer; as long as that returns
// nothing, it waits for a wake-up, by Wait or Notify, and calls Answer again. It must Close the Poll. Only one
// goroutine at a time may call these methods. While the request waits, the Poll is all that feed keeps of it.
type Poll struct {
	service *Service
	who     *ident.Requester
	// build returns the answer, or nil if there is nothing new. If final is set, it returns an answer in any case.
	build   func(ctx context.Context, final bool) (any, error)
	timeout time.Duration
	begun   time.Time // real time: this is about load
	sub     *wake.Sub
	visit   *wake.Sub // for the news of a room; nil if the request has none
	ended   func()    // called by Close
	stop    func() bool
	final   bool // the next answer is the last: the timeout is over or the server stops
	waited  bool
	news    chan struct{} // holds one wake-up

	// mu guards the fields below and sends to news. It is taken under wake.Hub.mu, and notify is called under it.
	mu      sync.Mutex
	expired bool   // the timeout is over
	notify  func() // see Notify
}

// newPoll returns a Poll whose build is not set yet. It is registered for news from now on.
func (s *Service) newPoll(who *ident.Requester, timeout time.Duration) *Poll {
	p := &Poll{service: s, who: who, timeout: min(timeout, maxTimeout), final: timeout <= 0, begun: time.Now(), ended: func() {}, news: make(chan struct{}, 1)}
	p.sub = s.opts.Hub.Park(who.UserNID, who.DeviceNID, p.signal)
	syncWaiting.Inc()
	return p
}

// newDevicePoll is like newPoll for a request that counts for the presence of its device: online is the presence that
// it sets.
func (s *Service) newDevicePoll(who *ident.Requester, online event.Presence, timeout time.Duration, profiles bool) *Poll {
	s.polls(who, online, 1)
	unwatch := func() {}
	if profiles {
		unwatch = s.profiles.watch(who.UserNID)
	}
	p := s.newPoll(who, timeout)
	p.ended = func() {
		unwatch()
		s.polls(who, online, -1)
	}
	return p
}

// polls counts a request of a device that waits: change is 1 when the request begins and -1 when it ends. online is the
// presence that the request sets.
func (s *Service) polls(who *ident.Requester, online event.Presence, change int) {
	s.presence.poll(who.UserNID, who.UserID, who.DeviceNID, online, change, s.opts.Now())
}

// Answer returns the answer, or nil if there is nothing new yet. It returns an error if the request's device was
// deleted or its account was locked while the request waited.
func (p *Poll) Answer(ctx context.Context) (any, error) {
	select {
	case <-p.news:
	default:
	}
	p.mu.Lock()
	p.final = p.final || p.expired
	p.mu.Unlock()
	if p.waited {
		if !p.final {
			syncWakeups.Inc()
		}
		if err := p.service.alive(ctx, p.who); err != nil {
			return nil, err
		}
	}
	p.waited = true
	return p.build(ctx, p.final)
}

// alive returns an error if the device of a waiting request was deleted or its account was locked.
func (s *Service) alive(ctx context.Context, who *ident.Requester) error {
	if s.opts.Alive == nil {
		return nil
	}
	return s.opts.Alive(ctx, who.UserNID, who.DeviceNID)
}

// Wait waits until Answer should be called again, for most at the longest if most is not 0. It reports whether Answer
// should be called.
func (p *Poll) Wait(ctx context.Context, most time.Duration) (bool, error) {
	p.startTimer()
	var passed <-chan time.Time
	if most > 0 {
		t := time.NewTimer(most)
		defer t.Stop()
		passed = t.C
	}
	select {
	case <-p.news:
		if time.Since(p.begun) < hasty {
			p.service.rest()
		}
	case <-passed:
		return false, nil
	case <-p.service.stopped:
		p.final = true
	case <-ctx.Done():
		return false, ctx.Err()
	}
	return true, nil
}

// Notify makes the next wake-up call f, once, instead of ending a Wait; if one is pending, Notify calls f itself. f
// must not wait, and is not called after Close. Notify does not notice that the server stops; Wait does.
func (p *Poll) Notify(f func()) {
	p.startTimer()
	p.mu.Lock()
	if len(p.news) == 0 {
		p.notify, f = f, func() {}
	}
	p.mu.Unlock()
	f()
}

// startTimer starts the timeout when the request begins to wait. A request that is answered at once needs no timer.
func (p *Poll) startTimer() {
	if p.stop == nil && !p.final {
		p.stop = p.service.opts.AfterFunc(p.timeout, p.expire)
	}
}

// Finish makes the next answer the last, as if the timeout were over.
func (p *Poll) Finish() { p.final = true }

// expire ends the timeout.
func (p *Poll) expire() {
	p.mu.Lock()
	p.expired = true
	p.mu.Unlock()
	p.signal()
}

// signal wakes the request.
func (p *Poll) signal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case p.news <- struct{}{}:
	default:
	}
	if p.notify != nil {
		p.notify() // under mu, so that there is no call after Close
		p.notify = nil
	}
}

// Close ends the request.
func (p *Poll) Close() {
	if p.stop != nil {
		p.stop()
	}
	p.sub.Close()
	if p.visit != nil {
		p.visit.Close()
	}
	p.mu.Lock()
	p.notify = nil
	p.mu.Unlock()
	syncWaiting.Dec()
	p.ended()
}

// rest sleeps for the duration coalesce if many requests are waiting. More news can then go into one answer.
func (s *Service) rest() {
	if s.opts.Hub.Parked() < crowd {
		return
	}
	time.Sleep(coalesce)
}

// run waits for the answer and closes the Poll.
func (p *Poll) run(ctx context.Context) (any, error) {
	defer p.Close()
	for {
		if answer, err := p.Answer(ctx); answer != nil || err != nil {
			return answer, err
		}
		if _, err := p.Wait(ctx, 0); err != nil {
			return nil, err
		}
	}
}

// orNothing makes an interface of an answer, which is nil if there is none.
func orNothing(answer json.RawMessage, err error) (any, error) {
	if answer == nil {
		return nil, err
	}
	return answer, err
}
