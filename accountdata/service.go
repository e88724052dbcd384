// Package accountdata stores the account data of local users, global and per room, with what the server itself reads
// of it: tags, and the list of ignored users, which it keeps in memory. It also stores users' subscriptions to threads.
//
// Settings that are stored as account data but have operations of their own (m.fully_read, m.push_rules) cannot be set
// here; packages receipts and pushrules do that.
package accountdata

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// Options are the dependencies of a Service.
type Options struct {
	DB      *storage.DB
	Rooms   *rooms.Service
	Commits *rooms.Commits // the commits of Rooms
	Push    Push           // nil: events notify nobody
	Cache   keyed.Budget   // memory budget of the lists of ignored users
	// NoticeSender is the user who sends server notices, whom nobody can ignore; "": there is none.
	NoticeSender id.UserID
}

// Service stores and returns account data and subscriptions to threads. It is safe for concurrent use.
type Service struct {
	db      *storage.DB
	rooms   *rooms.Service
	commits *rooms.Commits
	push    Push
	ignored ignoreCache
	notices id.UserID // Options.NoticeSender
}

// New returns a Service. It subscribes to o.Commits. Listeners are called in the order in which they subscribed, so a
// service whose own listener calls Ignores must be created after this one: the cache is then up to date.
func New(o Options) *Service {
	s := &Service{db: o.DB, rooms: o.Rooms, commits: o.Commits, push: o.Push, notices: o.NoticeSender}
	s.ignored.init(o.Cache.Bytes(maxCachedIgnores))
	o.Commits.Subscribe(s.ignored.committed)
	return s
}

// Bounds of account data.
const (
	maxType    = 255       // bytes
	maxContent = 256 << 10 // bytes of one content: m.direct and secret storage of busy accounts stay far below
	maxTypes   = 1000      // per user and room, and per user globally
	maxAll     = 16 << 20  // bytes of all contents of a user: a first /sync has all of them
	maxTags    = 100       // per user and room
	maxTagName = 255       // bytes
)

const (
	typeTags      = "m.tag"
	typePushRules = "m.push_rules"
)

// errNotSet is returned for a type of account data that the user has not set.
var errNotSet error = mxerr.NotFound("There is no account data of this type")

// Set stores a user's account data for the given room, or global account data if room is "".
// Spec: client-server-api#put_matrixclientv3useruseridaccount_datatype
func (s *Service) Set(ctx context.Context, user ident.UserNID, room id.RoomID, typ string, content json.RawMessage) error {
	switch {
	case typ == "" || len(typ) > maxType:
		return mxerr.InvalidParam("An account data type must have 1 to %d bytes", maxType)
	case typ == rooms.FullyRead || typ == typePushRules:
		return mxerr.New(http.StatusMethodNotAllowed, mxerr.CodeBadJSON, "%s cannot be set as account data", typ)
	case !canonjson.IsObject(content):
		return mxerr.BadJSON("Account data must be a JSON object")
	case len(content) > maxContent:
		return mxerr.TooLarge("Account data must not be larger than %d bytes", maxContent)
	}
	if isEmpty(content) { // MSC3391
		return s.Delete(ctx, user, room, typ)
	}
	if err := s.checkAll(ctx, user, room, typ, len(content)); err != nil {
		return err
	}
	return s.edit(ctx, user, room, typ, func(string, bool) (string, error) { return string(content), nil })
}

// isEmpty reports whether the given JSON object has no keys.
func isEmpty(content json.RawMessage) bool {
	var members map[string]json.RawMessage
	return len(content) <= smallContent && json.Unmarshal(content, &members) == nil && len(members) == 0
}

