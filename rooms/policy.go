package rooms

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/fedclient"
	"ebb/mxerr"
	"ebb/rooms/pdu"
)

// PolicyServers requests signatures from the policy servers of rooms. It is implemented by fedclient.Client.
type PolicyServers interface {
	SignByPolicyServer(ctx context.Context, server string, event json.RawMessage) (signatures map[string]map[string]string, err error)
}

const (
	typePolicy  = "m.room.policy"
	policyKeyID = "ed25519:policy_server"
	policyTime  = 10 * time.Second // for one event
	// policyTotal and maxPolicyAsks bound the requests for the events of one transaction.
	policyTotal   = 30 * time.Second
	maxPolicyAsks = 100
	policyWorkers = 8
	// maxPolicyRounds bounds how often events are built and signed again because other events came between.
	maxPolicyRounds = 8
)

// policyServer is the server that must sign the events of a room.
type policyServer struct {
	name string
	key  ed25519.PublicKey
}

// policyServer returns the room's policy server, or nil if there is none. A server that is named incorrectly or is not
// in the room does not count.
// Spec: server-server-api#policy-servers
func (r *Room) policyServer() *policyServer {
	e, err := r.provisionalState(typePolicy, "")
	if err != nil || e == nil || r.svc.opts.PolicyServers == nil {
		return nil
	}
	var content struct {
		Via  string                     `json:"via"`
		Keys map[string]json.RawMessage `json:"public_keys"`
	}
	if json.Unmarshal(e.Content(), &content) != nil || !r.HasServer(content.Via) {
		return nil
	}
	key := decodeKey(canonjson.String(content.Keys["ed25519"]))
	if key == nil {
		return nil
	}
	return &policyServer{content.Via, key}
}

// decodeKey decodes a public key in either alphabet of base64. It returns nil if it is invalid.
func decodeKey(text string) ed25519.PublicKey {
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	if key, err := base64.RawStdEncoding.DecodeString(text); err == nil && len(key) == ed25519.PublicKeySize {
		return key
	}
	return nil
}

// signed reports whether the policy server has signed an event or need not sign it: a room can always choose another
// policy server.
func (p *policyServer) signed(e *pdu.Event) bool {
	if key, isState := e.StateKey(); isState && key == "" && e.Type() == typePolicy {
		return true
	}
	return e.VerifySignature(p.name, policyKeyID, p.key) == nil
}

// claims reports whether an event has a signature of the policy server, whether or not it is valid.
func (p *policyServer) claims(e *pdu.Event) bool {
	for server, keyID := range e.Signatures() {
		if server == p.name && keyID == policyKeyID {
			return true
		}
	}
	return false
}

var errPolicy = errors.New("the policy server did not sign the event")

// ask requests the policy server's signature on an event.
//
// Errors: M_FORBIDDEN, M_LIMIT_EXCEEDED, 502 M_UNKNOWN.
// Spec: server-server-api#post_matrixpolicyv1sign
func (p *policyServer) ask(ctx context.Context, s *Service, e *pdu.Event) (*pdu.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, policyTime)
	defer cancel()
	signatures, err := s.opts.PolicyServers.SignByPolicyServer(ctx, p.name, e.JSON())
	var remote *fedclient.RemoteError
	switch {
	case errors.As(err, &remote) && remote.Status == http.StatusTooManyRequests:
		return nil, mxerr.LimitExceeded(max(remote.RetryAfter, time.Second)).Because(errors.Join(errPolicy, err))
	case err != nil && (remote == nil || remote.Status >= 500):
		return nil, mxerr.New(http.StatusBadGateway, mxerr.CodeUnknown, "The room's policy server did not answer").Because(errors.Join(errPolicy, err))
	case err != nil:
		return nil, errRefusedByPolicy(err)
	}
	signature := signatures[p.name][policyKeyID]
	if signature == "" {
		return nil, errRefusedByPolicy(nil)
	}
	signed, err := e.WithSignature(p.name, policyKeyID, signature)
	if err != nil || !p.signed(signed) {
		return nil, errRefusedByPolicy(errors.New("the signature is wrong"))
	}
	return signed, nil
}

func errRefusedByPolicy(cause error) error {
	return mxerr.Forbidden("The room's policy server refused this event").Because(errors.Join(errPolicy, cause))
}

// approvals holds the signatures of policy servers for one change of a room. The events of the change are built, signed
// without holding the room's lock, and built again: with the same timestamp they are the same events, unless others
// came between.
type approvals struct {
	at     int64 // timestamp of the events in ms
	signed map[id.EventID]*pdu.Event
	rounds int
	room   *Room // its signing slot is held
}

// lacking is returned for a change whose events policy servers must sign first.
type lacking []unsigned

type unsigned struct {
	*pdu.Event
	room *Room
	by   *policyServer
}

func (l lacking) Error() string { return "rooms: not signed by the policy server" }

// approved returns an event with the policy server's signature. If there is none yet, it records that and returns the
// event unchanged.
func (b *batch) approved(e *pdu.Event) *pdu.Event {
	if b.create != nil {
		return e
	}
	p := b.room.policyServer()
	if p == nil || p.signed(e) {
		return e
	}
	if b.approvals != nil {
		if signed := b.approvals.signed[e.ID()]; signed != nil && p.signed(signed) {
			return signed
		}
	}
	b.lacking = append(b.lacking, unsigned{e, b.room, p})
	return e
}

// approve requests the signatures that a change lacks. The first call only waits for other changes of the room that do
// the same, since the events may be outdated after that.
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
		signed, err := e.by.ask(ctx, s, e.Event)
		if err != nil {
			return a, err
		}
		a.signed[e.ID()] = signed
	}
	return a, nil
}

// release frees the signing slot for the next change.
func (a *approvals) release() {
	if a != nil {
		<-a.room.signing
	}
}

// approveOne returns an event with the signature of the room's policy server, if there is one.
func (s *Service) approveOne(ctx context.Context, r *Room, e *pdu.Event) (*pdu.Event, error) {
	p := r.policyServer()
	if p == nil || p.signed(e) {
		return e, nil
	}
	return p.ask(ctx, s, e)
}

// gatherPolicySignatures requests the policy server's signature on waiting events that were sent without it. If the
// server does not answer, they count as not signed: servers that follow the specification send only signed events.
// Spec: server-server-api#policy-servers
func (g *gathering) gatherPolicySignatures(ctx context.Context) {
	p := g.room.policyServer()
	if p == nil {
		return
	}
	var ask []*incoming
	for _, e := range g.waiting {
		switch {
		case p.signed(e.Event):
		case p.claims(e.Event) || len(ask) == maxPolicyAsks:
			e.refused = errPolicy
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
				signed, err := p.ask(ctx, g.svc, e.Event)
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

// checkPolicyServer is check 7: the room's policy server has signed the event. Events from before the room had one need
// no signature. p is nil if the event follows the head, where the room is known to have one.
func checkPolicyServer(p *pastReader, in *incoming, before *snapshot) (verdict, err error) {
	if in.refused == nil {
		return nil, nil
	}
	if p != nil {
		v := &pastView{p: p, s: before}
		if e := v.Get(typePolicy, ""); e == nil || v.err != nil {
			return nil, v.err
		}
	}
	return softFailed{in.refused}, nil
}
