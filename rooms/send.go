package rooms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/eventcontent"
	"ebb/rooms/expiry"
	"ebb/rooms/pdu"
	"ebb/rooms/selfdestruct"
	"ebb/rooms/txns"
	"ebb/storage"
)

// NewEvent is an event that a local user sends.
type NewEvent struct {
	Room      id.RoomID
	Sender    ident.Requester
	Type      string
	StateKey  *string // nil: not a state event
	Content   json.RawMessage
	Redacts   id.EventID // the target of an m.room.redaction; content.redacts may be used instead
	Txn       *txns.Txn  // the transaction ID; nil: none
	Timestamp int64      // ms, for application services; 0: now
	StickyMS  *int64     // for how many milliseconds the event is sticky; nil: it is not sticky
	DelayID   string     // of a delayed event that is sent now; "" otherwise
	// Also is called in the write of the event, or in a write of its own if there is none because the state is the same
	// already or another server sends the event. If it fails, the event is not sent. It may be called several times.
	Also func(tx *storage.Tx, sent id.EventID) error
}

// Send adds a message, a state event or a redaction to a room. It returns once the event is stored. If a client repeats
// a transaction ID, it gets the same answer, even after a restart.
// Spec: client-server-api#sending-events-to-a-room
func (s *Service) Send(ctx context.Context, n NewEvent) (id.EventID, error) {
	return s.txns.Once(ctx, n.Sender.Transactions(), n.Txn, func(c *txns.Claim) (id.EventID, error) { return s.send(ctx, n, c) })
}

func (s *Service) send(ctx context.Context, n NewEvent, c *txns.Claim) (eventID id.EventID, err error) {
	r, err := s.Room(ctx, n.Room)
	if err != nil {
		return "", unknownIsForbidden(err)
	}
	p, err := s.prepare(ctx, r, &n)
	if err != nil {
		return "", err
	}
	if p.member != nil && p.member.to == Invite && !s.IsLocal(p.member.user) {
		if eventID, err = s.sendRemoteInvite(ctx, n, p); err == nil {
			err = s.also(ctx, n, eventID)
		}
		return eventID, err
	}
	if p.member != nil {
		if err := s.awaitMember(ctx, n.Room, n.Sender, p.member.user); err != nil {
			return "", unknownIsForbidden(err)
		}
	}
	switch {
	case n.Txn != nil:
		p.txnID = n.Txn.ID
	case n.DelayID != "":
		p.txnID, p.sender.DeviceNID = n.DelayID, ident.DelayedSend
	}
	also := n.Also // so that the closure does not move all of n to the heap
	err = s.change(ctx, n.Room, func(b *batch) error {
		if same := b.sameState(p); same != "" {
			eventID, p.unchanged = same, true
			return nil
		}
		if err := b.checkWatermark(p); err != nil {
			return err
		}
		if err := b.admitGuest(n.Sender); err != nil && !p.leaves() {
			return err
		}
		b.txn = c
		if p.member != nil {
			p.member.from = b.room.provisionalMembership(p.member.user)
			if p.member.from == Join && p.member.to == Join { // clients copy it from the old content
				p.content = canonjson.Without(p.content, "join_authorised_via_users_server")
			}
		}
		e, err := b.add(*p)
		if err != nil {
			return err
		}
		eventID, p.unchanged = e.ID(), false
		if also != nil {
			b.extra = func(tx *storage.Tx, _ ident.RoomNID) error { return also(tx, e.ID()) }
		}
		return nil
	})
	if err == nil && p.unchanged {
		err = s.also(ctx, n, eventID)
	}
	if err == nil && p.typ == typeTombstone && p.stateKey != nil {
		err = s.followTombstone(ctx, n.Sender, r)
	}
	return eventID, unknownIsForbidden(err)
}

// also calls n.Also, if there is one, in a write of its own.
func (s *Service) also(ctx context.Context, n NewEvent, sent id.EventID) error {
	if n.Also == nil {
		return nil
	}
	return s.db.Write(context.WithoutCancel(ctx), func(tx *storage.Tx) error { return n.Also(tx, sent) })
}

// sendRemoteInvite invites a user of another server on behalf of a client that sent the m.room.member event with PUT
// /state.
func (s *Service) sendRemoteInvite(ctx context.Context, n NewEvent, p *proto) (id.EventID, error) {
	c := memberContent{Membership: Invite}
	if err := json.Unmarshal(p.content, &c.more); err != nil {
		return "", mxerr.BadJSON("The content of an event must be a JSON object")
	}
	if err := s.inviteRemote(ctx, n.Sender, n.Room, p.member.user, c); err != nil {
		return "", err
	}
	r, err := s.Room(ctx, n.Room)
	if err != nil {
		return "", err
	}
	e := r.State(typeMember, string(p.member.user))
	if e == nil {
		return "", mxerr.Forbidden("The invite has been withdrawn")
	}
	return e.ID(), nil
}

