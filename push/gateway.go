package push

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"time"

	"ebb/ident"
	"ebb/keyed"
	"ebb/netguard"
	"ebb/storage"
)

const (
	// maxProven and maxDoubtful bound the requests in progress to all gateways together. A gateway whose last response
	// came quickly is proven. Any other is doubtful, and a request to it may take as long as gatewayTime.
	maxProven   = 256
	maxDoubtful = 64
	// maxPerGateway bounds the requests in progress to one gateway. After a failure the bound is 1.
	maxPerGateway = 16
	// gatewayTime bounds the time of one request. A gateway that takes longer than quickTime is not proven.
	gatewayTime = 15 * time.Second
	quickTime   = 2 * time.Second
	// maxAnswer bounds the bytes of a gateway's response, which is a list of rejected pushkeys.
	maxAnswer = 64 << 10
	// maxTurn bounds the notifications that are sent for one pusher before the next pusher of the gateway is served.
	maxTurn = 10
	// maxGatewayPause and maxPusherPause bound the pause before a retry.
	maxGatewayPause = 10 * time.Minute
	maxPusherPause  = time.Hour
)

// gatewayBackoff determines when to retry a gateway that could not be reached, and pusherBackoff when to resend a
// notification that a gateway did not accept.
var (
	gatewayBackoff = keyed.Backoff{First: time.Second, Max: maxGatewayPause}
	pusherBackoff  = keyed.Backoff{First: time.Second, Max: maxPusherPause}
)

// NewClient returns an HTTP client for push gateways. Tests replace the resolver and dialer in o; otherwise they are
// nil.
func NewClient(o netguard.ClientOptions) *http.Client {
	o.Timeout, o.MaxBody, o.ReturnRedirects, o.Connections = gatewayTime, maxAnswer, true, maxPerGateway
	return netguard.NewClient(o)
}

// gateway is a push gateway, identified by the scheme, host and port of its URL. It is guarded by Service.mu.
type gateway struct {
	origin  string
	pushers int       // number of pushers
	queue   []*pusher // pushers that wait for a worker, oldest first
	running int       // number of workers
	limit   int       // maximum of running; it doubles with every quick response, up to maxPerGateway
	proven  bool
	retry   keyed.Retry // set while the gateway cannot be reached
	waiting bool        // whether it is in the queue of a pool
}

// pool limits the number of workers. It is guarded by Service.mu.
type pool struct {
	free  int        // number of workers that may still be started
	queue []*gateway // gateways that wait for a free worker
}

// gatewayOf returns the gateway of a pusher, creating it if necessary. The caller holds mu.
func (s *Service) gatewayOf(row *storage.PusherRow) *gateway {
	var d data
	_ = json.Unmarshal([]byte(row.Data), &d) // was validated when the pusher was set
	origin := d.URL
	if u, err := url.Parse(d.URL); err == nil {
		origin = u.Scheme + "://" + u.Host
	}
	g := s.gateways[origin]
	if g == nil {
		g = &gateway{origin: origin, limit: 1}
		s.gateways[origin] = g
	}
	return g
}

// move assigns a pusher to another gateway, or to none if to is nil. The caller holds mu.
func (s *Service) move(p *pusher, to *gateway) {
	if old := p.gateway; old != nil {
		if old.pushers--; old.pushers == 0 {
			delete(s.gateways, old.origin)
		}
		if p.waiting {
			old.queue = slices.DeleteFunc(old.queue, func(other *pusher) bool { return other == p })
			p.waiting = false
		}
	}
	if p.gateway = to; to != nil {
		to.pushers++
		s.gateways[to.origin] = to
	}
}

// ready queues a pusher at its gateway if it has something to deliver and no retry pause applies. The caller holds mu.
func (s *Service) ready(p *pusher) {
	if !p.hasWork() || p.gone {
		return
	}
	s.pending[p] = true
	if p.waiting || p.running || !p.retry.Due(s.now()) {
		return
	}
	p.waiting = true
	p.gateway.queue = append(p.gateway.queue, p)
	s.start(p.gateway)
}

// start starts as many workers for a gateway as it may have. The caller holds mu.
func (s *Service) start(g *gateway) {
	for s.mayStart(g) {
		from := s.pool(g)
		if from.free == 0 {
			if !g.waiting {
				g.waiting = true
				from.queue = append(from.queue, g)
			}
			return
		}
		from.free--
		g.running++
		p, ctx, sending := g.take(), s.ctx, s.sending
		s.workers.Go(func() { s.work(ctx, sending, g, from, p) })
	}
}

