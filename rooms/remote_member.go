package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/fedclient"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/eventauth"
	"ebb/rooms/pdu"
)

const (
	// maxCandidates bounds the servers that are asked to let a user in.
	maxCandidates = 10
	// joinTime bounds a join through other servers, of which one may have to read a very large room.
	joinTime = 5 * time.Minute
	// knockTime and leaveTime bound a knock and a leave; nobody is kept waiting in a room of servers that are gone.
	knockTime = time.Minute
	leaveTime = 30 * time.Second
	// inviteTime bounds the request for the signature of an invited user's server.
	inviteTime = 30 * time.Second
)

// errNoServers: nobody could be asked.
var errNoServers = mxerr.NotFound("No server in the room is known; when joining, name one in via")

// candidates lists the servers that may know a room, the most promising first: those of via and that of who invited the
// user, else those that are known to be in the room, else the one that made it.
func (s *Service) candidates(ctx context.Context, room id.RoomID, user ident.Requester, via []string) ([]string, error) {
	all := slices.DeleteFunc(slices.Clone(via[:min(len(via), maxCandidates)]), func(server string) bool { return server == s.opts.Server })
	r, err := s.Room(ctx, room)
	switch {
	case err == nil:
		if m := r.State(typeMember, string(user.UserID)); m != nil && !s.IsLocal(m.Sender()) {
			all = append(all, serverOf(string(m.Sender())))
		}
		if len(all) == 0 {
			if all, err = s.knownServers(ctx, r, user); err != nil {
				return nil, err
			}
		}
	case !errors.Is(err, ErrNoRoom):
		return nil, err
	}
	if len(all) == 0 { // the server that made the room may still be there
		all = append(all, serverOf(string(room)))
	}
	var out []string
	for _, server := range all {
		if server != "" && server != s.opts.Server && pdu.ValidServerName(server) && !slices.Contains(out, server) {
			out = append(out, server)
		}
	}
	return out[:min(len(out), maxCandidates)], nil
}

// knownServers lists the servers that are in a room as far as this one knows: those of its members, and those of whose state
// it was shown.
func (s *Service) knownServers(ctx context.Context, r *Room, user ident.Requester) (servers []string, err error) {
	for server := range r.EachServer() {
		if servers = append(servers, server); len(servers) > 2*maxCandidates {
			return servers, nil
		}
	}
	shown, err := s.StrippedState(ctx, user.UserNID, r)
	for _, raw := range shown {
		sender, _ := canonjson.Get(raw, "sender")
		servers = append(servers, serverOf(jsonString(sender)))
	}
	return servers, err
}

// through does something with one candidate after the other, until one does it or the time is over. Where nobody does it, the
// error is the first that says something about it.
func (s *Service) through(ctx context.Context, room id.RoomID, user ident.Requester, via []string, within time.Duration, try func(ctx context.Context, server string) error) error {
	if !s.federates() {
		return mxerr.NotFound("There is no such room on this server, and federation is disabled").Because(ErrNoRoom)
	}
	servers, err := s.candidates(ctx, room, user, via)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	refusal := error(errNoServers)
	for i, server := range servers {
		err := try(ctx, server)
		if err == nil || errors.Is(err, errResident) {
			return err
		}
		s.log.InfoContext(ctx, "a server did not do what it was asked", "room", room, "server", server, "err", err)
		if told := fedclient.Relay(err); i == 0 || isOwnFailure(refusal) && !isOwnFailure(told) {
			refusal = told
		}
		if ctx.Err() != nil {
			break
		}
	}
	return refusal
}

// isOwnFailure tells of an error that says nothing about what was asked for: the other server failed at it.
func isOwnFailure(err error) bool {
	var e *mxerr.Error
	return !errors.As(err, &e) || e.Status >= http.StatusInternalServerError
}

