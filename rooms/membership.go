package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/eventcontent"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// memberContent is the content of an m.room.member event that this server builds.
type memberContent struct {
	Membership    Membership `json:"membership"`
	DisplayName   string     `json:"displayname,omitempty"`
	AvatarURL     string     `json:"avatar_url,omitempty"`
	Reason        string     `json:"reason,omitempty"`
	IsDirect      bool       `json:"is_direct,omitempty"`
	AuthorisedVia id.UserID  `json:"join_authorised_via_users_server,omitempty"`

	more      map[string]json.RawMessage // members that the client adds
	elsewhere bool                       // only another server can authorise the join
}

// encode returns the content as JSON. Keys set by the server take precedence over those added by the client.
func (c *memberContent) encode() ([]byte, error) {
	raw, err := json.Marshal(c)
	if err != nil || len(c.more) == 0 {
		return raw, err
	}
	fields := maps.Clone(c.more)
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// decidedHere lists the keys of a join's content that a client cannot set in its request.
var decidedHere = []string{"membership", "displayname", "avatar_url", "is_direct", "join_authorised_via_users_server", "third_party_invite", "third_party_signed"}

// withProfile adds a local user's display name and avatar.
func (s *Service) withProfile(ctx context.Context, user id.UserID, c *memberContent) error {
	if s.opts.Profile == nil || !s.IsLocal(user) {
		return nil
	}
	p, err := s.opts.Profile(ctx, user)
	c.DisplayName, c.AvatarURL = p.DisplayName, p.AvatarURL
	return err
}

// setMember adds a member event of the user target to the batch.
func (b *batch) setMember(sender ident.Requester, target id.UserID, nid ident.UserNID, c memberContent) error {
	raw, err := c.encode()
	if err != nil {
		return err
	}
	key := string(target)
	_, err = b.add(proto{
		typ: typeMember, stateKey: &key, sender: sender, content: raw,
		member: &memberChange{user: target, nid: nid, from: b.room.provisionalMembership(target), to: c.Membership},
	})
	return err
}

// Join joins a user to a local room. It does nothing if the user is joined already.
// Spec: client-server-api#post_matrixclientv3roomsroomidjoin
func (s *Service) Join(ctx context.Context, sender ident.Requester, room id.RoomID, reason string) error {
	return s.join(ctx, sender, room, nil, memberContent{Membership: Join, Reason: reason})
}

// JoinWith is like Join, but takes the JSON body of a client's request: the reason and unknown keys are copied to the
// member event. If this server is not in the room, it joins through one of the servers of via or one that is known to
// be in the room.
func (s *Service) JoinWith(ctx context.Context, sender ident.Requester, room id.RoomID, via []string, body map[string]json.RawMessage) error {
	c := memberContent{Membership: Join, more: maps.Clone(body)}
	for _, key := range decidedHere {
		delete(c.more, key)
	}
	return s.join(ctx, sender, room, via, c)
}

const (
	// grantTries is how often another server is asked to authorise a restricted join. If the user has only just joined
	// the allowed room, the other server may not know yet.
	grantTries = 4
	grantPause = 300 * time.Millisecond
)

func (s *Service) join(ctx context.Context, sender ident.Requester, room id.RoomID, via []string, c memberContent) error {
	for try := 1; ; try++ {
		err := s.joinOnce(ctx, sender, room, via, &c)
		if try == grantTries || !c.elsewhere || mxerr.Code(err) != mxerr.CodeForbidden {
			return err
		}
		select {
		case <-time.After(grantPause):
		case <-ctx.Done():
			return err
		}
	}
}

func (s *Service) joinOnce(ctx context.Context, sender ident.Requester, room id.RoomID, via []string, given *memberContent) error {
	c := *given
	defer func() { given.elsewhere = c.elsewhere }()
	c.elsewhere = false
	if err := s.withProfile(ctx, sender.UserID, &c); err != nil {
		return err
	}
	r, err := s.Room(ctx, room)
	if sender.Guest && (err != nil || !r.Resident()) {
		// Deviation: guests do not join through other servers, since only the state that comes with the join says
		// whether the room allows them.
		return cmp.Or(unlessNoRoom(err), error(errNoGuests()))
	}
	if err == nil && r.Resident() {
		if c.AuthorisedVia, err = s.grantRestricted(ctx, r, sender); errors.Is(err, errNoVoucher) && r.Shared() {
			c.elsewhere, err = true, nil
		}
		if r.Partial() && r.Membership(sender.UserID) != Join { // only another server knows whether the user is banned
			c.elsewhere = true
		}
	}
	switch {
	case err != nil && !errors.Is(err, ErrNoRoom):
		return err
	case err != nil, !r.Resident(), c.elsewhere:
		if err = s.joinRemote(ctx, sender, room, via, c); !errors.Is(err, errResident) {
			s.awaitBriefly(ctx, room)
			return s.joined(ctx, sender, room, err)
		}
		if r, err = s.Room(ctx, room); err != nil {
			return err
		}
		if c.AuthorisedVia, err = s.grantRestricted(ctx, r, sender); err != nil {
			return err
		}
	}
	joined := false
	err = s.change(ctx, room, func(b *batch) error {
		if joined = b.room.provisionalMembership(sender.UserID) != Join; !joined {
			return nil
		}
		if err := b.admitGuest(sender); err != nil {
			return err
		}
		return b.setMember(sender, sender.UserID, sender.UserNID, c)
	})
	if err != nil || !joined {
		return err
	}
	return s.joined(ctx, sender, room, nil)
}

// joined is called at the end of a join with the join's error. If the join has succeeded, it copies the user's settings
// from the room that this one replaces, if there is one.
func (s *Service) joined(ctx context.Context, sender ident.Requester, room id.RoomID, err error) error {
	if err != nil {
		return err
	}
	r, err := s.Room(ctx, room)
	if err != nil {
		return err
	}
	return s.follow(ctx, sender, r)
}

// grantRestricted returns the local user who authorises a restricted join because the sender is in an allowed room. It
// returns "" if the join needs no such user, or if the sender is banned or in none of these rooms; then the
// authorisation rules decide about the join.
// Spec: client-server-api#restricted-rooms
func (s *Service) grantRestricted(ctx context.Context, r *Room, sender ident.Requester) (id.UserID, error) {
	if !r.restricted() {
		return "", nil
	}
	switch r.Membership(sender.UserID) {
	case Join, Invite, Ban:
		return "", nil
	}
	allowed, _, err := s.inAllowedRoom(ctx, r, sender.UserID)
	if err != nil || !allowed {
		return "", err
	}
	if voucher := r.voucher(); voucher != "" {
		return voucher, nil
	}
	return "", errNoVoucher
}

// errNoVoucher is returned if only another server can authorise the join.
var errNoVoucher = mxerr.Forbidden("No member of the room on this server can authorise your join")

// AllowedRooms returns the rooms whose members the room's join rule allows to join. It returns nil if the join rule is
// not a restricted one.
// Spec: client-server-api#restricted-rooms
func (r *Room) AllowedRooms() []id.RoomID {
	if !r.restricted() {
		return nil
	}
	return eventcontent.AllowedRooms(r.State(typeJoinRules, "").Content())
}

// inAllowedRoom reports whether a user is in one of the rooms whose members may join. unsure is true if that is not
// known, because this server is not in one of these rooms.
func (s *Service) inAllowedRoom(ctx context.Context, r *Room, user id.UserID) (allowed, unsure bool, err error) {
	for _, room := range r.AllowedRooms() {
		other, err := s.Room(ctx, room)
		switch {
		case errors.Is(err, ErrNoRoom), err == nil && !other.Resident():
			unsure = true
		case err != nil:
			return false, false, err
		case other.Membership(user) == Join:
			return true, false, nil
		}
	}
	return false, unsure, nil
}

// Leave ends a user's membership, rejects an invite or retracts a knock. It does nothing if the user has left.
// Spec: client-server-api#post_matrixclientv3roomsroomidleave
//
// Errors: M_CANNOT_LEAVE_SERVER_NOTICE_ROOM for an invite to a room of server notices; M_FORBIDDEN.
func (s *Service) Leave(ctx context.Context, sender ident.Requester, room id.RoomID, reason string) error {
	r, err := s.Room(ctx, room)
	if err != nil {
		return unknownIsForbidden(err)
	}
	if err := s.mayReject(r, sender.UserID); err != nil {
		return err
	}
	return s.leave(ctx, sender, r, reason)
}

// leave is Leave without the exception for server notices.
func (s *Service) leave(ctx context.Context, sender ident.Requester, r *Room, reason string) error {
	if !r.Resident() {
		return s.leaveOutside(ctx, sender, r, reason)
	}
	err := s.change(ctx, r.id, func(b *batch) error {
		if b.room.provisionalMembership(sender.UserID) == Leave {
			return nil
		}
		return b.setMember(sender, sender.UserID, sender.UserNID, memberContent{Membership: Leave, Reason: reason})
	})
	return unknownIsForbidden(err)
}

// Invite invites a user.
// Spec: client-server-api#post_matrixclientv3roomsroomidinvite
func (s *Service) Invite(ctx context.Context, sender ident.Requester, room id.RoomID, target id.UserID, reason string) error {
	return s.invite(ctx, sender, room, target, memberContent{Membership: Invite, Reason: reason})
}

func (s *Service) invite(ctx context.Context, sender ident.Requester, room id.RoomID, target id.UserID, c memberContent) error {
	nid, err := s.target(ctx, target)
	if err != nil {
		return err
	}
	if !s.IsLocal(target) {
		return s.inviteRemote(ctx, sender, room, target, c)
	}
	if err := s.mayBeInvited(ctx, nid, sender.UserID); err != nil {
		return err
	}
	if err := s.withProfile(ctx, target, &c); err != nil {
		return err
	}
	return s.setOther(ctx, sender, room, target, nid, c, nil)
}

// target validates the ID of the user whose membership is to be changed, and returns the user's number.
func (s *Service) target(ctx context.Context, user id.UserID) (ident.UserNID, error) {
	if user == "" {
		return 0, mxerr.MissingParam("user_id is missing")
	}
	if !pdu.ValidUserID(user) {
		return 0, mxerr.InvalidParam("user_id must be a user ID")
	}
	return s.UserNID(ctx, user)
}

// setOther sets the membership of another user, on behalf of sender. If allow is not nil, it is called with the current
// membership first and may return an error.
func (s *Service) setOther(ctx context.Context, sender ident.Requester, room id.RoomID, target id.UserID, nid ident.UserNID, c memberContent, allow func(now Membership) error) error {
	if err := s.awaitMember(ctx, room, sender, target); err != nil {
		return unknownIsForbidden(err)
	}
	err := s.change(ctx, room, func(b *batch) error {
		if b.room.provisionalMembership(sender.UserID) != Join {
			return mxerr.Forbidden("You are not in this room")
		}
		if allow != nil {
			if err := allow(b.room.provisionalMembership(target)); err != nil {
				return err
			}
		}
		return b.setMember(sender, target, nid, c)
	})
	return unknownIsForbidden(err)
}

// Kick removes a user who is joined, invited or knocking.
// Spec: client-server-api#post_matrixclientv3roomsroomidkick
func (s *Service) Kick(ctx context.Context, sender ident.Requester, room id.RoomID, target id.UserID, reason string) error {
	nid, err := s.target(ctx, target)
	if err != nil {
		return err
	}
	return s.setOther(ctx, sender, room, target, nid, memberContent{Membership: Leave, Reason: reason}, func(now Membership) error {
		switch now {
		case Join, Invite, Knock:
			return nil
		}
		return mxerr.Forbidden("%s is not in this room", target)
	})
}

// Ban bans a user. It does nothing if the user is banned already.
// Spec: client-server-api#post_matrixclientv3roomsroomidban
func (s *Service) Ban(ctx context.Context, sender ident.Requester, room id.RoomID, target id.UserID, reason string) error {
	nid, err := s.target(ctx, target)
	if err != nil {
		return err
	}
	return s.setOther(ctx, sender, room, target, nid, memberContent{Membership: Ban, Reason: reason}, nil)
}

// Unban lifts a ban.
// Spec: client-server-api#post_matrixclientv3roomsroomidunban
func (s *Service) Unban(ctx context.Context, sender ident.Requester, room id.RoomID, target id.UserID, reason string) error {
	nid, err := s.target(ctx, target)
	if err != nil {
		return err
	}
	return s.setOther(ctx, sender, room, target, nid, memberContent{Membership: Leave, Reason: reason}, func(now Membership) error {
		if now != Ban {
			return mxerr.Forbidden("%s is not banned from this room", target)
		}
		return nil
	})
}

// Knock knocks on a room. If this server is not in the room, it knocks through one of the servers of via.
// Spec: client-server-api#post_matrixclientv3knockroomidoralias
func (s *Service) Knock(ctx context.Context, sender ident.Requester, room id.RoomID, via []string, reason string) error {
	c := memberContent{Membership: Knock, Reason: reason}
	if err := s.withProfile(ctx, sender.UserID, &c); err != nil {
		return err
	}
	r, err := s.Room(ctx, room)
	switch {
	case errors.Is(err, ErrNoRoom), err == nil && !r.Resident():
		return s.knockRemote(ctx, sender, room, via, c)
	case err != nil:
		return err
	}
	return s.change(ctx, room, func(b *batch) error { return b.setMember(sender, sender.UserID, sender.UserNID, c) })
}

// Forget removes a room that the user has left from the user's room list.
// Spec: client-server-api#post_matrixclientv3roomsroomidforget
func (s *Service) Forget(ctx context.Context, sender ident.Requester, room id.RoomID) error {
	r, err := s.Room(ctx, room)
	if err != nil {
		return err
	}
	switch r.Membership(sender.UserID) {
	case Join, Invite, Knock:
		return badRequest(mxerr.CodeUnknown, "You are still in this room; leave it first")
	case "":
		return nil // nothing to forget
	}
	w := storage.Write{
		Do:        func(tx *storage.Tx) error { return tx.ForgetRoom(sender.UserNID, r.nid) },
		Committed: func() { s.opts.Commits.Deliver(&Commit{Room: r, Forgotten: []ident.UserNID{sender.UserNID}}) },
	}
	return s.db.Enqueue(w).Wait(ctx)
}

// profileWorkers is the number of rooms whose member events are updated at a time: enough to share commits.
const profileWorkers = 16

// ProfileChanged sends a new display name or avatar to every room that the user is in. It continues after an error and
// returns the first one.
// Spec: client-server-api#events-on-change-of-profile-information
func (s *Service) ProfileChanged(ctx context.Context, sender ident.Requester, p Profile) error {
	rooms, err := s.Memberships(ctx, sender.UserNID)
	if err != nil {
		return err
	}
	rooms = slices.DeleteFunc(slices.Clone(rooms), func(m RoomMembership) bool { return m.Membership != Join })
	return parallel(profileWorkers, len(rooms), func(i int) error { return s.setProfile(ctx, sender, rooms[i].Room, p) })
}

// parallel calls f for each number below n, from several goroutines at a time. It returns the first error.
func parallel(workers, n int, f func(int) error) error {
	var g errgroup.Group
	g.SetLimit(workers)
	for i := range n {
		g.Go(func() error { return f(i) })
	}
	return g.Wait()
}

func (s *Service) setProfile(ctx context.Context, sender ident.Requester, room ident.RoomNID, p Profile) error {
	r, err := s.RoomByNID(ctx, room)
	if err != nil {
		return err
	}
	return s.change(ctx, r.id, func(b *batch) error {
		current, err := b.room.provisionalState(typeMember, string(sender.UserID))
		if err != nil || current == nil || current.ContentString("membership") != Join {
			return err
		}
		content, err := eventcontent.WithProfile(current.Content(), p.DisplayName, p.AvatarURL)
		if err != nil {
			return err
		}
		key := string(sender.UserID)
		next := proto{
			typ: typeMember, stateKey: &key, sender: sender, content: content,
			member: &memberChange{user: sender.UserID, nid: sender.UserNID, from: Join, to: Join},
		}
		if b.sameState(&next) != "" {
			return nil
		}
		_, err = b.add(next)
		return err
	})
}

// LeaveAll makes a user leave every room, reject all invites and retract all knocks, as when the account is
// deactivated. It continues after an error and returns all of them. A room that the user may not leave is no error.
func (s *Service) LeaveAll(ctx context.Context, sender ident.Requester) error {
	rooms, err := s.Memberships(ctx, sender.UserNID)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range rooms {
		if m.Membership == Leave || m.Membership == Ban {
			continue
		}
		r, err := s.RoomByNID(ctx, m.Room)
		if err == nil {
			err = s.leave(ctx, sender, r, "")
		}
		var final *mxerr.Error
		if errors.As(err, &final) && final.Status < 500 && final.Code != mxerr.CodeLimitExceeded {
			s.log.WarnContext(ctx, "a user cannot leave a room", "room", m.Room, "user", sender.UserID, "err", err)
			continue
		}
		if errs = append(errs, err); ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}
