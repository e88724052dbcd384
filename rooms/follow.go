package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
)

// The account data that follows a user from a room to its replacement.
const (
	typeTags   = "m.tag"
	typeDirect = "m.direct"
)

// follow copies a user's settings for a room to the room that replaces it: push rules, tags and the entry in m.direct.
// Spec: client-server-api#server-behaviour-16
func (s *Service) follow(ctx context.Context, user ident.Requester, r *Room) error {
	from, err := s.Predecessor(ctx, r)
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
				s.opts.Commits.Deliver(&Commit{AccountData: changed})
			}
		},
	}
	return s.db.Enqueue(w).Wait(context.WithoutCancel(ctx))
}

// Predecessor returns the room that r replaces, or nil if this server does not know it. Each of the two rooms must name
// the other.
func (s *Service) Predecessor(ctx context.Context, r *Room) (*Room, error) {
	var content struct {
		Predecessor struct {
			RoomID id.RoomID `json:"room_id"`
		} `json:"predecessor"`
	}
	create := r.State(typeCreate, "")
	if create == nil {
		return nil, nil // only an invite is known
	}
	if json.Unmarshal(create.Content(), &content) != nil { // malformed: treated as absent
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

// copyTags copies a user's tags of a room to the room that replaces it, unless it has tags.
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

// copyDirect adds the new room to m.direct wherever the old one is listed.
func copyDirect(tx *storage.Tx, user ident.UserNID, from, to id.RoomID) (changed bool, err error) {
	raw, found, err := tx.AccountData(user, 0, typeDirect)
	if err != nil || !found {
		return false, err
	}
	direct := map[string][]id.RoomID{}
	if json.Unmarshal([]byte(raw), &direct) != nil {
		clear(direct) // m.direct of another shape stays as it is
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
