package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Bounds of account data.
const (
	maxAccountDataType  = 255       // bytes
	maxAccountData      = 256 << 10 // bytes of one content: m.direct and secret storage of busy accounts stay far below
	maxAccountDataTypes = 1000      // per user and room, and per user globally
	maxAllAccountData   = 16 << 20  // bytes of all contents of a user: a first /sync has all of them
	maxTags             = 100       // per user and room
	maxTagName          = 255       // bytes
)

const (
	typeTags      = "m.tag"
	typeDirect    = "m.direct"
	typePushRules = "m.push_rules"
)

// SetAccountData stores a user's account data; room "" is global.
// Spec: client-server-api#put_matrixclientv3useruseridaccount_datatype
func (s *Service) SetAccountData(ctx context.Context, user ident.UserNID, room id.RoomID, typ string, content json.RawMessage) error {
	switch {
	case typ == "" || len(typ) > maxAccountDataType:
		return mxerr.InvalidParam("An account data type must have 1 to %d bytes", maxAccountDataType)
	case typ == FullyRead || typ == typePushRules:
		return mxerr.New(http.StatusMethodNotAllowed, mxerr.CodeBadJSON, "%s cannot be set as account data", typ)
	case !isObject(content):
		return mxerr.BadJSON("Account data must be a JSON object")
	case len(content) > maxAccountData:
		return mxerr.TooLarge("Account data must not be larger than %d bytes", maxAccountData)
	}
	if err := s.checkAllAccountData(ctx, user, room, typ, len(content)); err != nil {
		return err
	}
	return s.editAccountData(ctx, user, room, typ, func(string, bool) (string, error) { return string(content), nil })
}

// smallAccountData is the size in bytes up to which a content does not need the sum of all. maxAccountDataTypes of them
// in each room are as much as a user could send as events with as many requests.
const smallAccountData = 512

// checkAllAccountData refuses content that makes a user's account data larger than all of it may be. It is read outside
// of the write, which keeps everybody else's waiting: requests at the same time may exceed the bound by their own size.
//
// Errors: M_TOO_LARGE.
func (s *Service) checkAllAccountData(ctx context.Context, user ident.UserNID, room id.RoomID, typ string, size int) error {
	if size <= smallAccountData {
		return nil
	}
	nid, err := s.dataRoom(ctx, room)
	if err != nil {
		return err
	}
	var all, before int64
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		all, before, err = tx.AccountDataSize(user, nid, typ)
		return err
	})
	if more := int64(size) - before; err == nil && more > 0 && all+more > maxAllAccountData {
		return mxerr.TooLarge("Your account data must not exceed %d bytes in total", maxAllAccountData)
	}
	return err
}

// editAccountData changes account data by what it was, in one write. An empty result changes nothing.
func (s *Service) editAccountData(ctx context.Context, user ident.UserNID, room id.RoomID, typ string, edit func(before string, found bool) (string, error)) error {
	nid, err := s.dataRoom(ctx, room)
	if err != nil {
		return err
	}
	changed := false
	w := storage.Write{
		Do: func(tx *storage.Tx) error {
			before, found, err := tx.AccountData(user, nid, typ)
			if err != nil {
				return err
			}
			if !found {
				n, err := tx.AccountDataCount(user, nid)
				if err != nil {
					return err
				}
				if n >= maxAccountDataTypes {
					return mxerr.InvalidParam("You already have %d types of account data, which is the maximum", maxAccountDataTypes)
				}
			}
			after, err := edit(before, found)
			if changed = err == nil && after != ""; !changed {
				return err
			}
			return tx.SetAccountData(user, nid, typ, after)
		},
		Committed: func() {
			if changed {
				s.opts.Commits.deliver(&Commit{AccountData: []CommittedAccountData{{user, nid, typ}}})
			}
		},
	}
	return s.db.Enqueue(w).Wait(context.WithoutCancel(ctx))
}

// dataRoom is the short name of a room that account data is for; 0 for global.
func (s *Service) dataRoom(ctx context.Context, room id.RoomID) (ident.RoomNID, error) {
	if room == "" {
		return 0, nil
	}
	if room[0] != '!' || len(room) > 255 {
		return 0, mxerr.InvalidParam("That is not a room ID")
	}
	r, err := s.Room(ctx, room)
	if err != nil {
		return 0, err
	}
	return r.nid, nil
}

// AccountData reads a user's account data; room "" is global.
// Spec: client-server-api#get_matrixclientv3useruseridaccount_datatype
func (s *Service) AccountData(ctx context.Context, user ident.UserNID, room id.RoomID, typ string) (json.RawMessage, error) {
	nid, err := s.dataRoom(ctx, room)
	if err != nil {
		return nil, err
	}
	var content string
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		var found bool
		var err error
		if content, found, err = tx.AccountData(user, nid, typ); err == nil && !found {
			err = errNoAccountData
		}
		return err
	})
	return json.RawMessage(content), err
}

// tagsContent is the content of m.tag.
type tagsContent struct {
	Tags map[string]json.RawMessage `json:"tags"`
}

// Tags returns a user's tags of a room: none in a room that this server does not know.
// Spec: client-server-api#get_matrixclientv3useruseridroomsroomidtags
func (s *Service) Tags(ctx context.Context, user ident.UserNID, room id.RoomID) (map[string]json.RawMessage, error) {
	raw, err := s.AccountData(ctx, user, room, typeTags)
	if err != nil && !errors.Is(err, errNoAccountData) && !errors.Is(err, ErrNoRoom) {
		return nil, err
	}
	return readTags(string(raw)), nil
}

