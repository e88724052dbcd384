package storage

import (
	"slices"

	"ebb/ident"
)

// ProfileField is one field of a user's profile.
type ProfileField struct {
	Name  string
	Value string // JSON
}

// Profile lists the fields of a user's profile by name.
func (tx *Tx) Profile(user ident.UserNID) ([]ProfileField, error) {
	all, err := tx.Profiles([]ident.UserNID{user})
	return all[user], err
}

// Profiles is like Profile for several users. It uses the primary key.
func (tx *Tx) Profiles(users []ident.UserNID) (map[ident.UserNID][]ProfileField, error) {
	list, args := In(1, users)
	out := map[ident.UserNID][]ProfileField{}
	err := tx.each(func(r Row) error {
		var user ident.UserNID
		var f ProfileField
		err := r.Scan(&user, &f.Name, &f.Value)
		out[user] = append(out[user], f)
		return err
	}, `SELECT user_nid, name, value FROM profile_fields WHERE user_nid IN `+list+` ORDER BY name`, args...)
	return out, err
}

const setProfileFieldQuery = `INSERT INTO profile_fields (user_nid, name, value) VALUES ($1, $2, $3)
ON CONFLICT (user_nid, name) DO UPDATE SET value = excluded.value`

// SetProfileField sets one field of a user's profile.
func (tx *Tx) SetProfileField(user ident.UserNID, f ProfileField) error {
	if _, err := tx.exec(setProfileFieldQuery, int64(user), f.Name, f.Value); err != nil {
		return err
	}
	if err := tx.replaceMediaRefs(ProfileMedia, int64(user), f.Name, f.Value); err != nil {
		return err
	}
	return tx.noteProfileChange(user, f.Name)
}

// maxDeletedFields bounds the deleted fields of a user that are remembered for /sync.
const maxDeletedFields = 100

const forgetDeletedFieldQuery = `DELETE FROM profile_changes WHERE user_nid = $1 AND name = (
    SELECT c.name FROM profile_changes c LEFT JOIN profile_fields f ON f.user_nid = c.user_nid AND f.name = c.name
    WHERE c.user_nid = $1 AND f.name IS NULL ORDER BY c.position DESC LIMIT 1 OFFSET $2)`

// DeleteProfileField deletes one field of a user's profile.
func (tx *Tx) DeleteProfileField(user ident.UserNID, name string) error {
	n, err := tx.exec(`DELETE FROM profile_fields WHERE user_nid = $1 AND name = $2`, int64(user), name)
	if err != nil || n == 0 {
		return err
	}
	if _, err := tx.exec(dropMediaRefsQuery, int64(user), int64(ProfileMedia), name); err != nil {
		return err
	}
	if err := tx.noteProfileChange(user, name); err != nil {
		return err
	}
	_, err = tx.exec(forgetDeletedFieldQuery, int64(user), maxDeletedFields)
	return err
}

const noteProfileChangeQuery = `INSERT INTO profile_changes (user_nid, name, position) VALUES ($1, $2, $3)
ON CONFLICT (user_nid, name) DO UPDATE SET position = excluded.position`

func (tx *Tx) noteProfileChange(user ident.UserNID, name string) error {
	_, err := tx.exec(noteProfileChangeQuery, int64(user), name, int64(tx.NextPos()))
	return err
}

// ProfileChange is a profile field of a local user as it is after its last change.
type ProfileChange struct {
	User         ident.UserNID
	UserID       string
	ProfileField // Value is "" if the field was deleted
}

const profileChangesColumns = `SELECT c.user_nid, u.user_id, c.name, coalesce(f.value, '') FROM profile_changes c
JOIN users u ON u.nid = c.user_nid LEFT JOIN profile_fields f ON f.user_nid = c.user_nid AND f.name = c.name `

func scanProfileChange(r Row) (c ProfileChange, err error) {
	err = r.Scan(&c.User, &c.UserID, &c.Name, &c.Value)
	return c, err
}

// ProfileChanges lists the profile fields that last changed in (since, upTo], at most limit. It uses the index
// profile_changes_by_position.
func (tx *Tx) ProfileChanges(since, upTo Pos, limit int) ([]ProfileChange, error) {
	return collect(tx, scanProfileChange, profileChangesColumns+`WHERE c.position > $1 AND c.position <= $2 ORDER BY c.position LIMIT $3`,
		int64(since), int64(upTo), limit)
}

// ProfileChangesOf is like ProfileChanges, but only for the given users and without a limit. It uses the primary key.
func (tx *Tx) ProfileChangesOf(users []ident.UserNID, since, upTo Pos) ([]ProfileChange, error) {
	var out []ProfileChange
	for part := range slices.Chunk(users, maxIn) {
		list, args := In(3, part)
		found, err := collect(tx, scanProfileChange, profileChangesColumns+`WHERE c.position > $1 AND c.position <= $2 AND c.user_nid IN `+list,
			append([]any{int64(since), int64(upTo)}, args...)...)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// ProfileFieldsOf lists the profile fields of the given users: those named in names, or all if names is nil.
func (tx *Tx) ProfileFieldsOf(users []ident.UserNID, names []string) ([]ProfileChange, error) {
	var out []ProfileChange
	for part := range slices.Chunk(users, maxIn) {
		list, args := In(1, part)
		query := `SELECT f.user_nid, u.user_id, f.name, f.value FROM profile_fields f JOIN users u ON u.nid = f.user_nid WHERE f.user_nid IN ` + list
		if names != nil {
			more, rest := In(len(args)+1, names)
			query, args = query+` AND f.name IN `+more, append(args, rest...)
		}
		found, err := collect(tx, scanProfileChange, query, args...)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

const joinedRoomsOfQuery = `SELECT room_nid FROM memberships WHERE user_nid = $1 AND membership = 'join' ORDER BY room_nid LIMIT $2`

// JoinedRoomsOf lists at most limit rooms that a user is joined to. It uses the primary key.
func (tx *Tx) JoinedRoomsOf(user ident.UserNID, limit int) ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], joinedRoomsOfQuery, int64(user), limit)
}
