package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/federation/fedclient"
	"ebb/mxerr"
	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
)

const (
	// maxCandidates bounds the servers that are asked to let a user in.
	maxCandidates = 10
	// remoteTime bounds a join, knock or leave through other servers.
	remoteTime = 5 * time.Minute
)

// errNoServers: nobody could be asked.
var errNoServers = mxerr.NotFound("No server is known that takes part in the room")

// candidates lists the servers that may know a room, the most promising first.
func (s *Service) candidates(ctx context.Context, room id.RoomID, user id.UserID, via []string) ([]string, error) {
	all := slices.DeleteFunc(slices.Clone(via[:min(len(via), maxCandidates)]), func(server string) bool { return server == s.Server })
	r, err := s.Room(ctx, room)
	if err == nil {
		if m := r.State(typeMember, string(user)); m != nil { // who invited the user is in the room
			all = append(all, serverOf(string(m.Sender())))
		}
		if len(all) == 0 {
			for server := range r.EachServer() {
				if all = append(all, server); len(all) > 3*maxCandidates {
					break
				}
			}
		}
	} else if mxerr.Code(err) != mxerr.CodeNotFound {
		return nil, err
	}
	if len(all) == 0 { // the server that made the room may still be there
		all = append(all, serverOf(string(room)))
	}
	var out []string
	for _, server := range all {
		if server != "" && server != s.Server && pdu.ValidServerName(server) && !slices.Contains(out, server) {
			out = append(out, server)
		}
	}
	return out[:min(len(out), maxCandidates)], nil
}

// through does something with one candidate after the other, until one does it or the time is over. A refusal is kept and
// told if nobody does it.
func (s *Service) through(ctx context.Context, room id.RoomID, user id.UserID, via []string, try func(ctx context.Context, server string) error) error {
	if !s.federates() {
		return unknownRoom(errNoRoom())
	}
	servers, err := s.candidates(ctx, room, user, via)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), remoteTime)
	defer cancel()
	refusal, refused := error(errNoServers), false
	for _, server := range servers {
		err := try(ctx, server)
		if err == nil || errors.Is(err, errResident) {
			return err
		}
		s.log.InfoContext(ctx, "a server did not do what it was asked", "room", room, "server", server, "err", err)
		if told := fedclient.Relay(err); !refused || isRefusal(told) {
			refusal, refused = told, isRefusal(told)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return refusal
}

// isRefusal tells of an error that it says what is wrong, not that somebody could not be asked.
func isRefusal(err error) bool {
	var known *mxerr.Error
	return errors.As(err, &known) && known.Status < 500
}

// complete makes this server's membership event of a template: of the template only its place in the graph is taken, and of
// a restricted join who vouches for it. Signing what another server made would let it speak in a user's name.
func (s *Service) complete(t fedclient.Template, room id.RoomID, user id.UserID, c memberContent) (*pdu.Event, error) {
	v, ok := pdu.VersionOf(t.RoomVersion)
	if t.RoomVersion == "" { // as servers had it before there were versions
		v, ok = pdu.VersionOf(id.RoomV1)
	}
	if !ok {
		return nil, badRequest(mxerr.CodeIncompatibleRoomVersion, "This server does not know room version %.50q", string(t.RoomVersion))
	}
	places, err := pdu.ReadTemplate(v, t.Event)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fedclient.ErrBadAnswer, err)
	}
	if len(places.PrevEvents) == 0 || len(places.AuthEvents) == 0 {
		return nil, fmt.Errorf("%w: the template has no place", fedclient.ErrBadAnswer)
	}
	if v.Restricted && c.Membership == Join {
		raw, _ := canonjson.Get(places.Content, "join_authorised_via_users_server")
		if voucher := id.UserID(jsonString(raw)); pdu.ValidUserID(voucher) {
			c.AuthorisedVia = voucher
		}
	}
	content, err := c.encode()
	if err != nil {
		return nil, err
	}
	if content, err = canonjson.Canonical(content, false); err != nil {
		return nil, mxerr.BadJSON("%v", err)
	}
	key := string(user)
	e, err := pdu.Build(v, pdu.Proto{
		RoomID: room, Type: typeMember, StateKey: &key, Sender: user, Content: content, PrevEvents: places.PrevEvents, AuthEvents: places.AuthEvents,
		Depth: places.Depth, OriginServerTS: s.Now().UnixMilli(), ReferenceHash: places.ReferenceHash,
	}, s.Signer.Current())
	if err != nil {
		return nil, buildError(err)
	}
	if e.RoomID() != room {
		return nil, fmt.Errorf("%w: the room id is not one of room version %s", fedclient.ErrBadAnswer, v.ID)
	}
	return e, nil
}

