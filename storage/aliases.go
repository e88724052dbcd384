package storage

import "ebb/ident"

// Alias is a local room alias.
type Alias struct {
	Alias   string
	Room    ident.RoomNID
	Creator ident.UserNID
}

func scanAlias(r Row) (a Alias, err error) {
	err = r.Scan(&a.Alias, &a.Room, &a.Creator)
	return a, err
}

// AliasByName finds a local alias.
func (tx *Tx) AliasByName(alias string) (Alias, bool, error) {
	return one(tx, scanAlias, `SELECT alias, room_nid, creator_nid FROM aliases WHERE alias = $1`, alias)
}

const insertAliasQuery = `INSERT INTO aliases (alias, room_nid, creator_nid) VALUES ($1, $2, $3) ON CONFLICT (alias) DO NOTHING`

// InsertAlias adds an alias. It returns false if the alias exists already.
func (tx *Tx) InsertAlias(a Alias) (bool, error) {
	n, err := tx.exec(insertAliasQuery, a.Alias, int64(a.Room), int64(a.Creator))
	return n == 1, err
}

// DeleteAlias removes an alias.
func (tx *Tx) DeleteAlias(alias string) error {
	_, err := tx.exec(`DELETE FROM aliases WHERE alias = $1`, alias)
	return err
}

// MoveAliases moves the aliases of a room to the room that replaces it.
func (tx *Tx) MoveAliases(from, to ident.RoomNID) error {
	_, err := tx.exec(`UPDATE aliases SET room_nid = $2 WHERE room_nid = $1`, int64(from), int64(to))
	return err
}

// RoomAliases lists at most limit local aliases of a room.
func (tx *Tx) RoomAliases(room ident.RoomNID, limit int) ([]Alias, error) {
	return collect(tx, scanAlias, `SELECT alias, room_nid, creator_nid FROM aliases WHERE room_nid = $1 ORDER BY alias LIMIT $2`, int64(room), limit)
}