// readTags reads m.tag; what cannot be understood, since clients may store anything there, has no tags.
func readTags(content string) map[string]json.RawMessage {
	var c tagsContent
	if json.Unmarshal([]byte(content), &c) != nil || c.Tags == nil {
		return map[string]json.RawMessage{}
	}
	return c.Tags
}

// PutTag tags a room for a user; content is the tag's object, with "order" from 0 to 1 or without.
// Spec: client-server-api#put_matrixclientv3useruseridroomsroomidtagstag
func (s *Service) PutTag(ctx context.Context, user ident.UserNID, room id.RoomID, tag string, content json.RawMessage) error {
	var c struct {
		Order *float64 `json:"order"`
	}
	switch {
	case tag == "" || len(tag) > maxTagName:
		return mxerr.InvalidParam("A tag must have 1 to %d bytes", maxTagName)
	case !isObject(content) || json.Unmarshal(content, &c) != nil:
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

// DeleteTag takes a tag off a room.
// Spec: client-server-api#delete_matrixclientv3useruseridroomsroomidtagstag
func (s *Service) DeleteTag(ctx context.Context, user ident.UserNID, room id.RoomID, tag string) error {
	return s.editTags(ctx, user, room, func(tags map[string]json.RawMessage) error {
		delete(tags, tag)
		return nil
	})
}

func (s *Service) editTags(ctx context.Context, user ident.UserNID, room id.RoomID, edit func(map[string]json.RawMessage) error) error {
	return s.editAccountData(ctx, user, room, typeTags, func(before string, _ bool) (string, error) {
		now := readTags(before)
		old := maps.Clone(now)
		if err := edit(now); err != nil || maps.EqualFunc(old, now, slices.Equal[json.RawMessage]) {
			return "", err
		}
		raw, err := json.Marshal(tagsContent{now})
		return string(raw), err
	})
}

// follow takes a user's settings for a room along into the room that replaces it: tags, the place in m.direct and, by
// Options.Moved, what other packages keep.
// Spec: client-server-api#server-behaviour-16
func (s *Service) follow(ctx context.Context, user ident.Requester, r *Room) error {
	from, err := s.predecessor(ctx, r)
	if err != nil || from == nil || from.MemberOf(user.UserID) == nil {
		return err
	}
	if s.opts.Push != nil {
		if err := s.opts.Push.Follow(ctx, user.UserNID, user.UserID, from.id, r.id); err != nil {
			return err
		}
	}
	tags, direct := false, false
	w := storage.Write{
		Do: func(tx *storage.Tx) (err error) {
			if tags, err = copyTags(tx, user.UserNID, from.nid, r.nid); err != nil {
				return err
			}
			direct, err = copyDirect(tx, user.UserNID, from.id, r.id)
			return err
		},
		Committed: func() {
			var changed []CommittedAccountData
			if tags {
				changed = append(changed, CommittedAccountData{user.UserNID, r.nid, typeTags})
			}
			if direct {
				changed = append(changed, CommittedAccountData{user.UserNID, 0, typeDirect})
			}
			if len(changed) > 0 {
				s.opts.Commits.deliver(&Commit{AccountData: changed})
			}
		},
	}
	return s.db.Enqueue(w).Wait(context.WithoutCancel(ctx))
}

// predecessor is the room that a room replaces: each names the other. Nil where there is none that this server knows.
func (s *Service) predecessor(ctx context.Context, r *Room) (*Room, error) {
	var content struct {
		Predecessor struct {
			RoomID id.RoomID `json:"room_id"`
		} `json:"predecessor"`
	}
	if json.Unmarshal(r.State(typeCreate, "").Content(), &content) != nil { // not of the documented shape: as if not there
		content.Predecessor.RoomID = ""
	}
	if content.Predecessor.RoomID == "" {
		return nil, nil
	}
	from, err := s.Room(ctx, content.Predecessor.RoomID)
	if errors.Is(err, ErrNoRoom) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if tombstone := from.State(typeTombstone, ""); tombstone == nil || tombstone.ContentString("replacement_room") != string(r.id) {
		return nil, nil
	}
	return from, nil
}

// copyTags gives a user's tags of a room to the room that replaces it, unless it has tags.
func copyTags(tx *storage.Tx, user ident.UserNID, from, to ident.RoomNID) (changed bool, err error) {
	tags, found, err := tx.AccountData(user, from, typeTags)
	if err != nil || !found {
		return false, err
	}
	if _, already, err := tx.AccountData(user, to, typeTags); err != nil || already {
		return false, err
	}
	return true, tx.SetAccountData(user, to, typeTags, tags)
}

// copyDirect lists the new room in m.direct wherever the old one is.
func copyDirect(tx *storage.Tx, user ident.UserNID, from, to id.RoomID) (changed bool, err error) {
	raw, found, err := tx.AccountData(user, 0, typeDirect)
	if err != nil || !found {
		return false, err
	}
	direct := map[string][]id.RoomID{}
	if json.Unmarshal([]byte(raw), &direct) != nil {
		clear(direct) // a client's own idea of m.direct is left alone
	}
	for who, rooms := range direct {
		if slices.Contains(rooms, from) && !slices.Contains(rooms, to) {
			direct[who], changed = append(rooms, to), true
		}
	}
	if !changed {
		return false, nil
	}
	out, err := json.Marshal(direct)
	if err != nil {
		return false, err
	}
	return true, tx.SetAccountData(user, 0, typeDirect, string(out))
}