// Delete deletes a user's account data for the given room, or global account data if room is "". If there is none, it
// does nothing.
// Spec: MSC3391
func (s *Service) Delete(ctx context.Context, user ident.UserNID, room id.RoomID, typ string) error {
	if typ == rooms.FullyRead || typ == typePushRules {
		return mxerr.New(http.StatusMethodNotAllowed, mxerr.CodeBadJSON, "%s cannot be set as account data", typ)
	}
	nid, err := s.roomNID(ctx, room)
	if err != nil {
		return err
	}
	deleted := false
	w := storage.Write{
		Do: func(tx *storage.Tx) (err error) {
			deleted, err = tx.DeleteAccountData(user, nid, typ)
			return err
		},
		Committed: func() {
			if deleted {
				s.commits.Deliver(&rooms.Commit{AccountData: []rooms.CommittedAccountData{{User: user, Room: nid, Type: typ}}})
			}
		},
	}
	return s.db.Enqueue(w).Wait(context.WithoutCancel(ctx))
}

// smallContent is the size in bytes up to which a content is stored without adding up all contents of the user.
// maxTypes of them in each room are as much as a user could send as events with as many requests.
const smallContent = 512

// checkAll returns an error if a new content of the given size would make the user's account data exceed maxAll. It
// reads before the write rather than in it, because all other writes would wait. So requests made at the same time may
// together exceed the bound by the size of their contents.
//
// Errors: M_TOO_LARGE.
func (s *Service) checkAll(ctx context.Context, user ident.UserNID, room id.RoomID, typ string, size int) error {
	if size <= smallContent {
		return nil
	}
	nid, err := s.roomNID(ctx, room)
	if err != nil {
		return err
	}
	var all, before int64
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		all, before, err = tx.AccountDataSize(user, nid, typ)
		return err
	})
	if more := int64(size) - before; err == nil && more > 0 && all+more > maxAll {
		return mxerr.TooLarge("Your account data must not exceed %d bytes in total", maxAll)
	}
	return err
}

// edit passes the stored account data to f and stores what f returns in its place, all in one write. If f returns "",
// nothing changes.
func (s *Service) edit(ctx context.Context, user ident.UserNID, room id.RoomID, typ string, f func(before string, found bool) (string, error)) error {
	nid, err := s.roomNID(ctx, room)
	if err != nil {
		return err
	}
	changed := false
	w := storage.Write{
		Do: func(tx *storage.Tx) error {
			before, found, err := tx.AccountData(user, nid, typ)
			if err == nil && !found {
				err = checkCount(tx, user, nid)
			}
			if err != nil {
				return err
			}
			after, err := f(before, found)
			if changed = err == nil && after != ""; !changed {
				return err
			}
			return tx.SetAccountData(user, nid, typ, after)
		},
		Committed: func() {
			if changed {
				s.commits.Deliver(&rooms.Commit{AccountData: []rooms.CommittedAccountData{{User: user, Room: nid, Type: typ}}})
			}
		},
	}
	return s.db.Enqueue(w).Wait(context.WithoutCancel(ctx))
}

// checkCount returns an error if the user already has maxTypes types of account data in the room.
func checkCount(tx *storage.Tx, user ident.UserNID, room ident.RoomNID) error {
	n, err := tx.AccountDataCount(user, room)
	if err == nil && n >= maxTypes {
		err = mxerr.InvalidParam("You already have %d types of account data, which is the maximum", maxTypes)
	}
	return err
}

// roomNID returns the number of the room that account data belongs to, or 0 for global account data.
func (s *Service) roomNID(ctx context.Context, room id.RoomID) (ident.RoomNID, error) {
	if room == "" {
		return 0, nil
	}
	if room[0] != '!' || len(room) > 255 {
		return 0, mxerr.InvalidParam("That is not a room ID")
	}
	r, err := s.rooms.Room(ctx, room)
	if err != nil {
		return 0, err
	}
	return r.NID(), nil
}