// complete makes this server's membership event of a template: of the template only its place in the graph is taken, and of
// a restricted join who vouches for it. Signing what another server made would let it speak in a user's name.
func (s *Service) complete(t fedclient.Template, room id.RoomID, user id.UserID, c memberContent) (*pdu.Event, error) {
	v, ok := pdu.VersionOf(t.RoomVersion)
	if t.RoomVersion == "" { // as servers had it before there were versions
		v, ok = pdu.VersionOf(id.RoomV1)
	}
	if !ok {
		return nil, badRequest(mxerr.CodeIncompatibleRoomVersion, "This server does not support room version %.50q", string(t.RoomVersion))
	}
	places, err := pdu.ReadTemplate(v, t.Event)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fedclient.ErrBadAnswer, err)
	}
	if err := checkTemplate(places, room, user, c.Membership); err != nil {
		return nil, fmt.Errorf("%w: %w", fedclient.ErrBadAnswer, err)
	}
	if v.Restricted && c.Membership == Join {
		// A user of this server cannot vouch: it would have let the user in itself.
		raw, _ := canonjson.Get(places.Content, "join_authorised_via_users_server")
		if voucher := id.UserID(jsonString(raw)); pdu.ValidUserID(voucher) && !s.IsLocal(voucher) {
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
		Depth: places.Depth, OriginServerTS: s.opts.Now().UnixMilli(), ReferenceHash: places.ReferenceHash,
	}, s.opts.Signer.Current())
	if err != nil {
		return nil, buildError(err)
	}
	if e.RoomID() != room {
		return nil, fmt.Errorf("%w: the room id is not one of room version %s", fedclient.ErrBadAnswer, v.ID)
	}
	return e, nil
}

// checkTemplate wants a template to be of the event that was asked for.
func checkTemplate(t *pdu.Places, room id.RoomID, user id.UserID, membership Membership) error {
	switch {
	case t.RoomID != room:
		return errors.New("the template is of another room")
	case t.Type != typeMember || t.Sender != user || t.StateKey != string(user):
		return errors.New("the template is no membership of the user")
	case membershipIn(t.Content) != membership:
		return errors.New("the template is of another membership")
	case len(t.PrevEvents) == 0 || len(t.AuthEvents) == 0:
		return errors.New("the template has no place in the room")
	}
	return nil
}

// joinRemote makes a user a member of a room through a server that is in it.
// Spec: server-server-api#joining-rooms
func (s *Service) joinRemote(ctx context.Context, sender ident.Requester, room id.RoomID, via []string, c memberContent) error {
	release, err := s.joining.Acquire(ctx, room)
	if err != nil {
		return err
	}
	defer s.gate.announce()
	defer release()
	if r, err := s.Room(ctx, room); err == nil && r.Resident() && r.Shared() && !c.elsewhere { // somebody else's join was quicker
		return errResident
	}
	return s.through(ctx, room, sender, via, joinTime, func(ctx context.Context, server string) error {
		return s.joinThrough(ctx, server, sender, room, c)
	})
}

func (s *Service) joinThrough(ctx context.Context, server string, sender ident.Requester, room id.RoomID, c memberContent) error {
	ctx, release := fedclient.HoldAnswers(ctx, true)
	defer release()
	t, err := s.opts.Remote.MakeJoin(ctx, server, room, sender.UserID, pdu.Versions())
	if err != nil {
		return err
	}
	join, err := s.complete(t, room, sender.UserID, c)
	if err != nil {
		return err
	}
	if err := s.checkNotBanned(ctx, sender, room, join); err != nil {
		return err
	}
	answer, err := s.opts.Remote.SendJoin(ctx, server, room, join.ID(), join.JSON(), true)
	if err != nil {
		return err
	}
	if join, err = s.vouched(ctx, join, answer.Event); err != nil {
		return err
	}
	a := adoption{version: join.Version(), room: room, join: join, sender: sender}
	if answer.MembersOmitted {
		a.partial, a.servers = true, s.toldServers(server, answer.ServersInRoom)
	}
	if a.state, err = s.toldState(ctx, a.version, room, answer.State); err != nil {
		return err
	}
	if a.authChain, err = s.toldState(ctx, a.version, room, answer.AuthChain); err != nil {
		return err
	}
	if a.partial {
		a.addCited()
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

// checkNotBanned spares a join that cites the ban of the user as what they are in the room, as this server knew it too.
func (s *Service) checkNotBanned(ctx context.Context, sender ident.Requester, room id.RoomID, join *pdu.Event) error {
	r, err := s.Room(ctx, room)
	if err != nil || r.Membership(sender.UserID) != Ban {
		if errors.Is(err, ErrNoRoom) {
			return nil
		}
		return err
	}
	ban := r.State(typeMember, string(sender.UserID))
	if ban != nil && slices.Contains(join.AuthEvents(), ban.ID()) {
		return mxerr.Forbidden("You are banned from this room")
	}
	return nil
}

// countersign takes this server's own event with the signature of another server that it needs, from what that one answered.
// Of the answer nothing else is taken.
func (s *Service) countersign(ctx context.Context, own *pdu.Event, server string, told json.RawMessage) (*pdu.Event, error) {
	signed, err := own.Countersigned(server, told)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fedclient.ErrBadAnswer, err)
	}
	if signed.ID() != own.ID() {
		return nil, fmt.Errorf("%w: another event came back", fedclient.ErrBadAnswer)
	}
	err = fmt.Errorf("%w: no key of %s fits its signature", fedclient.ErrBadAnswer, server)
	wants := keyWants(signed, server)
	keys := s.opts.Keys.Keys(ctx, wants)
	for _, want := range wants {
		if key, ok := keys[want]; ok {
			if err = signed.VerifySignature(server, string(want.KeyID), key); err == nil {
				return signed, nil
			}
		}
	}
	return nil, err
}

