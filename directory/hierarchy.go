package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/fedclient"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// These constants bound a walk through spaces.
const (
	defaultHierarchy    = 50 // rooms in a page
	maxHierarchy        = 100
	maxHierarchyDepth   = 20
	maxHierarchyRooms   = 1000 // rooms considered for all pages of a walk together
	maxChildren         = 500  // children of one space
	maxChildrenAnswer   = 100  // children in a response to another server
	maxHierarchyServers = 3    // servers asked about one room
	maxVia              = 10   // servers listed for a child
	hierarchyTime       = 10 * time.Second
	// Responses of other servers are cached for a while, since a client requests the pages of a walk one after the
	// other, and many clients walk through the same space.
	hierarchyLifetime    = 5 * time.Minute
	maxRemoteSpaces      = 16 << 20 // bytes of cached responses; one has at most 1 MiB
	maxHierarchyRequests = 32       // requests to other servers in progress
)

// SpaceRoom is one room in the hierarchy of a space.
type SpaceRoom struct {
	RoomSummary
	ChildrenState []ChildState `json:"children_state"`
}

// ChildState is an m.space.child event, as a stripped event.
type ChildState struct {
	Type           string          `json:"type"`
	StateKey       id.RoomID       `json:"state_key"`
	Content        json.RawMessage `json:"content"`
	Sender         id.UserID       `json:"sender"`
	OriginServerTS int64           `json:"origin_server_ts"`
}

// childContent is the content of m.space.child. A field with a value of the wrong type counts as absent.
type childContent struct {
	via       []string
	order     string
	suggested bool
}

// read parses the content of a child event. It returns false for a child without a list of servers, which has been
// removed from the space.
// Spec: client-server-api#mspacechild
func (c *ChildState) read() (content childContent, ok bool) {
	if c.Type != typeSpaceChild || !pdu.LooksLikeRoomID(c.StateKey) || !canonjson.IsObject(c.Content) {
		return content, false
	}
	raw, _ := canonjson.Get(c.Content, "via")
	if json.Unmarshal(raw, &content.via) != nil || content.via == nil {
		return content, false
	}
	content.via = content.via[:min(len(content.via), maxVia)]
	order, _ := canonjson.Get(c.Content, "order")
	if text := canonjson.String(order); validOrder(text) {
		content.order = text
	}
	suggested, _ := canonjson.Get(c.Content, "suggested")
	content.suggested = string(suggested) == "true"
	return content, true
}

// validOrder reports whether s is a valid order of a child.
func validOrder(s string) bool {
	return len(s) <= 50 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// child is an m.space.child event with its parsed content.
type child struct {
	ChildState
	childContent
}

// inOrder returns the children in the order in which clients show them.
// Spec: client-server-api#ordering-of-children-within-a-space
func inOrder(states []ChildState, suggestedOnly bool) (children []child) {
	for _, state := range states {
		if content, ok := state.read(); ok && (content.suggested || !suggestedOnly) {
			children = append(children, child{state, content})
		}
	}
	slices.SortFunc(children, func(a, b child) int {
		switch {
		case a.order != "" && b.order == "":
			return -1
		case a.order == "" && b.order != "":
			return 1
		}
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.OriginServerTS, b.OriginServerTS), cmp.Compare(a.StateKey, b.StateKey))
	})
	return children[:min(len(children), maxChildren)]
}

// states returns the m.space.child events of the given children.
func states(children []child) []ChildState {
	out := make([]ChildState, len(children))
	for i, c := range children {
		out[i] = c.ChildState
	}
	return out
}

// childrenOf returns the children of a space that this server participates in. It returns nil for a room that is not a
// space.
func childrenOf(r *rooms.Room, suggestedOnly bool) []child {
	if e := r.State(typeCreate, ""); e == nil || e.ContentString("type") != roomTypeSpace {
		return nil
	}
	var found []ChildState
	r.EachState(func(k pdu.StateKey, _, _ storage.Pos, e *rooms.Event) bool {
		if k.Type == typeSpaceChild && e != nil {
			found = append(found, ChildState{
				Type: k.Type, StateKey: id.RoomID(k.Key), Content: e.Content(), Sender: e.Sender(), OriginServerTS: e.OriginServerTS(),
			})
		}
		return true
	})
	return inOrder(found, suggestedOnly)
}

// remoteSpace is the response of another server about a room and its children.
type remoteSpace struct {
	room         SpaceRoom
	children     map[id.RoomID]RoomSummary
	inaccessible map[id.RoomID]bool
	size         int64 // in memory, roughly
}

type spaceKey struct {
	server    string
	room      id.RoomID
	suggested bool
}

func newSpaces(bytes int64, now func() time.Time) *keyed.Memo[spaceKey, *remoteSpace] {
	return keyed.NewMemo(keyed.Options[spaceKey, *remoteSpace]{
		Bytes: bytes, Size: func(_ spaceKey, s *remoteSpace) int64 { return s.size }, Lifetime: hierarchyLifetime, Loads: maxHierarchyRequests, Now: now,
	})
}