// Get returns a user's account data for the given room, or global account data if room is "".
// Spec: client-server-api#get_matrixclientv3useruseridaccount_datatype
func (s *Service) Get(ctx context.Context, user ident.UserNID, room id.RoomID, typ string) (json.RawMessage, error) {
	nid, err := s.roomNID(ctx, room)
	if err != nil {
		return nil, err
	}
	var content string
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		var found bool
		var err error
		if content, found, err = tx.AccountData(user, nid, typ); err == nil && !found {
			err = errNotSet
		}
		if ref, ok := markedEvent(nid, typ, content); ok && err == nil {
			var gone map[storage.EventRef]bool
			if gone, err = s.rooms.GoneEvents(ctx, tx, []storage.EventRef{ref}); err == nil && gone[ref] {
				err = errNotSet
			}
		}
		return err
	})
	return json.RawMessage(content), err
}

// tagsContent is the content of m.tag.
type tagsContent struct {
	Tags map[string]json.RawMessage `json:"tags"`
}

// Tags returns a user's tags of a room. A room that this server does not know has none.
// Spec: client-server-api#get_matrixclientv3useruseridroomsroomidtags
func (s *Service) Tags(ctx context.Context, user ident.UserNID, room id.RoomID) (map[string]json.RawMessage, error) {
	raw, err := s.Get(ctx, user, room, typeTags)
	if err != nil && !errors.Is(err, errNotSet) && !errors.Is(err, rooms.ErrNoRoom) {
		return nil, err
	}
	return readTags(string(raw)), nil
}

// readTags returns the tags in the given content of m.tag. Clients can store malformed content; it has no tags.
func readTags(content string) map[string]json.RawMessage {
	var c tagsContent
	if json.Unmarshal([]byte(content), &c) != nil || c.Tags == nil {
		return map[string]json.RawMessage{}
	}
	return c.Tags
}

// PutTag tags a room for a user. content is the JSON object stored with the tag; if it has a key "order", its value
// must be a number from 0 to 1.
// Spec: client-server-api#put_matrixclientv3useruseridroomsroomidtagstag
func (s *Service) PutTag(ctx context.Context, user ident.UserNID, room id.RoomID, tag string, content json.RawMessage) error {
	var c struct {
		Order *float64 `json:"order"`
	}
	switch {
	case tag == "" || len(tag) > maxTagName:
		return mxerr.InvalidParam("A tag must have 1 to %d bytes", maxTagName)
	case !canonjson.IsObject(content) || json.Unmarshal(content, &c) != nil:
		return mxerr.BadJSON("A tag must be an object, and its order a number")
	case c.Order != nil && (*c.Order < 0 || *c.Order > 1):
		return mxerr.InvalidParam("order must be a number from 0 to 1")
	case len(content) > maxTagName:
		return mxerr.TooLarge("The content of a tag must not be larger than %d bytes", maxTagName)
	}
	return s.editTags(ctx, user, room, func(tags map[string]json.RawMessage) error {
		tags[tag] = content
		if len(tags) > maxTags {
			return mxerr.InvalidParam("You already have %d tags in this room, which is the maximum", maxTags)
		}
		return nil
	})
}

// DeleteTag removes a tag from a room.
// Spec: client-server-api#delete_matrixclientv3useruseridroomsroomidtagstag
func (s *Service) DeleteTag(ctx context.Context, user ident.UserNID, room id.RoomID, tag string) error {
	return s.editTags(ctx, user, room, func(tags map[string]json.RawMessage) error {
		delete(tags, tag)
		return nil
	})
}

// editTags applies change to a user's tags of a room. It writes nothing if change leaves them as they were.
func (s *Service) editTags(ctx context.Context, user ident.UserNID, room id.RoomID, change func(map[string]json.RawMessage) error) error {
	return s.edit(ctx, user, room, typeTags, func(before string, _ bool) (string, error) {
		now := readTags(before)
		old := maps.Clone(now)
		if err := change(now); err != nil || maps.EqualFunc(old, now, slices.Equal[json.RawMessage]) {
			return "", err
		}
		raw, err := json.Marshal(tagsContent{now})
		return string(raw), err
	})
}