// joinRemote makes a user a member of a room through a server that is in it.
// Spec: server-server-api#joining-rooms
func (s *Service) joinRemote(ctx context.Context, sender Sender, room id.RoomID, via []string, c memberContent) error {
	release, err := s.joining.lock(ctx, room)
	if err != nil {
		return err
	}
	defer release()
	if r, err := s.Room(ctx, room); err == nil && r.Resident() && r.Shared() && !c.elsewhere { // somebody else's join was quicker
		return errResident
	}
	return s.through(ctx, room, sender.ID, via, func(ctx context.Context, server string) error {
		return s.joinThrough(ctx, server, sender, room, c)
	})
}

func (s *Service) joinThrough(ctx context.Context, server string, sender Sender, room id.RoomID, c memberContent) error {
	t, err := s.Remote.MakeJoin(ctx, server, room, sender.ID, pdu.Versions())
	if err != nil {
		return err
	}
	join, err := s.complete(t, room, sender.ID, c)
	if err != nil {
		return err
	}
	answer, err := s.Remote.SendJoin(ctx, server, room, join.ID(), join.JSON(), false)
	if err != nil {
		return err
	}
	if join, err = s.signedBack(ctx, join, answer.Event); err != nil {
		return err
	}
	a := adoption{version: join.Version(), room: room, join: join, sender: sender}
	if a.state, err = s.toldState(ctx, a.version, room, answer.State); err != nil {
		return err
	}
	if a.authChain, err = s.toldState(ctx, a.version, room, answer.AuthChain); err != nil {
		return err
	}
	if err := checkTold(a); err != nil {
		return fmt.Errorf("%w: %w", fedclient.ErrBadAnswer, err)
	}
	err = s.adopt(ctx, a)
	if !errors.Is(err, errResident) {
		return err
	}
	r, err := s.Room(ctx, room)
	if err != nil {
		return err
	}
	_, err = s.accept(ctx, server, r, join, false)
	return err
}

// signedBack takes this server's own event with the signature that the other one added, where that was needed.
func (s *Service) signedBack(ctx context.Context, own *pdu.Event, told json.RawMessage) (*pdu.Event, error) {
	if len(pdu.RequiredSigners(own)) < 2 || len(told) == 0 {
		return own, nil
	}
	events, errs := s.verify(ctx, own.Version(), []json.RawMessage{told})
	if events[0] == nil {
		return nil, fmt.Errorf("%w: the event came back unsigned: %w", fedclient.ErrBadAnswer, errs[0])
	}
	if events[0].ID() != own.ID() {
		return nil, fmt.Errorf("%w: another event came back", fedclient.ErrBadAnswer)
	}
	return events[0], nil
}

// toldState verifies the events of an answer; what is not good, or of another room, is left out.
func (s *Service) toldState(ctx context.Context, v *pdu.Version, room id.RoomID, raws []json.RawMessage) ([]*pdu.Event, error) {
	if len(raws) > maxForeignState {
		return nil, fmt.Errorf("%w: %d events of state", fedclient.ErrBadAnswer, len(raws))
	}
	events, errs := s.verify(ctx, v, raws)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for i, err := range errs {
		if err != nil {
			s.log.DebugContext(ctx, "an event of a room's state is not good", "room", room, "event", idOf(v, raws[i]), "err", err)
		}
	}
	return slices.DeleteFunc(events, func(e *pdu.Event) bool { return e == nil || e.RoomID() != room }), nil
}

