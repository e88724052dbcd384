package feed

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
)

// This file serves the event stream from before /sync existed. It puts the answers of /sync into the older form.

// EventsRequest asks for the new events of all rooms of a user.
type EventsRequest struct {
	ident.Requester
	From    string // a token of this operation, InitialSync or /sync; "": from now on
	Timeout time.Duration
}

// maxOldEvents bounds the events of one room in an answer to an EventsRequest.
const maxOldEvents = 100

// Filters of the requests to Sync; %d is maxOldEvents.
const (
	filterNothing = `{"room":{"rooms":[]},"presence":{"types":[]},"account_data":{"types":[]}}`
	filterEvents  = `{"room":{"timeline":{"limit":%d},"include_leave":true,"ephemeral":{"types":[]},"account_data":{"types":[]}},` +
		`"presence":{"types":[]},"account_data":{"types":[]}}`
)

// syncedRoom is what the older operations read of a room in an answer of /sync.
type syncedRoom struct {
	Timeline struct {
		Events    []json.RawMessage `json:"events"`
		PrevBatch string            `json:"prev_batch"`
	} `json:"timeline"`
	StateAfter  eventList `json:"state_after"`
	AccountData eventList `json:"account_data"`
}

type eventList struct {
	Events []json.RawMessage `json:"events"`
}

// synced is what the older operations read of an answer of /sync.
type synced struct {
	NextBatch   string    `json:"next_batch"`
	AccountData eventList `json:"account_data"`
	Presence    eventList `json:"presence"`
	Rooms       struct {
		Join   map[id.RoomID]syncedRoom      `json:"join"`
		Leave  map[id.RoomID]syncedRoom      `json:"leave"`
		Invite map[id.RoomID]json.RawMessage `json:"invite"`
	} `json:"rooms"`
}

// pollOld begins a sync for a user without a device. The older operations have no to-device messages, and so must not
// acknowledge any.
func (s *Service) pollOld(ctx context.Context, q SyncRequest) (*Poll, error) {
	who := q.Requester
	q.DeviceID, q.DeviceNID, q.SetPresence = "", 0, "offline"
	p, err := s.PollSync(ctx, &q)
	if err == nil {
		p.who = &who // so that the request ends when the device is deleted
	}
	return p, err
}

// oldSync returns the answer of a sync that does not wait.
func (s *Service) oldSync(ctx context.Context, q SyncRequest) (answer synced, err error) {
	p, err := s.pollOld(ctx, q)
	if err != nil {
		return answer, err
	}
	raw, err := p.run(ctx)
	if err != nil {
		return answer, err
	}
	return readSynced(raw)
}

// readSynced decodes the answer of a Poll of PollSync.
func readSynced(answer any) (s synced, err error) {
	if err := json.Unmarshal(answer.(json.RawMessage), &s); err != nil {
		return s, fmt.Errorf("read the answer of /sync: %w", err)
	}
	return s, nil
}

// PollEvents begins a request for the new events of all rooms. The answer is a Peeked; events of one room are in order.
// Spec: client-server-api#get_matrixclientv3events
// Deviation: it has the events of rooms, but not typing, receipts and presence, which the specification does not
// describe here.
func (s *Service) PollEvents(ctx context.Context, q EventsRequest) (*Poll, error) {
	start := q.From
	if start == "" {
		now, err := s.oldSync(ctx, SyncRequest{Requester: q.Requester, Filter: filterNothing})
		if err != nil {
			return nil, err
		}
		start = now.NextBatch
	}
	p, err := s.pollOld(ctx, SyncRequest{Requester: q.Requester, Since: start, Filter: fmt.Sprintf(filterEvents, maxOldEvents), Timeout: q.Timeout})
	if err != nil {
		return nil, err
	}
	build := p.build
	p.build = func(ctx context.Context, final bool) (any, error) {
		answer, err := build(ctx, final)
		if answer == nil || err != nil {
			return nil, err
		}
		got, err := readSynced(answer)
		if err != nil {
			return nil, err
		}
		return s.eventsOf(ctx, q.UserID, start, &got), nil
	}
	return p, nil
}

