package accounts

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Found is a search result.
type Found struct {
	User        id.UserID
	DisplayName string
	AvatarURL   string
}

// Bounds of one search.
const (
	maxTerm      = 255 // bytes
	maxFound     = 100
	searchPage   = 50     // accounts read at a time
	maxSearched  = 500    // accounts whose rooms are checked
	maxRoomsEach = 50     // rooms of one account that are checked for a public one
	maxSharers   = 10_000 // remote members that are checked, in all rooms of the searching user
)

// searchText returns the text that searches are matched against.
func searchText(user id.UserID, displayName string) string {
	return strings.ToLower(string(user) + "\n" + displayName)
}

// Search finds users by a part of their ID or display name, among those who share a room with the searching user and
// those in a public room. limited reports whether there may be more.
// Spec: client-server-api#post_matrixclientv3user_directorysearch
//
// Errors: M_INVALID_PARAM.
func (s *Service) Search(ctx context.Context, asks ident.UserNID, term string, limit int) (found []Found, limited bool, err error) {
	if err := checkLength("search_term", term, maxTerm); err != nil {
		return nil, false, err
	}
	if limit < 0 {
		return nil, false, mxerr.InvalidParam("limit must not be negative")
	}
	limit = min(limit, maxFound)
	if term = strings.ToLower(strings.TrimSpace(term)); term == "" || limit == 0 {
		return nil, false, nil
	}
	if found, limited, err = s.searchAccounts(ctx, asks, term, limit); err != nil || limited {
		return found, limited, err
	}
	remote, err := s.searchRemote(ctx, asks, term)
	if err != nil {
		return nil, false, fmt.Errorf("search the user directory: %w", err)
	}
	found = append(found, remote...)
	return found[:min(len(found), limit)], len(found) > limit, nil
}

// searchAccounts finds local users.
func (s *Service) searchAccounts(ctx context.Context, asks ident.UserNID, term string, limit int) (found []Found, limited bool, err error) {
	visible := visibleRooms{s: s, known: map[ident.RoomNID]bool{}}
	for offset := 0; offset < maxSearched; offset += searchPage {
		page, err := s.searchPage(ctx, asks, term, offset)
		if err != nil {
			return nil, false, fmt.Errorf("search the user directory: %w", err)
		}
		for _, c := range page {
			seen, err := visible.any(ctx, c)
			if err != nil {
				return nil, false, err
			}
			if !seen {
				continue
			}
			if len(found) == limit {
				return found, true, nil
			}
			found = append(found, c.Found)
		}
		if len(page) < searchPage {
			return found, false, nil
		}
	}
	return found, true, nil
}

// searchRemote finds remote users who share a room with the searching user, by their display name in that room.
func (s *Service) searchRemote(ctx context.Context, asks ident.UserNID, term string) (found []Found, err error) {
	if s.opts.Remote == nil {
		return nil, nil
	}
	known := map[string]bool{}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		return tx.EachRemoteSharer(asks, maxSharers, func(userID string, event []byte) error {
			if known[userID] {
				return nil
			}
			f := readMember(id.UserID(userID), event)
			if strings.Contains(searchText(f.User, f.DisplayName), term) {
				known[userID] = true
				found = append(found, f)
			}
			return nil
		})
	})
	slices.SortFunc(found, func(a, b Found) int { return strings.Compare(string(a.User), string(b.User)) })
	return found, err
}

// readMember reads the display name and avatar of a user from a member event.
func readMember(user id.UserID, event []byte) Found {
	content, _ := canonjson.Get(event, "content")
	text := func(key string) string {
		raw, _ := canonjson.Get(content, key)
		return stringOf(string(raw))
	}
	return Found{User: user, DisplayName: text(fieldDisplayName), AvatarURL: text(fieldAvatar)}
}

// candidate is a user whose search text matches.
type candidate struct {
	Found
	shares bool
	rooms  []ident.RoomNID // set if visibility depends on them
}

func (s *Service) searchPage(ctx context.Context, asks ident.UserNID, term string, offset int) (page []candidate, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.SearchAccounts(asks, term, searchPage, offset)
		if err != nil {
			return err
		}
		users := make([]ident.UserNID, len(rows))
		for i, r := range rows {
			users[i] = r.User
		}
		profiles, err := tx.Profiles(users)
		if err != nil {
			return err
		}
		for _, r := range rows {
			c := candidate{Found: Found{User: id.UserID(r.UserID)}, shares: r.Shares}
			if !c.shares {
				if c.rooms, err = tx.JoinedRoomsOf(r.User, maxRoomsEach); err != nil {
					return err
				}
			}
			c.DisplayName, c.AvatarURL = nameAndAvatar(profiles[r.User])
			page = append(page, c)
		}
		return nil
	})
	return page, err
}

// visibleRooms caches for one search which rooms are public.
type visibleRooms struct {
	s     *Service
	known map[ident.RoomNID]bool
}

func (v *visibleRooms) any(ctx context.Context, c candidate) (bool, error) {
	if c.shares || v.s.opts.Hooks.RoomIsPublic == nil {
		return c.shares, nil
	}
	for _, room := range c.rooms {
		public, known := v.known[room]
		if !known {
			var err error
			if public, err = v.s.opts.Hooks.RoomIsPublic(ctx, room); err != nil {
				return false, err
			}
			v.known[room] = public
		}
		if public {
			return true, nil
		}
	}
	return false, nil
}
