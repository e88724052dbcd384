package feed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"ebb/history"
)

// Filter is a parsed sync filter. A nil list means "everything"; an empty one, "nothing".
// Spec: client-server-api#filtering
type Filter struct {
	EventFields []fieldPath // nil: whole events
	Federation  bool        // event_format "federation": events in the federation format
	Presence    EventFilter
	AccountData EventFilter
	Room        RoomFilter
	Profiles    ProfileFilter
}

// ProfileFilter selects the profile fields whose changes a client gets (MSC4429).
type ProfileFilter struct {
	Fields   []string // nil: none
	Unstable bool     // under the unstable name
}

// RoomFilter is the "room" part of a filter.
type RoomFilter struct {
	Rooms, NotRooms []string
	IncludeLeave    bool
	Ephemeral       RoomEventFilter
	State           RoomEventFilter
	Timeline        RoomEventFilter
	AccountData     RoomEventFilter
}

// EventFilter selects events by sender and type.
type EventFilter struct {
	Limit               int // -1: none given
	Senders, NotSenders []string
	Types, NotTypes     []string
}

// RoomEventFilter selects the events of rooms.
type RoomEventFilter struct {
	EventFilter
	Rooms, NotRooms           []string
	ContainsURL               *bool
	LazyLoadMembers           bool
	IncludeRedundantMembers   bool
	UnreadThreadNotifications bool
	UnstableThreads           bool // the counts of threads are requested by the unstable name of MSC3773
}

const (
	// MaxFilterSize bounds a filter's JSON in bytes; the largest that js-sdk sends has some 300.
	MaxFilterSize = 64 << 10
	// maxFilterList bounds each list of a filter, because every event is matched against each entry.
	maxFilterList = 1000
	// maxFieldPaths bounds event_fields: every event is rebuilt once per path.
	maxFieldPaths = 100

	defaultTimelineLimit = 10
	maxTimelineLimit     = 100
)

// wireFilter is the filter as clients write it.
type wireFilter struct {
	EventFields *[]string `json:"event_fields"`
	EventFormat *string   `json:"event_format"`
	Presence    wireEvent `json:"presence"`
	AccountData wireEvent `json:"account_data"`
	Room        struct {
		Rooms        *[]string `json:"rooms"`
		NotRooms     *[]string `json:"not_rooms"`
		IncludeLeave bool      `json:"include_leave"`
		Ephemeral    wireEvent `json:"ephemeral"`
		State        wireEvent `json:"state"`
		Timeline     wireEvent `json:"timeline"`
		AccountData  wireEvent `json:"account_data"`
	} `json:"room"`
	Profiles         wireProfiles `json:"profile_fields"`
	UnstableProfiles wireProfiles `json:"org.matrix.msc4429.profile_fields"`
}

type wireProfiles struct {
	IDs *[]string `json:"ids"`
}

type wireEvent struct {
	Limit                     *int64    `json:"limit"`
	Senders                   *[]string `json:"senders"`
	NotSenders                *[]string `json:"not_senders"`
	Types                     *[]string `json:"types"`
	NotTypes                  *[]string `json:"not_types"`
	Rooms                     *[]string `json:"rooms"`
	NotRooms                  *[]string `json:"not_rooms"`
	ContainsURL               *bool     `json:"contains_url"`
	LazyLoadMembers           bool      `json:"lazy_load_members"`
	IncludeRedundantMembers   bool      `json:"include_redundant_members"`
	UnreadThreadNotifications bool      `json:"unread_thread_notifications"`
	UnstableThreads           bool      `json:"org.matrix.msc3773.unread_thread_notifications"`
}

// ParseFilter parses a filter's JSON. The error's text may be shown to the client.
func ParseFilter(raw []byte) (*Filter, error) {
	if len(raw) > MaxFilterSize {
		return nil, fmt.Errorf("it must not be larger than %d bytes", MaxFilterSize)
	}
	if trimmed := bytes.TrimSpace(raw); len(trimmed) == 0 || trimmed[0] != '{' {
		return nil, fmt.Errorf("it must be a JSON object")
	}
	var wire wireFilter
	if err := json.Unmarshal(raw, &wire); err != nil {
		return nil, fmt.Errorf("it does not have the documented shape: %w", err)
	}
	f := &Filter{Federation: wire.EventFormat != nil && *wire.EventFormat == "federation"}
	if wire.EventFormat != nil && *wire.EventFormat != "client" && !f.Federation {
		return nil, fmt.Errorf("event_format must be client or federation")
	}
	var p filterParser
	f.EventFields = p.fields(wire.EventFields)
	f.Presence = p.event("presence", wire.Presence).EventFilter
	f.AccountData = p.event("account_data", wire.AccountData).EventFilter
	f.Room = RoomFilter{
		Rooms:        p.ids("room.rooms", wire.Room.Rooms, '!'),
		NotRooms:     p.ids("room.not_rooms", wire.Room.NotRooms, '!'),
		IncludeLeave: wire.Room.IncludeLeave,
		Ephemeral:    p.event("room.ephemeral", wire.Room.Ephemeral),
		State:        p.event("room.state", wire.Room.State),
		Timeline:     p.event("room.timeline", wire.Room.Timeline),
		AccountData:  p.event("room.account_data", wire.Room.AccountData),
	}
	f.Profiles.Fields = p.list("profile_fields.ids", wire.Profiles.IDs)
	if wire.Profiles.IDs == nil {
		f.Profiles = ProfileFilter{Fields: p.list("org.matrix.msc4429.profile_fields.ids", wire.UnstableProfiles.IDs), Unstable: true}
	}
	return f, p.err
}

