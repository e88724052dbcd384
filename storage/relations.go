package storage

import "ebb/ident"

// RelationRow is the relation of an event to another one.
type RelationRow struct {
	Position Pos
	Room     ident.RoomNID
	Parent   string // event ID
	RelType  string
	Type     string // type of the relating event
	Sender   ident.UserNID
	Order    ident.Order
}

const insertRelationQuery = `INSERT INTO relations (position, room_nid, parent_hash, parent_id, rel_type, type, sender_nid, ord)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`

// InsertRelation stores the relation of an event.
func (tx *Tx) InsertRelation(r RelationRow) error {
	_, err := tx.exec(insertRelationQuery, int64(r.Position), int64(r.Room), tx.IDHash(r.Parent), r.Parent, r.RelType, r.Type, int64(r.Sender), int64(r.Order))
	return err
}

const touchThreadQuery = `INSERT INTO threads (root, room_nid, latest)
SELECT position, room_nid, CAST($2 AS BIGINT) FROM events WHERE position = $1 AND flags & $3 = 0
ON CONFLICT (root) DO UPDATE SET latest = excluded.latest WHERE excluded.latest > threads.latest`

// TouchThread records a reply in a thread, unless the thread's root was purged meanwhile.
func (tx *Tx) TouchThread(root Pos, order ident.Order) error {
	_, err := tx.exec(touchThreadQuery, int64(root), int64(order), int64(GoneEvent))
	return err
}

type relationParent struct {
	room        ident.RoomNID
	hash        int64
	id, relType string
}

const relationParentQuery = `SELECT room_nid, parent_hash, parent_id, rel_type FROM relations WHERE position = $1`

// DeleteRelation deletes the relation of an event, and the thread if the event was its last reply.
func (tx *Tx) DeleteRelation(p Pos) error {
	parent, found, err := one(tx, func(r Row) (rp relationParent, err error) {
		err = r.Scan(&rp.room, &rp.hash, &rp.id, &rp.relType)
		return rp, err
	}, relationParentQuery, int64(p))
	if err != nil || !found {
		return err
	}
	if _, err := tx.exec(`DELETE FROM relations WHERE position = $1`, int64(p)); err != nil {
		return err
	}
	if parent.relType != "m.thread" {
		return nil
	}
	return tx.recountThread(parent)
}

const latestReplyQuery = `SELECT coalesce(max(ord), 0) FROM relations WHERE parent_hash = $1 AND parent_id = $2 AND room_nid = $3 AND rel_type = 'm.thread'`

func (tx *Tx) recountThread(parent relationParent) error {
	latest, _, err := one(tx, scanNumber[int64], latestReplyQuery, parent.hash, parent.id, int64(parent.room))
	if err != nil {
		return err
	}
	root, found, err := tx.EventByID(parent.room, parent.id)
	if err != nil || !found {
		return err
	}
	if latest == 0 {
		_, err = tx.exec(`DELETE FROM threads WHERE root = $1`, int64(root.Position))
		return err
	}
	_, err = tx.exec(`UPDATE threads SET latest = $2 WHERE root = $1`, int64(root.Position), latest)
	return err
}

const annotationsQuery = `SELECT e.position, e.json FROM relations r JOIN events e ON e.position = r.position
WHERE r.parent_hash = $1 AND r.parent_id = $2 AND r.room_nid = $3 AND r.rel_type = 'm.annotation' AND r.type = $4 AND r.sender_nid = $5 LIMIT 1000`

// Annotations returns the JSON of a user's annotations of an event, at most 1000. It uses the index
// relations_by_parent.
func (tx *Tx) Annotations(room ident.RoomNID, parent, typ string, sender ident.UserNID) ([]string, error) {
	return collect(tx, scanEventText, annotationsQuery, tx.IDHash(parent), parent, int64(room), typ, int64(sender))
}

// ThreadLatest returns the order of the latest reply in the thread with the given root, 0 if there is no such thread.
func (tx *Tx) ThreadLatest(root Pos) (ident.Order, error) {
	n, _, err := one(tx, scanNumber[ident.Order], `SELECT latest FROM threads WHERE root = $1`, int64(root))
	return n, err
}