// followTombstone copies the sender's settings after a manual upgrade, in which the user joins the new room and then
// sends the tombstone to the old one.
func (s *Service) followTombstone(ctx context.Context, sender ident.Requester, old *Room) error {
	tombstone := old.State(typeTombstone, "")
	if tombstone == nil {
		return nil
	}
	next, err := s.Room(ctx, id.RoomID(tombstone.ContentString("replacement_room")))
	if errors.Is(err, ErrNoRoom) || err == nil && next.Membership(sender.UserID) != Join {
		return nil
	}
	if err != nil {
		return err
	}
	return s.follow(ctx, sender, next)
}

// prepare performs the checks that do not depend on the room's head. It also looks up the event to which the new event
// refers.
func (s *Service) prepare(ctx context.Context, r *Room, n *NewEvent) (*proto, error) {
	p := &proto{typ: n.Type, stateKey: n.StateKey, sender: n.Sender, content: n.Content, ts: n.Timestamp, stickyMS: n.StickyMS}
	if !canonjson.IsObject(n.Content) {
		return nil, mxerr.BadJSON("The content of an event must be a JSON object")
	}
	if err := p.settle(r.version); err != nil {
		return nil, err
	}
	if p.typ == typeRedaction && p.stateKey == nil {
		return p, s.prepareRedaction(ctx, r, n, p)
	}
	if err := r.checkPlaintext(p); err != nil {
		return nil, err
	}
	if _, _, err := selfdestruct.Parse(p.content, 0); err != nil && n.StateKey == nil {
		return nil, mxerr.InvalidParam("%v", err)
	}
	if n.Sender.Suspended && !p.leaves() {
		return nil, mxerr.UserSuspended()
	}
	if n.StateKey != nil {
		if err := s.prepareState(ctx, r, p); err != nil {
			return nil, err
		}
	}
	return p, s.related(ctx, r, p)
}

// leaves reports whether the event ends the membership of its sender.
func (p *proto) leaves() bool {
	if p.typ != typeMember || p.stateKey == nil || *p.stateKey != string(p.sender.UserID) {
		return false
	}
	membership, _ := canonjson.Get(p.content, "membership")
	return canonjson.String(membership) == Leave
}

// settle removes duplicate keys from the content, where the room version allows them, so that the checks see the same
// values as other servers do. In newer room versions, building the event fails.
func (p *proto) settle(v *pdu.Version) (err error) {
	if v.StrictCanonicalJSON {
		return nil
	}
	if p.content, err = canonjson.Canonical(p.content, false); err != nil {
		return mxerr.BadJSON("%v", err)
	}
	return nil
}

// checkPlaintext returns an error for a plaintext message to an encrypted room, if the server's policy refuses such
// messages.
func (r *Room) checkPlaintext(p *proto) error {
	if p.stateKey != nil || !r.svc.opts.Encryption.RefusePlaintext || !r.Encrypted() {
		return nil
	}
	return r.svc.opts.Encryption.MaySend(p.typ, p.content)
}

// prepareState checks a state event of a type for which there are special rules.
func (s *Service) prepareState(ctx context.Context, r *Room, p *proto) error {
	switch p.typ {
	case typeCreate:
		return mxerr.InvalidParam("The m.room.create event of a room cannot be changed")
	case typeMember:
		return s.prepareMember(ctx, r, p)
	case typeCanonicalAlias:
		return s.checkCanonicalAlias(ctx, r, p.content)
	case typePowerLevels:
		return checkCreatorsUnlisted(r.version, r.State(typeCreate, ""), p.content)
	case typeEncryption:
		return s.opts.Encryption.MayEnable(r.JoinRule())
	case typeServerACL:
		if *p.stateKey == "" {
			return s.checkOwnACL(p.content)
		}
	case typeRetention, typeRetentionUnstable:
		if _, err := expiry.ParsePolicy(p.content); err != nil {
			return mxerr.BadJSON("Invalid retention policy: %v", err)
		}
	}
	return nil
}

