package storage

// Alias is a local room alias.
type Alias struct {
	Alias   string
	Room    int64
	Creator int64
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

// InsertAlias adds an alias; false when the name is taken.
func (tx *Tx) InsertAlias(a Alias) (bool, error) {
	n, err := tx.exec(insertAliasQuery, a.Alias, a.Room, a.Creator)
	return n == 1, err
}

// DeleteAlias removes an alias.
func (tx *Tx) DeleteAlias(alias string) error {
	_, err := tx.exec(`DELETE FROM aliases WHERE alias = $1`, alias)
	return err
}

// MoveAliases gives the aliases of a room to its successor.
func (tx *Tx) MoveAliases(from, to int64) error {
	_, err := tx.exec(`UPDATE aliases SET room_nid = $2 WHERE room_nid = $1`, from, to)
	return err
}

// RoomAliases lists the local aliases of a room, at most limit.
func (tx *Tx) RoomAliases(room int64, limit int) ([]Alias, error) {
	return collect(tx, scanAlias, `SELECT alias, room_nid, creator_nid FROM aliases WHERE room_nid = $1 ORDER BY alias LIMIT $2`, room, limit)
}
