package rooms

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/fedclient"
	"ebb/ident"
	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// network is a set of servers in one process. The test decides which of them can reach each other.
type network struct {
	testing.TB
	peers     map[string]*peer
	strangers map[string]*stranger
	keys      map[string]ed25519.PublicKey
	parts     map[string]int                            // servers with different numbers cannot reach each other
	omit      bool                                      // servers omit members from their responses to joins
	page      int                                       // maximum number of events in a response to backfill; 0 for no maximum
	heedless  bool                                      // servers respond to get_missing_events like Synapse and Conduit: with 20 events at a time, ignoring min_depth
	onJoin    func()                                    // called between make_join and send_join
	spoil     func(raw json.RawMessage) json.RawMessage // modifies the events that servers return for backfill
	keyLife   time.Duration                             // how long keys are valid from now on; 0 means forever
	blind     map[string]bool                           // "a b" means that server a cannot get the keys of server b

	mu   sync.Mutex // guards sent
	sent []parcel   // events that have not been delivered yet, in order
	lost []parcel
}

// peer is a server on the network.
type peer struct {
	*house
	name string
}

// parcel is an event that is being sent to a server.
type parcel struct {
	from, to string
	room     ident.RoomNID // numeric ID of the room at the sender
	pos      storage.Pos
}

func newNetwork(t testing.TB) *network {
	return &network{
		TB: t, peers: map[string]*peer{}, strangers: map[string]*stranger{}, keys: map[string]ed25519.PublicKey{}, parts: map[string]int{}, blind: map[string]bool{},
	}
}

// signer creates the signing key of a server and publishes it.
func (n *network) signer(name string) pdu.Signer {
	seed := sha256.Sum256([]byte(name))
	s := pdu.Signer{Server: name, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(seed[:])}
	n.keys[name] = s.Key.Public().(ed25519.PublicKey)
	return s
}

// keysFor is the source of keys for one server on the network.
type keysFor struct {
	n    *network
	peer *peer
}

func (k keysFor) Keys(_ context.Context, wants []fedclient.KeyWant) map[fedclient.KeyWant]ed25519.PublicKey {
	out := map[fedclient.KeyWant]ed25519.PublicKey{}
	now := time.UnixMilli(1_750_000_000_000)
	if k.peer.house != nil {
		now = k.peer.now
	}
	for _, want := range wants {
		if k.n.blind[k.peer.name+" "+want.Server] || k.n.keyLife > 0 && want.At > now.Add(k.n.keyLife).UnixMilli() {
			continue
		}
		if key, ok := k.n.keys[want.Server]; ok && want.KeyID == "ed25519:1" {
			out[want] = key
		}
	}
	return out
}

func (n *network) add(name string, with ...func(*Options)) *peer {
	signer := n.signer(name)
	p := &peer{name: name}
	p.house = oneHouse(n.TB, append(with, func(o *Options) {
		o.Server, o.Signer, o.Remote, o.Keys = name, signer, wire{n, name}, keysFor{n, p}
		o.Commits = NewCommits()
		o.Commits.Subscribe(func(c *Commit) {
			for _, e := range c.Events {
				n.post(name, c.Room.nid, e.Pos, e.Servers)
			}
		})
	})...)
	n.peers[name] = p
	return p
}

func (p *peer) user(name string) ident.Requester {
	p.Helper()
	user := id.UserID("@" + name + ":" + p.name)
	nid, err := p.svc.UserNID(p.Context(), user)
	p.ok(err)
	return ident.Requester{UserNID: nid, UserID: user, DeviceNID: ident.DeviceNID(nid) + 1_000_000}
}

// joinVia joins a user of this server to a room through another server.
func (p *peer) joinVia(s ident.Requester, room id.RoomID, via string) {
	p.Helper()
	p.ok(p.svc.JoinWith(p.Context(), s, room, []string{via}, nil))
}

// complete fetches the missing state of a partial-state room.
func (p *peer) complete(room id.RoomID) {
	p.Helper()
	p.ok(p.svc.completeOnce(p.Context(), p.room(room).nid, make(chan struct{}, 1)))
	if p.room(room).Partial() {
		p.Fatalf("%s still does not know all of %s", p.name, room)
	}
}

func (n *network) post(from string, room ident.RoomNID, pos storage.Pos, servers []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, to := range servers {
		n.sent = append(n.sent, parcel{from, to, room, pos})
	}
}

// split divides the network into parts that cannot reach each other. Without arguments it reconnects all servers.
func (n *network) split(parts ...[]string) {
	clear(n.parts)
	for i, part := range parts {
		for _, name := range part {
			n.parts[name] = i + 1
		}
	}
}

