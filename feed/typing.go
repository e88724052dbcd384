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
	// defaultTyping is how long a notification lasts whose sender gave no timeout.
	defaultTyping = 30 * time.Second
	// maxTyping bounds it: clients repeat theirs every few seconds.
	maxTyping = 2 * time.Minute
	// typingRepeat is how often other servers are told again of somebody who goes on typing: they end it by themselves
	// after a time of their own, half a minute at the least.
	typingRepeat = 20 * time.Second
	// remoteTyping is how long the notification of another server lasts. They repeat theirs every forty seconds or so.
	remoteTyping = time.Minute
	// maxTypists bounds the list of one room; a longer one tells nobody anything.
	maxTypists = 50
	// typingMemory is how long a room's empty list is kept for clients that have not seen it yet.
	typingMemory = 10 * time.Minute
)

// typing is who types where. It lives in memory only: a restart stops everybody.
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
	nid    ident.UserNID
	user   id.UserID
	until  time.Time
	told   time.Time // when other servers were told last
	remote bool      // a user of another server
}

// typingEnd is a user of this server who has ceased to type in a room.
type typingEnd struct {
	room ident.RoomNID
	user id.UserID
}

func newTyping() *typing { return &typing{rooms: map[ident.RoomNID]*typingRoom{}} }

// set records that a user types until a moment, or (zero) that the user stopped. It tells whether the room's list
// changed, and whether other servers are to be told.
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
	w.told = now
	i := slices.IndexFunc(r.typists, func(other typist) bool { return other.nid == w.nid })
	switch {
	case i >= 0 && w.until.IsZero():
		r.typists = slices.Delete(r.typists, i, i+1)
	case i >= 0:
		before := &r.typists[i]
		before.until = w.until
		if now.Sub(before.told) < typingRepeat {
			return false, false
		}
		before.told = now
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

// expire drops who has not repeated in time and gives the rooms whose list changed, and which users of this server it
// was. Lists that have long been empty are forgotten.
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

// typingView is what one client is to be told.
type typingView struct {
	serial int64
	rooms  map[ident.RoomNID][]typist // lists that are new to the client; nil list: nobody
	rest   bool                       // every other room of the user has nobody typing, and the client may think otherwise
	active map[ident.RoomNID]bool     // rooms in which somebody types
}

// view gives what changed after a token of this epoch, or the current lists for any other token. all: the client
// starts anew.
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

// changedSince tells whether any room's list changed after a token.
func (t *typing) changedSince(since Token, epoch uint32) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if since.Epoch != epoch || since.Typing < t.floor {
		return since.Active || t.serial > 0
	}
	return since.Typing != t.serial
}

// current is a room's list.
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
