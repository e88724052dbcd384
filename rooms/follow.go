package rooms

import (
	"context"
	"encoding/json"
	"errors"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/settings"
	"ebb/storage"
)

// follow copies a user's settings for a room to the room that replaces it: push rules, tags, the entry in m.direct, and
// the lifetime of the user's messages.
// Spec: client-server-api#server-behaviour-16
func (s *Service) follow(ctx context.Context, user ident.Requester, r *Room) error {
	from, err := s.Predecessor(ctx, r)
	if err != nil || from == nil || from.MemberOf(user.UserID) == nil {
		return err
	}
	if err := s.inheritRetention(ctx, from, r); err != nil {
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
			if tags, err = settings.CopyTags(tx, user.UserNID, from.nid, r.nid); err != nil {
				return err
			}
			if direct, err = settings.CopyDirect(tx, user.UserNID, from.id, r.id); err != nil {
				return err
			}
			return tx.CopyMessageLifetime(user.UserNID, from.nid, r.nid)
		},
		Committed: func() {
			var changed []CommittedAccountData
			if tags {
				changed = append(changed, CommittedAccountData{user.UserNID, r.nid, settings.TypeTags})
			}
			if direct {
				changed = append(changed, CommittedAccountData{user.UserNID, 0, settings.TypeDirect})
			}
			if len(changed) > 0 {
				s.opts.Commits.Deliver(&Commit{AccountData: changed})
			}
		},
	}
	return s.db.Enqueue(w).Wait(context.WithoutCancel(ctx))
}

// inheritRetention applies the administrator's retention policy for a room to the room that replaces it, unless one was
// ever set there. Otherwise everybody who can upgrade a room could end the policy.
func (s *Service) inheritRetention(ctx context.Context, from, to *Room) error {
	override, since := from.Override(), int64(0)
	if override == nil {
		return nil
	}
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) { since, err = tx.OverrideSetAt(to.nid); return err })
	if err != nil || since != 0 {
		return err
	}
	return s.SetRetentionOverride(ctx, to.id, override)
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
