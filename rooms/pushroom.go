package rooms

import (
	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
)

// pushRoom is the provisional room as the push rules look at it.
type pushRoom struct{ r *Room }

func (p pushRoom) JoinedCount() int {
	p.r.mu.RLock()
	defer p.r.mu.RUnlock()
	return p.r.head.counts[Join] + p.r.pending.joined
}

func (p pushRoom) LocalMember(user id.UserID) (int64, bool) {
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

func (p pushRoom) LocalCount() int {
	p.r.mu.RLock()
	defer p.r.mu.RUnlock()
	return len(p.r.head.local) + len(p.r.head.invited) + len(p.r.pending.state)
}

func (p pushRoom) EachLocal(f func(nid int64, user id.UserID)) {
	p.r.mu.RLock()
	defer p.r.mu.RUnlock()
	for _, members := range []map[int64]*Member{p.r.head.local, p.r.head.invited} {
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

func (p pushRoom) DisplayName(user id.UserID) string {
	if e, err := p.r.provisionalState(typeMember, string(user)); err == nil && e != nil {
		return contentString(e, "displayname")
	}
	return ""
}

func (p pushRoom) MayNotify(sender id.UserID, key string) bool {
	l := p.r.next.levels
	return l.UserLevel(sender) >= l.Notification(key)
}
