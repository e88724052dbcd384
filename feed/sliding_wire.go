package feed

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/pdu"
)

const (
	// maxSlidingLists bounds the lists of a request in both forms, and maxSlidingSubscriptions the subscriptions in the
	// merged one. The deployed form has no bound but the size of the body: SDKs subscribe to each room that was opened.
	maxSlidingLists         = 100
	maxSlidingSubscriptions = 100
	// maxSlidingRanges bounds the ranges of a list.
	maxSlidingRanges = 100
	// maxRequiredState bounds the elements of one required_state, each of which is compared with each state event.
	maxRequiredState = 300
	// maxSlidingName bounds the length of conn_id, txn_id and the names of lists.
	maxSlidingName = 255
)

// SlidingRequest is a request for sliding sync. There are two forms: the merged one (MSC4186) has all parameters in its
// body, the deployed one (org.matrix.simplified_msc3575) has some in its query and other names for others.
type SlidingRequest struct {
	ident.Requester
	Merged bool
	Body   SlidingBody
	// Pos, Timeout and SetPresence are parameters of the query.
	Pos         string
	Timeout     time.Duration
	SetPresence string

	sum      bodySum      // of the text, if RecallSliding has seen it
	recalled *slidingText // what RecallSliding has found; nil: Body was decoded
}

// SlidingBody is the body of a request. The lists, subscriptions and extensions are decoded later, when it is known
// which form the request has.
type SlidingBody struct {
	ConnID        string          `json:"conn_id"`
	TxnID         string          `json:"txn_id"`
	Pos           string          `json:"pos"`
	Timeout       int64           `json:"timeout"` // ms
	SetPresence   string          `json:"set_presence"`
	Lists         json.RawMessage `json:"lists"`
	Subscriptions json.RawMessage `json:"room_subscriptions"`
	Extensions    json.RawMessage `json:"extensions"`
}

// wireList is a list of a request.
type wireList struct {
	wireRoomConfig
	Ranges  *[][]int64      `json:"ranges"` // deployed
	Range   *[]int64        `json:"range"`  // merged
	All     bool            `json:"slow_get_all_rooms"`
	Filters *wireListFilter `json:"filters"`
}

// wireRoomConfig says what a client wants of rooms. The merged form requires both members.
type wireRoomConfig struct {
	TimelineLimit *int64          `json:"timeline_limit"`
	RequiredState json.RawMessage `json:"required_state"`
}

// wireListFilter is the filter of a list. A nil entry of the room types stands for rooms without a type.
type wireListFilter struct {
	IsDM         *bool      `json:"is_dm"`
	IsEncrypted  *bool      `json:"is_encrypted"`
	IsInvite     *bool      `json:"is_invite"`  // deployed
	IsInvited    *bool      `json:"is_invited"` // merged
	RoomTypes    *[]*string `json:"room_types"`
	NotRoomTypes *[]*string `json:"not_room_types"`
	Tags         *[]string  `json:"tags"`
	NotTags      *[]string  `json:"not_tags"`
	Spaces       *[]string  `json:"spaces"`
}

// slidingList is a parsed list.
type slidingList struct {
	name    string
	all     bool // without a range
	ranges  []indexRange
	filters roomListFilter
	roomConfig
}

// indexRange is a range of indexes of a sorted list, both inclusive.
type indexRange struct{ from, to int64 }

// roomConfig says what a client wants of the rooms in a list, or of a room to which it subscribes.
type roomConfig struct {
	limit    int // of the timeline
	required *requiredState
}

// slidingQuery is a parsed SlidingRequest.
type slidingQuery struct {
	SlidingRequest
	*slidingText
}

// slidingText is the parsed text of a body. It is not modified and does not depend on the user. A client sends the same
// text again and again, so a connection keeps that of its last request.
type slidingText struct {
	sum           bodySum // zero in the merged form, in which every text is different because pos is part of it
	connID, txnID string
	*slidingAsk
	extensions slidingExtensions
	// wants identifies what the client wants, so that a server that has just looked knows whether to look again; see
	// slidingLook.
	wants uint64
}

// bodySum is the hash of the text of a body.
type bodySum [sha256.Size]byte

// slidingAsk is the part of a request that says what the client wants of rooms: its lists and subscriptions. It is not
// modified and does not depend on the user. All clients of a kind send the same lists, so parsed ones are shared.
type slidingAsk struct {
	key           askKey
	size          int           // of the text
	lists         []slidingList // by name
	subscriptions map[id.RoomID]roomConfig
}

// askKey identifies a slidingAsk. It is a hash of the text and of the form of the request.
type askKey [sha256.Size]byte

func askKeyOf(q *SlidingRequest) (key askKey) {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%t %d ", q.Merged, len(q.Body.Lists))
	_, _ = h.Write(q.Body.Lists)
	_, _ = h.Write(q.Body.Subscriptions)
	h.Sum(key[:0])
	return key
}

