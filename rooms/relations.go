package rooms

import (
	"context"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/mxerr"
	"ebb/storage"
)

// relationDepth is how many steps a recursive request for relations goes: the least that the specification asks for.
const relationDepth = 3

// RelationsRequest asks for the events that relate to an event.
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

// Relations gives the events that relate to an event that the recipient may see.
// Spec: client-server-api#relationships-api
func (s *Service) Relations(ctx context.Context, roomID id.RoomID, eventID id.EventID, to Recipient, req RelationsRequest) (page RelationsPage, err error) {
	w, err := parseWindow(req.From, req.To, !req.Forwards)
	if err != nil {
		return page, err
	}
	err = s.readingEvent(ctx, roomID, eventID, to, func(tx *storage.Tx, v *viewer, e *Event, _ sight) error {
		page, err = v.relations(tx, e, w, req)
		return err
	})
	return page, err
}

func (v *viewer) relations(tx *storage.Tx, e *Event, w window, req RelationsRequest) (page RelationsPage, err error) {
	f := storage.RelationFilter{
		Room: v.room.nid, Parent: string(e.ID()), RelType: req.RelType, Type: req.EventType,
		After: w.after, UpTo: w.upTo, Backwards: !req.Forwards, Depth: 1,
	}
	if req.Recurse {
		f.Depth, page.RecursionDepth = relationDepth, relationDepth
	}
	page.PrevBatch = req.From
	c := cursor{window: w, backwards: f.Backwards}
	events, sights, err := v.walkRelations(tx, &c, f, req.Limit)
	if err != nil {
		return page, err
	}
	if !c.done {
		page.NextBatch = TimelineToken(c.start(c.backwards))
	}
	page.Chunk, err = v.forms(tx, events, sights, FormOptions{RoomID: true, Bundle: true})
	return page, err
}

// walkRelations is walk along relations.
func (v *viewer) walkRelations(tx *storage.Tx, c *cursor, f storage.RelationFilter, limit int) (events []*Event, sights []sight, err error) {
	all := &EventFilter{}
	for scanned := 0; scanned < maxScan && len(events) < limit && !c.empty(); {
		f.After, f.UpTo, f.Limit = c.after, c.upTo, limit-len(events)+1 // one more tells whether there are more
		rows, err := tx.Relations(f)
		if err != nil {
			return nil, nil, err
		}
		scanned += len(rows)
		c.done = len(rows) < f.Limit
		if !c.done {
			rows = rows[:f.Limit-1]
		}
		if len(rows) == 0 {
			break
		}
		orders, found, at, err := v.pick(tx, rows, all)
		if err != nil {
			return nil, nil, err
		}
		events, sights = append(events, found...), append(sights, at...)
		c.shrink(orders[len(orders)-1], c.backwards)
		if c.done {
			break
		}
	}
	c.done = c.done || c.empty()
	return events, sights, nil
}

// ThreadsRequest asks for the threads of a room.
type ThreadsRequest struct {
	From         string // token
	Participated bool   // only those that the recipient began or wrote in
	Limit        int
}

// ThreadsPage is a part of the threads of a room, those with the latest replies first.
type ThreadsPage struct {
	Chunk     []json.RawMessage
	NextBatch string
}

// Threads gives the roots of a room's threads.
// Spec: client-server-api#get_matrixclientv1roomsroomidthreads
func (s *Service) Threads(ctx context.Context, roomID id.RoomID, to Recipient, req ThreadsRequest) (page ThreadsPage, err error) {
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

func (v *viewer) threads(tx *storage.Tx, below int64, req ThreadsRequest) (page ThreadsPage, err error) {
	user := int64(0)
	if req.Participated {
		user = v.to.UserNID
	}
	page.Chunk = []json.RawMessage{}
	for scanned := 0; scanned < maxScan && len(page.Chunk) < req.Limit; {
		want := req.Limit - len(page.Chunk) + 1 // one more tells whether there are more
		rows, err := tx.Threads(v.room.nid, below, user, want)
		if err != nil {
			return page, err
		}
		more := len(rows) == want
		if more {
			rows = rows[:want-1]
		}
		forms, err := v.roots(tx, rows)
		if err != nil {
			return page, err
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

// roots writes the roots of threads that still have a reply which the viewer may see.
func (v *viewer) roots(tx *storage.Tx, threads []storage.ThreadRow) ([]json.RawMessage, error) {
	positions := make([]storage.Pos, len(threads))
	for i, t := range threads {
		positions[i] = t.Root
	}
	found, err := v.room.eventsAt(tx, positions)
	if err != nil {
		return nil, err
	}
	events := make([]*Event, 0, len(threads))
	for _, pos := range positions {
		if e := found[pos]; e != nil {
			events = append(events, e)
		}
	}
	return v.rootForms(tx, events)
}

func (v *viewer) rootForms(tx *storage.Tx, events []*Event) ([]json.RawMessage, error) {
	opt := FormOptions{RoomID: true, Bundle: true}
	// A root by an ignored user is given as if it were redacted, for the sake of the replies.
	unignored := *v
	unignored.ignored = nil
	events, sights, err := unignored.filter(tx, events)
	if err != nil {
		return nil, err
	}
	var out []json.RawMessage
	for i, e := range events {
		if _, ignored := v.ignored[e.Sender()]; ignored {
			pruned, err := e.Redact()
			if err != nil {
				return nil, err
			}
			e = e.redactedAs(pruned, e.RedactedBy)
		}
		form, err := v.one(tx, e, sights[i], opt)
		if err != nil {
			return nil, err
		}
		if hasThread(form) {
			out = append(out, form)
		}
	}
	return out, nil
}

// hasThread tells whether an event was written with the summary of a thread.
func hasThread(form []byte) bool {
	for _, key := range []string{"unsigned", "m.relations", relThread} {
		var ok bool
		if form, ok = canonjson.Get(form, key); !ok {
			return false
		}
	}
	return true
}

// errDir: the direction is missing or neither b nor f.
func errDir() error { return mxerr.InvalidParam("dir must be b or f") }

// ParseDir reads a direction parameter; "" is the default.
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
