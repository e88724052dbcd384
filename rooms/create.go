package rooms

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/eventcontent"
	"ebb/rooms/expiry"
	"ebb/rooms/graph"
	"ebb/rooms/newroom"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Bounds of a request to create a room.
const (
	maxInitialState = 250
	maxInvites      = 500
)

// CreateRoom is the body of createRoom.
type CreateRoom = newroom.Request

// InitialState is one state event of a new room.
type InitialState = newroom.StateEvent

// creation is a room that is being created.
type creation struct {
	svc     *Service
	sender  ident.Requester
	req     *CreateRoom
	version *pdu.Version
	alias   id.RoomAlias
	invitee []invitee
	others  []invitee // invited users of other servers

	content     map[string]json.RawMessage             // the content of m.room.create
	powerLevels json.RawMessage                        // power levels from the request; nil: the default ones
	lastLevels  json.RawMessage                        // replace the power levels once all other events are built; nil: none
	bans        []invitee                              // carried over by an upgrade
	also        func(*storage.Tx, ident.RoomNID) error // called in the write; nil: nothing
	movesFrom   ident.RoomNID                          // room whose aliases and directory entry move to the new one
	published   bool
}

type invitee struct {
	user    id.UserID
	nid     ident.UserNID
	content memberContent
}

// Create makes a room with all its initial events in one write. If any event is rejected, nothing is stored.
// Spec: client-server-api#post_matrixclientv3createroom
func (s *Service) Create(ctx context.Context, sender ident.Requester, req CreateRoom) (id.RoomID, error) {
	return s.CreateWith(ctx, sender, req, nil)
}

// CreateWith is like Create, and calls also in the same write. If also fails, no room is created.
func (s *Service) CreateWith(ctx context.Context, sender ident.Requester, req CreateRoom, also func(*storage.Tx, ident.RoomNID) error) (id.RoomID, error) {
	c := &creation{svc: s, sender: sender, req: &req, also: also}
	if err := c.check(ctx); err != nil {
		return "", err
	}
	b, err := c.build(ctx, newRoom(s, c.version))
	if err != nil {
		return "", err
	}
	if err := b.enqueue().Wait(context.WithoutCancel(ctx)); err != nil {
		return "", err
	}
	c.inviteOthers(ctx, b.room.id)
	return b.room.id, nil
}

// inviteOthers invites the users of other servers, a few at a time. A failed invite does not undo the creation: the
// user can be invited again.
func (c *creation) inviteOthers(ctx context.Context, room id.RoomID) {
	_ = parallel(profileWorkers, len(c.others), func(n int) error {
		i := c.others[n]
		if err := c.svc.inviteRemote(ctx, c.sender, room, i.user, i.content); err != nil {
			c.svc.log.InfoContext(ctx, "could not invite a user to a new room", "room", room, "user", i.user, "err", err)
		}
		return nil
	})
}

// check checks the request as far as this is possible without a room.
func (c *creation) check(ctx context.Context) error {
	r := c.req
	if r.RoomVersion == "" {
		r.RoomVersion = c.svc.opts.DefaultVersion
	}
	var ok bool
	if c.version, ok = pdu.VersionOf(r.RoomVersion); !ok {
		return badRequest(mxerr.CodeUnsupportedRoomVersion, "This server does not support that room version")
	}
	switch r.Visibility {
	case "", "private", "public":
	default:
		return mxerr.InvalidParam("visibility must be public or private")
	}
	c.published = r.Visibility == "public"
	switch r.Preset {
	case "":
		r.Preset = newroom.Private
		if c.published {
			r.Preset = newroom.Public
		}
	case newroom.Private, newroom.Trusted, newroom.Public:
	default:
		return mxerr.InvalidParam("preset must be one of private_chat, trusted_private_chat, public_chat")
	}
	if len(r.InviteThirdParty) > 0 {
		return mxerr.Forbidden("Invites by address cannot be sent with this room")
	}
	if len(r.InitialState) > maxInitialState || len(r.Invite) > maxInvites {
		return mxerr.InvalidParam("There must be no more than %d initial state events and %d invites", maxInitialState, maxInvites)
	}
	if err := c.checkAlias(ctx); err != nil {
		return err
	}
	if err := c.checkInvites(ctx); err != nil {
		return err
	}
	var err error
	if c.content, err = c.plan().CreateContent(); err != nil {
		return err
	}
	if !c.svc.isNoticeSender(c.sender.UserID) { // the server cannot encrypt its notices
		if err := c.svc.opts.Encryption.Apply(c.req, c.content["type"]); err != nil {
			return err
		}
	}
	return c.checkInitialState()
}