// RecallSliding reports whether text, a body, is the same as that of the last request of the connection. The caller
// then need not decode it: q is complete without its Body.
func (s *Service) RecallSliding(q *SlidingRequest, text []byte) bool {
	if q.Merged {
		return false
	}
	q.sum = sha256.Sum256(text)
	pos, err := parseSlidingPos(q.Pos)
	if err != nil {
		return false
	}
	held, found := s.sliding.conns.Get(pos.conn)
	if !found {
		return false
	}
	if last := held.lastText(); last != nil && last.sum == q.sum {
		q.recalled = last
	}
	return q.recalled != nil
}

// slidingQuery makes the query of a request, without what setText adds.
func (s *Service) slidingQuery(q *SlidingRequest) (*slidingQuery, error) {
	p := &slidingQuery{SlidingRequest: *q}
	if q.recalled != nil {
		p.Body.ConnID, p.Body.TxnID = q.recalled.connID, q.recalled.txnID
	}
	if q.Merged {
		p.Pos, p.SetPresence = q.Body.Pos, q.Body.SetPresence
		p.Timeout = time.Duration(min(max(q.Body.Timeout, 0), maxTimeout.Milliseconds())) * time.Millisecond
	}
	if len(p.Body.ConnID) > maxSlidingName || len(p.Body.TxnID) > maxSlidingName {
		return nil, mxerr.InvalidParam("conn_id and txn_id must not be longer than %d bytes", maxSlidingName)
	}
	return p, nil
}

// setText sets the slidingText of a request. It parses the lists, subscriptions and extensions only if they differ from
// those of the last request of the connection.
func (s *Service) setText(p *slidingQuery, c *slidingConn) error {
	if p.slidingText = p.recalled; p.recalled != nil {
		return nil
	}
	key := askKeyOf(&p.SlidingRequest)
	var h maphash.Hash
	h.SetSeed(s.sessions.seed)
	_, _ = h.Write(key[:])
	_, _ = h.Write(p.Body.Extensions)
	text := &slidingText{sum: p.SlidingRequest.sum, connID: p.Body.ConnID, txnID: p.Body.TxnID, wants: h.Sum64()}
	last := c.lastText()
	var err error
	if last != nil && last.key == key {
		text.slidingAsk = last.slidingAsk
	} else if text.slidingAsk, err = s.sharedAsk(p, key); err != nil {
		return err
	}
	if last != nil && last.key == key && last.wants == text.wants {
		text.extensions = last.extensions
	} else if err := decodePart("extensions", p.Body.Extensions, &text.extensions); err != nil {
		return err
	} else if err := text.extensions.parse(); err != nil {
		return err
	}
	c.mu.Lock()
	c.last = text
	c.mu.Unlock()
	p.slidingText = text
	p.Body = SlidingBody{TxnID: p.Body.TxnID, ConnID: p.Body.ConnID} // the rest is not kept while the client waits
	return nil
}

// sharedAsk returns the slidingAsk of a request from the cache, or parses the request and adds it.
func (s *Service) sharedAsk(p *slidingQuery, key askKey) (*slidingAsk, error) {
	if ask, ok := s.sliding.asks.Get(key); ok {
		return ask, nil
	}
	ask := &slidingAsk{key: key, size: len(p.Body.Lists) + len(p.Body.Subscriptions)}
	if err := cmp.Or(ask.parseLists(p.Body.Lists, p.Merged), ask.parseSubscriptions(p.Body.Subscriptions, p.Merged)); err != nil {
		return nil, err
	}
	s.sliding.asks.Put(key, ask)
	return ask, nil
}

// decodePart decodes a part of the body. An absent part and null leave v as it is.
func decodePart(name string, raw []byte, v any) error {
	if len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return mxerr.BadJSON("%s does not have the documented shape", name).Because(err)
	}
	return nil
}

func (p *slidingAsk) parseLists(raw []byte, merged bool) error {
	var wire map[string]wireList
	if err := decodePart("lists", raw, &wire); err != nil {
		return err
	}
	if len(wire) > maxSlidingLists {
		return mxerr.InvalidParam("There must be at most %d lists", maxSlidingLists)
	}
	for name, w := range wire {
		if len(name) > maxSlidingName || merged && !isOpaque(name) {
			return mxerr.InvalidParam("%.40q is not a name for a list: it must have 1 to %d characters of a-z, A-Z, 0-9 and -._~", name, maxSlidingName)
		}
		l, err := parseList(&w, merged)
		if err != nil {
			return err
		}
		l.name = name
		p.lists = append(p.lists, l)
	}
	slices.SortFunc(p.lists, func(a, b slidingList) int { return strings.Compare(a.name, b.name) })
	return nil
}

