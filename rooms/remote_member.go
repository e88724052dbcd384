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
	"ebb/rooms/handshake"
	"ebb/rooms/pdu"
)

const (
	// maxCandidates bounds the servers that are asked to accept a membership event.
	maxCandidates = 10
	// joinTime bounds a join through other servers, one of which may have to send the state of a very large room.
	joinTime = 5 * time.Minute
	// knockTime and leaveTime bound a knock and a leave, so that users are not stuck in a room whose servers are
	// unreachable.
	knockTime = time.Minute
	leaveTime = 30 * time.Second
	// inviteTime bounds the request for the signature of an invited user's server.
	inviteTime = 30 * time.Second
)

// errNoServers is returned if no server is known that could be asked.
var errNoServers = mxerr.NotFound("No server in the room is known; when joining, name one in via")

// Candidates returns other servers that may be in a room, the most promising ones first. These are the servers of via
// and the inviter's server; if there are none, the servers known to be in the room; and if there are none of those
// either, the server in the room ID.
func (s *Service) Candidates(ctx context.Context, room id.RoomID, user ident.Requester, via []string) ([]string, error) {
	all := slices.DeleteFunc(slices.Clone(via[:min(len(via), maxCandidates)]), func(server string) bool { return server == s.opts.Server })
	r, err := s.Room(ctx, room)
	switch {
	case err == nil:
		if m := r.State(typeMember, string(user.UserID)); m != nil && !s.IsLocal(m.Sender()) {
			all = append(all, ident.ServerOf(m.Sender()))
		}
		if len(all) == 0 {
			if all, err = s.knownServers(ctx, r, user); err != nil {
				return nil, err
			}
		}
	case !errors.Is(err, ErrNoRoom):
		return nil, err
	}
	if len(all) == 0 { // the server that created the room may still be in it
		all = append(all, ident.ServerOf(room))
	}
	var out []string
	for _, server := range all {
		if server != "" && server != s.opts.Server && pdu.ValidServerName(server) && !slices.Contains(out, server) {
			out = append(out, server)
		}
	}
	return out[:min(len(out), maxCandidates)], nil
}

// knownServers returns the servers that are known to be in a room: those of its members, and those of the users who
// sent the events of its stripped state.
func (s *Service) knownServers(ctx context.Context, r *Room, user ident.Requester) (servers []string, err error) {
	for server := range r.EachServer() {
		if servers = append(servers, server); len(servers) > 2*maxCandidates {
			return servers, nil
		}
	}
	shown, err := s.StrippedState(ctx, user.UserNID, r)
	for _, raw := range shown {
		sender, _ := canonjson.Get(raw, "sender")
		servers = append(servers, ident.ServerOf(canonjson.String(sender)))
	}
	return servers, err
}

// tryServers calls try for one candidate after the other, until a call succeeds or the time is up. If no call succeeds,
// it returns the first error that is about the request and not only about the server.
func (s *Service) tryServers(ctx context.Context, room id.RoomID, user ident.Requester, via []string, within time.Duration, try func(ctx context.Context, server string) error) error {
	if !s.federates() {
		return mxerr.NotFound("There is no such room on this server, and federation is disabled").Because(ErrNoRoom)
	}
	servers, err := s.Candidates(ctx, room, user, via)
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
		if answer := fedclient.Relay(err); i == 0 || isServerFailure(refusal) && !isServerFailure(answer) {
			refusal = answer
		}
		if ctx.Err() != nil {
			break
		}
	}
	return refusal
}

// isServerFailure reports whether err says only that the other server failed, and nothing about the request.
func isServerFailure(err error) bool {
	var e *mxerr.Error
	return !errors.As(err, &e) || e.Status >= http.StatusInternalServerError
}

// complete builds a membership event of a local user from another server's template. It uses only the position in the
// graph and, for a restricted join, the authorising user. By signing arbitrary content, this server would let the other
// one act in the user's name.
func (s *Service) complete(t fedclient.Template, room id.RoomID, user id.UserID, c memberContent) (*pdu.Event, error) {
	v, ok := pdu.VersionOf(t.RoomVersion)
	if t.RoomVersion == "" { // sent by servers from before room versions
		v, ok = pdu.VersionOf(id.RoomV1)
	}
	if !ok {
		return nil, badRequest(mxerr.CodeIncompatibleRoomVersion, "This server does not support room version %.50q", string(t.RoomVersion))
	}
	template, err := pdu.ReadTemplate(v, t.Event)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fedclient.ErrBadAnswer, err)
	}
	if err := handshake.CheckTemplate(template, room, user, c.Membership); err != nil {
		return nil, fmt.Errorf("%w: %w", fedclient.ErrBadAnswer, err)
	}
	if v.Restricted && c.Membership == Join {
		// A local user cannot be the authorising one: this server would have authorised the join itself.
		raw, _ := canonjson.Get(template.Content, "join_authorised_via_users_server")
		if voucher := id.UserID(canonjson.String(raw)); pdu.ValidUserID(voucher) && !s.IsLocal(voucher) {
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
		RoomID: room, Type: typeMember, StateKey: &key, Sender: user, Content: content, PrevEvents: template.PrevEvents, AuthEvents: template.AuthEvents,
		Depth: template.Depth, OriginServerTS: s.opts.Now().UnixMilli(), ReferenceHash: template.ReferenceHash,
	}, s.opts.Signer.Current())
	if err != nil {
		return nil, buildError(err)
	}
	if e.RoomID() != room {
		return nil, fmt.Errorf("%w: the room id is not one of room version %s", fedclient.ErrBadAnswer, v.ID)
	}
	return e, nil
}