var errUnreachable = errors.New("no route to host")

func (n *network) reach(from, to string) bool { return n.parts[from] == n.parts[to] }

// deliver delivers the queued events to the servers that can be reached, until none is left.
func (n *network) deliver() {
	n.Helper()
	for n.deliverSome(func(int) int { return 0 }, false) {
	}
}

// deliverSome delivers the oldest queued events from one server to another in one transaction. If lose is set, it drops
// the first of them instead. pick chooses the pair of servers.
func (n *network) deliverSome(pick func(n int) int, lose bool) bool {
	n.Helper()
	n.mu.Lock()
	var open []parcel // the first parcel for each sender, recipient and room
	for _, p := range n.sent {
		same := func(o parcel) bool { return o.from == p.from && o.to == p.to && o.room == p.room }
		if n.reach(p.from, p.to) && !slices.ContainsFunc(open, same) {
			open = append(open, p)
		}
	}
	if len(open) == 0 {
		n.mu.Unlock()
		return false
	}
	first := open[pick(len(open))]
	var batch, rest []parcel
	for _, p := range n.sent {
		if p.from == first.from && p.to == first.to && p.room == first.room && len(batch) < 50 {
			batch = append(batch, p)
		} else {
			rest = append(rest, p)
		}
	}
	if lose {
		n.lost, batch = append(n.lost, batch[0]), batch[1:]
	}
	n.sent = rest
	n.mu.Unlock()
	n.bring(first, batch)
	return true
}

// resend queues the lost events again.
func (n *network) resend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sent, n.lost = append(n.sent, n.lost...), nil
}

func (n *network) bring(first parcel, batch []parcel) {
	n.Helper()
	to := n.peers[first.to]
	if to == nil || len(batch) == 0 {
		return
	}
	from := n.peers[first.from]
	r, err := from.svc.RoomByNID(n.Context(), first.room)
	from.ok(err)
	raws := make([]json.RawMessage, len(batch))
	for i, p := range batch {
		raws[i] = from.eventAt(r, p.pos).JSON()
	}
	// An error is expected if no user of the server is in the room.
	_, _ = to.svc.Receive(n.Context(), first.from, r.id, raws)
}

func (h *house) eventAt(r *Room, pos storage.Pos) (e *Event) {
	h.Helper()
	h.ok(h.db.Read(h.Context(), func(tx *storage.Tx) error {
		events, err := r.EventsAt(tx, []storage.Pos{pos})
		e = events[pos]
		return err
	}))
	if e == nil {
		h.Fatalf("no event at %d", pos)
	}
	return e
}

// stored returns an event of a room, or nil if it is not stored.
func (h *house) stored(room id.RoomID, eventID id.EventID) *Event {
	h.Helper()
	found, err := h.svc.stored(h.Context(), h.room(room), []id.EventID{eventID})
	h.ok(err)
	return found[eventID]
}

// wire is the client with which one server reaches the others.
type wire struct {
	n    *network
	from string
}

var _ Remote = wire{}

// ask returns the response of a server, which may be a stranger or a peer.
func ask[T any](w wire, server string, stranger func(*stranger) (T, error), known func(*peer) (T, error)) (T, error) {
	var none T
	if !w.n.reach(w.from, server) {
		return none, errUnreachable
	}
	if s := w.n.strangers[server]; s != nil {
		return stranger(s)
	}
	if p := w.n.peers[server]; p != nil {
		return known(p)
	}
	return none, errUnreachable
}

var errRefused = &fedclient.RemoteError{Status: 404, Code: "M_NOT_FOUND"}

func no[T any](*stranger) (none T, err error) { return none, errRefused }

func jsonOf(events []*Event) []json.RawMessage {
	out := make([]json.RawMessage, len(events))
	for i, e := range events {
		out[i] = e.JSON()
	}
	return out
}

func idsOf(events []*Event) []id.EventID {
	out := make([]id.EventID, len(events))
	for i, e := range events {
		out[i] = e.ID()
	}
	return out
}

type stateAnswer struct{ state, chain []*Event }

func (w wire) state(ctx context.Context, server string, room id.RoomID, event id.EventID) (stateAnswer, error) {
	return ask(w, server, no[stateAnswer], func(p *peer) (a stateAnswer, err error) {
		a.state, a.chain, err = p.reads().StateForServer(ctx, w.from, room, event)
		return a, err
	})
}