// prepareMember checks a member event that a client sends with PUT /state, and sets p.member.
func (s *Service) prepareMember(ctx context.Context, r *Room, p *proto) error {
	target := id.UserID(*p.stateKey)
	if !pdu.ValidUserID(target) {
		return mxerr.InvalidParam("The state key of an m.room.member event must be a user ID")
	}
	raw, _ := canonjson.Get(p.content, "membership")
	membership := canonjson.String(raw)
	switch membership {
	case Join, Invite, Knock, Leave, Ban:
	default:
		return mxerr.BadJSON("membership must be one of join, invite, knock, leave, ban")
	}
	if membership == Leave && target == p.sender.UserID {
		if err := s.mayReject(r, target); err != nil {
			return err
		}
	}
	if p.sender.Guest && target != p.sender.UserID {
		return mxerr.GuestAccessForbidden("Guests cannot change the membership of others")
	}
	nid, err := s.UserNID(ctx, target)
	if err != nil {
		return err
	}
	p.member = &memberChange{user: target, nid: nid, to: membership}
	if membership == Invite && s.IsLocal(target) {
		return s.mayBeInvited(ctx, nid, p.sender.UserID)
	}
	return nil
}

// checkCreatorsUnlisted returns an error for power levels that list a creator. The error is clearer than that of the
// authorisation rules.
// Spec: rooms/v12#event-format
func checkCreatorsUnlisted(v *pdu.Version, create *Event, content []byte) error {
	if !v.PrivilegedCreators || create == nil {
		return nil
	}
	users, ok := canonjson.Get(content, "users")
	if !ok || !canonjson.IsObject(users) {
		return nil
	}
	for _, creator := range creatorsOf(create) {
		if _, listed := canonjson.Get(users, string(creator)); listed {
			return mxerr.InvalidParam("%s created the room, so users must not list a power level for them", creator)
		}
	}
	return nil
}

func creatorsOf(create *Event) []id.UserID {
	creators := []id.UserID{create.Sender()}
	raw, _ := canonjson.Get(create.Content(), "additional_creators")
	more, _ := canonjson.Elements(raw)
	for _, m := range more {
		creators = append(creators, id.UserID(canonjson.String(m)))
	}
	return creators
}

// sameState returns the ID of the current state event if that has the same sender and content as p, since sending the
// same state again adds no event. For an event that is to be sticky it always returns "".
func (b *batch) sameState(p *proto) id.EventID {
	if p.stateKey == nil || p.stickyMS != nil {
		return ""
	}
	e, err := b.room.provisionalState(p.typ, *p.stateKey)
	if err != nil || e == nil || e.Sender() != p.sender.UserID {
		return ""
	}
	content, err := canonjson.Canonical(p.content, b.room.version.StrictCanonicalJSON)
	if err != nil || !bytes.Equal(content, e.Content()) {
		return ""
	}
	return e.ID()
}

// checkWatermark rejects a message with a timestamp of which the room's messages have already been purged.
func (b *batch) checkWatermark(p *proto) error {
	if p.stateKey == nil && p.ts != 0 && p.ts < b.room.PurgedBefore() {
		return mxerr.Forbidden("Messages with that timestamp have already expired in this room")
	}
	return nil
}

// Redact sends an event that redacts the given event.
// Spec: client-server-api#put_matrixclientv3roomsroomidredacteventidtxnid
func (s *Service) Redact(ctx context.Context, sender ident.Requester, room id.RoomID, eventID id.EventID, reason string, txn *txns.Txn) (id.EventID, error) {
	return s.Send(ctx, NewEvent{Room: room, Sender: sender, Type: typeRedaction, Content: redactionContent(reason), Redacts: eventID, Txn: txn})
}

func redactionContent(reason string) []byte {
	if reason == "" {
		return []byte(`{}`)
	}
	return append(canonjson.AppendString([]byte(`{"reason":`), reason), '}')
}

