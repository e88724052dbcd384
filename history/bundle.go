package history

import (
	"bytes"
	"slices"
	"strconv"
	"strings"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// The relation types that the server aggregates.
const (
	relThread    = "m.thread"
	relReplace   = "m.replace"
	relReference = "m.reference"
)

const (
	// maxEdits bounds how many replacements are checked for the latest valid one: clients send only valid ones.
	maxEdits = 20
	// maxReplies bounds how many replies are checked for the latest one that the viewer may see.
	maxReplies = 50
	// relatedBatch is the number of related events read at a time: usually the first one suffices.
	relatedBatch = 8
	// maxReferences bounds the m.reference chunk; /relations returns the rest.
	maxReferences = 100
	// maxRelationScan bounds the relations of one event that are read to find those of one type.
	maxRelationScan = 10_000
)

// bundle collects what is needed for the bundled aggregations of one event.
type bundle struct {
	edits      bool
	references bool
	replies    int64
	wrote      bool // the viewer sent an event in the thread
}

// bundles returns the aggregations of the message events among evs.
// Spec: client-server-api#aggregations-of-child-events
func (v *viewer) bundles(tx *storage.Tx, evs []*rooms.Event, opt FormOptions) (map[storage.Pos][]byte, error) {
	parents := make([]string, 0, len(evs))
	for _, e := range evs {
		if !e.IsState() {
			parents = append(parents, string(e.ID()))
		}
	}
	if len(parents) == 0 {
		return nil, nil
	}
	if tx == nil {
		return nil, errNeedTx
	}
	counts, err := v.relationCounts(tx, parents)
	if err != nil || len(counts) == 0 {
		return nil, err
	}
	found, err := v.sum(tx, counts)
	if err != nil {
		return nil, err
	}
	if len(found) > 1 {
		defer func(before *relationsAhead) { v.ahead = before }(v.ahead)
		if err := v.readRelations(tx, evs, counts); err != nil {
			return nil, err
		}
	}
	out := make(map[storage.Pos][]byte, len(found))
	size := 0
	for _, e := range evs {
		b := found[string(e.ID())]
		if b == nil || e.IsState() {
			continue
		}
		// clients request the relations of an event that has no bundle
		if size >= maxPageBytes || v.bundled >= maxScanBytes {
			break
		}
		if out[e.Pos], err = v.bundle(tx, e, b, opt); err != nil {
			return nil, err
		}
		size += len(out[e.Pos])
	}
	return out, nil
}

// sum adds up the relations by parent event, without those of ignored users.
func (v *viewer) sum(tx *storage.Tx, counts []storage.RelationCount) (map[string]*bundle, error) {
	ignored, err := v.ignoredNIDs(tx)
	if err != nil {
		return nil, err
	}
	out := map[string]*bundle{}
	for _, c := range counts {
		if ignored[c.Sender] {
			continue
		}
		b := out[c.Parent]
		if b == nil {
			b = &bundle{}
			out[c.Parent] = b
		}
		switch c.RelType {
		case relReplace:
			b.edits = true
		case relReference:
			b.references = true
		case relThread:
			b.replies += c.Count
			b.wrote = b.wrote || c.Sender == v.to.UserNID
		}
	}
	return out, nil
}

func (v *viewer) ignoredNIDs(tx *storage.Tx) (map[ident.UserNID]bool, error) {
	out := make(map[ident.UserNID]bool, len(v.ignored))
	for user := range v.ignored {
		nid, found, err := tx.LookupUser(string(user))
		if err != nil {
			return nil, err
		}
		if found {
			out[nid] = true
		}
	}
	return out, nil
}

// bundle returns the value of m.relations for one event, or nil if the viewer may not see any of it.
func (v *viewer) bundle(tx *storage.Tx, e *rooms.Event, b *bundle, opt FormOptions) ([]byte, error) {
	out := []byte{'{'}
	add := func(relType string, value []byte, err error) error {
		if err != nil || value == nil {
			return err
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(canonjson.AppendString(out, relType), ':')
		out = append(out, value...)
		return nil
	}
	if b.references {
		value, err := v.references(tx, e)
		if err := add(relReference, value, err); err != nil {
			return nil, err
		}
	}
	if b.edits {
		value, err := v.edit(tx, e, opt)
		if err := add(relReplace, value, err); err != nil {
			return nil, err
		}
	}
	if b.replies > 0 && !opt.reply {
		value, err := v.thread(tx, e, b, opt)
		if err := add(relThread, value, err); err != nil {
			return nil, err
		}
	}
	if len(out) == 1 {
		return nil, nil
	}
	return append(out, '}'), nil
}

// edit returns the form of the most recent valid replacement of an event.
func (v *viewer) edit(tx *storage.Tx, e *rooms.Event, opt FormOptions) ([]byte, error) {
	edit, at, err := v.latestEdit(tx, e)
	if err != nil || edit == nil {
		return nil, err
	}
	return v.one(tx, edit, at, FormOptions{RoomID: opt.RoomID})
}

// latestEdit returns the most recent valid replacement of an event that the viewer may see, nil if there is none. A
// redacted event has none.
// Spec: client-server-api#server-side-aggregation-of-mreplace-relationships
func (v *viewer) latestEdit(tx *storage.Tx, e *rooms.Event) (*rooms.Event, sight, error) {
	if e.RedactedBy != 0 || e.RelType() == relReplace { // an edit cannot be edited
		return nil, sight{}, nil
	}
	rows, err := v.editRows(tx, e)
	if err != nil {
		return nil, sight{}, err
	}
	slices.SortStableFunc(rows, func(a, b storage.EventRow) int {
		if a.OriginTS != b.OriginTS {
			return -cmpInt(a.OriginTS, b.OriginTS)
		}
		return -strings.Compare(a.EventID, b.EventID)
	})
	v.countBundled(rows)
	edits, err := v.room.LoadEvents(rows)
	if err != nil {
		return nil, sight{}, err
	}
	edits, sights, err := v.filter(tx, edits)
	if err != nil {
		return nil, sight{}, err
	}
	for i, edit := range edits {
		if replaces(edit) {
			return edit, sights[i], nil
		}
	}
	return nil, sight{}, nil
}

func cmpInt(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// replaces reports whether an event is a valid replacement, given that it claims to be one and that sender, type and
// room match.
// Spec: client-server-api#validity-of-replacement-events
func replaces(e *rooms.Event) bool {
	if e.IsState() {
		return false
	}
	if e.Type() == "m.room.encrypted" {
		return true // the new content is inside the encrypted part
	}
	content, ok := canonjson.Get(e.Content(), "m.new_content")
	return ok && bytes.HasPrefix(content, []byte("{"))
}

// references returns the IDs of the events that refer to an event.
// Spec: client-server-api#server-side-aggregation-of-mreference
func (v *viewer) references(tx *storage.Tx, e *rooms.Event) ([]byte, error) {
	events, _, err := v.related(tx, e, relReference, false, maxReferences, maxReferences)
	if err != nil || len(events) == 0 {
		return nil, err
	}
	out := []byte(`{"chunk":[`)
	for i, r := range events {
		if i > 0 {
			out = append(out, ',')
		}
		out = canonjson.AppendString(append(out, `{"event_id":`...), string(r.ID()))
		out = append(out, '}')
	}
	return append(out, "]}"...), nil
}

// related returns up to want events that directly relate to an event and that the viewer may see. most bounds the
// number of events that it examines.
func (v *viewer) related(tx *storage.Tx, e *rooms.Event, relType string, backwards bool, want, most int) (events []*rooms.Event, sights []sight, err error) {
	next := v.relatedTo(e, relType, backwards)
	c := cursor{window: everything(), backwards: backwards}
	n := max(want, relatedBatch)
	for looked := 0; len(events) < want && looked < most && c.rows < maxRelationScan && !c.done; {
		part, err := next(tx, &c, n)
		if err != nil {
			return nil, nil, err
		}
		v.countBundled(part.rows)
		looked += len(part.rows)
		found, at, err := v.pick(tx, part.rows, &EventFilter{})
		if err != nil {
			return nil, nil, err
		}
		events, sights = append(events, found...), append(sights, at...)
		c.pass(part, found, true, len(part.orders) < n)
		n = min(2*n, maxScanBatch)
	}
	return events, sights, nil
}

// countBundled adds the size of the given rows to the bytes that were read for the aggregations of this request, which
// are bounded.
func (v *viewer) countBundled(rows []storage.EventRow) {
	for i := range rows {
		v.bundled += len(rows[i].JSON)
	}
}

// thread returns the summary of the thread under an event.
// Spec: client-server-api#server-side-aggregation-of-mthread-relationships
func (v *viewer) thread(tx *storage.Tx, root *rooms.Event, b *bundle, opt FormOptions) ([]byte, error) {
	replies, sights, err := v.related(tx, root, relThread, true, 1, maxReplies)
	if err != nil || len(replies) == 0 {
		return nil, err
	}
	// The latest reply has aggregations of its own. As a reply it is not a thread root, so there is no infinite
	// recursion.
	latest, err := v.one(tx, replies[0], sights[0], FormOptions{RoomID: opt.RoomID, Bundle: true, reply: true})
	if err != nil {
		return nil, err
	}
	out := append([]byte(`{"count":`), strconv.FormatInt(b.replies, 10)...)
	out = append(out, `,"current_user_participated":`...)
	out = strconv.AppendBool(out, b.wrote || root.SenderNID == v.to.UserNID)
	out = append(append(out, `,"latest_event":`...), latest...)
	return append(out, '}'), nil
}
