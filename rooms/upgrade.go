package rooms

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/eventauth"
	"ebb/rooms/newroom"
	"ebb/rooms/pdu"
)

// transferred are the types of the state events that are copied to the new room, in this order.
// Spec: client-server-api#server-behaviour-16
var transferred = []string{
	typeServerACL, typeEncryption, typeName, typeAvatar, typeTopic, typeGuestAccess, typeHistoryVisibility, typeJoinRules,
	typeRetention, typeRetentionUnstable,
}

// Upgrade replaces a room by a new one with another version. In one write it creates the new room with the old one's
// state, sends a tombstone to the old room and raises the power levels there.
// Spec: client-server-api#post_matrixclientv3roomsroomidupgrade
func (s *Service) Upgrade(ctx context.Context, sender ident.Requester, room id.RoomID, version id.RoomVersion, additionalCreators []id.UserID) (id.RoomID, error) {
	v, ok := pdu.VersionOf(version)
	if !ok {
		return "", badRequest(mxerr.CodeUnsupportedRoomVersion, "This server does not support that room version")
	}
	old, err := s.Room(ctx, room)
	if err != nil {
		return "", unknownIsForbidden(err)
	}
	if old.Membership(sender.UserID) == Join {
		if err := s.AwaitFullState(ctx, room); err != nil {
			return "", err
		}
	}
	c := &creation{svc: s, sender: sender, version: v, movesFrom: old.nid, published: old.Published(), req: &CreateRoom{Preset: newroom.Private}}
	var successor id.RoomID
	err = s.change(ctx, room, func(b *batch) error {
		levels := b.room.next.levels
		if b.room.provisionalMembership(sender.UserID) != Join || levels.UserLevel(sender.UserID) < levels.EventLevel(typeTombstone, true) {
			return mxerr.Forbidden("You do not have permission to upgrade this room")
		}
		if err := c.succeed(b, additionalCreators); err != nil {
			return err
		}
		next, err := c.replace(ctx, b)
		if err != nil {
			return err
		}
		successor = next.room.id
		b.alongside, b.unpublishes = next, true
		return b.closeRoom(sender)
	})
	if err != nil {
		return "", err
	}
	next, err := s.Room(ctx, successor)
	if err != nil {
		return "", err
	}
	return successor, s.follow(ctx, sender, next)
}

// succeed sets the initial state of the new room according to the state of the old room, of which b is a batch.
func (c *creation) succeed(b *batch, additionalCreators []id.UserID) error {
	create, err := b.room.provisionalState(typeCreate, "")
	if err != nil {
		return err
	}
	content := map[string]json.RawMessage{}
	_ = canonjson.Each(create.Content(), func(key string, raw []byte) error {
		switch key {
		case "creator", "room_version", "predecessor", "additional_creators":
		default:
			content[key] = raw
		}
		return nil
	})
	if c.version.PrivilegedCreators {
		if content["additional_creators"], err = json.Marshal(additionalCreators); err != nil {
			return err
		}
	}
	if c.req.CreationContent, err = json.Marshal(content); err != nil {
		return err
	}
	if c.content, err = c.plan().CreateContent(); err != nil {
		return err
	}
	if err := c.succeedState(b); err != nil {
		return err
	}
	if c.bans, err = b.room.banned(); err != nil {
		return err
	}
	levels, err := b.room.provisionalState(typePowerLevels, "")
	if err != nil {
		return err
	}
	return c.succeedLevels(b.room.version, create, levels, additionalCreators == nil)
}

// succeedState copies those state events from the old room to the new one whose meaning does not depend on who sent
// them.
func (c *creation) succeedState(b *batch) error {
	c.req.InitialState = nil
	for _, typ := range transferred {
		e, err := b.room.provisionalState(typ, "")
		if err != nil {
			return err
		}
		if e != nil {
			c.req.InitialState = append(c.req.InitialState, InitialState{Type: typ, Content: e.Content()})
		}
	}
	alias, err := b.room.provisionalState(typeCanonicalAlias, "")
	if err != nil {
		return err
	}
	if alias != nil {
		c.req.InitialState = append(c.req.InitialState, InitialState{Type: typeCanonicalAlias, Content: alias.Content()})
	}
	if string(c.content["type"]) == `"m.space"` { // the specification does not say so, but an empty space would replace nothing
		children := b.room.StateOfType(typeSpaceChild)
		for _, child := range slices.Sorted(maps.Keys(children)) {
			content := children[child].Content()
			if _, ok := canonjson.Get(content, "via"); ok && len(c.req.InitialState) < maxCopiedState {
				c.req.InitialState = append(c.req.InitialState, InitialState{Type: typeSpaceChild, StateKey: child, Content: content})
			}
		}
	}
	return nil
}

