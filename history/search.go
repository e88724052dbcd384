package history

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/graph"
	"ebb/rooms/words"
	"ebb/search"
	"ebb/storage"
	"ebb/storage/postings"
)

const (
	// MaxFound bounds the results of one page of a search.
	MaxFound = 100
	// MaxFoundContext bounds the events before, and those after, each result.
	MaxFoundContext = 50
	// maxSearchTerm bounds the text of a search, in bytes.
	maxSearchTerm = 4096
	// maxSearchedRooms bounds the rooms of one search: those that the user joined last.
	maxSearchedRooms = 5000
	// maxPredecessors bounds the rooms that are searched because they were upgraded to one that the filter names.
	maxPredecessors = 100
	// maxExamined bounds the events that are read for one page, since the index suggests more than match. If that is
	// not enough for the page, it is short, and the next one continues.
	maxExamined = 500
	// maxCounted is how many hits are examined to count them. More are only estimated.
	maxCounted = 200
	// maxExaminedBytes bounds the JSON of these events.
	maxExaminedBytes = 4 << 20
	// Since most hits match, as many events are examined at a time as the page still needs, but at least leastExamined
	// and at most examineBatch.
	examineBatch  = 32
	leastExamined = 8
	// maxSearches bounds the searches of one user that run at a time, and maxWaitingSearches those that run or wait.
	maxSearches        = 1
	maxWaitingSearches = 4
)

// ErrSearchOff means that search is switched off.
var ErrSearchOff = errors.New("history: search is switched off")

// SearchRequest is a search for messages.
type SearchRequest struct {
	Term          string
	Fields        []postings.Field // empty: all
	Filter        EventFilter
	Limit         int
	Recent        bool   // newest first, instead of the closest matches first
	From          string // the token of the next page; "" for the first one
	Before        int    // events before each result
	After         int
	Context       bool
	Profiles      bool // of the senders, with the context
	State         bool // of the rooms of the results
	GroupByRoom   bool
	GroupBySender bool
}

// SearchPage is a part of the results of a search.
type SearchPage struct {
	Count      int // how many results there are in all, if there are many an estimate
	Highlights []string
	Results    []SearchResult
	State      map[id.RoomID][]json.RawMessage
	Groups     map[string]map[string]*SearchGroup // by the key of the grouping, then by room or sender
	Next       string                             // "": there are no more results
}

// SearchResult is an event that contains the words of the search.
type SearchResult struct {
	Rank    float64
	Event   json.RawMessage
	Context *SearchContext
	id      id.EventID
}

// SearchContext holds the events before and after a result.
type SearchContext struct {
	Start, End    string
	Before, After []json.RawMessage // Before: newest first
	Profiles      map[id.UserID]MemberProfile
}

// MemberProfile is the profile of a member of a room.
type MemberProfile struct {
	DisplayName json.RawMessage `json:"displayname,omitempty"`
	AvatarURL   json.RawMessage `json:"avatar_url,omitempty"`
}

// SearchGroup lists those results of a page that are in one room or were sent by one user.
type SearchGroup struct {
	Next    string
	Order   int
	Results []id.EventID
}

// Search finds events by the words of their text, in the rooms that the user is or was in.
// Spec: client-server-api#post_matrixclientv3search
func (s *Service) Search(ctx context.Context, to ident.Requester, req SearchRequest) (page SearchPage, err error) {
	if s.search == nil {
		return page, ErrSearchOff
	}
	q, err := parseSearch(req.Term)
	if err != nil {
		return page, err
	}
	from, err := parseSearchToken(req.From, &req)
	if err != nil {
		return page, err
	}
	release, err := s.searching.Acquire(ctx, to.UserNID)
	if errors.Is(err, keyed.ErrBusy) {
		return page, mxerr.LimitExceeded(time.Second)
	}
	if err != nil {
		return page, err
	}
	defer release()
	where, err := s.searchedRooms(ctx, to, &req, from)
	if err != nil {
		return page, err
	}
	finder := s.search.Begin()
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		x := &searching{svc: s, ctx: ctx, tx: tx, to: to, req: &req, from: from, match: q.Matcher(), query: q, rooms: map[ident.RoomNID]*searchedRoom{}}
		if err := x.find(finder, where); err != nil {
			return err
		}
		return x.page(&page)
	})
	return page, err
}

