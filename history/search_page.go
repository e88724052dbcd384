package history

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/search"
	"ebb/storage"
)

// page examines hits until there are enough results for a page, and makes the results.
func (x *searching) page(page *SearchPage) error {
	countAll := x.from == nil && !x.full && x.sure+x.other <= maxCounted
	seen, rejected := 0, 0
	enough := func() bool { return !countAll && len(x.found) >= x.req.Limit || x.bytes >= maxExaminedBytes }
	for seen < len(x.best) && !enough() {
		n := min(max(x.req.Limit-len(x.found), leastExamined), examineBatch)
		if countAll {
			n = examineBatch
		}
		part := x.best[seen:min(seen+n, len(x.best))]
		before := len(x.found)
		if err := x.examine(part); err != nil {
			return err
		}
		seen += len(part)
		rejected += len(part) - (len(x.found) - before)
	}
	page.Count = max(x.sure-rejected, len(x.found))
	if countAll && seen == len(x.best) {
		page.Count = len(x.found)
	}
	if x.from != nil {
		page.Count = x.from.Count
	}
	if page.Results = []SearchResult{}; seen < len(x.best) || x.full {
		page.Next = x.token(x.best[max(seen-1, 0)], page.Count, "", "")
	}
	if n := x.req.Limit; len(x.found) >= n {
		// A full page has a token even if it is the last one, as Synapse's pages have; the next one is empty.
		x.found = x.found[:n]
		page.Next = x.token(x.found[n-1].Hit, page.Count, "", "")
	}
	return x.fill(page)
}

// fill turns the hits into results.
func (x *searching) fill(page *SearchPage) error {
	page.Highlights = x.match.Highlights()
	size := 0
	for i := range x.found {
		f := &x.found[i]
		r, err := x.result(f)
		if err != nil {
			return err
		}
		size += r.Context.size()
		page.Results = append(page.Results, r)
		if size += len(r.Event); size > maxPageBytes && i+1 < len(x.found) { // the next page has the rest
			page.Next = x.token(f.Hit, page.Count, "", "")
			x.found = x.found[:i+1]
			break
		}
	}
	x.groups(page)
	if x.req.State {
		return x.states(page, size)
	}
	return nil
}

// examine reads the events of the given hits, and adds those that match the query to x.found.
func (x *searching) examine(hits []search.Hit) error {
	positions := make([]storage.Pos, len(hits))
	for i, h := range hits {
		positions[i] = h.Pos
	}
	rows, err := x.tx.EventsAt(positions)
	if err != nil {
		return err
	}
	byRoom := map[ident.RoomNID][]storage.EventRow{}
	for _, row := range rows {
		byRoom[row.Room] = append(byRoom[row.Room], row)
	}
	matches := map[storage.Pos]found{}
	for nid, rows := range byRoom {
		if err := x.examineRoom(x.rooms[nid], rows, matches); err != nil {
			return err
		}
	}
	for _, h := range hits {
		if f, ok := matches[h.Pos]; ok {
			f.Hit = h
			x.found = append(x.found, f)
		}
	}
	return nil
}

// examineRoom finds out which of the given events of a room match the query. The text of an edited event is that of its
// newest edit that the user may see. The edit itself is a hit too, whose result is the original event.
func (x *searching) examineRoom(r *searchedRoom, rows []storage.EventRow, matches map[storage.Pos]found) error {
	events, err := r.room.LoadEvents(rows)
	if err != nil {
		return err
	}
	edited, err := r.edited(x.tx, events)
	if err != nil {
		return err
	}
	for _, e := range events {
		x.bytes += len(e.JSON())
		text, has := search.TextOf(e.Type(), e.JSON())
		if !has || e.RedactedBy != 0 || e.Hidden() || !x.match.Match(text.Text) {
			continue
		}
		f := found{room: r, event: e}
		if text.Edits != "" || edited[string(e.ID())] {
			if f.event, err = r.originalOf(x.tx, e, text.Edits); err != nil {
				return err
			}
		}
		if f.event == nil || !x.req.Filter.event(f.event) || !x.from.isSender(f.event.Sender()) {
			continue
		}
		ok, err := f.look(x.tx)
		if err != nil {
			return err
		}
		if ok {
			matches[e.Pos] = f
		}
	}
	return nil
}

