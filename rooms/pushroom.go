package rooms

import (
	"context"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/pushrules"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// pushRoom gives the push rules access to the room in its provisional state.
type pushRoom struct {
	r      *Room
	thread storage.Pos // the root of the event's thread; 0 in the main timeline
}

func (p *pushRoom) InThread() bool { return p.thread != 0 }

func (p *pushRoom) IsSubscribed(user ident.UserNID) bool { return p.r.svc.IsSubscribed(user, p.thread) }

func (p *pushRoom) JoinedCount() int {
	p.r.mu.RLock()
	defer p.r.mu.RUnlock()
	return p.r.head.counts[Join] + p.r.pending.joined
}

func (p *pushRoom) LocalMember(user id.UserID) (ident.UserNID, bool) {
	if !p.r.svc.IsLocal(user) {
		return 0, false
	}
	p.r.mu.RLock()
	defer p.r.mu.RUnlock()
	if queued := p.r.pending.state[pdu.StateKey{Type: typeMember, Key: string(user)}]; queued != nil {
		return queued.member.nid, queued.member.to == Join || queued.member.to == Invite
	}
	m := p.r.head.members[user]
	if m == nil {
		return 0, false
	}
	return m.NID, m.Membership == Join || m.Membership == Invite
}

func (p *pushRoom) LocalCount() int {
	p.r.mu.RLock()
	defer p.r.mu.RUnlock()
	return len(p.r.head.local) + len(p.r.head.invited) + len(p.r.pending.state)
}

func (p *pushRoom) EachLocal(f func(nid ident.UserNID, user id.UserID)) {
	p.r.mu.RLock()
	defer p.r.mu.RUnlock()
	for _, members := range []map[ident.UserNID]*Member{p.r.head.local, p.r.head.invited} {
		for nid, m := range members {
			if p.r.pending.state[pdu.StateKey{Type: typeMember, Key: string(m.User)}] == nil {
				f(nid, m.User)
			}
		}
	}
	for _, queued := range p.r.pending.state {
		if c := queued.member; c != nil && (c.to == Join || c.to == Invite) && p.r.svc.IsLocal(c.user) {
			f(c.nid, c.user)
		}
	}
}

func (p *pushRoom) DisplayName(user id.UserID) string {
	if e, err := p.r.provisionalState(typeMember, string(user)); err == nil && e != nil {
		return e.ContentString("displayname")
	}
	return ""
}

// EachNamedIn calls f for each local member whose display name occurs in the given text.
func (p *pushRoom) EachNamedIn(text string, f func(nid ident.UserNID, user id.UserID)) {
	if err := p.r.loadNames(); err != nil {
		p.r.svc.log.Error("cannot read the display names of a room for push rules", "room", p.r.id, "err", err)
		return
	}
	p.r.mu.RLock()
	defer p.r.mu.RUnlock()
	p.r.head.names.In(text, func(nid ident.UserNID, user id.UserID) {
		if p.r.pending.state[pdu.StateKey{Type: typeMember, Key: string(user)}] == nil {
			f(nid, user)
		}
	})
	var queued *pushrules.Names
	for _, change := range p.r.pending.state {
		if c := change.member; c != nil && change.event != nil && (c.to == Join || c.to == Invite) && p.r.svc.IsLocal(c.user) {
			if queued == nil {
				queued = pushrules.NewNames()
			}
			queued.Set(c.nid, c.user, change.event.ContentString("displayname"))
		}
	}
	queued.In(text, f)
}

// loadNames builds the index of display names, unless the room has one already. So the first message whose text is
// searched for names must wait until the events of the local members are read.
func (r *Room) loadNames() error {
	missing, done := r.indexNames(nil)
	if done {
		return nil
	}
	loaded := map[storage.Pos]*Event{}
	err := r.svc.db.ReadInner(context.Background(), func(tx *storage.Tx) (err error) {
		loaded, err = r.EventsAt(tx, missing)
		return err
	})
	if err == nil {
		r.indexNames(loaded)
	}
	return err
}

// indexNames builds the index of display names from the member events in memory and those in loaded. If events are
// missing, it returns their positions, and builds the index only if loaded is not nil: events that are missing after
// loading are those of new members, and the commits of these events add the names.
func (r *Room) indexNames(loaded map[storage.Pos]*Event) (missing []storage.Pos, done bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := &r.head
	if h.names != nil {
		return nil, true
	}
	names := pushrules.NewNames()
	for _, members := range []map[ident.UserNID]*Member{h.local, h.invited} {
		for nid, m := range members {
			e := m.event.Load()
			if e == nil {
				e = loaded[m.Pos]
			}
			if e == nil {
				missing = append(missing, m.Pos)
				continue
			}
			names.Set(nid, m.User, e.ContentString("displayname"))
		}
	}
	if len(missing) == 0 || loaded != nil {
		h.names = names
	}
	return missing, h.names != nil
}

func (p *pushRoom) MayNotify(sender id.UserID, key string) bool {
	l := p.r.next.levels
	return l.UserLevel(sender) >= l.Notification(key)
}
