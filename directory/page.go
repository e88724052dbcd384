package directory

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ebb/ident"
	"ebb/mxerr"
)

// directoryKey is the position of a room in the directory. Rooms with more members come first. Of rooms with the same
// number of members, the one that this server has known for longer comes first.
type directoryKey struct {
	joined int
	nid    ident.RoomNID
}

func (k directoryKey) compare(other directoryKey) int {
	return cmp.Or(cmp.Compare(other.joined, k.joined), cmp.Compare(k.nid, other.nid))
}

// listedRoom is a room of the directory together with its key.
type listedRoom struct {
	key  directoryKey
	room PublicRoom
}

// directoryPage collects a page of the directory, which consists of at most limit rooms directly after or before a key.
// A page begins after a given room and not after a given number of rooms, so that no room is repeated or skipped when
// another one is published or removed between two pages.
type directoryPage struct {
	limit     int
	since     *directoryKey // nil for the first page
	backwards bool          // whether the page ends before since instead of beginning after it
	rooms     []listedRoom  // at most limit rooms, in the order of the directory
	total     int           // number of matching rooms on all pages
	earlier   bool          // whether there are matching rooms before the page
	later     bool          // whether there are matching rooms after the page
}

// newDirectoryPage returns an empty page for a query.
//
// Errors: M_INVALID_PARAM if the token was not issued for the directory.
func newDirectoryPage(q *PublicRoomsQuery) (*directoryPage, error) {
	p := &directoryPage{limit: min(q.Limit, maxPublicRooms)}
	if q.Limit <= 0 {
		p.limit = defaultPublicRooms
	}
	if q.Since == "" {
		return p, nil
	}
	count, number, _ := strings.Cut(q.Since[1:], ".")
	joined, err1 := strconv.Atoi(count)
	nid, err2 := strconv.ParseInt(number, 10, 64)
	p.since, p.backwards = &directoryKey{joined, ident.RoomNID(nid)}, q.Since[0] == 'p'
	if q.Since[0] != 'n' && !p.backwards || err1 != nil || err2 != nil {
		return nil, mxerr.InvalidParam("since is not a token of the room directory")
	}
	return p, nil
}

// token returns the token of the page that begins after the room with this key (if direction is 'n', next) or ends
// before it (if direction is 'p', previous).
func (k directoryKey) token(direction byte) string {
	return fmt.Sprintf("%c%d.%d", direction, k.joined, k.nid)
}

// add adds a matching room to the page if it belongs there.
func (p *directoryPage) add(r listedRoom) {
	p.total++
	if p.since != nil {
		switch side := r.key.compare(*p.since); {
		case !p.backwards && side <= 0:
			p.earlier = true
			return
		case p.backwards && side >= 0:
			p.later = true
			return
		}
	}
	i, _ := slices.BinarySearchFunc(p.rooms, r, func(a, b listedRoom) int { return a.key.compare(b.key) })
	p.rooms = slices.Insert(p.rooms, i, r)
	switch {
	case len(p.rooms) <= p.limit:
	case p.backwards:
		p.rooms, p.earlier = slices.Delete(p.rooms, 0, 1), true
	default:
		p.rooms, p.later = p.rooms[:p.limit], true
	}
}

// answer returns the page in the form for clients.
func (p *directoryPage) answer() PublicRooms {
	out := PublicRooms{Chunk: make([]PublicRoom, len(p.rooms)), Total: p.total}
	for i := range p.rooms {
		out.Chunk[i] = p.rooms[i].room
	}
	first, last := p.ends()
	if p.later {
		out.NextBatch = last.token('n')
	}
	if p.earlier {
		out.PrevBatch = first.token('p')
	}
	return out
}

// ends returns the keys of the first and the last room of the page. For an empty page, one of them is the key in the
// page's token, and the other is the key next to it, whether or not there is such a room.
func (p *directoryPage) ends() (first, last directoryKey) {
	switch {
	case len(p.rooms) > 0:
		return p.rooms[0].key, p.rooms[len(p.rooms)-1].key
	case p.since == nil:
		return first, last
	case p.backwards:
		return *p.since, directoryKey{p.since.joined, p.since.nid - 1}
	default:
		return directoryKey{p.since.joined, p.since.nid + 1}, *p.since
	}
}
