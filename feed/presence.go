package feed

import (
	"cmp"
	"slices"
	"strconv"
	"sync"
	"time"

	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
)

const (
	// presenceTimeout is how long after its last sync a device still counts as connected.
	presenceTimeout = 30 * time.Second
	// idleTimeout is how long a user must show no activity before the state online becomes unavailable.
	idleTimeout = 5 * time.Minute
	// activeFor is how long after an activity currently_active stays true.
	activeFor = time.Minute
	// presenceRoomLimit is the number of members above which presence is not spread in a room. Otherwise every change
	// of a member would wake all the others; this load makes many administrators switch presence off altogether.
	presenceRoomLimit = 500
	// maxPresenceDevices bounds the devices of one user that are watched at once.
	maxPresenceDevices = 64
	// presenceMemory is how long the record of a user is kept while the user is offline without a status message.
	presenceMemory = 24 * time.Hour
)

// presence holds the presence of users, in memory only. Each change of a user's presence gets a serial number; a
// client's token has the serial of the newest change that the client knows.
type presence struct {
	// mu guards all below; a leaf in docs/locks.md.
	mu     sync.Mutex
	serial int64 // of the newest change
	floor  int64 // changes up to this serial may have been forgotten
	users  map[ident.UserNID]*presenceUser
	recent []presenceChange // by serial, oldest first
	dirty  []*presenceUser  // changed since the last flush
	remote int              // users of other servers
}

// presenceChange is an entry of presence.recent. It is obsolete if the presence of the user has changed again since, so
// that the serial of the user is newer than that of the entry.
type presenceChange struct {
	serial int64
	user   *presenceUser
}

type presenceUser struct {
	nid        ident.UserNID
	id         id.UserID
	state      event.Presence
	status     *string
	active     bool // currently_active as last sent
	lastActive time.Time
	serial     int64
	dirty      bool // listed in presence.dirty
	devices    []presenceDevice
	sent       time.Time // when it was last sent to other servers
	heard      time.Time // when another server last sent it; zero for a local user
}

// presenceDevice is the presence of one of a user's devices.
type presenceDevice struct {
	nid   ident.DeviceNID
	state event.Presence
	polls int // requests waiting right now
	seen  time.Time
}

// gone reports whether the last request of a device was so long ago that the device does not count any more.
func (d presenceDevice) gone(now time.Time) bool {
	return d.polls == 0 && now.Sub(d.seen) > presenceTimeout
}

// presenceRecord is a copy of one user's presence, which later changes do not affect.
type presenceRecord struct {
	nid        ident.UserNID
	id         id.UserID
	state      event.Presence
	status     *string
	active     bool
	lastActive time.Time
	serial     int64
	remote     bool // a user of another server
}

func newPresence() *presence { return &presence{users: map[ident.UserNID]*presenceUser{}} }

func (p *presence) user(nid ident.UserNID, userID id.UserID) *presenceUser {
	u := p.users[nid]
	if u == nil {
		u = &presenceUser{nid: nid, id: userID, state: event.PresenceOffline}
		p.users[nid] = u
	}
	return u
}

// device returns one of the user's devices. If it is unknown, device adds it if add is set and there is room, and
// otherwise returns nil.
func (u *presenceUser) device(nid ident.DeviceNID, add bool) (d *presenceDevice, known bool) {
	for i := range u.devices {
		if u.devices[i].nid == nid {
			return &u.devices[i], true
		}
	}
	if !add || len(u.devices) >= maxPresenceDevices {
		return nil, false
	}
	u.devices = append(u.devices, presenceDevice{nid: nid})
	return &u.devices[len(u.devices)-1], false
}

// poll notes that a device's /sync began (+1) or ended (-1).
func (p *presence) poll(nid ident.UserNID, userID id.UserID, device ident.DeviceNID, state event.Presence, delta int, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.user(nid, userID)
	d, known := u.device(device, delta > 0)
	if d == nil {
		return
	}
	same := delta < 0 || known && d.state == state && !d.gone(now)
	if delta > 0 {
		returned := !known || d.state != event.PresenceOnline || d.gone(now)
		if state == event.PresenceOnline && returned {
			u.lastActive = now // coming online is an activity
		}
		d.state = state
	}
	d.polls, d.seen = max(0, d.polls+delta), now
	if !same { // timeouts are left to tick
		p.refresh(u, now, false)
	}
}