// plan returns the plan from which the initial events are made.
func (c *creation) plan() *newroom.Plan {
	p := &newroom.Plan{Request: c.req, Version: c.version, Creator: c.sender.UserID, Alias: c.alias, PowerLevels: c.powerLevels}
	for _, i := range c.invitee {
		p.Invited = append(p.Invited, i.user)
	}
	for _, i := range c.others {
		p.Invited = append(p.Invited, i.user)
	}
	return p
}

func (c *creation) checkAlias(ctx context.Context) error {
	if c.req.AliasName == "" {
		return nil
	}
	c.alias = id.RoomAlias("#" + c.req.AliasName + ":" + c.svc.opts.Server)
	if !pdu.ValidRoomAlias(c.alias) || ident.ServerOf(c.alias) != c.svc.opts.Server {
		return mxerr.InvalidParam("room_alias_name must be the localpart of a room alias")
	}
	if reserved := c.svc.opts.Namespaces; reserved != nil {
		if err := reserved.MayUseAlias(c.sender, c.alias); err != nil {
			return err
		}
	}
	_, found, err := c.svc.aliasByName(ctx, string(c.alias))
	if err == nil && found {
		return c.aliasTaken()
	}
	return err
}

func (c *creation) aliasTaken() error {
	return badRequest(mxerr.CodeRoomInUse, "The alias %s is already in use", c.alias)
}

func (c *creation) checkInvites(ctx context.Context) error {
	seen := map[id.UserID]bool{}
	for _, user := range c.req.Invite {
		if seen[user] {
			continue
		}
		seen[user] = true
		if !pdu.ValidUserID(user) {
			return mxerr.InvalidParam("Each entry of invite must be a user ID")
		}
		if !c.svc.IsLocal(user) && !c.svc.federates() {
			return errRemote(string(user))
		}
		i := invitee{user: user, content: memberContent{Membership: Invite, IsDirect: c.req.IsDirect}}
		var err error
		if i.nid, err = c.svc.UserNID(ctx, user); err != nil {
			return err
		}
		if !c.svc.IsLocal(user) {
			c.others = append(c.others, i)
			continue
		}
		if err := c.svc.mayBeInvited(ctx, i.nid, c.sender.UserID); err != nil {
			return err
		}
		c.invitee = append(c.invitee, i)
	}
	// All at once, since an application service that is asked for unknown users may hang.
	return parallel(len(c.invitee), len(c.invitee), func(n int) error {
		return c.svc.withProfile(ctx, c.invitee[n].user, &c.invitee[n].content)
	})
}

func (c *creation) checkInitialState() error {
	for _, e := range c.req.InitialState {
		switch {
		case e.Type == "":
			return mxerr.MissingParam("Each event in initial_state must have a type")
		case !canonjson.IsObject(e.Content):
			return mxerr.BadJSON("The content of each event in initial_state must be an object")
		case e.Type == typeCreate, e.Type == typeMember:
			return mxerr.InvalidParam("initial_state must not have an event of type %s", e.Type)
		case e.Type == typeRetention, e.Type == typeRetentionUnstable:
			if _, err := expiry.ParsePolicy(e.Content); err != nil {
				return mxerr.BadJSON("Invalid retention policy: %v", err)
			}
		case e.Type == typeCanonicalAlias:
			if err := c.checkInitialAlias(e.Content); err != nil {
				return err
			}
		case e.Type == typePowerLevels && e.StateKey == "":
			c.powerLevels = e.Content
		}
	}
	return nil
}

// checkInitialAlias returns an error if the canonical alias in the initial state is not the alias that the request
// creates.
func (c *creation) checkInitialAlias(content json.RawMessage) error {
	var names eventcontent.Aliases
	if json.Unmarshal(content, &names) != nil {
		return mxerr.BadJSON("alias must be a string, and alt_aliases an array of strings")
	}
	for _, a := range append(names.AltAliases, names.Alias) {
		if a != "" && a != string(c.alias) {
			return mxerr.New(http.StatusBadRequest, mxerr.CodeBadAlias, "The alias %.255s does not point to this room", a)
		}
	}
	return nil
}

