package storage

import (
	"slices"
	"strings"

	"ebb/ident"
	"ebb/storage/sealing"
)

// Queries of the user directory. A search is rare and the texts are short, so all accounts are scanned.

// SetSearch sets the text in which the user directory searches for an account. Guests have none.
func (tx *Tx) SetSearch(user ident.UserNID, search string) error {
	_, err := tx.exec(`UPDATE accounts SET search = $2 WHERE nid = $1 AND deactivated_ts = 0 AND guest = 0`, int64(user), search)
	return err
}

const unsearchableAccountsQuery = `SELECT a.nid, u.user_id FROM accounts a JOIN users u ON u.nid = a.nid
WHERE a.search = '' AND a.deactivated_ts = 0 AND a.guest = 0 AND a.nid > $1 ORDER BY a.nid LIMIT $2`

// UnsearchableAccounts lists active accounts without search text whose number is above after.
func (tx *Tx) UnsearchableAccounts(after ident.UserNID, limit int) ([]DirectoryRow, error) {
	return collect(tx, func(r Row) (d DirectoryRow, err error) {
		err = r.Scan(&d.User, &d.UserID)
		return d, err
	}, unsearchableAccountsQuery, int64(after), limit)
}

// DirectoryRow is an account that a search in the user directory has found.
type DirectoryRow struct {
	User   ident.UserNID
	UserID string
	Search string // the account's search text
}

// DirectorySearch selects accounts by their search text.
type DirectorySearch struct {
	Asks      ident.UserNID // finds those who share a room with this user, and those in public rooms
	Everybody bool          // finds all
	Exact     string        // accounts whose text has it come first
	Prefix    string        // then those whose text has this
	Words     []string      // then those whose text has these, each after a space; no text that lacks one is found
}

// maxSearchWords is the number of words that the database compares.
const maxSearchWords = 3

// isPublicState matches the state events that make a room public. Their JSON is canonical.
const isPublicState = `c.type IN ('m.room.join_rules', 'm.room.history_visibility') AND c.state_key = ''
AND (e.json LIKE '%"join_rule":"public"%' OR e.json LIKE '%"history_visibility":"world_readable"%')`

const searchAccountsQuery = `SELECT f.nid, f.user_id, f.search FROM (
    SELECT a.nid, u.user_id, a.search, a.localpart,
        CASE WHEN a.search LIKE $3 THEN 0 WHEN a.search LIKE $4 THEN 1 WHEN a.search LIKE $8 AND a.search LIKE $9 AND a.search LIKE $10 THEN 2 ELSE 3 END AS class
    FROM accounts a JOIN users u ON u.nid = a.nid
    WHERE a.search LIKE $5 AND a.search LIKE $6 AND a.search LIKE $7 AND a.deactivated_ts = 0 AND a.locked = 0
    ORDER BY class, a.localpart LIMIT $11) f
WHERE $2 = 1 OR f.nid <> $1 AND EXISTS (
    SELECT 1 FROM memberships theirs JOIN memberships mine ON mine.room_nid = theirs.room_nid AND mine.user_nid = $1
    WHERE theirs.user_nid = f.nid AND theirs.membership = 'join' AND mine.membership = 'join')
OR EXISTS (
    SELECT 1 FROM memberships m JOIN current_state c ON c.room_nid = m.room_nid JOIN events e ON e.position = c.position
    WHERE m.user_nid = f.nid AND m.membership = 'join' AND ` + isPublicState + `)
ORDER BY f.class, f.localpart LIMIT $11`

// SearchAccounts finds accounts that are neither deactivated nor locked, best matches first. It examines the rooms of
// at most limit matching accounts, so it may miss others and returns at most limit.
func (tx *Tx) SearchAccounts(s DirectorySearch, limit int) ([]DirectoryRow, error) {
	anywhere, leading := [maxSearchWords]string{}, [maxSearchWords]string{}
	for i := range maxSearchWords {
		word := "%"
		if i < len(s.Words) {
			word = s.Words[i]
		}
		anywhere[i], leading[i] = "%"+word+"%", "% "+word+"%"
	}
	return collect(tx, func(r Row) (d DirectoryRow, err error) {
		err = r.Scan(&d.User, &d.UserID, &d.Search)
		return d, err
	}, searchAccountsQuery, int64(s.Asks), s.Everybody, "%"+s.Exact+"%", "%"+s.Prefix+"%", anywhere[0], anywhere[1], anywhere[2],
		leading[0], leading[1], leading[2], limit)
}

const (
	newestRoomsQuery  = `SELECT nid FROM rooms ORDER BY nid DESC LIMIT $1`
	newestPublicQuery = `SELECT r.nid FROM (` + newestRoomsQuery + `) r WHERE EXISTS (
    SELECT 1 FROM current_state c JOIN events e ON e.position = c.position WHERE c.room_nid = r.nid AND ` + isPublicState + `)`
)

// DirectoryRooms lists the rooms whose members a user may find: those that the user is joined to and public ones, or
// all if everybody is set. limit bounds the rooms of each kind that are examined.
func (tx *Tx) DirectoryRooms(asks ident.UserNID, everybody bool, limit int) ([]ident.RoomNID, error) {
	if everybody {
		return collect(tx, scanNumber[ident.RoomNID], newestRoomsQuery, limit)
	}
	mine, err := tx.JoinedRoomsOf(asks, limit)
	if err != nil {
		return nil, err
	}
	public, err := collect(tx, scanNumber[ident.RoomNID], newestPublicQuery, limit)
	rooms := append(mine, public...)
	slices.Sort(rooms)
	return slices.Compact(rooms), err
}

const remoteMembersQuery = `SELECT m.room_nid, e.position, e.json, u.user_id FROM memberships m JOIN users u ON u.nid = m.user_nid JOIN events e ON e.position = m.position
WHERE m.membership = 'join' AND u.user_id NOT LIKE $1 ESCAPE '\' AND m.room_nid IN `

// EachRemoteMember calls f for the users of other servers in the given rooms, at most limit times. A user in several of
// the rooms is passed once for each, with the member event in that room. It uses the index memberships_by_room.
func (tx *Tx) EachRemoteMember(rooms []ident.RoomNID, server string, limit int, f func(room ident.RoomNID, userID string, event []byte) error) error {
	local := "%:" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(server)
	for part := range slices.Chunk(rooms, maxIn) {
		list, args := In(3, part)
		err := tx.each(func(r Row) error {
			var room int64
			var userID string
			var event []byte
			var p Pos
			err := r.Scan(&room, &p, &event, &userID)
			if err == nil && sealing.IsSealed(event) {
				_, event, err = openEvent(r, p, event)
			}
			if err != nil {
				return err
			}
			limit--
			return f(ident.RoomNID(room), userID, event)
		}, remoteMembersQuery+list+` LIMIT $2`, append([]any{local, limit}, args...)...)
		if err != nil || limit <= 0 {
			return err
		}
	}
	return nil
}