// edited returns the IDs of those of the given events that have edits.
func (r *searchedRoom) edited(tx *storage.Tx, events []*rooms.Event) (map[string]bool, error) {
	parents := make([]string, len(events))
	for i, e := range events {
		parents[i] = string(e.ID())
	}
	counts, err := tx.RelationCounts(r.room.NID(), parents, r.cutoff)
	out := map[string]bool{}
	for _, c := range counts {
		out[c.Parent] = out[c.Parent] || c.RelType == relReplace
	}
	return out, err
}

// originalOf returns the event whose current text is in e: the event that e edits, or e itself if e is no edit. It
// returns nil if the text of e is not current, because a newer edit has replaced it or because the edit is not valid.
func (r *searchedRoom) originalOf(tx *storage.Tx, e *rooms.Event, edits string) (*rooms.Event, error) {
	original := e
	if edits != "" {
		row, found, err := tx.EventByID(r.room.NID(), edits)
		if err != nil || !found || row.Order == 0 || row.RedactedBy != 0 {
			return nil, err
		}
		if original, err = r.room.LoadEvent(&row); err != nil {
			return nil, err
		}
	}
	newest, _, err := r.latestEdit(tx, original)
	if err != nil || newest == nil && edits != "" || newest != nil && newest.Pos != e.Pos {
		return nil, err
	}
	return original, nil
}

// look reports whether the user may see the event in full. It sets f.at.
func (f *found) look(tx *storage.Tx) (bool, error) {
	visible, sights, err := f.room.filter(tx, []*rooms.Event{f.event})
	if err != nil || len(visible) == 0 || f.event.Order > f.room.upTo {
		return false, err
	}
	f.at = sights[0]
	shown, err := f.room.shown(f.event, f.at)
	return shown == f.event, err
}

// result makes a result, with the events around it if the client wants them.
func (x *searching) result(f *found) (r SearchResult, err error) {
	v, at := f.room.viewer, 0 // at is the index of the event in events
	events, sights := []*rooms.Event{f.event}, []sight{f.at}
	if x.req.Context {
		r.Context = &SearchContext{}
		if events, sights, at, err = x.surroundings(f, r.Context); err != nil {
			return r, err
		}
	}
	// The forms are made together, so that a few queries look up what all of them need.
	forms, err := v.forms(x.tx, events, sights, FormOptions{RoomID: true, Bundle: true})
	if err != nil {
		return r, err
	}
	r.Rank, r.Event, r.id = x.query.Rank(f.Size), forms[at], f.event.ID()
	if c := r.Context; c != nil {
		c.Before, c.After = forms[:at:at], forms[at+1:]
		slices.Reverse(c.Before)
		if x.req.Profiles {
			c.Profiles, err = x.profiles(v, events)
		}
	}
	return r, err
}

// surroundings returns an event with those around it, oldest first, and the index of the event among them. It sets
// Start and End of c.
func (x *searching) surroundings(f *found, c *SearchContext) (events []*rooms.Event, sights []sight, at int, err error) {
	v := f.room.viewer
	back := cursor{window: window{upTo: f.event.Order - 1}, backwards: true, few: true}
	forth := cursor{window: window{after: f.event.Order, upTo: f.room.upTo}, few: true}
	events, sights, err = v.walk(x.tx, &back, x.req.Before, &EventFilter{}, v.timeline)
	if err != nil {
		return nil, nil, 0, err
	}
	slices.Reverse(events)
	slices.Reverse(sights)
	after, afterSights, err := v.walk(x.tx, &forth, x.req.After, &EventFilter{}, v.timeline)
	c.Start, c.End = TimelineToken(back.upTo), TimelineToken(forth.after)
	at = len(events)
	return append(append(events, f.event), after...), append(append(sights, f.at), afterSights...), at, err
}

// profiles returns the profiles of the senders of the given events, as they were after the last of these events.
func (x *searching) profiles(v *viewer, events []*rooms.Event) (map[id.UserID]MemberProfile, error) {
	senders := map[string]bool{}
	for _, e := range events {
		senders[string(e.Sender())] = true
	}
	members, err := v.membersAfter(x.tx, events[len(events)-1], senders)
	out := make(map[id.UserID]MemberProfile, len(members))
	for _, m := range members {
		key, _ := m.StateKey()
		var p MemberProfile
		p.DisplayName, _ = canonjson.Get(m.Content(), "displayname")
		p.AvatarURL, _ = canonjson.Get(m.Content(), "avatar_url")
		out[id.UserID(key)] = p
	}
	return out, err
}

