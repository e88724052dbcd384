package accounts

import (
	"context"
	"fmt"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/storage"
)

// Found is a user that the directory found.
type Found struct {
	User        id.UserID
	DisplayName string
	AvatarURL   string
}

// Bounds of one search.
const (
	maxTerm      = 255 // bytes
	maxFound     = 100
	searchPage   = 50  // accounts read at once
	maxSearched  = 500 // accounts whose rooms are looked at
	maxRoomsEach = 50  // rooms of one account that are looked at for a public one
)

// searchText is what the directory finds a user by.
func searchText(user id.UserID, displayName string) string {
	return strings.ToLower(string(user) + "\n" + displayName)
}

// Search finds users by a part of their id or name, among those who share a room with who asks and those in a room that
// anybody can join or read. limited says that there may be more.
// Spec: client-server-api#post_matrixclientv3user_directorysearch
//
// Errors: M_INVALID_PARAM.
func (s *Service) Search(ctx context.Context, asks int64, term string, limit int) (found []Found, limited bool, err error) {
	if err := checkLength("search_term", term, maxTerm); err != nil {
		return nil, false, err
	}
	if limit < 0 {
		return nil, false, mxerr.InvalidParam("limit is negative")
	}
	limit = min(limit, maxFound)
	if term = strings.ToLower(strings.TrimSpace(term)); term == "" || limit == 0 {
		return nil, false, nil
	}
	visible := visibleRooms{s: s, known: map[int64]bool{}}
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

// candidate is a user whose text matches.
type candidate struct {
	Found
	shares bool
	rooms  []int64 // where that decides
}

func (s *Service) searchPage(ctx context.Context, asks int64, term string, offset int) (page []candidate, err error) {
	err = s.DB.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.SearchAccounts(asks, term, searchPage, offset)
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
			fields, err := tx.Profile(r.User)
			if err != nil {
				return err
			}
			c.DisplayName, c.AvatarURL = nameAndAvatar(fields)
			page = append(page, c)
		}
		return nil
	})
	return page, err
}

// visibleRooms remembers for one search which rooms are public.
type visibleRooms struct {
	s     *Service
	known map[int64]bool
}

func (v *visibleRooms) any(ctx context.Context, c candidate) (bool, error) {
	if c.shares || v.s.Hooks.RoomIsPublic == nil {
		return c.shares, nil
	}
	for _, room := range c.rooms {
		public, known := v.known[room]
		if !known {
			var err error
			if public, err = v.s.Hooks.RoomIsPublic(ctx, room); err != nil {
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
