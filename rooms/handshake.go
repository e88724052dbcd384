package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/fedclient"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/handshake"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Template returns an unsigned join, knock or leave event of a user of another server, which that server then signs.
// versions are the room versions that the other server supports; it is nil for operations without such a parameter.
// Spec: server-server-api#joining-rooms, server-server-api#knocking-upon-a-room,
// server-server-api#leaving-rooms-rejecting-invites
func (s *Service) Template(ctx context.Context, origin string, room id.RoomID, user id.UserID, membership Membership, versions []id.RoomVersion) (t fedclient.Template, err error) {
	if !pdu.ValidUserID(user) || ident.ServerOf(user) != origin {
		return t, mxerr.Forbidden("The user must belong to your server")
	}
	r, err := s.requireFullState(ctx, origin, room)
	if err != nil {
		return t, err
	}
	if versions != nil && !slices.Contains(versions, r.version.ID) {
		return t, mxerr.New(http.StatusBadRequest, mxerr.CodeIncompatibleRoomVersion, "Your server does not support the version of this room").With("room_version", r.version.ID)
	}
	c := memberContent{Membership: membership}
	if membership == Join {
		if c.AuthorisedVia, err = s.grantRemote(ctx, r, user); err != nil {
			return t, err
		}
	}
	content, err := c.encode()
	if err != nil {
		return t, err
	}
	key := string(user)
	p := proto{typ: typeMember, stateKey: &key, sender: ident.Requester{UserID: user}, content: content}
	t.RoomVersion = r.version.ID
	err = s.change(ctx, room, func(b *batch) error {
		t.Event, err = b.template(p)
		return err
	})
	return t, err
}

// template returns an event in the form of a template, without adding it to the batch. It fails if the current state
// does not allow the event.
func (b *batch) template(p proto) (json.RawMessage, error) {
	e, err := b.draft(&p)
	if err != nil {
		return nil, err
	}
	return pdu.Template(b.room.version, pdu.Proto{
		RoomID: b.room.id, Type: p.typ, StateKey: p.stateKey, Sender: p.sender.UserID, Content: p.content, PrevEvents: e.PrevEvents(),
		AuthEvents: e.AuthEvents(), Depth: e.Depth(), OriginServerTS: e.OriginServerTS(),
	})
}

// grantRemote is like grantRestricted, but for a user of another server. The code of the error tells that server
// whether it makes sense to ask others.
func (s *Service) grantRemote(ctx context.Context, r *Room, user id.UserID) (id.UserID, error) {
	if !r.restricted() {
		return "", nil
	}
	switch r.Membership(user) {
	case Join, Invite:
		return "", nil
	}
	allowed, unsure, err := s.inAllowedRoom(ctx, r, user)
	switch {
	case err != nil:
		return "", err
	case !allowed && unsure:
		return "", badRequest(mxerr.CodeUnableToAuthoriseJoin, "This server cannot check whether the user may join")
	case !allowed:
		return "", mxerr.Forbidden("The user is not in any of the rooms whose members may join")
	}
	voucher := r.voucher()
	if voucher == "" {
		return "", badRequest(mxerr.CodeUnableToGrantJoin, "No user of this server can authorise the join")
	}
	return voucher, nil
}

// restricted reports whether the join rule allows members of certain other rooms to join.
func (r *Room) restricted() bool {
	rule := r.JoinRule()
	return r.version.Restricted && (rule == "restricted" || rule == "knock_restricted" && r.version.KnockRestricted)
}

// voucher returns a local member who may invite others, or "" if there is none.
func (r *Room) voucher() id.UserID {
	levels := r.Levels()
	for m := range r.EachLocal() {
		if levels.UserLevel(m.User) >= levels.Invite {
			return m.User
		}
	}
	return ""
}

// Handshake is a signed membership event that another server sends for one of its users.
type Handshake struct {
	Origin      string
	Room        id.RoomID
	Event       id.EventID // from the request's path
	PDU         json.RawMessage
	Membership  Membership // the required membership
	OmitMembers bool       // for a join: the response may leave out members that it does not need
}

// AcceptedJoin is a join of a user of another server that was added to a local room.
type AcceptedJoin struct {
	Room        *Room
	Event       *Event
	OmitMembers bool // the response may leave out members that the other server does not need
}

