package rooms

import (
	"context"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// SetPublished lists a room in the room directory, or removes it from there. The sender must be an administrator of the
// server, or have the power level to change the room's canonical alias.
// Spec: client-server-api#put_matrixclientv3directorylistroomroomid
func (s *Service) SetPublished(ctx context.Context, sender ident.Requester, room id.RoomID, published bool) error {
	r, err := s.Room(ctx, room)
	if err != nil {
		return err
	}
	levels := r.Levels()
	if !sender.IsAdmin && (r.Membership(sender.UserID) != Join || levels.UserLevel(sender.UserID) < levels.EventLevel(typeCanonicalAlias, true)) {
		return mxerr.Forbidden("You do not have permission to list this room in the directory")
	}
	return s.touch(ctx, room, func(r *Room) storage.Write {
		return storage.Write{
			Do: func(tx *storage.Tx) error { return tx.SetPublished(r.nid, published) },
			Committed: func() {
				s.commit(&Commit{Room: r, Published: true}, headFunc(func(r *Room) { r.head.published = published }))
			},
		}
	})
}

// touch stores something of a room that is no event. The write is queued under the room's lock, so that the room stays
// in memory until it is committed.
func (s *Service) touch(ctx context.Context, room id.RoomID, write func(*Room) storage.Write) error {
	r, err := s.lockRoom(ctx, room)
	if err != nil {
		return err
	}
	w := write(r)
	w.Rooms = []ident.RoomNID{r.nid}
	p := s.db.Enqueue(w)
	r.next.queued = p
	r.writer.Unlock()
	return p.Wait(context.WithoutCancel(ctx))
}

// IsPublished tells whether a room is listed in the room directory.
// Spec: client-server-api#get_matrixclientv3directorylistroomroomid
func (s *Service) IsPublished(ctx context.Context, room id.RoomID) (bool, error) {
	r, err := s.Room(ctx, room)
	if err != nil {
		return false, err
	}
	return r.Published(), nil
}

// PublicRoomsQuery selects rooms of the room directory.
type PublicRoomsQuery struct {
	Limit  int       // 0: a default
	Since  string    // a token of an earlier answer
	Search string    // in name, topic and canonical alias, whatever the case
	Types  []*string // only rooms of these types, nil for those without type; empty: all

	Federated bool // only rooms that users of other servers may join
}

// PublicRoomsRequest is how clients and other servers put a query.
type PublicRoomsRequest struct {
	Limit  int    `json:"limit,omitempty"`
	Since  string `json:"since,omitempty"`
	Filter struct {
		Term  string    `json:"generic_search_term,omitempty"`
		Types []*string `json:"room_types,omitempty"`
	} `json:"filter"`
}

// maxSearchTerm bounds what every listed room is searched for, in bytes, and the types of rooms that are asked for.
const maxSearchTerm = 512

// Query is the query that is put; false where it is not within bounds.
func (r *PublicRoomsRequest) Query() (PublicRoomsQuery, bool) {
	return PublicRoomsQuery{Limit: r.Limit, Since: r.Since, Search: r.Filter.Term, Types: r.Filter.Types},
		r.Limit >= 0 && len(r.Filter.Term) <= maxSearchTerm && len(r.Filter.Types) <= maxSearchTerm
}

// PublicRoom is one room of the room directory.
type PublicRoom struct {
	RoomID         id.RoomID `json:"room_id"`
	Name           string    `json:"name,omitempty"`
	Topic          string    `json:"topic,omitempty"`
	CanonicalAlias string    `json:"canonical_alias,omitempty"`
	AvatarURL      string    `json:"avatar_url,omitempty"`
	JoinRule       string    `json:"join_rule,omitempty"`
	RoomType       string    `json:"room_type,omitempty"`
	JoinedMembers  int       `json:"num_joined_members"`
	WorldReadable  bool      `json:"world_readable"`
	GuestCanJoin   bool      `json:"guest_can_join"`
}

// PublicRooms is a page of the room directory.
type PublicRooms struct {
	Chunk     []PublicRoom `json:"chunk"`
	NextBatch string       `json:"next_batch,omitempty"`
	PrevBatch string       `json:"prev_batch,omitempty"`
	Total     int          `json:"total_room_count_estimate"`
}

// Bounds of a page of the room directory.
const (
	defaultPublicRooms = 100
	maxPublicRooms     = 500
)

// directoryBatch is how many rooms of the directory are looked at together.
const directoryBatch = 100

// PublicRooms reads a page of the room directory, the rooms with most members first. It looks at every published room, since any of them
// may have the most members, but keeps only those of the page.
// Spec: client-server-api#post_matrixclientv3publicrooms
func (s *Service) PublicRooms(ctx context.Context, q PublicRoomsQuery) (PublicRooms, error) {
	page, err := newDirectoryPage(&q)
	if err != nil {
		return PublicRooms{}, err
	}
	for after, more := ident.RoomNID(0), true; more; {
		var nids []ident.RoomNID
		err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
			nids, err = tx.PublishedRooms(after, directoryBatch)
			return err
		})
		if err != nil {
			return PublicRooms{}, err
		}
		rooms, err := s.RoomsByNID(ctx, nids)
		if err != nil {
			return PublicRooms{}, err
		}
		for _, r := range rooms {
			if q.Federated && !r.federated() {
				continue
			}
			if p := r.public(); q.matches(&p) {
				page.add(listedRoom{directoryKey{p.JoinedMembers, r.nid}, p})
			}
		}
		if more = len(nids) == directoryBatch; more {
			after = nids[len(nids)-1]
		}
	}
	return page.answer(), nil
}

// public is how the directory shows the room.
func (r *Room) public() PublicRoom {
	r.mu.RLock()
	defer r.mu.RUnlock()
	h := &r.head
	return PublicRoom{
		RoomID: r.id, Name: h.text(typeName, "name"), Topic: h.text(typeTopic, "topic"), CanonicalAlias: h.text(typeCanonicalAlias, "alias"),
		AvatarURL: h.text(typeAvatar, "url"), JoinRule: h.text(typeJoinRules, "join_rule"), RoomType: h.text(typeCreate, "type"),
		JoinedMembers: h.counts[Join], WorldReadable: h.text(typeHistoryVisibility, "history_visibility") == "world_readable",
		GuestCanJoin: h.text(typeGuestAccess, "guest_access") == "can_join",
	}
}

// text returns a string member of a state event with an empty state key, empty if there is none.
func (h *head) text(typ, key string) string {
	e := h.state[pdu.StateKey{Type: typ}]
	if e == nil {
		return ""
	}
	return e.ContentString(key)
}

func (q *PublicRoomsQuery) matches(p *PublicRoom) bool {
	if q.Search != "" {
		text := strings.ToLower(p.Name + "\n" + p.Topic + "\n" + p.CanonicalAlias)
		if !strings.Contains(text, strings.ToLower(q.Search)) {
			return false
		}
	}
	return len(q.Types) == 0 || slices.ContainsFunc(q.Types, func(t *string) bool {
		return t == nil && p.RoomType == "" || t != nil && *t == p.RoomType
	})
}