// joinRemote joins a user to a room through a server that is in it.
// Spec: server-server-api#joining-rooms
func (s *Service) joinRemote(ctx context.Context, sender ident.Requester, room id.RoomID, via []string, c memberContent) error {
	release, err := s.joining.Acquire(ctx, room)
	if err != nil {
		return err
	}
	defer s.parking.Announce()
	defer release()
	if r, err := s.Room(ctx, room); err == nil && r.Resident() && r.Shared() && !c.elsewhere { // joined meanwhile
		return errResident
	}
	return s.tryServers(ctx, room, sender, via, joinTime, func(ctx context.Context, server string) error {
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
		a.partial, a.servers = true, s.serversInRoom(server, answer.ServersInRoom)
	}
	if a.state, err = s.verifyState(ctx, a.version, room, answer.State); err != nil {
		return err
	}
	if a.authChain, err = s.verifyState(ctx, a.version, room, answer.AuthChain); err != nil {
		return err
	}
	if a.partial {
		a.state = handshake.WithCited(a.join, a.state, a.authChain)
	}
	if err := handshake.CheckJoinState(a.join, a.state); err != nil {
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

// checkNotBanned returns an error if a join must fail because it cites the event that bans the user, according to what
// this server has stored. It is called before the join is sent.
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

// vouched returns a join with the signature of the authorising user's server added. If the join names no such user, it
// is returned unchanged.
func (s *Service) vouched(ctx context.Context, join *pdu.Event, answer json.RawMessage) (*pdu.Event, error) {
	raw, ok := canonjson.Get(join.Content(), "join_authorised_via_users_server")
	if !ok {
		return join, nil
	}
	return s.verifier.Countersign(ctx, join, ident.ServerOf(canonjson.String(raw)), answer)
}

// verifyState returns the events of a response that are valid and belong to the room. It releases the JSON of each
// event as soon as the event is parsed, so that a large room is not in memory twice.
func (s *Service) verifyState(ctx context.Context, v *pdu.Version, room id.RoomID, raws []json.RawMessage) ([]*pdu.Event, error) {
	if len(raws) > maxForeignState {
		return nil, fmt.Errorf("%w: %d events of state", fedclient.ErrBadAnswer, len(raws))
	}
	events, errs := make([]*pdu.Event, len(raws)), make([]error, len(raws))
	for i, raw := range raws {
		events[i], errs[i] = pdu.Parse(v, raw)
		raws[i] = nil
	}
	s.verifier.VerifyParsed(ctx, events, errs)
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

// leaveOutside ends a user's invite or knock in a room in which this server does not participate. It does nothing if
// the user has left.
func (s *Service) leaveOutside(ctx context.Context, sender ident.Requester, r *Room, reason string) error {
	switch r.Membership(sender.UserID) {
	case Leave:
		return nil
	case Invite, Knock:
		return s.leaveRemote(ctx, sender, r, reason)
	}
	return errNotInRoom()
}

// leaveRemote ends a user's invite or knock through another server. If no server accepts the leave, it ends on this
// server only, so that the user can always get rid of an invite.
// Spec: server-server-api#leaving-rooms-rejecting-invites
func (s *Service) leaveRemote(ctx context.Context, sender ident.Requester, r *Room, reason string) error {
	c := memberContent{Membership: Leave, Reason: reason}
	err := s.tryServers(ctx, r.id, sender, nil, leaveTime, func(ctx context.Context, server string) error {
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
	s.log.InfoContext(ctx, "no server accepted a leave; the user leaves on this server only", "room", r.id, "user", sender.UserID, "err", err)
	if err = s.leaveAlone(ctx, sender, r, c); errors.Is(err, errResident) {
		return s.Leave(ctx, sender, r.id, reason)
	}
	return err
}

// leaveAlone stores a leave on this server only; it is sent to no other server.
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

// knockRemote knocks on a room through a server that is in it.
// Spec: server-server-api#knocking-upon-a-room
func (s *Service) knockRemote(ctx context.Context, sender ident.Requester, room id.RoomID, via []string, c memberContent) error {
	err := s.tryServers(ctx, room, sender, via, knockTime, func(ctx context.Context, server string) error {
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
		shown, _ := s.checkStripped(ctx, knock.Version(), room, stripped) // it may be nil
		return s.setOutside(ctx, knock.Version(), knock, shown)
	})
	if errors.Is(err, errResident) {
		return nil
	}
	return err
}

// inviteRemote invites a user of another server. That server must sign the event; the request is made while the room's
// lock is free. If other events were added to the room meanwhile, the graph forks: the invite follows the same
// prev_events as they do.
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
	server := ident.ServerOf(target)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), inviteTime)
	defer cancel()
	if e, err = s.approveOne(ctx, r, e); err != nil {
		return err
	}
	raw, err := s.opts.Remote.Invite(ctx, server, r.version.ID, room, e.ID(), e.JSON(), r.stripped(sender.UserID))
	if err != nil {
		return fedclient.Relay(err)
	}
	signed, err := s.verifier.Countersign(ctx, e, server, raw)
	if err != nil {
		return fedclient.Relay(err)
	}
	if signed, err = s.approveOne(ctx, r, signed); err != nil { // signatures may have been dropped
		return err
	}
	_, err = s.accept(ctx, server, r, signed, true)
	return err
}