// filterParser checks the parts of a filter and keeps the first problem.
type filterParser struct{ err error }

func (p *filterParser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf(format, args...)
	}
}

func (p *filterParser) event(name string, w wireEvent) RoomEventFilter {
	f := RoomEventFilter{
		EventFilter: EventFilter{
			Limit:      -1,
			Senders:    p.ids(name+".senders", w.Senders, '@'),
			NotSenders: p.ids(name+".not_senders", w.NotSenders, '@'),
			Types:      p.list(name+".types", w.Types),
			NotTypes:   p.list(name+".not_types", w.NotTypes),
		},
		Rooms:                     p.ids(name+".rooms", w.Rooms, '!'),
		NotRooms:                  p.ids(name+".not_rooms", w.NotRooms, '!'),
		ContainsURL:               w.ContainsURL,
		LazyLoadMembers:           w.LazyLoadMembers,
		IncludeRedundantMembers:   w.IncludeRedundantMembers,
		UnreadThreadNotifications: w.UnreadThreadNotifications || w.UnstableThreads,
		UnstableThreads:           w.UnstableThreads && !w.UnreadThreadNotifications,
	}
	if w.Limit != nil {
		// 0 is below the spec's minimum of 1, but clients use it for "no timeline, please".
		if *w.Limit < 0 {
			p.fail("%s.limit is negative", name)
		}
		f.Limit = int(min(*w.Limit, maxTimelineLimit))
	}
	return f
}

func (p *filterParser) list(name string, list *[]string) []string {
	if list == nil {
		return nil
	}
	if len(*list) > maxFilterList {
		p.fail("%s has more than %d entries", name, maxFilterList)
		return nil
	}
	return *list
}

// ids returns a list of identifiers, which must begin with sigil.
func (p *filterParser) ids(name string, list *[]string, sigil byte) []string {
	ids := p.list(name, list)
	for _, entry := range ids {
		if entry == "" || entry[0] != sigil {
			p.fail("%s: %q is not an identifier that starts with %c", name, entry, sigil)
		}
	}
	return ids
}

func (p *filterParser) fields(list *[]string) []fieldPath {
	names := p.list("event_fields", list)
	if names == nil {
		return nil
	}
	if len(names) > maxFieldPaths {
		p.fail("event_fields has more than %d entries", maxFieldPaths)
		return nil
	}
	paths := make([]fieldPath, len(names))
	for i, name := range names {
		paths[i] = parseFieldPath(name)
	}
	return paths
}

// timelineLimit returns the maximum number of events in a room's timeline.
func (f *Filter) timelineLimit() int {
	if f.Room.Timeline.Limit < 0 {
		return defaultTimelineLimit
	}
	return f.Room.Timeline.Limit
}

// room reports whether the filter admits a room.
func (f *RoomFilter) room(roomID string) bool { return listed(f.Rooms, f.NotRooms, roomID) }

// room reports whether the filter admits events of a room.
func (f *RoomEventFilter) room(roomID string) bool { return listed(f.Rooms, f.NotRooms, roomID) }

// sender reports whether the filter admits events of a user.
func (f *EventFilter) sender(userID string) bool { return listed(f.Senders, f.NotSenders, userID) }

// typ reports whether the filter admits events of a type.
func (f *EventFilter) typ(eventType string) bool {
	matches := func(pattern string) bool { return history.MatchType(pattern, eventType) }
	return (f.Types == nil || slices.ContainsFunc(f.Types, matches)) && !slices.ContainsFunc(f.NotTypes, matches)
}

// open reports whether the filter admits every event, so that it need not be matched against each of them.
func (f *RoomEventFilter) open() bool {
	return f.Senders == nil && f.NotSenders == nil && f.Types == nil && f.NotTypes == nil && f.ContainsURL == nil
}

// event reports whether the filter admits an event. The room is checked separately.
func (f *RoomEventFilter) event(eventType, sender string, content []byte) bool {
	if !f.typ(eventType) || !f.sender(sender) {
		return false
	}
	return f.ContainsURL == nil || *f.ContainsURL == hasURL(content)
}

// listed reports whether entry is allowed by two lists of a filter: it must be in yes, unless yes is nil, and must not
// be in no.
func listed(yes, no []string, entry string) bool {
	return (yes == nil || slices.Contains(yes, entry)) && !slices.Contains(no, entry)
}

// fieldPath is one entry of event_fields: the keys that lead from the top of an event to one of its fields.
type fieldPath []string

// parseFieldPath splits a dot-separated property path; a backslash keeps the next dot or backslash as it is.
// Spec: appendices#dot-separated-property-paths
func parseFieldPath(text string) fieldPath {
	var path fieldPath
	var part strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text) && (text[i+1] == '.' || text[i+1] == '\\'):
			i++
			part.WriteByte(text[i])
		case c == '.':
			path = append(path, part.String())
			part.Reset()
		default:
			part.WriteByte(c)
		}
	}
	return append(path, part.String())
}