func (c *SearchContext) size() (n int) {
	if c == nil {
		return 0
	}
	for _, list := range [][]json.RawMessage{c.Before, c.After} {
		for _, e := range list {
			n += len(e)
		}
	}
	return n
}

// states adds the states of the rooms of the results to the page, until the page has maxPageBytes. It adds each state
// completely, and at least one.
func (x *searching) states(page *SearchPage, size int) error {
	page.State = map[id.RoomID][]json.RawMessage{}
	for _, f := range x.found {
		room := f.room.room.ID()
		if _, done := page.State[room]; done || size > maxPageBytes && len(page.State) > 0 {
			continue
		}
		state, err := f.room.state(x.tx)
		if err != nil {
			return err
		}
		for _, e := range state {
			size += len(e)
		}
		page.State[room] = state
	}
	return nil
}

// The keys by which results are grouped.
const (
	groupRoom   = "room_id"
	groupSender = "sender"
)

// groups groups the results of a page by room or by sender, as the request asks for.
func (x *searching) groups(page *SearchPage) {
	by := map[string]func(*found) string{}
	if x.req.GroupByRoom {
		by[groupRoom] = func(f *found) string { return string(f.room.room.ID()) }
	}
	if x.req.GroupBySender {
		by[groupSender] = func(f *found) string { return string(f.event.Sender()) }
	}
	page.Groups = map[string]map[string]*SearchGroup{}
	for kind, keyOf := range by {
		groups := map[string]*SearchGroup{}
		page.Groups[kind] = groups
		for i := range x.found {
			f := &x.found[i]
			key := keyOf(f)
			g := groups[key]
			if g == nil {
				g = &SearchGroup{Order: len(groups)}
				groups[key] = g
			}
			g.Results = append(g.Results, f.event.ID())
			if page.Next != "" {
				g.Next = x.token(f.Hit, page.Count, kind, key)
			}
		}
	}
}

// searchToken says where the next page begins. Clients get it as base64 of JSON.
type searchToken struct {
	Recent bool          `json:"r,omitempty"`
	Size   uint8         `json:"s"`
	Time   int64         `json:"t"`
	Order  ident.Order   `json:"o"`
	Room   ident.RoomNID `json:"n"`
	Pos    storage.Pos   `json:"p"`
	Count  int           `json:"c"`
	Group  string        `json:"g,omitempty"` // groupRoom or groupSender, if the next page is of one group
	Key    string        `json:"k,omitempty"`

	after search.Hit
}

// maxSearchToken bounds the length of a token of a search.
const maxSearchToken = 1000

// token returns the token of the page that starts after a hit.
func (x *searching) token(h search.Hit, count int, group, key string) string {
	t := searchToken{Recent: x.req.Recent, Size: h.Size, Time: h.Time, Order: h.Order, Room: h.Room, Pos: h.Pos, Count: count, Group: group, Key: key}
	if group == "" && x.from != nil {
		t.Group, t.Key = x.from.Group, x.from.Key
	}
	raw, _ := json.Marshal(t) // numbers and strings
	return base64.RawURLEncoding.EncodeToString(raw)
}

// parseSearchToken parses a token. It returns nil for the first page.
func parseSearchToken(text string, req *SearchRequest) (*searchToken, error) {
	if text == "" {
		return nil, nil
	}
	t := &searchToken{}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err == nil && len(text) <= maxSearchToken {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.DisallowUnknownFields()
		if err = d.Decode(t); err == nil {
			_, err = d.Token()
		}
	}
	if !errors.Is(err, io.EOF) || t.Group != "" && t.Group != groupRoom && t.Group != groupSender || t.Count < 0 || t.Recent != req.Recent {
		return nil, mxerr.InvalidParam("next_batch is not a token of this search")
	}
	t.after = search.Hit{Room: t.Room, Pos: t.Pos, Order: t.Order, Time: t.Time, Size: t.Size}
	return t, nil
}

// room returns the room to which the page is limited, if it is.
func (t *searchToken) room() (string, bool) {
	if t == nil || t.Group != groupRoom {
		return "", false
	}
	return t.Key, true
}

// isSender reports whether the page may have events of a sender.
func (t *searchToken) isSender(user id.UserID) bool {
	return t == nil || t.Group != groupSender || t.Key == string(user)
}
