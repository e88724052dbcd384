package rooms

import (
	"context"
	"errors"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/rooms/signatures"
)

const (
	typePolicy = "m.room.policy"
	// policyTotal and maxPolicyAsks bound the requests for the events of one transaction.
	policyTotal   = 30 * time.Second
	maxPolicyAsks = 100
	policyWorkers = 8
	// maxPolicyRounds bounds how often events are built and signed again because other events came between.
	maxPolicyRounds = 8
)

// policyServer returns the room's policy server, or nil if there is none. A server that is named incorrectly or is not
// in the room does not count.
// Spec: server-server-api#policy-servers
func (r *Room) policyServer() *signatures.PolicyServer {
	e, err := r.provisionalState(typePolicy, "")
	if err != nil || e == nil || r.svc.opts.PolicyServers == nil {
		return nil
	}
	p := signatures.PolicyServerOf(e.Content())
	if p == nil || !r.HasServer(p.Name) {
		return nil
	}
	return p
}

// approvals holds the signatures that policy servers have made for one change of a room. The events of the change are
// built first, then signed while the room's lock is free, and then built again. Since they have the same timestamp, the
// events are the same the second time, unless other events were added to the room in between.
type approvals struct {
	at     int64 // timestamp of the events in ms
	signed map[id.EventID]*pdu.Event
	rounds int
	room   *Room // its signing slot is held
}

// lacking is the error for a change some of whose events must first be signed by policy servers.
type lacking []unsigned

type unsigned struct {
	*pdu.Event
	room *Room
	by   *signatures.PolicyServer
}

func (l lacking) Error() string { return "rooms: not signed by the policy server" }

// approved returns an event with the policy server's signature, if the batch has it. Otherwise it returns the event
// unchanged, and records that the signature must be requested.
func (b *batch) approved(e *pdu.Event) *pdu.Event {
	if b.create != nil {
		return e
	}
	p := b.room.policyServer()
	if p == nil || p.Signed(e) {
		return e
	}
	if b.approvals != nil {
		if signed := b.approvals.signed[e.ID()]; signed != nil && p.Signed(signed) {
			return signed
		}
	}
	b.lacking = append(b.lacking, unsigned{e, b.room, p})
	return e
}

// approve requests the signatures that the events of a change lack. If a is nil, approve requests nothing yet: it waits
// for other changes of the room that are being signed, and the events must be built again because of those.
func (s *Service) approve(ctx context.Context, l lacking, a *approvals) (*approvals, error) {
	if a == nil {
		r := l[0].room
		select {
		case r.signing <- struct{}{}:
			return &approvals{at: s.opts.Now().UnixMilli(), signed: map[id.EventID]*pdu.Event{}, room: r}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if a.rounds++; a.rounds > maxPolicyRounds {
		return a, mxerr.LimitExceeded(time.Second).Because(errors.New("other events came between"))
	}
	for _, e := range l {
		signed, err := e.by.Ask(ctx, s.opts.PolicyServers, e.Event)
		if err != nil {
			return a, err
		}
		a.signed[e.ID()] = signed
	}
	return a, nil
}

// release makes the room's signing slot available to the next change.
func (a *approvals) release() {
	if a != nil {
		<-a.room.signing
	}
}

// approveOne returns an event with the signature of the room's policy server. If the room has none, it returns the
// event unchanged.
func (s *Service) approveOne(ctx context.Context, r *Room, e *pdu.Event) (*pdu.Event, error) {
	p := r.policyServer()
	if p == nil || p.Signed(e) {
		return e, nil
	}
	return p.Ask(ctx, s.opts.PolicyServers, e)
}

// gatherPolicySignatures requests the policy server's signature on waiting events that were sent without it. If the
// policy server does not answer, these events count as not signed; servers that follow the specification send only
// signed events.
// Spec: server-server-api#policy-servers
func (g *gathering) gatherPolicySignatures(ctx context.Context) {
	p := g.room.policyServer()
	if p == nil {
		return
	}
	var ask []*incoming
	for _, e := range g.waiting {
		switch {
		case p.Signed(e.Event):
		case p.Claims(e.Event) || len(ask) == maxPolicyAsks:
			e.refused = signatures.ErrPolicy
		default:
			ask = append(ask, e)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, policyTotal)
	defer cancel()
	next := make(chan *incoming)
	var workers sync.WaitGroup
	for range min(policyWorkers, len(ask)) {
		workers.Go(func() {
			for e := range next {
				signed, err := p.Ask(ctx, g.svc.opts.PolicyServers, e.Event)
				if err != nil {
					e.refused = err
					continue
				}
				e.Event = signed
			}
		})
	}
	for _, e := range ask {
		next <- e
	}
	close(next)
	workers.Wait()
}

// checkPolicyServer performs check 7: the room's policy server must have signed the event. Events from before the room
// had a policy server need no signature. p is nil if the event follows the head, since then the room has one.
func checkPolicyServer(p *graph.Reader, in *incoming, before *graph.Snapshot) (verdict, err error) {
	if in.refused == nil {
		return nil, nil
	}
	if p != nil {
		v := p.View(before)
		if e := v.Get(typePolicy, ""); e == nil || v.Err != nil {
			return nil, v.Err
		}
	}
	return softFailed{in.refused}, nil
}