func (w wire) GetEvent(ctx context.Context, server string, event id.EventID) (json.RawMessage, error) {
	return ask(w, server, func(s *stranger) (json.RawMessage, error) { return s.event(event) },
		func(p *peer) (json.RawMessage, error) { return p.reads().EventForServer(ctx, w.from, event) })
}

func (w wire) GetMissingEvents(ctx context.Context, server string, room id.RoomID, earliest, latest []id.EventID, limit int, minDepth int64) ([]json.RawMessage, error) {
	if w.n.heedless {
		limit, minDepth = min(limit, usualMissingPage), 0
	}
	return ask(w, server, func(s *stranger) ([]json.RawMessage, error) { return s.missing(latest) },
		func(p *peer) ([]json.RawMessage, error) {
			return p.reads().MissingEventsForServer(ctx, w.from, room, earliest, latest, limit, minDepth)
		})
}

func (w wire) State(ctx context.Context, server string, room id.RoomID, event id.EventID, wanted func(json.RawMessage) bool) (state, chain []json.RawMessage, err error) {
	if s := w.n.strangers[server]; s != nil {
		return s.state(event)
	}
	a, err := w.state(ctx, server, room, event)
	unwanted := func(raw json.RawMessage) bool { return !wanted(raw) }
	return slices.DeleteFunc(jsonOf(a.state), unwanted), slices.DeleteFunc(jsonOf(a.chain), unwanted), err
}

func (w wire) StateIDs(ctx context.Context, server string, room id.RoomID, event id.EventID) (state, chain []id.EventID, err error) {
	if s := w.n.strangers[server]; s != nil {
		return s.stateIDs(event)
	}
	a, err := w.state(ctx, server, room, event)
	return idsOf(a.state), idsOf(a.chain), err
}

func (w wire) EventAuth(ctx context.Context, server string, room id.RoomID, event id.EventID) ([]json.RawMessage, error) {
	return ask(w, server, func(s *stranger) ([]json.RawMessage, error) { return s.authChain(event) },
		func(p *peer) ([]json.RawMessage, error) {
			chain, err := p.reads().AuthChainForServer(ctx, w.from, room, event)
			return jsonOf(chain), err
		})
}

func (w wire) Backfill(ctx context.Context, server string, room id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error) {
	if w.n.page > 0 {
		limit = min(limit, w.n.page)
	}
	raws, err := ask(w, server, func(s *stranger) ([]json.RawMessage, error) { return s.backfill(from) },
		func(p *peer) ([]json.RawMessage, error) {
			return p.reads().BackfillForServer(ctx, w.from, room, from, limit)
		})
	if w.n.spoil != nil {
		for i, raw := range raws {
			raws[i] = w.n.spoil(raw)
		}
	}
	return raws, err
}

func (w wire) TimestampToEvent(ctx context.Context, server string, room id.RoomID, ts int64, dir string) (id.EventID, int64, error) {
	var at int64
	eventID, err := ask(w, server, no[id.EventID], func(p *peer) (eventID id.EventID, err error) {
		eventID, at, err = p.reads().EventAtTimeForServer(ctx, w.from, room, ts, dir == "b")
		return eventID, err
	})
	return eventID, at, err
}

func (w wire) template(ctx context.Context, server string, room id.RoomID, user id.UserID, m Membership, versions []id.RoomVersion) (fedclient.Template, error) {
	return ask(w, server, no[fedclient.Template], func(p *peer) (fedclient.Template, error) {
		return p.svc.Template(ctx, w.from, room, user, m, versions)
	})
}

func (w wire) MakeJoin(ctx context.Context, server string, room id.RoomID, user id.UserID, versions []id.RoomVersion) (fedclient.Template, error) {
	return w.template(ctx, server, room, user, Join, versions)
}

func (w wire) MakeLeave(ctx context.Context, server string, room id.RoomID, user id.UserID) (fedclient.Template, error) {
	return w.template(ctx, server, room, user, Leave, nil)
}

func (w wire) MakeKnock(ctx context.Context, server string, room id.RoomID, user id.UserID, versions []id.RoomVersion) (fedclient.Template, error) {
	return w.template(ctx, server, room, user, Knock, versions)
}

func (w wire) SendJoin(ctx context.Context, server string, room id.RoomID, event id.EventID, join json.RawMessage, omit bool) (*fedclient.JoinAnswer, error) {
	if w.n.onJoin != nil {
		w.n.onJoin()
	}
	return ask(w, server, no[*fedclient.JoinAnswer], func(p *peer) (*fedclient.JoinAnswer, error) {
		accepted, err := p.svc.AcceptJoin(ctx, Handshake{Origin: w.from, Room: room, Event: event, PDU: join, OmitMembers: omit && w.n.omit})
		if err != nil {
			return nil, err
		}
		return p.reads().JoinAnswer(ctx, accepted)
	})
}