// AcceptJoin adds the signed join of a user of another server to the room. history.Service.JoinAnswer returns the
// response.
// Spec: server-server-api#put_matrixfederationv2send_joinroomideventid
func (s *Service) AcceptJoin(ctx context.Context, h Handshake) (AcceptedJoin, error) {
	h.Membership = Join
	r, e, err := s.acceptMembership(ctx, h)
	return AcceptedJoin{Room: r, Event: e, OmitMembers: h.OmitMembers}, err
}

// AcceptLeave adds the signed leave of a user of another server to the room.
// Spec: server-server-api#put_matrixfederationv2send_leaveroomideventid
func (s *Service) AcceptLeave(ctx context.Context, h Handshake) error {
	h.Membership = Leave
	_, _, err := s.acceptMembership(ctx, h)
	return err
}

// AcceptKnock adds the signed knock of a user of another server to the room and returns the room's stripped state.
// Spec: server-server-api#put_matrixfederationv1send_knockroomideventid
func (s *Service) AcceptKnock(ctx context.Context, h Handshake) ([]json.RawMessage, error) {
	h.Membership = Knock
	r, _, err := s.acceptMembership(ctx, h)
	if err != nil {
		return nil, err
	}
	return r.stripped(""), nil
}

func (s *Service) acceptMembership(ctx context.Context, h Handshake) (*Room, *Event, error) {
	r, err := s.requireFullState(ctx, h.Origin, h.Room)
	if err != nil {
		return nil, nil, err
	}
	e, err := pdu.Parse(r.version, h.PDU)
	if err != nil {
		return nil, nil, mxerr.BadJSON("Invalid event for this room's version: %v", err)
	}
	if err := handshake.Check(e, handshake.Request{Origin: h.Origin, Room: h.Room, Event: h.Event, Membership: h.Membership}); err != nil {
		return nil, nil, err
	}
	if e, err = s.vouch(ctx, r, e); err != nil {
		return nil, nil, err
	}
	events, errs := []*pdu.Event{e}, make([]error, 1)
	if s.verifier.VerifyParsed(ctx, events, errs); errs[0] != nil {
		return nil, nil, errBadSignature(errs[0])
	}
	stored, err := s.accept(ctx, h.Origin, r, events[0], true)
	return r, stored, err
}

func errBadSignature(cause error) error {
	return mxerr.InvalidParam("The event's signatures are missing or not valid").Because(cause)
}

// vouch adds this server's signature to a restricted join if the local user named in it may authorise the join.
// Spec: server-server-api#restricted-rooms
func (s *Service) vouch(ctx context.Context, r *Room, e *pdu.Event) (*pdu.Event, error) {
	raw, _ := canonjson.Get(e.Content(), "join_authorised_via_users_server")
	voucher := id.UserID(canonjson.String(raw))
	if voucher == "" || !r.version.Restricted || pdu.Membership(e.Content()) != Join || !s.IsLocal(voucher) {
		return e, nil
	}
	allowed, _, err := s.inAllowedRoom(ctx, r, e.Sender())
	if err != nil {
		return nil, err
	}
	invited := r.Membership(e.Sender()) == Invite || r.Membership(e.Sender()) == Join
	levels := r.Levels()
	if !allowed && !invited || r.Membership(voucher) != Join || levels.UserLevel(voucher) < levels.Invite {
		return nil, mxerr.Forbidden("This server cannot authorise the join")
	}
	return e.Sign(s.opts.Signer.Current())
}

// accept adds a verified event of another server to a room in which this server participates. If relay is true, this
// server also sends the event to the other servers in the room.
func (s *Service) accept(ctx context.Context, origin string, r *Room, e *pdu.Event, relay bool) (*Event, error) {
	ctx, release := fedclient.HoldAnswers(ctx, false)
	defer release()
	remote := s.opts.Remote
	if !r.HasServer(origin) { // it must not cause requests to other servers
		remote = nil
	}
	a := newArrivals(r, origin)
	if err := a.process(ctx, remote, []*incoming{{Event: e, relay: relay}}); err != nil {
		return nil, err
	}
	if err := a.results[e.ID()]; err != nil {
		return nil, mxerr.Forbidden("The room does not allow this").Because(err)
	}
	stored, err := a.room.FindEvent(ctx, e.ID())
	if err != nil {
		return nil, err
	}
	if stored == nil || stored.Flags&(storage.RejectedEvent|storage.SoftFailedEvent) != 0 {
		return nil, mxerr.Forbidden("The room no longer allows this")
	}
	return stored, nil
}