// vouched is a join with the signature of the server whose user vouches for it, where one does.
func (s *Service) vouched(ctx context.Context, join *pdu.Event, told json.RawMessage) (*pdu.Event, error) {
	raw, ok := canonjson.Get(join.Content(), "join_authorised_via_users_server")
	if !ok {
		return join, nil
	}
	return s.countersign(ctx, join, serverOf(jsonString(raw)), told)
}

// toldState verifies the events of an answer; what is not good, or of another room, is left out. The text of each is let go as it is
// read, since a large room would be in memory twice otherwise.
func (s *Service) toldState(ctx context.Context, v *pdu.Version, room id.RoomID, raws []json.RawMessage) ([]*pdu.Event, error) {
	if len(raws) > maxForeignState {
		return nil, fmt.Errorf("%w: %d events of state", fedclient.ErrBadAnswer, len(raws))
	}
	events, errs := make([]*pdu.Event, len(raws)), make([]error, len(raws))
	for i, raw := range raws {
		events[i], errs[i] = pdu.Parse(v, raw)
		raws[i] = nil
	}
	s.verifyEvents(ctx, events, errs)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for _, err := range errs {
		if err != nil {
			s.log.DebugContext(ctx, "an event of a room's state is not valid", "room", room, "err", err)
		}
	}
	return slices.DeleteFunc(events, func(e *pdu.Event) bool { return e == nil || e.RoomID() != room }), nil
}

