package directory

import (
	"context"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// SetPublished adds a room to the room directory or removes it. The sender must be an administrator of the server, or
// have the power level to change the room's canonical alias.
// Spec: client-server-api#put_matrixclientv3directorylistroomroomid
func (s *Service) SetPublished(ctx context.Context, sender ident.Requester, room id.RoomID, published bool) error {
	r, err := s.rooms.Room(ctx, room)
	if err != nil {
		return err
	}
	if !mayChangeAlias(r, sender.UserID) {
		if err := s.orAdministrator(ctx, sender, mxerr.Forbidden("You do not have permission to list this room in the directory")); err != nil {
			return err
		}
	}
	return s.rooms.SetPublished(ctx, room, published)
}

// mayChangeAlias reports whether a user is joined and has the power level to change the room's canonical alias.
func mayChangeAlias(r *rooms.Room, user id.UserID) bool {
	levels := r.Levels()
	return r.Membership(user) == rooms.Join && levels.UserLevel(user) >= levels.EventLevel(typeCanonicalAlias, true)
}

// IsPublished reports whether a room is listed in the room directory.
// Spec: client-server-api#get_matrixclientv3directorylistroomroomid
func (s *Service) IsPublished(ctx context.Context, room id.RoomID) (bool, error) {
	r, err := s.rooms.Room(ctx, room)
	if err != nil {
		return false, err
	}
	return r.Published(), nil
}

// PublicRoomsQuery selects rooms from the room directory.
type PublicRoomsQuery struct {
	Limit  int       // 0 means the default
	Since  string    // token of an earlier page
	Search string    // text in the name, topic or canonical alias, ignoring case
	Types  []*string // room types; nil stands for rooms without a type; empty selects all

	Federated bool // selects only rooms that users of other servers may join
	Stranger  bool // nobody who is signed in asks

	// Network selects the directory of a third-party network, as APP|NETWORK. AllNetworks selects all these directories
	// and the room directory.
	Network     string
	AllNetworks bool
}

// PublicRoomsRequest is the request body that clients and other servers send.
type PublicRoomsRequest struct {
	Limit  int    `json:"limit,omitempty"`
	Since  string `json:"since,omitempty"`
	Filter struct {
		Term  string    `json:"generic_search_term,omitempty"`
		Types []*string `json:"room_types,omitempty"`
	} `json:"filter"`
	Network     string `json:"third_party_instance_id,omitempty"`
	AllNetworks bool   `json:"include_all_networks,omitempty"`
}

// maxSearchTerm bounds the search term, in bytes, and the number of room types in a query.
const maxSearchTerm = 512

// Query converts the request to a query, and reports whether the values in the request are within their bounds.
func (r *PublicRoomsRequest) Query() (PublicRoomsQuery, bool) {
	return PublicRoomsQuery{Limit: r.Limit, Since: r.Since, Search: r.Filter.Term, Types: r.Filter.Types, Network: r.Network, AllNetworks: r.AllNetworks},
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

// These constants bound a page of the room directory.
const (
	defaultPublicRooms = 100
	maxPublicRooms     = 500
)

const (
	// directoryBatch is the number of rooms of the directory that are read at a time.
	directoryBatch = 100
	// maxDescriptions bounds the descriptions of published rooms in memory, in bytes. 16 MiB are about 25,000 rooms.
	maxDescriptions = 16 << 20
	// strangersAtOnce is how many requests that are not of this server's users are answered at a time.
	strangersAtOnce = 1
)

// description is what the directory says about a room.
type description struct {
	PublicRoom
	federated bool // whether users of other servers may join
}

func newDescriptions(bytes int64) *keyed.Memo[ident.RoomNID, *description] {
	return keyed.NewMemo(keyed.Options[ident.RoomNID, *description]{Bytes: bytes, Size: func(_ ident.RoomNID, d *description) int64 {
		return int64(400 + len(d.RoomID) + len(d.Name) + len(d.Topic) + len(d.CanonicalAlias) + len(d.AvatarURL) + len(d.JoinRule) + len(d.RoomType))
	}})
}

// committed is the Listener that forgets descriptions that are out of date.
func (s *Service) committed(c *rooms.Commit) {
	if c.Room != nil && (c.State || len(c.Members) > 0 || c.Entered || c.Rejudged || c.Completed != 0 || len(c.Redacted) > 0) {
		s.descriptions.Forget(c.Room.NID())
	}
}

// describe returns the descriptions of rooms, in the same order. Those that are not in memory follow from the rooms,
// which are loaded together.
func (s *Service) describe(ctx context.Context, nids []ident.RoomNID) (all []*description, err error) {
	var missing []ident.RoomNID
	for _, nid := range nids {
		if _, known := s.descriptions.Peek(nid); !known {
			missing = append(missing, nid)
		}
	}
	if _, err := s.rooms.RoomsByNID(ctx, missing); err != nil {
		return nil, err
	}
	for _, nid := range nids {
		d, err := s.descriptions.Get(ctx, nid, func(ctx context.Context) (*description, error) {
			r, err := s.rooms.RoomByNID(ctx, nid)
			if err != nil {
				return nil, err
			}
			return &description{publicRoom(r), r.Federated()}, nil
		})
		if err != nil {
			return nil, err
		}
		all = append(all, d)
	}
	return all, nil
}

// PublicRooms returns a page of the room directory, the rooms with the most members first. It examines every published
// room, because any of them may have the most members, but keeps only those of the page.
// Spec: client-server-api#post_matrixclientv3publicrooms
func (s *Service) PublicRooms(ctx context.Context, q PublicRoomsQuery) (PublicRooms, error) {
	page, err := newDirectoryPage(&q)
	if err != nil {
		return PublicRooms{}, err
	}
	if q.Stranger || q.Federated {
		select {
		case s.strangers <- struct{}{}:
			defer func() { <-s.strangers }()
		case <-ctx.Done():
			return PublicRooms{}, ctx.Err()
		}
	}
	for after, more := ident.RoomNID(0), true; more; {
		var nids []ident.RoomNID
		err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
			nids, err = q.rooms(tx, after)
			return err
		})
		if err != nil {
			return PublicRooms{}, err
		}
		published, err := s.describe(ctx, nids)
		if err != nil {
			return PublicRooms{}, err
		}
		for i, d := range published {
			if q.matches(&d.PublicRoom) && (d.federated || !q.Federated) {
				page.add(listedRoom{directoryKey{d.JoinedMembers, nids[i]}, d.PublicRoom})
			}
		}
		if more = len(nids) == directoryBatch; more {
			after = nids[len(nids)-1]
		}
	}
	return page.answer(), nil
}