// eventsOf puts the answer of /sync into the form of /events.
func (s *Service) eventsOf(ctx context.Context, user id.UserID, start string, got *synced) Peeked {
	p := Peeked{Start: start, End: got.NextBatch, Chunk: []json.RawMessage{}}
	for _, in := range []map[id.RoomID]syncedRoom{got.Rooms.Join, got.Rooms.Leave} {
		for _, room := range sortedRooms(in) {
			for _, e := range in[room].Timeline.Events {
				p.Chunk = append(p.Chunk, inRoom(e, room))
			}
		}
	}
	for _, room := range sortedRooms(got.Rooms.Invite) {
		if e := s.ownMember(ctx, room, user); e != nil {
			p.Chunk = append(p.Chunk, e)
		}
	}
	return p
}

func sortedRooms[V any](in map[id.RoomID]V) []id.RoomID {
	rooms := make([]id.RoomID, 0, len(in))
	for room := range in {
		rooms = append(rooms, room)
	}
	slices.Sort(rooms)
	return rooms
}

// inRoom adds the room ID to an event.
func inRoom(e json.RawMessage, room id.RoomID) json.RawMessage {
	name, err := json.Marshal(room)
	if err != nil || len(e) < 2 {
		return e
	}
	out := append(slices.Clone(e[:len(e)-1]), `,"room_id":`...)
	return append(append(out, name...), '}')
}

// ownMember returns the member event of a user, or nil if there is none.
func (s *Service) ownMember(ctx context.Context, room id.RoomID, user id.UserID) json.RawMessage {
	r, err := s.opts.Rooms.Room(ctx, room)
	if err != nil {
		return nil
	}
	if e := r.State(memberType, string(user)); e != nil {
		return e.Form(true)
	}
	return nil
}

// InitialState holds everything that a client needs to begin with: the user's rooms with their state and newest
// messages, the presence of others and the user's account data. InitialSync returns it.
type InitialState struct {
	End         string            // token from which PollEvents continues
	Presence    []json.RawMessage // m.presence events
	AccountData []json.RawMessage // global
	Rooms       []InitialRoom
}

// InitialRoom is one of the rooms in an InitialState.
type InitialRoom struct {
	Room        id.RoomID
	Membership  string
	Published   bool
	Invite      json.RawMessage   // nil unless the user is invited
	Start, End  string            // of Messages, "" if there are none
	Messages    []json.RawMessage // oldest first
	State       []json.RawMessage
	AccountData []json.RawMessage
}

// InitialSync returns all rooms of a user with their state and newest messages; archived includes those that the user
// has left.
// Spec: client-server-api#get_matrixclientv3initialsync
func (s *Service) InitialSync(ctx context.Context, who ident.Requester, limit int, archived bool) (all InitialState, err error) {
	filter := fmt.Sprintf(`{"room":{"timeline":{"limit":%d},"include_leave":%t}}`, limit, archived)
	got, err := s.oldSync(ctx, SyncRequest{Requester: who, Filter: filter, StateAfter: true})
	if err != nil {
		return all, err
	}
	all.End, all.Presence, all.AccountData = got.NextBatch, got.Presence.Events, got.AccountData.Events
	if !archived {
		got.Rooms.Leave = nil
	}
	for _, in := range []map[id.RoomID]syncedRoom{got.Rooms.Join, got.Rooms.Leave} {
		for _, id := range sortedRooms(in) {
			room := in[id]
			next := InitialRoom{Room: id, Start: room.Timeline.PrevBatch, End: got.NextBatch, AccountData: room.AccountData.Events}
			for _, e := range room.Timeline.Events {
				next.Messages = append(next.Messages, inRoom(e, id))
			}
			for _, e := range room.StateAfter.Events {
				next.State = append(next.State, inRoom(e, id))
			}
			all.Rooms = append(all.Rooms, next)
		}
	}
	for _, id := range sortedRooms(got.Rooms.Invite) {
		all.Rooms = append(all.Rooms, InitialRoom{Room: id, Invite: s.ownMember(ctx, id, who.UserID)})
	}
	for i := range all.Rooms {
		room, err := s.opts.Rooms.Room(ctx, all.Rooms[i].Room)
		if err != nil {
			return all, err
		}
		all.Rooms[i].Membership, all.Rooms[i].Published = room.Membership(who.UserID), room.Published()
	}
	return all, nil
}