// isOpaque reports whether text is an opaque identifier.
// Spec: appendices#opaque-identifiers
func isOpaque(text string) bool {
	return text != "" && strings.Trim(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~") == ""
}

func parseList(w *wireList, merged bool) (l slidingList, err error) {
	if l.roomConfig, err = parseConfig(&w.wireRoomConfig, merged); err != nil {
		return l, err
	}
	var ranges [][]int64
	switch {
	case merged && w.Range != nil:
		ranges = [][]int64{*w.Range}
	case merged:
		l.all = true
	case w.All:
		l.all = true
	case w.Ranges != nil:
		ranges = *w.Ranges
	}
	if len(ranges) > maxSlidingRanges {
		return l, mxerr.InvalidParam("A list must have at most %d ranges", maxSlidingRanges)
	}
	for _, r := range ranges {
		if len(r) != 2 || r[0] < 0 || r[1] < r[0] {
			return l, mxerr.InvalidParam("A range must be two numbers, 0 or greater, the second not smaller than the first")
		}
		l.ranges = append(l.ranges, indexRange{r[0], r[1]})
	}
	l.filters, err = parseListFilter(w.Filters, merged)
	return l, err
}

func parseConfig(w *wireRoomConfig, merged bool) (c roomConfig, err error) {
	switch {
	case w.TimelineLimit != nil:
		if *w.TimelineLimit < 0 {
			return c, mxerr.InvalidParam("timeline_limit must not be negative")
		}
		c.limit = int(min(*w.TimelineLimit, maxTimelineLimit))
	case merged:
		return c, mxerr.MissingParam("timeline_limit is missing")
	}
	if merged {
		if len(w.RequiredState) == 0 || string(w.RequiredState) == "null" {
			return c, mxerr.MissingParam("required_state is missing")
		}
		c.required, err = parseMergedState(w.RequiredState)
	} else {
		c.required, err = parseDeployedState(w.RequiredState)
	}
	return c, err
}

func (p *slidingAsk) parseSubscriptions(raw []byte, merged bool) error {
	var wire map[id.RoomID]wireRoomConfig
	if err := decodePart("room_subscriptions", raw, &wire); err != nil {
		return err
	}
	if merged && len(wire) > maxSlidingSubscriptions {
		return mxerr.InvalidParam("There must be at most %d room_subscriptions", maxSlidingSubscriptions)
	}
	if len(wire) > 0 {
		p.subscriptions = make(map[id.RoomID]roomConfig, len(wire))
	}
	shared := map[string]*requiredState{} // most subscriptions want the same
	for room, w := range wire {
		c, err := parseConfig(&w, merged)
		if err != nil {
			return err
		}
		if before := shared[c.required.text]; before != nil {
			c.required = before
		}
		shared[c.required.text] = c.required
		p.subscriptions[room] = c
	}
	return nil
}

// requiredState selects events of a room's state.
type requiredState struct {
	text    string // identifies the selection, and is what requiredStateOf reads
	include []stateElement
	exclude []stateElement
	lazy    bool // members as the client needs them to show the timeline
	// byName: of the members, include selects only those that it names.
	byName bool
}

// stateElement selects state events by type and key. A nil part selects everything.
type stateElement struct {
	Type *string `json:"type,omitempty"`
	Key  *string `json:"state_key,omitempty"`
	// Me is set if the key is the ID of the user who asks, and Key is nil ($ME of the deployed form).
	Me bool `json:"me,omitempty"`
}

// keyOf returns the state key that the element selects for a user, or nil if it selects all.
func (e *stateElement) keyOf(user id.UserID) *string {
	if e.Me {
		return (*string)(&user)
	}
	return e.Key
}

func (e *stateElement) selects(key pdu.StateKey, user id.UserID) bool {
	switch {
	case e.Type != nil && *e.Type != key.Type:
		return false
	case e.Me:
		return key.Key == string(user)
	}
	return e.Key == nil || *e.Key == key.Key
}

// selects reports whether the selection of the given user includes a state event. It leaves lazy loading out of
// account, which may add members.
func (r *requiredState) selects(key pdu.StateKey, user id.UserID) bool {
	for i := range r.include {
		e := &r.include[i]
		if e.selects(key, user) && (e.Key != nil || e.Me || !r.byName || key.Type != memberType) {
			return !slices.ContainsFunc(r.exclude, func(e stateElement) bool { return e.selects(key, user) })
		}
	}
	return false
}

// wireRequired is required_state in the merged form, which is also the form in which connections store it.
type wireRequired struct {
	Include []stateElement `json:"include,omitempty"`
	Exclude []stateElement `json:"exclude,omitempty"`
	Lazy    bool           `json:"lazy_members,omitempty"`
	// All is set if Lazy does not take members out of the wildcards of Include, as in the deployed form.
	All bool `json:"all,omitempty"`
}

// parseMergedState parses required_state of the merged form.
func parseMergedState(raw []byte) (*requiredState, error) {
	var w wireRequired
	if err := decodePart("required_state", raw, &w); err != nil {
		return nil, err
	}
	w.All = false
	for _, list := range [][]stateElement{w.Include, w.Exclude} {
		for i := range list {
			list[i].Me = false
		}
	}
	return newRequired(w)
}

// parseDeployedState parses required_state of the deployed form: pairs of type and key, of which * is a wildcard and
// the keys $ME and $LAZY stand for the user and for lazy loading.
func parseDeployedState(raw []byte) (*requiredState, error) {
	var pairs [][]string
	if err := decodePart("required_state", raw, &pairs); err != nil {
		return nil, err
	}
	if len(pairs) > maxRequiredState {
		return nil, tooMuchState()
	}
	w := wireRequired{All: true}
	for _, pair := range pairs {
		if len(pair) != 2 {
			return nil, mxerr.InvalidParam("An element of required_state must be a type and a state key")
		}
		typ, key := pair[0], pair[1]
		if typ == memberType && key == "$LAZY" {
			w.Lazy = true
			continue
		}
		e := stateElement{Me: key == "$ME"}
		if typ != "*" {
			e.Type = &typ
		}
		if key != "*" && !e.Me {
			e.Key = &key
		}
		w.Include = append(w.Include, e)
	}
	return newRequired(w)
}

func tooMuchState() error {
	return mxerr.InvalidParam("required_state must have at most %d elements", maxRequiredState)
}

// newRequired returns the selection that w describes.
func newRequired(w wireRequired) (*requiredState, error) {
	if len(w.Include)+len(w.Exclude) > maxRequiredState {
		return nil, tooMuchState()
	}
	for _, list := range [][]stateElement{w.Include, w.Exclude} {
		slices.SortFunc(list, compareElements)
	}
	w.Include = slices.CompactFunc(w.Include, func(a, b stateElement) bool { return compareElements(a, b) == 0 })
	text, err := json.Marshal(w)
	if err != nil {
		return nil, err
	}
	return &requiredState{text: string(text), include: w.Include, exclude: w.Exclude, lazy: w.Lazy, byName: w.Lazy && !w.All}, nil
}

// requiredStateOf parses the text of a requiredState.
func requiredStateOf(text string) (*requiredState, error) {
	var w wireRequired
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return nil, err
	}
	return newRequired(w)
}