// stripped returns the room's stripped state, including the member event of inviter unless that is "". The events are
// full PDUs, which are also valid as stripped events.
func (r *Room) stripped(inviter id.UserID) []json.RawMessage {
	out := []json.RawMessage{}
	for _, typ := range handshake.StrippedTypes {
		if e := r.State(typ, ""); e != nil {
			out = append(out, e.JSON())
		}
	}
	if inviter != "" {
		if e := r.State(typeMember, string(inviter)); e != nil {
			out = append(out, e.JSON())
		}
	}
	return out
}

// ReceivedInvite is an invite of a local user by a user of another server.
type ReceivedInvite struct {
	Origin   string
	Version  id.RoomVersion
	Room     id.RoomID
	Event    id.EventID
	PDU      json.RawMessage
	Stripped []json.RawMessage // the room's stripped state
}

// ReceiveInvite stores an invite that another server sent, and returns it with this server's signature added.
// Spec: server-server-api#put_matrixfederationv2inviteroomideventid
func (s *Service) ReceiveInvite(ctx context.Context, in ReceivedInvite) (json.RawMessage, error) {
	v, ok := pdu.VersionOf(in.Version)
	if !ok {
		return nil, mxerr.New(http.StatusBadRequest, mxerr.CodeIncompatibleRoomVersion, "This server does not support the room's version").With("room_version", in.Version)
	}
	e, err := pdu.Parse(v, in.PDU)
	if err != nil {
		return nil, mxerr.BadJSON("Invalid event for this room's version: %v", err)
	}
	if err := s.checkInvite(&in, e); err != nil {
		return nil, err
	}
	key, _ := e.StateKey()
	nid, err := s.UserNID(ctx, id.UserID(key))
	if err != nil {
		return nil, err
	}
	if err := s.mayBeInvited(ctx, nid, e.Sender()); err != nil {
		return nil, err
	}
	shown, err := s.checkStripped(ctx, v, in.Room, in.Stripped)
	if err != nil {
		return nil, err
	}
	events, errs := []*pdu.Event{e}, make([]error, 1)
	if s.verifier.VerifyParsed(ctx, events, errs); errs[0] != nil {
		return nil, errBadSignature(errs[0])
	}
	signed, err := events[0].Sign(s.opts.Signer.Current())
	if err != nil {
		return nil, err
	}
	r, err := s.Room(ctx, in.Room)
	switch {
	case err == nil && !r.AllowsServer(in.Origin):
		return nil, mxerr.Forbidden("The room's server access control list denies your server")
	case err == nil && r.Resident() && r.Count(Join) > 0: // the inviter's server sends it as a normal event too
		return signed.JSON(), nil
	case err == nil && r.Resident():
		return nil, mxerr.Forbidden("This server no longer has members in the room")
	case err != nil && !errors.Is(err, ErrNoRoom):
		return nil, err
	}
	if err = s.setOutside(ctx, v, signed, shown); errors.Is(err, errResident) {
		err = nil
	}
	return signed.JSON(), err
}

// checkInvite checks that a received invite is for a local user and is sent by a user of the origin.
func (s *Service) checkInvite(in *ReceivedInvite, e *pdu.Event) error {
	if err := handshake.CheckInvite(e, handshake.Request{Origin: in.Origin, Room: in.Room, Event: in.Event}); err != nil {
		return err
	}
	if key, _ := e.StateKey(); !s.IsLocal(id.UserID(key)) {
		return badRequest(mxerr.CodeInvalidParam, "The invited user does not belong to this server")
	}
	return nil
}

// checkStripped returns the part of a room's stripped state that may be shown to clients. An entry that is not an event
// makes the invite invalid; a full PDU of another room or with a wrong signature is left out.
// Deviation: events, the create event among them, may be stripped or missing in room version 12 too, as deployed
// servers send them. The create event is checked against the room ID only when the invite is accepted.
// Spec: server-server-api#put_matrixfederationv2inviteroomideventid
func (s *Service) checkStripped(ctx context.Context, v *pdu.Version, room id.RoomID, events []json.RawMessage) ([]json.RawMessage, error) {
	shown, full, err := handshake.SplitStripped(events)
	if err != nil {
		return nil, err
	}
	good, _ := s.verifier.Verify(ctx, v, full)
	for i, e := range good {
		if e == nil && v.RoomIDIsCreateHash { // the room ID proves a create event
			if e, _ = pdu.Parse(v, full[i]); e != nil && !e.IsStateKey(typeCreate, "") {
				e = nil
			}
		}
		if e == nil || e.RoomID() != room {
			continue
		}
		shown = append(shown, e.JSON())
	}
	return handshake.KeepStripped(shown), nil
}
