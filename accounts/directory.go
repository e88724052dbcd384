package accounts

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/words"
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
	maxTerm      = 255 // in bytes
	maxFound     = 100
	maxSearched  = 1000   // matching accounts, best first, whose rooms are examined
	maxRooms     = 5000   // rooms of the searching user, and newest rooms that may be public
	maxSharers   = 10_000 // remote members to compare with, in all these rooms together
	searchRefill = 500    // accounts whose search text is filled in at a time
)

// searchText returns the text in which the user directory searches for a user: the case-folded localpart, ID and
// display name. Each is surrounded by newlines, and each of their words follows a space.
func searchText(user id.UserID, displayName string) string {
	return "\n " + words.Fold(user.Localpart()) + " \n " + words.Fold(string(user)) + " \n " + words.Fold(displayName) + " \n"
}

// directoryQuery is a parsed search term.
type directoryQuery struct {
	exact, prefix string   // the parts of a search text that is equal to the term, or begins with it
	words         []string // longest first
}

// parseDirectoryQuery parses a search term. It returns false for a term without words.
func parseDirectoryQuery(term string) (directoryQuery, bool) {
	folded := words.Fold(term)
	q := directoryQuery{exact: "\n " + folded + " \n", prefix: "\n " + folded, words: strings.Fields(folded)}
	slices.SortStableFunc(q.words, func(a, b string) int { return len(b) - len(a) })
	return q, len(q.words) > 0
}

// class returns how well the given search text of a user matches the query; 0 is best. It returns false if the text
// does not contain all words of the query.
func (q directoryQuery) class(text string) (int, bool) {
	leading := true
	for _, w := range q.words {
		if !strings.Contains(text, w) {
			return 0, false
		}
		leading = leading && strings.Contains(text, " "+w)
	}
	switch {
	case strings.Contains(text, q.exact):
		return 0, true
	case strings.Contains(text, q.prefix):
		return 1, true
	case leading:
		return 2, true
	}
	return 3, true // words inside words, or characters of a script without spaces
}

// match is a user whose search text matches.
type match struct {
	Found
	nid   ident.UserNID // 0 for a user of another server
	room  ident.RoomNID // where a user of another server was found
	class int
}

// Search finds users by the words of their IDs and display names. It finds users who share a room with the searching
// user or are in a public room, or all users if the options say so. Users whose ID or name equals the term come first,
// followed by those whose ID or name begins with it, those with words that begin with its words, and finally those that
// contain its words. limited reports whether there are more.
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
	q, ok := parseDirectoryQuery(term)
	if !ok || limit == 0 {
		return nil, false, nil
	}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		all, err := s.searchAccounts(tx, asks, q)
		if err != nil {
			return err
		}
		remote, err := s.searchRemote(tx, asks, q)
		if err != nil {
			return err
		}
		all = append(all, remote...)
		slices.SortStableFunc(all, func(a, b match) int { return cmp.Compare(a.class, b.class) })
		limited = len(all) > limit
		found, err = withProfiles(tx, all[:min(len(all), limit)])
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("search the user directory: %w", err)
	}
	return found, limited, nil
}

// searchAccounts finds local users. It leaves out the users of application services: they stand for people on other
// networks, who can be contacted only through the service.
func (s *Service) searchAccounts(tx *storage.Tx, asks ident.UserNID, q directoryQuery) (found []match, err error) {
	rows, err := tx.SearchAccounts(storage.DirectorySearch{
		Asks: asks, Everybody: s.opts.SearchAllUsers, Exact: q.exact, Prefix: q.prefix, Words: q.words,
	}, maxSearched)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		user := id.UserID(r.UserID)
		class, ok := q.class(r.Search) // the database compares only the first words
		if ok && (s.opts.Hooks.Exclusive == nil || !s.opts.Hooks.Exclusive("", user.Localpart())) {
			found = append(found, match{Found: Found{User: user}, nid: r.User, class: class})
		}
	}
	return found, nil
}

// searchRemote finds users of other servers by their display names in the rooms through which they are visible.
func (s *Service) searchRemote(tx *storage.Tx, asks ident.UserNID, q directoryQuery) ([]match, error) {
	if s.opts.Remote == nil {
		return nil, nil
	}
	rooms, err := tx.DirectoryRooms(asks, s.opts.SearchAllUsers, maxRooms)
	if err != nil {
		return nil, err
	}
	var matches []match
	err = tx.EachRemoteMember(rooms, s.opts.Server, maxSharers, func(room ident.RoomNID, userID string, event []byte) error {
		m := match{Found: readMember(id.UserID(userID), event), room: room}
		class, ok := q.class(searchText(m.User, m.DisplayName))
		if ok {
			m.class = class
			matches = append(matches, m)
		}
		return nil
	})
	if err == nil && !s.opts.SearchAllUsers {
		matches, err = withoutLeftRooms(tx, matches)
	}
	slices.SortStableFunc(matches, func(a, b match) int { return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.class, b.class)) })
	return slices.CompactFunc(matches, func(a, b match) bool { return a.User == b.User }), err
}

// withoutLeftRooms removes the matches in rooms that this server is not in any more: it does not learn who leaves them.
func withoutLeftRooms(tx *storage.Tx, matches []match) ([]match, error) {
	var rooms []ident.RoomNID
	for _, m := range matches {
		rooms = append(rooms, m.room)
	}
	slices.Sort(rooms)
	left, err := tx.LeftRooms(slices.Compact(rooms))
	return slices.DeleteFunc(matches, func(m match) bool { return slices.Contains(left, m.room) }), err
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

// withProfiles adds the display names and avatars of local users to search results.
func withProfiles(tx *storage.Tx, matches []match) ([]Found, error) {
	var local []ident.UserNID
	for _, m := range matches {
		if m.nid != 0 {
			local = append(local, m.nid)
		}
	}
	profiles := map[ident.UserNID][]storage.ProfileField{}
	if len(local) > 0 {
		var err error
		if profiles, err = tx.Profiles(local); err != nil {
			return nil, err
		}
	}
	found := make([]Found, len(matches))
	for i, m := range matches {
		found[i] = m.Found
		if m.nid != 0 {
			found[i].DisplayName, found[i].AvatarURL = nameAndAvatar(profiles[m.nid])
		}
	}
	return found, nil
}

// fillDirectory fills in the search texts of accounts that have none. A migration removes the texts when their format
// changes.
func (s *Service) fillDirectory(ctx context.Context) error {
	for after := ident.UserNID(0); ; {
		var rows []storage.DirectoryRow
		err := s.write(ctx, func(w *write) (err error) {
			if rows, err = w.UnsearchableAccounts(after, searchRefill); err != nil || len(rows) == 0 {
				return err
			}
			users := make([]ident.UserNID, len(rows))
			for i, r := range rows {
				users[i] = r.User
			}
			profiles, err := w.Profiles(users)
			if err != nil {
				return err
			}
			for _, r := range rows {
				name, _ := nameAndAvatar(profiles[r.User])
				if err := w.SetSearch(r.User, searchText(id.UserID(r.UserID), name)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(rows) < searchRefill {
			return err
		}
		after = rows[len(rows)-1].User
	}
}