// build makes the initial events of the room.
func (c *creation) build(ctx context.Context, r *Room) (*batch, error) {
	b := &batch{svc: c.svc, room: r, create: &storage.RoomRow{}, extra: c.write}
	r.head.published = c.published
	if err := c.addCreate(b); err != nil {
		return nil, err
	}
	join := memberContent{Membership: Join}
	if err := c.svc.withProfile(ctx, c.sender.UserID, &join); err != nil {
		return nil, err
	}
	if err := b.setMember(c.sender, c.sender.UserID, c.sender.UserNID, join); err != nil {
		return nil, err
	}
	state, err := c.plan().State()
	if err != nil {
		return nil, err
	}
	for _, e := range state {
		if err := c.addState(b, e); err != nil {
			return nil, err
		}
	}
	for _, i := range append(c.bans, c.invitee...) {
		if err := b.setMember(c.sender, i.user, i.nid, i.content); err != nil {
			return nil, err
		}
	}
	if c.lastLevels != nil {
		if err := c.addState(b, InitialState{Type: typePowerLevels, Content: c.lastLevels}); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// newRoom returns a room without events.
func newRoom(s *Service, v *pdu.Version) *Room {
	r := &Room{svc: s, version: v, fetching: make(chan struct{}, 1), receiving: make(chan struct{}, 1), signing: make(chan struct{}, 1)}
	r.head = emptyHead()
	r.head.policy = s.effective(&r.head)
	r.pending.reset()
	r.next.snapshot = &graph.Snapshot{}
	if !v.RoomIDIsCreateHash {
		r.id = id.RoomID("!" + rand.Text() + ":" + s.opts.Server)
	}
	return r
}

// createTime returns a timestamp in ms that no other create event of this server has. Since room version 12 the ID of a
// room is the hash of its create event, and the timestamp may be the only difference between two create events.
func (s *Service) createTime() int64 {
	for {
		last := s.lastCreated.Load()
		now := max(s.opts.Now().UnixMilli(), last+1)
		if s.lastCreated.CompareAndSwap(last, now) {
			return now
		}
	}
}

// addCreate adds m.room.create. Since room version 12 the room ID is derived from it.
func (c *creation) addCreate(b *batch) error {
	content, err := json.Marshal(c.content)
	if err != nil {
		return err
	}
	empty := ""
	e, err := b.add(proto{typ: typeCreate, stateKey: &empty, sender: c.sender, content: content, ts: c.svc.createTime()})
	if err != nil {
		return invalidState(err)
	}
	b.room.id = e.RoomID()
	return nil
}

func (c *creation) addState(b *batch, e InitialState) error {
	if e.Type == typePowerLevels && e.StateKey == "" {
		create, err := b.room.provisionalState(typeCreate, "")
		if err != nil {
			return err
		}
		if err := checkCreatorsUnlisted(c.version, create, e.Content); err != nil {
			return err
		}
	}
	if e.Type == typeServerACL && e.StateKey == "" {
		if err := c.svc.checkOwnACL(e.Content); err != nil {
			return err
		}
	}
	key := e.StateKey
	_, err := b.add(proto{typ: e.Type, stateKey: &key, sender: c.sender, content: e.Content})
	return invalidState(err)
}

// invalidState turns a rejection by the authorisation rules into M_INVALID_ROOM_STATE.
func invalidState(err error) error {
	if mxerr.Code(err) == mxerr.CodeForbidden {
		return mxerr.New(http.StatusBadRequest, mxerr.CodeInvalidRoomState, "The room cannot be created with this state").Because(err)
	}
	return err
}

// write stores the room's aliases and directory entry along with its events.
func (c *creation) write(tx *storage.Tx, room ident.RoomNID) error {
	if c.alias != "" {
		ok, err := tx.InsertAlias(storage.Alias{Alias: string(c.alias), Room: room, Creator: c.sender.UserNID})
		if err != nil {
			return err
		}
		if !ok {
			return c.aliasTaken()
		}
	}
	if c.movesFrom != 0 {
		if err := tx.MoveAliases(c.movesFrom, room); err != nil {
			return err
		}
		if err := tx.SetPublished(c.movesFrom, false); err != nil {
			return err
		}
	}
	if c.published {
		if err := tx.SetPublished(room, true); err != nil {
			return err
		}
	}
	if c.also == nil {
		return nil
	}
	return c.also(tx, room)
}