func (w wire) SendLeave(ctx context.Context, server string, room id.RoomID, event id.EventID, leave json.RawMessage) error {
	_, err := ask(w, server, no[bool], func(p *peer) (bool, error) {
		return true, p.svc.AcceptLeave(ctx, Handshake{Origin: w.from, Room: room, Event: event, PDU: leave})
	})
	return err
}

func (w wire) SendKnock(ctx context.Context, server string, room id.RoomID, event id.EventID, knock json.RawMessage) ([]json.RawMessage, error) {
	return ask(w, server, no[[]json.RawMessage], func(p *peer) ([]json.RawMessage, error) {
		return p.svc.AcceptKnock(ctx, Handshake{Origin: w.from, Room: room, Event: event, PDU: knock})
	})
}

func (w wire) Invite(ctx context.Context, server string, version id.RoomVersion, room id.RoomID, event id.EventID, invite json.RawMessage, stripped []json.RawMessage) (json.RawMessage, error) {
	return ask(w, server, no[json.RawMessage], func(p *peer) (json.RawMessage, error) {
		return p.svc.ReceiveInvite(ctx, ReceivedInvite{Origin: w.from, Version: version, Room: room, Event: event, PDU: invite, Stripped: stripped})
	})
}

func (w wire) ExchangeThirdPartyInvite(context.Context, string, id.RoomID, any) error {
	return errRefused
}

// stranger is a server controlled by the test, which may be hostile. It responds with the events that it made, unless
// the test sets another response.
type stranger struct {
	n      *network
	victim *peer // the server in whose rooms it participates
	name   string
	signer pdu.Signer
	made   map[id.EventID]*pdu.Event
	asked  map[string]int

	missing  func(latest []id.EventID) ([]json.RawMessage, error)
	state    func(id.EventID) (state, chain []json.RawMessage, err error)
	stateIDs func(id.EventID) (state, chain []id.EventID, err error)
	backfill func(from []id.EventID) ([]json.RawMessage, error)
}

// stranger adds a server that is not a peer.
func (n *network) stranger(name string, victim *peer) *stranger {
	s := &stranger{n: n, victim: victim, name: name, signer: n.signer(name), made: map[id.EventID]*pdu.Event{}, asked: map[string]int{}}
	s.missing = func([]id.EventID) ([]json.RawMessage, error) { s.asked["missing"]++; return nil, nil }
	s.state = func(id.EventID) (state, chain []json.RawMessage, err error) {
		s.asked["state"]++
		return nil, nil, errRefused
	}
	s.stateIDs = func(id.EventID) (state, chain []id.EventID, err error) {
		s.asked["state_ids"]++
		return nil, nil, errRefused
	}
	s.backfill = func([]id.EventID) ([]json.RawMessage, error) { s.asked["backfill"]++; return nil, nil }
	n.strangers[name] = s
	return s
}

// remembers makes the server respond to get_missing_events with the events that it made, as Synapse does: with 20
// events at a time, ignoring min_depth.
func (s *stranger) remembers() {
	walk := func(from []id.EventID, limit int) (out []json.RawMessage) {
		seen := map[id.EventID]bool{}
		for todo := from; len(todo) > 0 && len(out) < limit; {
			e := s.made[todo[0]]
			todo = todo[1:]
			if e != nil && !seen[e.ID()] {
				seen[e.ID()] = true
				out, todo = append(out, e.JSON()), append(todo, e.PrevEvents()...)
			}
		}
		return out
	}
	s.missing = func(latest []id.EventID) ([]json.RawMessage, error) {
		s.asked["missing"]++
		var from []id.EventID
		for _, eventID := range latest {
			if e := s.made[eventID]; e != nil {
				from = append(from, e.PrevEvents()...)
			}
		}
		return walk(from, usualMissingPage), nil
	}
	s.backfill = func(from []id.EventID) ([]json.RawMessage, error) {
		s.asked["backfill"]++
		return walk(from, maxBackfillPage), nil
	}
}

func (s *stranger) event(eventID id.EventID) (json.RawMessage, error) {
	s.asked["event"]++
	if e := s.made[eventID]; e != nil {
		return e.JSON(), nil
	}
	return nil, errRefused
}