// checkTold wants a room that another server gave to be one: a create event of the version that was told, and a state in which
// the join is allowed.
func checkTold(a adoption) error {
	state := eventauth.StateMap{}
	for _, e := range a.state {
		if key, isState := e.StateKey(); isState {
			k := pdu.StateKey{Type: e.Type(), Key: key}
			if state[k] != nil {
				return fmt.Errorf("the state has two events for %s %q", k.Type, k.Key)
			}
			state[k] = e
		}
	}
	create := state.Get(typeCreate, "")
	if create == nil {
		return errors.New("the state has no create event")
	}
	raw, _ := canonjson.Get(create.Content(), "room_version")
	version := id.RoomVersion(jsonString(raw))
	if raw == nil {
		version = id.RoomV1
	}
	if version != a.version.ID {
		return fmt.Errorf("the room is of version %.50q, not %s", version, a.version.ID)
	}
	if err := eventauth.Check(a.version, create, eventauth.StateMap{}); err != nil {
		return fmt.Errorf("the create event: %w", err)
	}
	if err := eventauth.Check(a.version, a.join, state); err != nil {
		return fmt.Errorf("the join is not allowed by the state that came with it: %w", err)
	}
	return nil
}

// leaveRemote ends a membership of a room in which this server does not take part. Where no server takes note of it, it ends
// here all the same: nobody is kept in an invitation.
// Spec: server-server-api#leaving-rooms-rejecting-invites
func (s *Service) leaveRemote(ctx context.Context, sender Sender, r *Room, reason string) error {
	c := memberContent{Membership: Leave, Reason: reason}
	err := s.through(ctx, r.id, sender.ID, nil, func(ctx context.Context, server string) error {
		t, err := s.Remote.MakeLeave(ctx, server, r.id, sender.ID)
		if err != nil {
			return err
		}
		if t.RoomVersion == "" {
			t.RoomVersion = r.version.ID
		}
		leave, err := s.complete(t, r.id, sender.ID, c)
		if err != nil {
			return err
		}
		if err := s.Remote.SendLeave(ctx, server, r.id, leave.ID(), leave.JSON()); err != nil {
			return err
		}
		return s.setOutside(ctx, leave.Version(), leave, nil)
	})
	if err == nil {
		return nil
	}
	s.log.InfoContext(ctx, "no server took note of a leave; it is one here only", "room", r.id, "user", sender.ID, "err", err)
	return s.leaveAlone(ctx, sender, r, c)
}

// leaveAlone makes a leave that only this server knows.
func (s *Service) leaveAlone(ctx context.Context, sender Sender, r *Room, c memberContent) error {
	content, err := c.encode()
	if err != nil {
		return err
	}
	p := pdu.Proto{
		RoomID: r.id, Type: typeMember, Sender: sender.ID, Content: content, OriginServerTS: s.Now().UnixMilli(), Depth: 1,
	}
	key := string(sender.ID)
	p.StateKey = &key
	if m := r.State(typeMember, key); m != nil {
		p.PrevEvents, p.Depth = []id.EventID{m.ID()}, m.Depth()+1
	}
	leave, err := pdu.Build(r.version, p, s.Signer.Current())
	if err != nil {
		return buildError(err)
	}
	return s.setOutside(ctx, r.version, leave, nil)
}

// knockRemote asks to be let into a room through a server that is in it.
// Spec: server-server-api#knocking-upon-a-room
func (s *Service) knockRemote(ctx context.Context, sender Sender, room id.RoomID, via []string, c memberContent) error {
	return s.through(ctx, room, sender.ID, via, func(ctx context.Context, server string) error {
		var versions []id.RoomVersion
		for _, v := range pdu.Versions() {
			if known, _ := pdu.VersionOf(v); known.Knock {
				versions = append(versions, v)
			}
		}
		t, err := s.Remote.MakeKnock(ctx, server, room, sender.ID, versions)
		if err != nil {
			return err
		}
		knock, err := s.complete(t, room, sender.ID, c)
		if err != nil {
			return err
		}
		stripped, err := s.Remote.SendKnock(ctx, server, room, knock.ID(), knock.JSON())
		if err != nil {
			return err
		}
		if checkStripped(knock.Version(), room, stripped) != nil { // the knock stands, with nothing to show
			stripped = nil
		}
		return s.setOutside(ctx, knock.Version(), knock, stripped)
	})
}

