package feed

import (
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
)

const (
	// defaultTyping is how long a typing notification without a timeout lasts.
	defaultTyping = 30 * time.Second
	// maxTyping bounds the timeout: clients repeat the notification every few seconds.
	maxTyping = 2 * time.Minute
	// typingRepeat is how often the notification of a user who goes on typing is repeated to other servers: they expire
	// it by themselves, after at least half a minute.
	typingRepeat = 20 * time.Second
	// remoteTyping is how long a notification from another server lasts. Servers repeat it about every forty seconds.
	remoteTyping = time.Minute
	// maxTypists bounds the list of one room. Clients do not show longer ones.
	maxTypists = 50
	// typingMemory is how long a room's empty list is kept for clients that have not seen it yet.
	typingMemory = 10 * time.Minute
)

// typing holds the users who are typing, by room. It is kept in memory only: after a restart nobody is typing.
type typing struct {
	// mu guards all below; a leaf in docs/locks.md.
	mu     sync.Mutex
	serial int64 // of the newest change
	floor  int64 // changes up to here may be forgotten
	rooms  map[ident.RoomNID]*typingRoom
}

type typingRoom struct {
	serial  int64 // of the newest change
	changed time.Time
	typists []typist // in the order in which they began
}

type typist struct {
	nid      ident.UserNID
	user     id.UserID
	until    time.Time
	notified time.Time // when other servers were last notified
	remote   bool      // belongs to another server
}

// typingEnd names a local user who has stopped typing, and the room.
type typingEnd struct {
	room ident.RoomNID
	user id.UserID
}

func newTyping() *typing { return &typing{rooms: map[ident.RoomNID]*typingRoom{}} }

// set records that the user in w is typing until w.until, or has stopped typing if w.until is zero. It reports whether
// the room's list changed, and whether other servers must be notified.
func (t *typing) set(room ident.RoomNID, w typist, now time.Time) (changed, tell bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rooms[room]
	if r == nil {
		if w.until.IsZero() {
			return false, false
		}
		r = &typingRoom{}
		t.rooms[room] = r
	}
	w.notified = now
	i := slices.IndexFunc(r.typists, func(other typist) bool { return other.nid == w.nid })
	switch {
	case i >= 0 && w.until.IsZero():
		r.typists = slices.Delete(r.typists, i, i+1)
	case i >= 0:
		before := &r.typists[i]
		before.until = w.until
		if now.Sub(before.notified) < typingRepeat {
			return false, false
		}
		before.notified = now
		return false, !w.remote
	case w.until.IsZero() || len(r.typists) >= maxTypists:
		return false, false
	default:
		r.typists = append(r.typists, w)
	}
	t.touch(r, now)
	return true, !w.remote
}

func (t *typing) touch(r *typingRoom, now time.Time) {
	t.serial++
	r.serial, r.changed = t.serial, now
}

// expire drops the users whose notification has timed out. It returns the rooms whose list changed, and the local users
// who were dropped. It also forgets lists that have been empty for long.
func (t *typing) expire(now time.Time) (changed []ident.RoomNID, ended []typingEnd) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for nid, r := range t.rooms {
		before := len(r.typists)
		r.typists = slices.DeleteFunc(r.typists, func(w typist) bool {
			if now.Before(w.until) {
				return false
			}
			if !w.remote {
				ended = append(ended, typingEnd{nid, w.user})
			}
			return true
		})
		switch {
		case len(r.typists) < before:
			t.touch(r, now)
			changed = append(changed, nid)
		case len(r.typists) == 0 && now.Sub(r.changed) > typingMemory:
			delete(t.rooms, nid)
			t.floor = max(t.floor, r.serial)
		}
	}
	return changed, ended
}

// typingView holds the lists of typing users that one client must be sent.
type typingView struct {
	serial int64
	rooms  map[ident.RoomNID][]typist // lists that are new to the client; nil list: nobody
	rest   bool                       // nobody is typing in the user's other rooms, but the client may think otherwise
	active map[ident.RoomNID]bool     // rooms in which somebody is typing
}

// view returns the lists that have changed since a token of this epoch. For a token of another epoch, or without a
// token (all is set), it returns the current lists.
func (t *typing) view(since Token, epoch uint32, all bool) typingView {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := typingView{serial: t.serial}
	stale := all || since.Epoch != epoch || since.Typing < t.floor
	if !stale && since.Typing == t.serial && !since.Active {
		return v
	}
	v.rest = stale && since.Active
	for nid, r := range t.rooms {
		if len(r.typists) > 0 {
			if v.active == nil {
				v.active = map[ident.RoomNID]bool{}
			}
			v.active[nid] = true
		}
		if stale && len(r.typists) > 0 || !stale && r.serial > since.Typing {
			if v.rooms == nil {
				v.rooms = map[ident.RoomNID][]typist{}
			}
			v.rooms[nid] = slices.Clone(r.typists)
		}
	}
	return v
}

// changedSince reports whether the list of any room has changed since the given token.
func (t *typing) changedSince(since Token, epoch uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if since.Epoch != epoch || since.Typing < t.floor {
		return since.Active || t.serial > 0
	}
	return since.Typing != t.serial
}

// current returns a room's list.
func (t *typing) current(room ident.RoomNID) []typist {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.rooms[room]; r != nil {
		return slices.Clone(r.typists)
	}
	return nil
}

// appendTyping appends an m.typing event.
func appendTyping(dst []byte, typists []typist) []byte {
	dst = append(dst, `{"content":{"user_ids":[`...)
	for i, w := range typists {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = canonjson.AppendString(dst, string(w.user))
	}
	return append(dst, `]},"type":"m.typing"}`...)
}