// addCited adds the members that the join cites to a state that was told without them: what the user was before the join, and who
// lets them in.
func (a *adoption) addCited() {
	known := map[string]bool{}
	for _, e := range a.state {
		if key, isState := e.StateKey(); isState && e.Type() == typeMember {
			known[key] = true
		}
	}
	for _, e := range a.authChain {
		key, isState := e.StateKey()
		if isState && e.Type() == typeMember && !known[key] && slices.Contains(a.join.AuthEvents(), e.ID()) {
			known[key] = true
			a.state = append(a.state, e)
		}
	}
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

// leaveOutside ends what a user has of a room in which this server does not take part. One who has left is left as is.
func (s *Service) leaveOutside(ctx context.Context, sender ident.Requester, r *Room, reason string) error {
	switch r.Membership(sender.UserID) {
	case Leave:
		return nil
	case Invite, Knock:
		return s.leaveRemote(ctx, sender, r, reason)
	}
	return errNotInRoom()
}

// leaveRemote ends a membership of a room in which this server does not take part. Where no server takes note of it, it ends
// here all the same: nobody is kept in an invitation.
// Spec: server-server-api#leaving-rooms-rejecting-invites
func (s *Service) leaveRemote(ctx context.Context, sender ident.Requester, r *Room, reason string) error {
	c := memberContent{Membership: Leave, Reason: reason}
	err := s.through(ctx, r.id, sender, nil, leaveTime, func(ctx context.Context, server string) error {
		t, err := s.opts.Remote.MakeLeave(ctx, server, r.id, sender.UserID)
		if err != nil {
			return err
		}
		if t.RoomVersion == "" {
			t.RoomVersion = r.version.ID
		}
		leave, err := s.complete(t, r.id, sender.UserID, c)
		if err != nil {
			return err
		}
		if err := s.opts.Remote.SendLeave(ctx, server, r.id, leave.ID(), leave.JSON()); err != nil {
			return err
		}
		return s.setOutside(ctx, leave.Version(), leave, nil)
	})
	if err == nil || errors.Is(err, errResident) {
		return nil
	}
	s.log.InfoContext(ctx, "no server took note of a leave; it is one here only", "room", r.id, "user", sender.UserID, "err", err)
	if err = s.leaveAlone(ctx, sender, r, c); errors.Is(err, errResident) {
		return s.Leave(ctx, sender, r.id, reason)
	}
	return err
}

// leaveAlone makes a leave that only this server knows.
func (s *Service) leaveAlone(ctx context.Context, sender ident.Requester, r *Room, c memberContent) error {
	content, err := c.encode()
	if err != nil {
		return err
	}
	p := pdu.Proto{
		RoomID: r.id, Type: typeMember, Sender: sender.UserID, Content: content, OriginServerTS: s.opts.Now().UnixMilli(), Depth: 1,
	}
	key := string(sender.UserID)
	p.StateKey = &key
	if m := r.State(typeMember, key); m != nil {
		p.PrevEvents, p.Depth = []id.EventID{m.ID()}, m.Depth()+1
	}
	leave, err := pdu.Build(r.version, p, s.opts.Signer.Current())
	if err != nil {
		return buildError(err)
	}
	return s.setOutside(ctx, r.version, leave, nil)
}

// knockRemote asks to be let into a room through a server that is in it.
// Spec: server-server-api#knocking-upon-a-room
func (s *Service) knockRemote(ctx context.Context, sender ident.Requester, room id.RoomID, via []string, c memberContent) error {
	err := s.through(ctx, room, sender, via, knockTime, func(ctx context.Context, server string) error {
		var versions []id.RoomVersion
		for _, v := range pdu.Versions() {
			if known, _ := pdu.VersionOf(v); known.Knock {
				versions = append(versions, v)
			}
		}
		t, err := s.opts.Remote.MakeKnock(ctx, server, room, sender.UserID, versions)
		if err != nil {
			return err
		}
		knock, err := s.complete(t, room, sender.UserID, c)
		if err != nil {
			return err
		}
		stripped, err := s.opts.Remote.SendKnock(ctx, server, room, knock.ID(), knock.JSON())
		if err != nil {
			return err
		}
		shown, _ := s.checkStripped(ctx, knock.Version(), room, stripped) // where that is not good, the knock stands with nothing to show
		return s.setOutside(ctx, knock.Version(), knock, shown)
	})
	if errors.Is(err, errResident) {
		return nil
	}
	return err
}

// inviteRemote invites a user of another server: the event needs that server's signature, for which it is asked without the
// room's lock. Meanwhile the room may have moved on; the event then is one of several that follow what it was built on.
// Spec: server-server-api#inviting-to-a-room
func (s *Service) inviteRemote(ctx context.Context, sender ident.Requester, room id.RoomID, target id.UserID, c memberContent) error {
	if !s.federates() {
		return errRemote(string(target))
	}
	if err := s.awaitMember(ctx, room, sender, target); err != nil {
		return unknownIsForbidden(err)
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
		if b.room.provisionalMembership(sender.UserID) != Join {
			return mxerr.Forbidden("You are not in this room")
		}
		r = b.room
		e, err = b.draft(&p)
		return err
	})
	if err != nil {
		return unknownIsForbidden(err)
	}
	server := serverOf(string(target))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), inviteTime)
	defer cancel()
	if e, err = s.approveOne(ctx, r, e); err != nil {
		return err
	}
	raw, err := s.opts.Remote.Invite(ctx, server, r.version.ID, room, e.ID(), e.JSON(), r.stripped(sender.UserID))
	if err != nil {
		return fedclient.Relay(err)
	}
	signed, err := s.countersign(ctx, e, server, raw)
	if err != nil {
		return fedclient.Relay(err)
	}
	if signed, err = s.approveOne(ctx, r, signed); err != nil { // the invited one's server may have dropped what others signed
		return err
	}
	_, err = s.accept(ctx, server, r, signed, true)
	return err
}
