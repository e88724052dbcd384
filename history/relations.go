package history

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// relationDepth is the maximum depth of recursive requests for relations, the least that the specification recommends.
const relationDepth = 3

// RelationsRequest selects the events that relate to an event.
type RelationsRequest struct {
	RelType, EventType string // "": any
	From, To           string // tokens
	Forwards           bool   // oldest first
	Limit              int
	Recurse            bool
}

// RelationsPage is a part of the relations of an event.
type RelationsPage struct {
	Chunk          []json.RawMessage
	NextBatch      string
	PrevBatch      string
	RecursionDepth int
}

// Relations returns the events that relate to an event and that the requester may see.
// Spec: client-server-api#relationships-api
func (s *Service) Relations(ctx context.Context, roomID id.RoomID, eventID id.EventID, to ident.Requester, req RelationsRequest) (page RelationsPage, err error) {
	w, err := parseWindow(req.From, req.To, !req.Forwards)
	if err != nil {
		return page, err
	}
	err = s.reading(ctx, roomID, to, func(tx *storage.Tx, v *viewer) error {
		e, _, err := v.unignoring().event(tx, eventID) // replies of others to an ignored user are not hidden
		if err == nil {
			page, err = v.relations(tx, e, w, req)
		}
		return err
	})
	return page, hideRoom(err)
}

// unignoring returns a copy of the viewer that ignores nobody.
func (v *viewer) unignoring() *viewer {
	out := *v
	out.ignored = nil
	return &out
}

func (v *viewer) relations(tx *storage.Tx, e *rooms.Event, w window, req RelationsRequest) (page RelationsPage, err error) {
	f := storage.RelationFilter{
		Room: v.room.NID(), Parent: string(e.ID()), RelType: req.RelType, Type: req.EventType, Backwards: !req.Forwards,
	}
	page.PrevBatch = req.From
	c := cursor{window: w, backwards: f.Backwards}
	next := directRelations(f)
	if req.Recurse {
		if next, page.RecursionDepth, err = relationTree(tx, f, w); err != nil {
			return page, err
		}
	}
	events, sights, err := v.walk(tx, &c, req.Limit, &EventFilter{}, next)
	if err != nil {
		return page, err
	}
	if !c.done {
		page.NextBatch = TimelineToken(c.start(c.backwards))
	}
	page.Chunk, err = v.forms(tx, events, sights, FormOptions{RoomID: true, Bundle: true})
	return page, err
}

// directRelations returns a source for a walk along the events that directly relate to the filter's parent event.
func directRelations(f storage.RelationFilter) source {
	return func(tx *storage.Tx, c *cursor, n int) (span, error) {
		f.After, f.UpTo, f.Limit = c.after, c.upTo, n
		places, err := tx.RelatedEvents(f)
		if err != nil {
			return span{}, err
		}
		return spanOf(tx, places)
	}
}

// maxRelationTree bounds the events that a recursive request for relations reads: finding them takes about 20 ms.
const maxRelationTree = 10_000

// relationTree returns a source for a walk along the events that relate to the filter's parent event directly or
// through other events. depth is the number of levels of relations that the walk covers: relationDepth, or fewer if
// there are more than maxRelationTree events.
func relationTree(tx *storage.Tx, f storage.RelationFilter, w window) (next source, depth int, err error) {
	f.Limit = maxRelationTree
	tree, depth, err := tx.RelationTree(f, relationDepth)
	if err != nil {
		return nil, 0, err
	}
	if depth <= 1 { // direct relations can be read page by page
		return directRelations(f), 1, nil
	}
	tree = slices.DeleteFunc(tree, func(p storage.RelatedEvent) bool { return !p.Matches || p.Order <= w.after || p.Order > w.upTo })
	slices.SortFunc(tree, func(a, b storage.RelatedEvent) int {
		if f.Backwards {
			a, b = b, a
		}
		return cmp.Compare(a.Order, b.Order)
	})
	return func(tx *storage.Tx, _ *cursor, n int) (span, error) {
		n = min(n, len(tree))
		places := tree[:n]
		tree = tree[n:]
		return spanOf(tx, places)
	}, depth, nil
}

// spanOf returns the span of the given related events. It has the rows of those that match the filter.
func spanOf(tx *storage.Tx, places []storage.RelatedEvent) (out span, err error) {
	var positions []storage.Pos
	for _, p := range places {
		out.orders = append(out.orders, p.Order)
		if p.Matches {
			positions = append(positions, p.Position)
		}
	}
	if len(positions) == 0 {
		return out, nil
	}
	rows, err := tx.EventsAt(positions)
	if err != nil {
		return out, err
	}
	at := make(map[storage.Pos]storage.EventRow, len(rows))
	for _, row := range rows {
		at[row.Position] = row
	}
	for _, p := range positions {
		if row, found := at[p]; found {
			out.rows = append(out.rows, row)
		}
	}
	return out, nil
}

// ThreadsRequest selects threads of a room.
type ThreadsRequest struct {
	From         string // token
	Participated bool   // only threads that the requester started or sent an event in
	Limit        int
}

// ThreadsPage is a part of the threads of a room, those with the latest replies first.
type ThreadsPage struct {
	Chunk     []json.RawMessage
	NextBatch string
}