// succeedLevels derives the power levels of the new room from those of the old one, in which everybody keeps their
// level. In version 12 or later, creators of a room have no level. Those who are no creators of the new room get the
// highest level, unless keep is false and they could have been; so do the creators of a room without power levels. If
// the sender needs a higher level to create the new room, they have it until the last event of the creation.
func (c *creation) succeedLevels(v *pdu.Version, create, old *Event, keep bool) (err error) {
	levels := eventauth.ReadLevelContent(v, []byte("{}"))
	if old != nil {
		levels = eventauth.ReadLevelContent(v, old.Content())
	}
	if old == nil || v.PrivilegedCreators && (keep || !c.version.PrivilegedCreators) {
		highest := max(100, levels.Required(), levels.Highest())
		for _, u := range eventauth.Creators(v, create.Event) {
			levels.Users[u] = highest
		}
	}
	if c.version.PrivilegedCreators {
		for _, u := range append(c.additionalCreators(), c.sender.UserID) {
			delete(levels.Users, u)
		}
		levels.Events[typeTombstone] = max(levels.Events[typeTombstone], newroom.AboveAdministrators)
	}
	if c.powerLevels, err = levels.JSON(); err != nil || c.version.PrivilegedCreators {
		return err
	}
	own := levels.LevelOf(c.sender.UserID)
	needed := max(levels.Required(), levels.Highest())
	for _, banned := range c.bans { // only users with a higher level can ban
		needed = max(needed, levels.LevelOf(banned.user)+1)
	}
	if own >= needed {
		return nil
	}
	c.lastLevels = c.powerLevels
	levels.Users[c.sender.UserID] = needed
	c.powerLevels, err = levels.JSON()
	return err
}

func (c *creation) additionalCreators() (users []id.UserID) {
	// newroom.Plan.CreateContent has encoded it.
	_ = json.Unmarshal(c.content["additional_creators"], &users)
	return users
}

// Bounds of what is copied to the new room.
const (
	maxBans        = 1000
	maxCopiedState = 1000
)

// banned returns the users whose bans are copied to the new room.
func (r *Room) banned() ([]invitee, error) {
	var out []invitee
	for _, m := range r.Members(Ban) {
		if len(out) == maxBans {
			break
		}
		e, err := r.svc.memberEvent(r, m)
		if err != nil {
			return nil, err
		}
		out = append(out, invitee{user: m.User, nid: m.NID, content: memberContent{Membership: Ban, Reason: e.ContentString("reason")}})
	}
	return out, nil
}

// replace builds the new room, and the tombstone of the old room that refers to it. Before room version 12 the create
// event also refers to the tombstone. The tombstone contains the new room's ID, so the ID is generated first. Since
// version 12 the ID is derived from the create event, which does not refer to the tombstone.
func (c *creation) replace(ctx context.Context, b *batch) (*batch, error) {
	predecessor := map[string]string{"room_id": string(b.room.id)}
	next := newRoom(c.svc, c.version)
	if !c.version.RoomIDIsCreateHash {
		tombstone, err := b.tombstone(c.sender, next.id)
		if err != nil {
			return nil, err
		}
		predecessor["event_id"] = string(tombstone)
	}
	raw, err := json.Marshal(predecessor)
	if err != nil {
		return nil, err
	}
	c.content["predecessor"] = raw
	made, err := c.build(ctx, next)
	if err != nil || !c.version.RoomIDIsCreateHash {
		return made, err
	}
	_, err = b.tombstone(c.sender, made.room.id)
	return made, err
}

func (b *batch) tombstone(sender ident.Requester, successor id.RoomID) (id.EventID, error) {
	content, err := json.Marshal(map[string]string{"body": "This room has been replaced", "replacement_room": string(successor)})
	if err != nil {
		return "", err
	}
	empty := ""
	e, err := b.add(proto{typ: typeTombstone, stateKey: &empty, sender: sender, content: content})
	if err != nil {
		return "", err
	}
	return e.ID(), nil
}

// closeRoom removes the canonical alias of a replaced room, and raises the power levels that are needed for messages
// and invites there. It does only what the sender has the power to do.
func (b *batch) closeRoom(sender ident.Requester) error {
	levels := b.room.next.levels
	power := levels.UserLevel(sender.UserID)
	alias, err := b.room.provisionalState(typeCanonicalAlias, "")
	if err != nil {
		return err
	}
	empty := ""
	if alias != nil && power >= levels.EventLevel(typeCanonicalAlias, true) {
		if _, err := b.add(proto{typ: typeCanonicalAlias, stateKey: &empty, sender: sender, content: []byte(`{}`)}); err != nil {
			return err
		}
	}
	least := max(50, levels.UsersDefault+1)
	e, err := b.room.provisionalState(typePowerLevels, "")
	if err != nil || e == nil || power < levels.EventLevel(typePowerLevels, true) || power < least {
		return err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(e.Content(), &fields); err != nil {
		return err
	}
	for key, now := range map[string]int64{"events_default": levels.EventsDefault, "invite": levels.Invite} {
		if now < least {
			if fields[key], err = json.Marshal(least); err != nil {
				return err
			}
		}
	}
	content, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	_, err = b.add(proto{typ: typePowerLevels, stateKey: &empty, sender: sender, content: content})
	return err
}