func parseSearch(term string) (*words.Query, error) {
	if len(term) > maxSearchTerm {
		return nil, mxerr.InvalidParam("search_term must not be longer than %d bytes", maxSearchTerm)
	}
	q, ok := words.Parse(term)
	if !ok {
		return nil, mxerr.InvalidParam("search_term has too many words")
	}
	return q, nil
}

// searchedRooms lists the rooms that are searched: those that the user is in or has left and not forgotten, and that
// the filter lets through. If the filter names rooms, those that were upgraded to them are searched too.
func (s *Service) searchedRooms(ctx context.Context, to ident.Requester, req *SearchRequest, from *searchToken) ([]ident.RoomNID, error) {
	all, err := s.rooms.Memberships(ctx, to.UserNID)
	if err != nil {
		return nil, err
	}
	own := slices.DeleteFunc(slices.Clone(all), func(m rooms.RoomMembership) bool {
		return m.Forgotten || m.Membership != rooms.Join && m.Membership != rooms.Leave && m.Membership != rooms.Ban
	})
	slices.SortFunc(own, func(a, b rooms.RoomMembership) int { return cmp.Compare(b.JoinedPos, a.JoinedPos) })
	only := req.Filter.Rooms
	if only != nil {
		list := append(slices.Clone(*only), s.predecessors(ctx, to, *only)...)
		only = &list
	}
	if group, ok := from.room(); ok && (only == nil || slices.Contains(*only, group)) {
		only = &[]string{group}
	}
	wanted, unwanted, err := s.roomNIDs(ctx, values(only), req.Filter.NotRooms)
	if err != nil {
		return nil, err
	}
	var out []ident.RoomNID
	for _, m := range own {
		if (only == nil || wanted[m.Room]) && !unwanted[m.Room] && len(out) < maxSearchedRooms {
			out = append(out, m.Room)
		}
	}
	return out, nil
}

// roomNIDs looks up the rooms in two lists of IDs, and returns the numbers of those that are known.
func (s *Service) roomNIDs(ctx context.Context, one, two []string) (a, b map[ident.RoomNID]bool, err error) {
	a, b = map[ident.RoomNID]bool{}, map[ident.RoomNID]bool{}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		for _, l := range []struct {
			ids  []string
			into map[ident.RoomNID]bool
		}{{one, a}, {two, b}} {
			for part := range slices.Chunk(l.ids, maxFilterList) {
				rows, err := tx.RoomsByID(part)
				if err != nil {
					return err
				}
				for _, r := range rows {
					l.into[r.NID] = true
				}
			}
		}
		return nil
	})
	return a, b, err
}

// predecessors returns the rooms that the user has been in and that were upgraded, in one or several steps, to one of
// the given rooms.
func (s *Service) predecessors(ctx context.Context, to ident.Requester, of []string) (out []string) {
	for _, roomID := range of {
		room, err := s.rooms.Room(ctx, id.RoomID(roomID))
		for err == nil && room != nil && room.MemberOf(to.UserID) != nil && len(out) < maxPredecessors {
			if room, err = s.rooms.Predecessor(ctx, room); err == nil && room != nil {
				out = append(out, string(room.ID()))
			}
		}
	}
	return out
}

// searching is one search within its transaction.
type searching struct {
	svc   *Service
	ctx   context.Context
	tx    *storage.Tx
	to    ident.Requester
	req   *SearchRequest
	from  *searchToken
	query *words.Query
	match *words.Matcher

	rooms map[ident.RoomNID]*searchedRoom
	at    *searchedRoom // the room of the last hit: hits come room by room
	best  []search.Hit  // the hits that come after the previous page in the order of the request, at most maxExamined
	full  bool          // there are more hits than best holds
	last  search.Hit    // if full is set: hits after this one are not kept
	sure  int           // hits that the user can certainly see, if their words match
	other int
	bytes int
	found []found
}

// searchedRoom is a room with hits.
type searchedRoom struct {
	*viewer
	unreadable bool
	upTo       ident.Order
	cutoff     *storage.Cutoff
}

// found is an event that matches the query and that the user may see.
type found struct {
	search.Hit
	room  *searchedRoom
	event *rooms.Event
	at    sight
}