// rooms returns the next batch of rooms in the part of the directory that the query selects.
func (q *PublicRoomsQuery) rooms(tx *storage.Tx, after ident.RoomNID) ([]ident.RoomNID, error) {
	switch {
	case q.AllNetworks:
		return tx.NetworksRooms(after, directoryBatch)
	case q.Network != "":
		app, network, _ := strings.Cut(q.Network, "|")
		return tx.NetworkRooms(app, network, after, directoryBatch)
	}
	return tx.PublishedRooms(after, directoryBatch)
}

// maxNetwork bounds the name of a third-party network, in bytes.
const maxNetwork = 255

// ListInNetwork adds a room to the directory of an application service's third-party network, or removes it.
// Spec: application-service-api#put_matrixclientv3directorylistappservicenetworkidroomid
func (s *Service) ListInNetwork(ctx context.Context, app, network string, room id.RoomID, listed bool) error {
	if len(network) > maxNetwork {
		return mxerr.InvalidParam("The name of a network must not be longer than %d bytes", maxNetwork)
	}
	r, err := s.rooms.Room(ctx, room)
	if err != nil {
		return err
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error { return tx.ListRoom(app, network, r.NID(), listed) })
}

// publicRoom returns the description of a room in the room directory.
func publicRoom(r *rooms.Room) PublicRoom {
	text := func(typ, key string) string {
		e := r.State(typ, "")
		if e == nil {
			return ""
		}
		return e.ContentString(key)
	}
	return PublicRoom{
		RoomID: r.ID(), Name: text(typeName, "name"), Topic: text(typeTopic, "topic"), CanonicalAlias: text(typeCanonicalAlias, "alias"),
		AvatarURL: text(typeAvatar, "url"), JoinRule: text(typeJoinRules, "join_rule"), RoomType: text(typeCreate, "type"),
		JoinedMembers: r.Count(rooms.Join), WorldReadable: text(typeHistoryVisibility, "history_visibility") == "world_readable",
		GuestCanJoin: text(typeGuestAccess, "guest_access") == "can_join",
	}
}

// matches reports whether a room matches the search term and the room types.
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