// mayStart reports whether another worker may be started for a gateway. The caller holds mu.
func (s *Service) mayStart(g *gateway) bool {
	return s.ctx != nil && s.ctx.Err() == nil && len(g.queue) > 0 && g.running < g.limit && g.retry.Due(s.now())
}

// pool returns the pool that limits the workers of a gateway. The caller holds mu.
func (s *Service) pool(g *gateway) *pool {
	if g.proven {
		return &s.proven
	}
	return &s.doubtful
}

// take removes the next pusher from the queue and marks it as running. The caller holds Service.mu.
func (g *gateway) take() *pusher {
	p := g.queue[0]
	g.queue = g.queue[1:]
	p.waiting, p.running = false, true
	return p
}

// work serves the pushers of a gateway, beginning with p, until next returns nil. sending is the context of the
// requests; it ends a little later than ctx.
func (s *Service) work(ctx, sending context.Context, g *gateway, from *pool, p *pusher) {
	for p != nil {
		s.serve(ctx, sending, p)
		p = s.next(g, from, p)
	}
}

// next returns the pusher to be served after p. It returns nil, and returns the worker to its pool, if no pusher waits
// or other gateways wait for a worker.
func (s *Service) next(g *gateway, from *pool, p *pusher) *pusher {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.running = false
	s.ready(p)
	g.running--
	if s.mayStart(g) && s.pool(g) == from && len(from.queue) == 0 {
		g.running++
		return g.take()
	}
	from.free++
	s.start(g)
	for from.free > 0 && len(from.queue) > 0 {
		waiting := from.queue[0]
		from.queue = from.queue[1:]
		waiting.waiting = false
		s.start(waiting)
	}
	return nil
}

var (
	// errUnreachable means that a gateway did not respond.
	errUnreachable = errors.New("the push gateway did not respond")
	// errRefused means that a gateway responded but did not accept the notification.
	errRefused = errors.New("the push gateway did not accept the notification")
)

// post sends a notification to a gateway and returns the pushkeys that it rejected.
// Spec: push-gateway-api#post_matrixpushv1notify
func (s *Service) post(ctx context.Context, t *target, body []byte) (rejected []string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "Ebb")
	resp, err := s.opts.Client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w: status %d", errRefused, resp.StatusCode)
	}
	var said struct {
		Rejected []string `json:"rejected"`
	}
	switch {
	case errors.Is(err, netguard.ErrTooLarge):
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	case json.Unmarshal(answer, &said) != nil:
		return nil, fmt.Errorf("%w: its response is not valid", errRefused)
	}
	return said.Rejected, nil
}

// succeeded records that a gateway accepted a notification, and how long the request took.
func (s *Service) succeeded(p *pusher, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.retry, p.failingSince = keyed.Retry{}, time.Time{}
	g := p.gateway
	if g == nil { // the pusher was deleted in the meantime
		return
	}
	g.retry = keyed.Retry{}
	if g.proven = took < quickTime; g.proven {
		g.limit = min(2*g.limit, maxPerGateway)
	} else {
		g.limit = min(g.limit, 2)
	}
}

// failed records that a notification could not be delivered. If the gateway did not respond, all its pushers wait.
func (s *Service) failed(ctx context.Context, p *pusher, err error) {
	if ctx.Err() != nil {
		return
	}
	pushes.WithLabelValues("failed").Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if p.failingSince.IsZero() {
		p.failingSince = now
	}
	g := p.gateway
	if g == nil || !errors.Is(err, errUnreachable) {
		p.retry.Failed(now, pusherBackoff)
		return
	}
	p.retry.Failures++
	if g.retry.Due(now) { // several workers may fail at the same time
		g.retry.Failed(now, gatewayBackoff)
		s.log.Info("Cannot reach a push gateway; trying again", "gateway", g.origin, "at", g.retry.At, "err", err)
	}
	g.proven, g.limit = false, 1
}

// reject deletes a pusher because its gateway rejected the pushkey.
func (s *Service) reject(ctx context.Context, p *pusher) error {
	pushes.WithLabelValues("rejected").Inc()
	return s.change(ctx, func(tx *storage.Tx, c *changes) error {
		c.removed = []ident.PusherNID{p.nid}
		return tx.DeletePusher(p.nid)
	})
}
