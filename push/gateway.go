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
	// maxProven and maxDoubtful bound the requests in progress to all gateways: to those whose last response came
	// quickly, and to the others, each of which may take as long as gatewayTime.
	maxProven   = 256
	maxDoubtful = 64
	// maxPerGateway bounds the requests in progress to one gateway; one that has just failed gets one at a time.
	maxPerGateway = 16
	// gatewayTime is how long a gateway may take to respond. One that takes longer than quickTime is not proven.
	gatewayTime = 15 * time.Second
	quickTime   = 2 * time.Second
	// maxAnswer bounds the bytes of a gateway's response: a list of rejected pushkeys.
	maxAnswer = 64 << 10
	// maxTurn bounds the notifications for one pusher that are sent before others of the same gateway have their turn.
	maxTurn = 10
	// maxGatewayPause and maxPusherPause are the longest pauses before another try.
	maxGatewayPause = 10 * time.Minute
	maxPusherPause  = time.Hour
)

// gatewayBackoff determines when a gateway is tried again that could not be reached, and pusherBackoff when a
// notification is sent again that a gateway did not accept.
var (
	gatewayBackoff = keyed.Backoff{First: time.Second, Max: maxGatewayPause}
	pusherBackoff  = keyed.Backoff{First: time.Second, Max: maxPusherPause}
)

// NewClient returns a client for push gateways. resolver and dial may be nil, and are replaced by tests.
func NewClient(o netguard.ClientOptions) *http.Client {
	o.Timeout, o.MaxBody, o.ReturnRedirects, o.Connections = gatewayTime, maxAnswer, true, maxPerGateway
	return netguard.NewClient(o)
}

// gateway is a push gateway, named by the scheme, host and port of its URL. It is guarded by Service.mu.
type gateway struct {
	origin  string
	pushers int       // how many pushers it has
	queue   []*pusher // those that wait for a worker, oldest first
	running int       // workers
	limit   int       // of workers; it doubles with every response up to maxPerGateway
	proven  bool
	retry   keyed.Retry // of a gateway that could not be reached
	waiting bool        // it is in the queue of a pool
}

// pool bounds workers. It is guarded by Service.mu.
type pool struct {
	free  int        // workers that may be started
	queue []*gateway // those that wait for one
}

// gatewayOf returns the gateway of a pusher. The caller holds mu.
func (s *Service) gatewayOf(row *storage.PusherRow) *gateway {
	var d data
	_ = json.Unmarshal([]byte(row.Data), &d) // checked when it was set
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

// move gives a pusher another gateway; nil if the pusher ends. The caller holds mu.
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

// ready has a pusher served if something waits for it and it may be tried. The caller holds mu.
func (s *Service) ready(p *pusher) {
	if !p.waits() || p.gone {
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

// start starts workers for a gateway, as many as it may have. The caller holds mu.
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

// mayStart reports whether a gateway may have another worker. The caller holds mu.
func (s *Service) mayStart(g *gateway) bool {
	return s.ctx != nil && s.ctx.Err() == nil && len(g.queue) > 0 && g.running < g.limit && g.retry.Due(s.now())
}

// pool returns the pool from which the workers of a gateway are taken. The caller holds mu.
func (s *Service) pool(g *gateway) *pool {
	if g.proven {
		return &s.proven
	}
	return &s.doubtful
}

// take removes the next pusher from the queue, to be served. The caller holds Service.mu.
func (g *gateway) take() *pusher {
	p := g.queue[0]
	g.queue = g.queue[1:]
	p.waiting, p.running = false, true
	return p
}

// work serves pushers of a gateway, beginning with p, until none waits, others need the worker or ctx ends; sending is
// the context of the requests.
func (s *Service) work(ctx, sending context.Context, g *gateway, from *pool, p *pusher) {
	for p != nil {
		s.serve(ctx, sending, p)
		p = s.next(g, from, p)
	}
}

// next returns the pusher to be served after p, or nil if the worker ends.
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
	// errRefused means that a gateway responded, but did not accept a notification.
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

// succeeded notes that a gateway accepted a notification within the given time.
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

// failed notes that a notification could not be delivered. If the gateway did not respond, its other pushers wait too.
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
	if g.retry.Due(now) { // several workers may fail at once
		g.retry.Failed(now, gatewayBackoff)
		s.log.Info("Cannot reach a push gateway; trying again", "gateway", g.origin, "at", g.retry.At, "err", err)
	}
	g.proven, g.limit = false, 1
}

// reject removes a pusher whose pushkey its gateway rejected.
func (s *Service) reject(ctx context.Context, p *pusher) error {
	pushes.WithLabelValues("rejected").Inc()
	return s.change(ctx, func(tx *storage.Tx, c *changes) error {
		c.removed = []ident.PusherNID{p.nid}
		return tx.DeletePusher(p.nid)
	})
}