// find asks the index for hits, and keeps in x.best the first ones that come after the previous page.
func (x *searching) find(finder *search.Finder, where []ident.RoomNID) (err error) {
	_, findErr := finder.Find(x.tx, search.Request{Rooms: where, Query: x.query, Fields: x.fields()}, func(h search.Hit) {
		if err == nil {
			err = x.hit(h)
		}
	})
	x.trim(maxExamined)
	return cmp.Or(findErr, err)
}

// fields returns the texts of events in which to search, such as the body of messages. It leaves out those of event
// types that the filter excludes.
func (x *searching) fields() (out []postings.Field) {
	for typ, field := range map[string]postings.Field{"m.room.message": postings.Body, "m.room.name": postings.Name, "m.room.topic": postings.Topic} {
		if (len(x.req.Fields) == 0 || slices.Contains(x.req.Fields, field)) && x.req.Filter.typ(typ) {
			out = append(out, field)
		}
	}
	return out
}

// hit counts a hit of the index. It adds the hit to x.best if it comes after the previous page and is among the first
// of these.
func (x *searching) hit(h search.Hit) error {
	r, err := x.roomOf(h.Room)
	if err != nil || r.unreadable || h.Order > r.upTo || r.expired(h) {
		return err
	}
	if x.isSure(r, h) {
		x.sure++
	} else {
		x.other++
	}
	if x.from != nil && x.compare(h, x.from.after) <= 0 || x.full && x.compare(h, x.last) > 0 {
		return nil
	}
	x.best = append(x.best, h)
	if len(x.best) >= 4*maxExamined {
		x.trim(maxExamined)
	}
	return nil
}

// isSure reports whether the user was certainly joined to the room when the event of a hit was sent. Whether the user
// may see it then does not depend on the history visibility.
func (x *searching) isSure(r *searchedRoom, h search.Hit) bool {
	return !r.mayBeExpired(h) && r.joined && r.joinedPos != 0 && h.Order >= ident.Order(r.joinedPos)*graph.OrderStep
}

// expired reports whether a hit has certainly expired.
func (r *searchedRoom) expired(h search.Hit) bool {
	return r.mayBeExpired(h) && r.cutoff.Received == math.MaxInt64
}

// mayBeExpired reports whether a hit has expired unless its min_lifetime is not over, which the index does not know.
func (r *searchedRoom) mayBeExpired(h search.Hit) bool {
	return r.cutoff != nil && h.Field == postings.Body && h.Time <= r.cutoff.Sent
}

// roomOf returns the user's view of a room. It creates the view at the first hit in the room.
func (x *searching) roomOf(nid ident.RoomNID) (*searchedRoom, error) {
	if x.at != nil && x.at.room.NID() == nid {
		return x.at, nil
	}
	if x.at = x.rooms[nid]; x.at != nil {
		return x.at, nil
	}
	room, err := x.svc.rooms.RoomByNID(x.ctx, nid)
	if err != nil {
		return nil, err
	}
	v, err := x.svc.viewer(x.ctx, x.tx, room, x.to)
	if err != nil {
		return nil, err
	}
	r := &searchedRoom{viewer: v, cutoff: v.cutoff()}
	x.rooms[nid] = r
	err = v.mayRead(x.tx)
	if errors.Is(err, errNotReadable) {
		r.unreadable, err = true, nil
	}
	w := everything()
	if err == nil && !r.unreadable {
		err = v.capAtLeave(x.tx, &w)
	}
	r.upTo = w.upTo
	return r, err
}

// compare compares two hits by the order in which the request wants the results.
func (x *searching) compare(a, b search.Hit) int {
	// One after the other, since nearly all hits differ in the first ones, and this runs some hundred thousand times.
	switch {
	case !x.req.Recent && a.Size != b.Size:
		return cmp.Compare(a.Size, b.Size)
	case a.Time != b.Time:
		return cmp.Compare(b.Time, a.Time)
	case a.Order != b.Order:
		return cmp.Compare(b.Order, a.Order)
	case a.Room != b.Room:
		return cmp.Compare(b.Room, a.Room)
	}
	return cmp.Compare(b.Pos, a.Pos)
}

// trim sorts x.best, removes duplicates, and keeps the first n hits.
func (x *searching) trim(n int) {
	slices.SortFunc(x.best, x.compare)
	x.best = slices.CompactFunc(x.best, func(a, b search.Hit) bool { return a.Room == b.Room && a.Pos == b.Pos })
	if len(x.best) > n {
		x.best, x.full, x.last = x.best[:n], true, x.best[n-1]
	}
}