func (s *stranger) authChain(eventID id.EventID) (out []json.RawMessage, err error) {
	s.asked["event_auth"]++
	e := s.made[eventID]
	if e == nil {
		return nil, errRefused
	}
	todo, seen := slices.Clone(e.AuthEvents()), map[id.EventID]bool{}
	for len(todo) > 0 {
		a := s.made[todo[0]]
		todo = todo[1:]
		if a == nil || seen[a.ID()] {
			continue
		}
		seen[a.ID()] = true
		out, todo = append(out, a.JSON()), append(todo, a.AuthEvents()...)
	}
	return out, nil
}

func (s *stranger) user(name string) id.UserID { return id.UserID("@" + name + ":" + s.name) }

// join joins a user of the stranger to a room.
func (s *stranger) join(room id.RoomID, user id.UserID) *pdu.Event {
	s.n.Helper()
	key := string(user)
	e := s.make(room, pdu.Proto{Type: typeMember, StateKey: &key, Sender: user, Content: json.RawMessage(`{"membership":"join"}`)})
	_, err := s.victim.svc.AcceptJoin(s.n.Context(), Handshake{Origin: s.name, Room: room, Event: e.ID(), PDU: e.JSON()})
	s.victim.ok(err)
	return e
}

// make builds an event. Fields that p does not set are taken from the victim's copy of the room.
func (s *stranger) make(room id.RoomID, p pdu.Proto) *pdu.Event {
	s.n.Helper()
	r := s.victim.room(room)
	if p.RoomID == "" {
		p.RoomID = room
	}
	if p.Content == nil {
		p.Content = json.RawMessage(`{}`)
	}
	if p.PrevEvents == nil {
		p.PrevEvents = r.extremityIDs()
	}
	if p.AuthEvents == nil {
		for _, k := range eventauth.AuthKeysFor(r.version, p.Type, p.StateKey, p.Sender, p.Content) {
			if e := r.State(k.Type, k.Key); e != nil {
				p.AuthEvents = append(p.AuthEvents, e.ID())
			}
		}
	}
	if p.Depth == 0 {
		r.mu.RLock()
		p.Depth = r.head.depth + 1
		r.mu.RUnlock()
	}
	if p.OriginServerTS == 0 {
		p.OriginServerTS = s.victim.now.UnixMilli()
	}
	e, err := pdu.Build(r.version, p, s.signer)
	if err != nil {
		s.n.Fatalf("build %s: %v", p.Type, err)
	}
	s.made[e.ID()] = e
	return e
}

// say builds a message that follows the events in prev.
func (s *stranger) say(room id.RoomID, user id.UserID, text string, prev ...id.EventID) *pdu.Event {
	s.n.Helper()
	return s.make(room, pdu.Proto{Type: "m.room.message", Sender: user, Content: json.RawMessage(fmt.Sprintf(`{"body":%q}`, text)), PrevEvents: prev})
}

// send sends events to the victim and returns the result for each.
func (s *stranger) send(room id.RoomID, events ...*pdu.Event) map[id.EventID]error {
	s.n.Helper()
	raws := make([]json.RawMessage, len(events))
	for i, e := range events {
		raws[i] = e.JSON()
	}
	results, err := s.victim.svc.Receive(s.n.Context(), s.name, room, raws)
	if !errors.Is(err, ErrLater) { // ErrLater only means that the stranger does not return some events
		s.victim.ok(err)
	}
	return results
}

// sendGood sends events that must all be accepted.
func (s *stranger) sendGood(room id.RoomID, events ...*pdu.Event) {
	s.n.Helper()
	for eventID, err := range s.send(room, events...) {
		if err != nil {
			s.n.Fatalf("%s: %v", eventID, err)
		}
	}
}

// sealAgain computes the hashes and signatures of a modified event.
func sealAgain(raw []byte, s pdu.Signer) ([]byte, error) {
	bare, err := canonjson.Canonical(raw, false)
	if err != nil {
		return nil, err
	}
	bare = canonjson.Without(bare, "hashes", "signatures", "unsigned")
	hash := sha256.Sum256(bare)
	with := canonjson.AppendWith(nil, bare, "hashes", fmt.Appendf(nil, `{"sha256":%q}`, base64.RawStdEncoding.EncodeToString(hash[:])))
	v, _ := pdu.VersionOf(id.RoomV1)
	e, err := pdu.ParseStored(v, "", with)
	if err != nil {
		return nil, err
	}
	signed, err := e.Sign(s)
	if err != nil {
		return nil, err
	}
	return signed.JSON(), nil
}