// readSpace parses another server's response about a room. It leaves out malformed children.
func readSpace(raw json.RawMessage, room id.RoomID) (*remoteSpace, error) {
	var answer struct {
		Room         json.RawMessage   `json:"room"`
		Children     []json.RawMessage `json:"children"`
		Inaccessible []id.RoomID       `json:"inaccessible_children"`
	}
	var about struct {
		RoomSummary
		ChildrenState []json.RawMessage `json:"children_state"`
	}
	if json.Unmarshal(raw, &answer) != nil || json.Unmarshal(answer.Room, &about) != nil || about.RoomID != room {
		return nil, fedclient.ErrBadAnswer
	}
	space := &remoteSpace{
		room: SpaceRoom{RoomSummary: about.RoomSummary}, children: map[id.RoomID]RoomSummary{}, inaccessible: map[id.RoomID]bool{},
		size: int64(len(raw) + 512*(1+len(about.ChildrenState)+len(answer.Children)+len(answer.Inaccessible))),
	}
	for _, raw := range about.ChildrenState[:min(len(about.ChildrenState), maxChildren)] {
		var state ChildState
		if json.Unmarshal(raw, &state) == nil {
			space.room.ChildrenState = append(space.room.ChildrenState, state)
		}
	}
	for _, raw := range answer.Children[:min(len(answer.Children), maxChildren)] {
		var summary RoomSummary
		if json.Unmarshal(raw, &summary) == nil && pdu.LooksLikeRoomID(summary.RoomID) {
			space.children[summary.RoomID] = summary
		}
	}
	for _, room := range answer.Inaccessible[:min(len(answer.Inaccessible), maxChildren)] {
		space.inaccessible[room] = true
	}
	return space, nil
}

// HierarchyQuery selects a page of the hierarchy of a space.
type HierarchyQuery struct {
	User          id.UserID
	Root          id.RoomID
	SuggestedOnly bool
	MaxDepth      int // 1 means only the children of the root
	Limit         int // 0 means defaultHierarchy
	From          string
}

// Hierarchy is a page of the hierarchy of a space.
type Hierarchy struct {
	Rooms     []SpaceRoom `json:"rooms"`
	NextBatch string      `json:"next_batch,omitempty"`
}

// Hierarchy walks through a space, each room before its children, and returns the rooms that the user may see. If this
// server does not participate in a child, it asks the servers that the space lists for the child. A token holds the
// number of rooms in earlier pages. Each page starts the walk again, mostly from memory.
//
// Errors: M_FORBIDDEN for a root that the user may not see; M_INVALID_PARAM.
// Spec: client-server-api#get_matrixclientv1roomsroomidhierarchy
func (s *Service) Hierarchy(ctx context.Context, q HierarchyQuery) (page Hierarchy, err error) {
	skip, err := q.begin()
	if err != nil {
		return page, err
	}
	if q.Limit <= 0 {
		q.Limit = defaultHierarchy
	}
	network, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	w := &walk{svc: s, q: q, network: network, who: viewer{user: q.User}, seen: map[id.RoomID]bool{q.Root: true}, next: []step{{room: q.Root}}}
	page.Rooms = []SpaceRoom{}
	for given := 0; len(page.Rooms) <= min(q.Limit, maxHierarchy); {
		room, err := w.advance(ctx)
		if err != nil {
			return page, err
		}
		if room == nil {
			return page, nil
		}
		if given++; given > skip {
			page.Rooms = append(page.Rooms, *room)
		}
	}
	page.Rooms = page.Rooms[:len(page.Rooms)-1] // the extra room only shows that there is another page
	page.NextBatch = q.token(skip + len(page.Rooms))
	return page, nil
}

// token returns the token for the next page. It consists of "h", the number of rooms in the pages so far, and the
// parameters that must stay the same.
func (q *HierarchyQuery) token(given int) string {
	return "h" + strconv.Itoa(given) + "_" + strconv.Itoa(q.MaxDepth) + "_" + strconv.FormatBool(q.SuggestedOnly)
}

// begin parses the token and limits the depth. It returns the number of rooms in earlier pages.
func (q *HierarchyQuery) begin() (skip int, err error) {
	q.MaxDepth = min(q.MaxDepth, maxHierarchyDepth)
	if q.From == "" {
		return 0, nil
	}
	digits, _, _ := strings.Cut(strings.TrimPrefix(q.From, "h"), "_")
	skip, err = strconv.Atoi(digits)
	if err != nil || skip < 0 || q.token(skip) != q.From {
		return 0, mxerr.InvalidParam("from is not a token of this space, or suggested_only or max_depth has changed")
	}
	return skip, nil
}

// walk is the state of a walk through a space.
type walk struct {
	svc *Service
	q   HierarchyQuery
	who viewer
	// When network ends, no further server is asked, and the walk continues with what this server has.
	network context.Context
	seen    map[id.RoomID]bool
	next    []step // in reverse order
	looked  int
}

// step is a room that the walk has yet to visit.
type step struct {
	room   id.RoomID
	depth  int
	via    []string
	parent *remoteSpace // the space that has the room as its child, if another server described that space
}