// Threads returns the roots of a room's threads.
// Spec: client-server-api#get_matrixclientv1roomsroomidthreads
func (s *Service) Threads(ctx context.Context, roomID id.RoomID, to ident.Requester, req ThreadsRequest) (page ThreadsPage, err error) {
	below := everything().upTo
	if req.From != "" {
		if below, err = ParseToken(req.From); err != nil {
			return page, err
		}
	}
	err = s.reading(ctx, roomID, to, func(tx *storage.Tx, v *viewer) error {
		page, err = v.threads(tx, below, req)
		return err
	})
	return page, err
}

// maxThreadScan bounds the threads that one request reads: each may have thousands of replies to count.
const maxThreadScan = 500

func (v *viewer) threads(tx *storage.Tx, below ident.Order, req ThreadsRequest) (page ThreadsPage, err error) {
	page.Chunk = []json.RawMessage{}
	size := 0
	for scanned := 0; scanned < maxThreadScan && len(page.Chunk) < req.Limit && size < maxPageBytes; {
		want := min(req.Limit-len(page.Chunk), scanBatch) + 1 // one more shows whether there is another page
		rows, err := tx.Threads(v.room.NID(), below, want)
		if err != nil {
			return page, err
		}
		more := len(rows) == want
		if more {
			rows = rows[:want-1]
		}
		forms, err := v.roots(tx, rows, req.Participated)
		if err != nil {
			return page, err
		}
		for _, form := range forms {
			size += len(form)
		}
		page.Chunk = append(page.Chunk, forms...)
		if !more {
			return page, nil
		}
		scanned += len(rows)
		below = rows[len(rows)-1].Latest
	}
	page.NextBatch = TimelineToken(below)
	return page, nil
}

// roots returns the root events of threads that still have a reply visible to the viewer. If participated is set, it
// returns only those of threads that the viewer started or sent an event in.
func (v *viewer) roots(tx *storage.Tx, threads []storage.ThreadRow, participated bool) ([]json.RawMessage, error) {
	positions := make([]storage.Pos, len(threads))
	for i, t := range threads {
		positions[i] = t.Root
	}
	found, err := v.room.EventsAt(tx, positions)
	if err != nil {
		return nil, err
	}
	events := make([]*rooms.Event, 0, len(threads))
	for _, pos := range positions {
		if e := found[pos]; e != nil {
			events = append(events, e)
		}
	}
	if participated {
		if events, err = v.participated(tx, events); err != nil {
			return nil, err
		}
	}
	return v.rootForms(tx, events)
}

// participated returns the roots of the threads that the viewer started or sent an event in.
func (v *viewer) participated(tx *storage.Tx, roots []*rooms.Event) (in []*rooms.Event, err error) {
	ids := make([]string, len(roots))
	for i, e := range roots {
		ids[i] = string(e.ID())
	}
	counts, err := tx.RelationCounts(v.room.NID(), ids, v.cutoff())
	if err != nil {
		return nil, err
	}
	wrote := map[string]bool{}
	for _, c := range counts {
		if c.RelType == relThread && c.Sender == v.to.UserNID {
			wrote[c.Parent] = true
		}
	}
	for _, e := range roots {
		if e.SenderNID == v.to.UserNID || wrote[string(e.ID())] {
			in = append(in, e)
		}
	}
	return in, nil
}

func (v *viewer) rootForms(tx *storage.Tx, events []*rooms.Event) ([]json.RawMessage, error) {
	opt := FormOptions{RoomID: true, Bundle: true}
	// The root event of an ignored user is returned as if redacted, so that the replies remain accessible.
	events, sights, err := v.unignoring().filter(tx, events)
	if err != nil {
		return nil, err
	}
	for i, e := range events {
		if _, ignored := v.ignored[e.Sender()]; ignored {
			if events[i], err = e.RedactedCopy(); err != nil {
				return nil, err
			}
		}
	}
	var out []json.RawMessage
	for i := 0; i < len(events); i += rootBatch {
		end := min(i+rootBatch, len(events))
		forms, err := v.forms(tx, events[i:end], sights[i:end], opt)
		if err != nil {
			return nil, err
		}
		out = append(out, slices.DeleteFunc(forms, func(form json.RawMessage) bool { return !hasThread(form) })...)
	}
	return out, nil
}

// rootBatch is the number of roots of threads whose forms are made together. The aggregations of so many fit into
// maxPageBytes: without one, a root would be left out.
const rootBatch = 16

// hasThread reports whether the form of an event for clients includes a summary of the event's thread, which is the
// bundled m.thread aggregation.
func hasThread(form []byte) bool {
	for _, key := range []string{"unsigned", "m.relations", relThread} {
		var ok bool
		if form, ok = canonjson.Get(form, key); !ok {
			return false
		}
	}
	return true
}

// errDir returns the error for a direction that is missing or neither b nor f.
func errDir() error { return mxerr.InvalidParam("dir must be b or f") }

// ParseDir parses the parameter dir of a request. If dir is empty, it uses byDefault.
func ParseDir(text, byDefault string) (backwards bool, err error) {
	if text == "" {
		text = byDefault
	}
	switch text {
	case "b":
		return true, nil
	case "f":
		return false, nil
	case "":
		return false, mxerr.MissingParam("dir must be b or f")
	}
	return false, errDir()
}