// prepareRedaction finds the target of a redaction, and checks that the sender may redact it. Users may redact their
// own events, and all others if they have enough power.
// Spec: client-server-api#redactions
func (s *Service) prepareRedaction(ctx context.Context, r *Room, n *NewEvent, p *proto) error {
	p.redacts = n.Redacts
	if p.redacts == "" {
		raw, _ := canonjson.Get(p.content, "redacts")
		p.redacts = id.EventID(canonjson.String(raw))
	}
	if p.redacts == "" {
		return mxerr.MissingParam("redacts is missing: it must name the event to redact")
	}
	p.content = canonjson.Without(p.content, "redacts") // pdu.Build puts it where the room version requires
	if r.Membership(n.Sender.UserID) != Join {
		return mxerr.Forbidden("You are not in this room")
	}
	target, purgedSender, err := r.lookUpTarget(ctx, p.redacts)
	switch {
	case err != nil:
		return err
	case purgedSender != "": // clients may still show it
		return mayRedactOf(r, n.Sender, purgedSender)
	case target != nil && target.Flags&storage.SkeletonEvent != 0: // purged, but its skeleton is needed for the graph
		return mayRedactOf(r, n.Sender, target.Sender())
	case target == nil && r.Shared(): // another server may have it, and it may still arrive
		if n.Sender.Suspended { // the sender of the target is not known
			return mxerr.UserSuspended()
		}
		p.unseen = true
		return nil
	}
	if target == nil || target.Flags&(storage.RejectedEvent|storage.SoftFailedEvent) != 0 {
		return mxerr.NotFound("There is no such event in this room")
	}
	if target.IsStateKey(typeCreate, "") {
		return mxerr.Forbidden("The event that created the room cannot be redacted")
	}
	if target.IsStateKey(typeServerACL, "") { // redacted, it would deny every server
		return mxerr.Forbidden("Redacting a server access control list would ban every server from the room; send a new list instead")
	}
	if target.RedactedBy == 0 {
		p.target = target
	}
	return mayRedactOf(r, n.Sender, target.Sender())
}

// mayRedactOf returns an error if the local user may not redact events sent by sender.
func mayRedactOf(r *Room, user ident.Requester, sender id.UserID) error {
	if sender == user.UserID {
		return nil
	}
	if user.Suspended {
		return mxerr.UserSuspended()
	}
	if levels := r.Levels(); levels.UserLevel(user.UserID) < levels.Redact {
		return mxerr.Forbidden("You do not have permission to redact other users' events in this room")
	}
	return nil
}

// checkCanonicalAlias returns an error if m.room.canonical_alias names an invalid alias or one of another room. Aliases
// that the event has named before are not checked.
// Spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
func (s *Service) checkCanonicalAlias(ctx context.Context, r *Room, content json.RawMessage) error {
	var now, before eventcontent.Aliases
	if err := json.Unmarshal(content, &now); err != nil {
		return mxerr.BadJSON("alias must be a string, and alt_aliases an array of strings")
	}
	if e := r.State(typeCanonicalAlias, ""); e != nil {
		// Invalid content has no aliases that may stay.
		_ = json.Unmarshal(e.Content(), &before)
	}
	known := map[string]bool{before.Alias: true}
	for _, a := range before.AltAliases {
		known[a] = true
	}
	check := now.AltAliases
	if now.Alias != "" {
		check = append([]string{now.Alias}, check...)
	}
	if len(check) > MaxAliases {
		return mxerr.InvalidParam("A room must not have more than %d aliases", MaxAliases)
	}
	for _, a := range check {
		if known[a] {
			continue
		}
		if err := s.checkAliasOf(ctx, r, a); err != nil {
			return err
		}
	}
	return nil
}

// checkAliasOf returns an error unless the alias points to the room.
func (s *Service) checkAliasOf(ctx context.Context, r *Room, alias string) error {
	if !pdu.ValidRoomAlias(id.RoomAlias(alias)) {
		return mxerr.InvalidParam("%.255q is not a room alias", alias)
	}
	row, found, err := s.aliasByName(ctx, alias)
	if err != nil {
		return err
	}
	if !found || row.Room != r.nid {
		return mxerr.New(http.StatusBadRequest, mxerr.CodeBadAlias, "The alias %s does not point to this room", alias)
	}
	return nil
}

// aliasByName reads an alias of this server.
func (s *Service) aliasByName(ctx context.Context, alias string) (row storage.Alias, found bool, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		row, found, err = tx.AliasByName(alias)
		return err
	})
	return row, found, err
}

// Once makes a request of another service with a transaction ID idempotent. It calls do unless the same request was
// answered before or is in progress; in that case it returns the answer to that request. do must call record, with its
// answer, in its write.
func (s *Service) Once(
	ctx context.Context, sender ident.Requester, txn *txns.Txn, do func(record func(tx *storage.Tx, answer string) error) (string, error),
) (string, error) {
	answer, err := s.txns.Once(ctx, sender.Transactions(), txn, func(c *txns.Claim) (id.EventID, error) {
		answer, err := do(func(tx *storage.Tx, answer string) error {
			if c == nil {
				return nil
			}
			first, err := tx.InsertTxn(c.Device, storage.TxnRow{Hash: c.Hash, Answer: answer})
			if err == nil && !first {
				err = errDuplicateTxn
			}
			return err
		})
		return id.EventID(answer), err
	})
	return string(answer), err
}

// PruneTxns deletes the stored answers to transaction IDs that clients no longer repeat.
func (s *Service) PruneTxns(ctx context.Context) error { return s.txns.Prune(ctx) }