// advance returns the next room that the viewer may see, or nil at the end of the walk.
func (w *walk) advance(ctx context.Context) (*SpaceRoom, error) {
	for len(w.next) > 0 && w.looked < maxHierarchyRooms {
		at := w.next[len(w.next)-1]
		w.next = w.next[:len(w.next)-1]
		w.looked++
		room, children, space, err := w.look(ctx, &at)
		if err != nil {
			return nil, err
		}
		visible := false
		if room != nil {
			if visible, err = w.svc.maySee(ctx, w.who, &room.RoomSummary); err != nil {
				return nil, err
			}
		}
		if !visible {
			if at.depth == 0 {
				return nil, mxerr.Forbidden("The room does not exist, or you may not see it")
			}
			continue
		}
		room.ChildrenState = states(children)
		if at.depth < w.q.MaxDepth {
			w.push(children, at.depth+1, space)
			err = w.svc.rooms.Preload(ctx, w.upcoming())
		}
		return room, err
	}
	return nil, nil
}

// push adds children that the walk has not seen before.
func (w *walk) push(children []child, depth int, space *remoteSpace) {
	for _, c := range slices.Backward(children) {
		if !w.seen[c.StateKey] {
			w.next = append(w.next, step{c.StateKey, depth, c.via, space})
		}
	}
	for _, c := range children {
		w.seen[c.StateKey] = true
	}
}

// upcoming returns the rooms that the walk will visit next.
func (w *walk) upcoming() []id.RoomID {
	var next []id.RoomID
	for _, at := range slices.Backward(w.next[max(0, len(w.next)-rooms.MaxLoad):]) {
		next = append(next, at.room)
	}
	return next
}

// look returns a room and its children, from memory or from another server. It returns nil if no server answers.
func (w *walk) look(ctx context.Context, at *step) (*SpaceRoom, []child, *remoteSpace, error) {
	r, err := w.svc.rooms.Room(ctx, at.room)
	if err == nil && r.Resident() {
		return &SpaceRoom{RoomSummary: summaryOf(r)}, childrenOf(r, w.q.SuggestedOnly), nil, nil
	}
	if err != nil && !errors.Is(err, rooms.ErrNoRoom) {
		return nil, nil, nil, err
	}
	if p := at.parent; p != nil {
		if p.inaccessible[at.room] {
			return nil, nil, nil, nil
		}
		if summary, ok := p.children[at.room]; ok && summary.RoomType != roomTypeSpace {
			return &SpaceRoom{RoomSummary: summary}, nil, nil, nil
		}
	}
	space, err := w.svc.spaceElsewhere(w.network, w.q.User, at.room, at.via, w.q.SuggestedOnly)
	if err != nil || space == nil {
		return nil, nil, nil, err
	}
	return &SpaceRoom{RoomSummary: space.room.RoomSummary}, inOrder(space.room.ChildrenState, w.q.SuggestedOnly), space, nil
}

// SpaceForServer is the response to another server about a room and its children.
type SpaceForServer struct {
	Room         SpaceRoom     `json:"room"`
	Children     []RoomSummary `json:"children"`
	Inaccessible []id.RoomID   `json:"inaccessible_children"`
}

// HierarchyForServer returns a room and its children as far as users of another server may see them. It leaves out
// children that this server does not participate in.
//
// Errors: M_NOT_FOUND.
// Spec: server-server-api#get_matrixfederationv1hierarchyroomid
func (s *Service) HierarchyForServer(ctx context.Context, origin string, room id.RoomID, suggestedOnly bool) (*SpaceForServer, error) {
	root, visible, err := s.shownTo(ctx, origin, room)
	if err != nil || root == nil || !visible {
		return nil, orNoSummary(err)
	}
	r, err := s.rooms.Room(ctx, room)
	if err != nil {
		return nil, err
	}
	children := childrenOf(r, suggestedOnly)
	out := &SpaceForServer{
		Room: SpaceRoom{RoomSummary: *root, ChildrenState: states(children)}, Children: []RoomSummary{}, Inaccessible: []id.RoomID{},
	}
	for _, c := range children[:min(len(children), maxChildrenAnswer)] {
		summary, visible, err := s.shownTo(ctx, origin, c.StateKey)
		switch {
		case err != nil:
			return nil, err
		case summary == nil:
		case visible:
			out.Children = append(out.Children, *summary)
		default:
			out.Inaccessible = append(out.Inaccessible, c.StateKey)
		}
	}
	return out, nil
}

// shownTo returns the summary of a room and reports whether the given server may see it. The summary is nil if this
// server does not participate in the room.
func (s *Service) shownTo(ctx context.Context, origin string, room id.RoomID) (*RoomSummary, bool, error) {
	r, err := s.rooms.Room(ctx, room)
	if errors.Is(err, rooms.ErrNoRoom) || err == nil && !r.Resident() {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	summary := summaryOf(r)
	visible, err := s.maySee(ctx, viewer{server: origin}, &summary)
	return &summary, visible && (r.Federated() || r.HasServer(origin)), err
}