// set records the presence that the user set for a device, and the status message (nil: none).
func (p *presence) set(nid ident.UserNID, userID id.UserID, device ident.DeviceNID, state event.Presence, status *string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	u := p.user(nid, userID)
	if d, _ := u.device(device, true); d != nil {
		d.state, d.seen = state, now
	}
	u.lastActive = now
	changed := !sameStatus(u.status, status)
	u.status = status
	p.refresh(u, now, changed)
}

// touch notes an activity of the user, such as a message sent.
func (p *presence) touch(nid ident.UserNID, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if u := p.users[nid]; u != nil && now.After(u.lastActive) {
		u.lastActive = now
		p.refresh(u, now, false)
	}
}

// refresh computes a user's presence anew, and gives the user a new serial if it differs or if changed is set.
func (p *presence) refresh(u *presenceUser, now time.Time, changed bool) {
	if !u.heard.IsZero() {
		if u.state != event.PresenceOffline && now.Sub(u.heard) > remotePresence {
			u.state, u.active = event.PresenceOffline, false
			p.note(u)
		}
		return
	}
	state := u.overall(now)
	active := state == event.PresenceOnline && now.Sub(u.lastActive) < activeFor
	if state == u.state && active == u.active && !changed {
		return
	}
	u.state, u.active = state, active
	p.note(u)
}

// heard stores the presence of a remote user as another server sent it.
func (p *presence) heard(r presenceRecord, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users[r.nid] == nil && p.remote >= maxRemotePresence {
		return
	}
	u := p.user(r.nid, r.id)
	if u.heard.IsZero() {
		p.remote++
	}
	same := u.state == r.state && u.active == r.active && sameStatus(u.status, r.status)
	u.state, u.active, u.status, u.lastActive, u.heard = r.state, r.active, r.status, r.lastActive, now
	if !same {
		p.note(u)
	}
}

func sameStatus(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }

// note records that a user's presence has changed: it gives the user a new serial.
func (p *presence) note(u *presenceUser) {
	p.serial++
	u.serial = p.serial
	p.recent = append(p.recent, presenceChange{u.serial, u})
	if len(p.recent) > 2*len(p.users)+64 {
		p.compact()
	}
	if !u.dirty {
		u.dirty = true
		p.dirty = append(p.dirty, u)
	}
}

// overall returns the best state of the user's devices. It drops devices that are gone.
func (u *presenceUser) overall(now time.Time) event.Presence {
	best := event.PresenceOffline
	u.devices = slices.DeleteFunc(u.devices, func(d presenceDevice) bool { return d.gone(now) })
	for _, d := range u.devices {
		switch {
		case d.state == event.PresenceOnline:
			best = event.PresenceOnline
		case d.state == event.PresenceUnavailable && best == event.PresenceOffline:
			best = event.PresenceUnavailable
		}
	}
	if best == event.PresenceOnline && now.Sub(u.lastActive) > idleTimeout {
		return event.PresenceUnavailable
	}
	return best
}

// compact removes from recent all but each user's newest entry.
func (p *presence) compact() {
	p.recent = p.recent[:0]
	for _, u := range p.users {
		if u.serial > 0 {
			p.recent = append(p.recent, presenceChange{u.serial, u})
		}
	}
	slices.SortFunc(p.recent, func(a, b presenceChange) int { return cmp.Compare(a.serial, b.serial) })
}

// tick applies the timeouts: devices are dropped, users become idle, old records are forgotten.
func (p *presence) tick(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	forgot := false
	for nid, u := range p.users {
		p.refresh(u, now, false)
		if u.forgettable(now) {
			if !u.heard.IsZero() {
				p.remote--
			}
			p.floor = max(p.floor, u.serial)
			delete(p.users, nid)
			forgot = true
		}
	}
	if forgot {
		p.compact()
	}
}