// inviteRemote invites a user of another server: the event needs that server's signature, for which it is asked without the
// room's lock. Meanwhile the room may have moved on; the event then is one of several that follow what it was built on.
// Spec: server-server-api#inviting-to-a-room
func (s *Service) inviteRemote(ctx context.Context, sender Sender, room id.RoomID, target id.UserID, c memberContent) error {
	if !s.federates() {
		return errRemote(string(target))
	}
	content, err := c.encode()
	if err != nil {
		return err
	}
	key := string(target)
	p := proto{typ: typeMember, stateKey: &key, sender: sender, content: content}
	var e *pdu.Event
	var r *Room
	err = s.change(ctx, room, func(b *batch) (err error) {
		if b.room.provisionalMembership(sender.ID) != Join {
			return mxerr.Forbidden("You are not in this room")
		}
		r = b.room
		e, err = b.draft(p)
		return err
	})
	if err != nil {
		return unknownIsForbidden(err)
	}
	server := serverOf(string(target))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if e, err = s.approveOne(ctx, r, e); err != nil {
		return err
	}
	raw, err := s.Remote.Invite(ctx, server, r.version.ID, room, e.ID(), e.JSON(), r.stripped(sender.ID))
	if err != nil {
		return fedclient.Relay(err)
	}
	signed, err := pdu.Parse(r.version, raw)
	if err != nil || signed.ID() != e.ID() {
		return fedclient.Relay(fmt.Errorf("%w: another event came back", fedclient.ErrBadAnswer))
	}
	if err := s.countersigned(ctx, signed, server); err != nil {
		return fedclient.Relay(fmt.Errorf("%w: %w", fedclient.ErrBadAnswer, err))
	}
	if signed, err = s.approveOne(ctx, r, signed); err != nil { // the invited one's server may have dropped what others signed
		return err
	}
	_, err = s.accept(ctx, server, r, signed, true)
	return err
}

// countersigned wants the signature of another server on an event.
func (s *Service) countersigned(ctx context.Context, e *pdu.Event, server string) error {
	err := fmt.Errorf("no signature of %s", server)
	wants := keyWants(e, server)
	keys := s.Keys.Keys(ctx, wants)
	for _, want := range wants {
		if key, ok := keys[want]; ok {
			if err = e.VerifySignature(server, string(want.KeyID), key); err == nil {
				return nil
			}
		}
	}
	return err
}

// draft is an event that the room allows, and that is not made part of it yet.
func (b *batch) draft(p proto) (*pdu.Event, error) {
	v := &view{r: b.room}
	e, err := b.build(&p, v)
	if err != nil {
		return nil, err
	}
	err = eventauth.Check(b.room.version, e, v)
	if v.err != nil {
		return nil, v.err
	}
	if err != nil {
		return nil, authError(err)
	}
	return e, nil
}

// outsider tells of a user whose membership of a room is known only from outside.
func (r *Room) outsider(user id.UserID) bool {
	switch r.Membership(user) {
	case Invite, Knock:
		return !r.Resident()
	}
	return false
}

// flights lets one join of a room happen at a time.
type flights struct {
	slots chan struct{} // guards rooms; a slot of one
	rooms map[id.RoomID]chan struct{}
}

func newFlights() *flights {
	return &flights{slots: make(chan struct{}, 1), rooms: map[id.RoomID]chan struct{}{}}
}

// lock waits until nobody else joins the room.
func (f *flights) lock(ctx context.Context, room id.RoomID) (release func(), err error) {
	for {
		f.slots <- struct{}{}
		busy := f.rooms[room]
		if busy == nil {
			done := make(chan struct{})
			f.rooms[room] = done
			<-f.slots
			return func() {
				f.slots <- struct{}{}
				delete(f.rooms, room)
				<-f.slots
				close(done)
			}, nil
		}
		<-f.slots
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
