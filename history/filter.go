package history

import (
	"ebb/rooms"
	"encoding/json"
	"slices"
	"strings"

	"ebb/canonjson"
	"ebb/mxerr"
)

// EventFilter is a RoomEventFilter, which selects the events that a request returns. The zero value lets everything
// through. A nil list means "everything", an empty one "nothing".
// Spec: client-server-api#filtering
type EventFilter struct {
	Limit                     int       `json:"limit"` // 0: not given
	Senders                   *[]string `json:"senders"`
	NotSenders                []string  `json:"not_senders"`
	Types                     *[]string `json:"types"`
	NotTypes                  []string  `json:"not_types"`
	Rooms                     *[]string `json:"rooms"`
	NotRooms                  []string  `json:"not_rooms"`
	ContainsURL               *bool     `json:"contains_url"`
	LazyLoadMembers           bool      `json:"lazy_load_members"`
	IncludeRedundantMembers   bool      `json:"include_redundant_members"`
	UnreadThreadNotifications bool      `json:"unread_thread_notifications"` // used only by /sync

	// MSC3874
	RelTypes       *[]string `json:"rel_types"`
	NotRelTypes    []string  `json:"not_rel_types"`
	OldRelTypes    *[]string `json:"org.matrix.msc3874.rel_types"`
	OldNotRelTypes []string  `json:"org.matrix.msc3874.not_rel_types"`
}

const (
	maxFilterSize = 64 << 10 // bytes of JSON; clients send about 300
	maxFilterList = 1000     // entries of each list, since every event is compared with each
)

// ParseEventFilter parses a RoomEventFilter from a query parameter; an empty text is no filter.
func ParseEventFilter(text string) (EventFilter, error) {
	var f EventFilter
	if text == "" {
		return f, nil
	}
	if len(text) > maxFilterSize {
		return f, mxerr.InvalidParam("The filter must not be larger than %d bytes", maxFilterSize)
	}
	if _, err := canonjson.Canonical([]byte(text), false); err != nil {
		return f, mxerr.InvalidParam("The filter is not JSON").Because(err)
	}
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return f, mxerr.InvalidParam("The filter does not have the documented shape").Because(err)
	}
	if f.RelTypes == nil {
		f.RelTypes = f.OldRelTypes
	}
	f.NotRelTypes = append(f.NotRelTypes, f.OldNotRelTypes...)
	return f, f.check()
}

func (f *EventFilter) check() error {
	if f.Limit < 0 {
		return mxerr.InvalidParam("limit must not be negative")
	}
	for _, l := range []struct {
		name  string
		list  []string
		sigil string
	}{
		{"senders", values(f.Senders), "@"}, {"not_senders", f.NotSenders, "@"},
		{"rooms", values(f.Rooms), "!"}, {"not_rooms", f.NotRooms, "!"},
		{"types", values(f.Types), ""}, {"not_types", f.NotTypes, ""},
		{"rel_types", values(f.RelTypes), ""}, {"not_rel_types", f.NotRelTypes, ""},
	} {
		if len(l.list) > maxFilterList {
			return mxerr.InvalidParam("%s must not have more than %d entries", l.name, maxFilterList)
		}
		if slices.ContainsFunc(l.list, func(entry string) bool { return !strings.HasPrefix(entry, l.sigil) }) {
			return mxerr.InvalidParam("Each entry of %s must start with %s", l.name, l.sigil)
		}
	}
	return nil
}

func values(list *[]string) []string {
	if list == nil {
		return nil
	}
	return *list
}

// room reports whether the filter lets any event of a room through.
func (f *EventFilter) room(roomID string) bool {
	return (f.Rooms == nil || slices.Contains(*f.Rooms, roomID)) && !slices.Contains(f.NotRooms, roomID)
}

// selective reports whether the filter may leave events out.
func (f *EventFilter) selective() bool {
	return f.Types != nil || f.Senders != nil || f.ContainsURL != nil || len(f.NotTypes) > 0 || len(f.NotSenders) > 0 || f.byRelation()
}

// event reports whether the filter lets an event through.
func (f *EventFilter) event(e *rooms.Event) bool {
	sender := string(e.Sender())
	if f.Senders != nil && !slices.Contains(*f.Senders, sender) || slices.Contains(f.NotSenders, sender) {
		return false
	}
	return f.typ(e.Type()) && f.relation(e) && (f.ContainsURL == nil || *f.ContainsURL == (e.ContentString("url") != ""))
}

// relation reports whether the filter lets events with the relation of an event through.
// Spec: MSC3874
func (f *EventFilter) relation(e *rooms.Event) bool {
	if !f.byRelation() {
		return true
	}
	rel := e.RelType()
	return (f.RelTypes == nil || rel != "" && slices.Contains(*f.RelTypes, rel)) && (rel == "" || !slices.Contains(f.NotRelTypes, rel))
}

// typ reports whether the filter lets events of a type through.
func (f *EventFilter) typ(typ string) bool {
	matches := func(pattern string) bool { return MatchType(pattern, typ) }
	return (f.Types == nil || slices.ContainsFunc(*f.Types, matches)) && !slices.ContainsFunc(f.NotTypes, matches)
}

// byRelation reports whether the filter selects events by their relation.
func (f *EventFilter) byRelation() bool { return f.RelTypes != nil || len(f.NotRelTypes) > 0 }

// MatchType reports whether text (an event type) matches a pattern in which * stands for any bytes. After a mismatch
// only the last star moves on, which bounds the work by the product of the lengths.
func MatchType(pattern, text string) bool {
	p, t, star, mark := 0, 0, -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, t
			p++
		case p < len(pattern) && pattern[p] == text[t]:
			p++
			t++
		case star >= 0:
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