// forgettable reports whether the record of a user can be dropped: the user is offline without a status message, or
// their server has been silent, for so long that nobody needs it.
func (u *presenceUser) forgettable(now time.Time) bool {
	if !u.heard.IsZero() {
		return now.Sub(u.heard) > presenceMemory
	}
	return len(u.devices) == 0 && u.status == nil && now.Sub(u.lastActive) > presenceMemory
}

// flush returns the users whose presence changed since flush was last called.
func (p *presence) flush(now time.Time) (changed []presenceRecord) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range p.dirty {
		u.dirty, u.sent = false, now
		changed = append(changed, u.record())
	}
	p.dirty = nil
	return changed
}

// pings returns the local users who are not offline and whose presence was sent to other servers long ago.
func (p *presence) pings(now time.Time) (due []presenceRecord) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range p.users {
		if u.heard.IsZero() && u.state != event.PresenceOffline && now.Sub(u.sent) >= presencePing {
			u.sent = now
			due = append(due, u.record())
		}
	}
	return due
}

// newest returns the serial of the newest change.
func (p *presence) newest() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.serial
}

// since returns the newest serial, and the users whose presence changed after the given serial, oldest change first. It
// returns only the users' numbers and not their records, because there may be a thousand of them although the client
// may see only a few.
func (p *presence) since(serial int64) (int64, []ident.UserNID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	first, _ := slices.BinarySearchFunc(p.recent, serial+1, func(c presenceChange, serial int64) int { return cmp.Compare(c.serial, serial) })
	changed := make([]ident.UserNID, 0, len(p.recent)-first)
	for _, c := range p.recent[first:] {
		if c.serial == c.user.serial {
			changed = append(changed, c.user.nid)
		}
	}
	return p.serial, changed
}

// record returns a copy of a user's presence.
func (u *presenceUser) record() presenceRecord {
	return presenceRecord{u.nid, u.id, u.state, u.status, u.active, u.lastActive, u.serial, !u.heard.IsZero()}
}

// of returns the record of the given user. If there is none, it returns false and a record that says offline.
func (p *presence) of(nid ident.UserNID) (presenceRecord, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if u := p.users[nid]; u != nil {
		return u.record(), true
	}
	return presenceRecord{nid: nid, state: event.PresenceOffline}, false
}

// allNotable returns the newest serial and the users who are not offline or have a status message.
func (p *presence) allNotable() (int64, []ident.UserNID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var users []ident.UserNID
	for nid, u := range p.users {
		if u.record().notable() {
			users = append(users, nid)
		}
	}
	slices.Sort(users)
	return p.serial, users
}

// remoteNotable returns the remote users who are not offline or have a status message.
func (p *presence) remoteNotable() (here []presenceRecord) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, u := range p.users {
		if r := u.record(); r.remote && r.notable() {
			here = append(here, r)
		}
	}
	return here
}

// notable reports whether a record is worth sending: the user is not offline or has a status message.
func (r presenceRecord) notable() bool { return r.state != event.PresenceOffline || r.status != nil }

// appendContent appends the content of the user's m.presence event, which is also the answer to GET .../status.
func (r presenceRecord) appendContent(dst []byte, now time.Time) []byte {
	dst = append(dst, '{')
	if r.state == event.PresenceOnline {
		dst = append(dst, `"currently_active":`...)
		dst = strconv.AppendBool(dst, r.active)
		dst = append(dst, ',')
	}
	if !r.lastActive.IsZero() {
		dst = append(dst, `"last_active_ago":`...)
		dst = strconv.AppendInt(dst, max(0, now.Sub(r.lastActive).Milliseconds()), 10)
		dst = append(dst, ',')
	}
	dst = append(dst, `"presence":`...)
	dst = canonjson.AppendString(dst, string(r.state))
	if r.status != nil {
		dst = append(dst, `,"status_msg":`...)
		dst = canonjson.AppendString(dst, *r.status)
	}
	return append(dst, '}')
}

// appendEvent appends the m.presence event.
func (r presenceRecord) appendEvent(dst []byte, now time.Time) []byte {
	dst = append(dst, `{"content":`...)
	dst = r.appendContent(dst, now)
	dst = append(dst, `,"sender":`...)
	dst = canonjson.AppendString(dst, string(r.id))
	return append(dst, `,"type":"m.presence"}`...)
}