func compareElements(a, b stateElement) int {
	if c := cmp.Or(comparePointers(a.Type, b.Type), comparePointers(a.Key, b.Key)); c != 0 || a.Me == b.Me {
		return c
	}
	if a.Me {
		return 1
	}
	return -1
}

// comparePointers compares strings; nil comes first.
func comparePointers(a, b *string) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	return strings.Compare(*a, *b)
}

// parseListFilter parses the filter of a list.
func parseListFilter(w *wireListFilter, merged bool) (f roomListFilter, err error) {
	if w == nil {
		return f, nil
	}
	f = roomListFilter{some: true, dm: w.IsDM, encrypted: w.IsEncrypted, invited: w.IsInvite}
	if merged {
		f.invited = w.IsInvited
	}
	f.types, f.hasTypes = roomTypes(w.RoomTypes)
	f.notTypes, _ = roomTypes(w.NotRoomTypes)
	for _, list := range []struct {
		from *[]string
		to   *[]string
		some *bool
	}{{w.Tags, &f.tags, &f.hasTags}, {w.NotTags, &f.notTags, nil}, {w.Spaces, &f.spaces, &f.hasSpaces}} {
		if list.from == nil {
			continue
		}
		if len(*list.from) > maxFilterList {
			return f, mxerr.InvalidParam("A list of a filter must have at most %d entries", maxFilterList)
		}
		*list.to = *list.from
		if list.some != nil {
			*list.some = true
		}
	}
	if len(f.types)+len(f.notTypes) > maxFilterList {
		return f, mxerr.InvalidParam("A list of a filter must have at most %d entries", maxFilterList)
	}
	return f, nil
}

// roomTypes returns a list of room types, in which "" stands for rooms without one.
func roomTypes(list *[]*string) (types []string, some bool) {
	if list == nil {
		return nil, false
	}
	for _, t := range *list {
		if t == nil {
			types = append(types, "")
		} else {
			types = append(types, *t)
		}
	}
	return types, true
}

// roomTypeOf returns the type that the content of an m.room.create event gives the room, "" if none.
func roomTypeOf(content []byte) string {
	raw, _ := canonjson.Get(content, "type")
	typ, _ := canonjson.Unquote(raw)
	return typ
}
