package storage

import (
	"ebb/ident"
	"ebb/storage/sealing"
)

// RelatedRedaction is a redaction with related events (MSC3912) whose related events are not all redacted yet.
type RelatedRedaction struct {
	Position Pos // when it was requested
	User     ident.UserNID
	UserID   string
	Room     ident.RoomNID
	RoomID   string
	EventID  string      // the event that the others relate to
	RelTypes string      // a JSON array of strings
	Reason   string      // "" if none was given
	After    ident.Order // related events up to this order are done

	Deactivated, Locked, Suspended bool // the user's account
}

const addRelatedRedactionQuery = `INSERT INTO related_redactions (position, user_nid, room_nid, event_id, rel_types, reason, after_ord, body_key)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (room_nid, event_id, user_nid, rel_types) DO UPDATE SET position = excluded.position, reason = excluded.reason, after_ord = excluded.after_ord,
 body_key = excluded.body_key`

const relatedRedactionKeyQuery = `SELECT body_key FROM related_redactions WHERE room_nid = $1 AND event_id = $2 AND user_nid = $3 AND rel_types = $4`

// AddRelatedRedaction stores a redaction and sets its position. It replaces an earlier one by the same user of the same
// events.
func (tx *Tx) AddRelatedRedaction(r *RelatedRedaction) error {
	r.Position = tx.NextPos()
	if err := tx.soil(relatedRedactionKeyQuery, int64(r.Room), r.EventID, int64(r.User), r.RelTypes); err != nil {
		return err
	}
	reason, sealed, err := tx.sealString(sealing.RelatedRedactions, r.Room, int64(r.Position), r.Reason)
	if err != nil {
		return err
	}
	_, err = tx.exec(addRelatedRedactionQuery, int64(r.Position), int64(r.User), int64(r.Room), r.EventID, r.RelTypes, reason, int64(r.After), sealed)
	return err
}

const (
	relatedRedactionsQuery = `SELECT d.position, d.user_nid, u.user_id, d.room_nid, r.room_id, d.event_id, d.rel_types, d.reason, d.body_key, d.after_ord,
 coalesce(a.deactivated_ts, 0), coalesce(a.locked, 0), coalesce(a.suspended, 0)
FROM related_redactions d JOIN users u ON u.nid = d.user_nid JOIN rooms r ON r.nid = d.room_nid LEFT JOIN accounts a ON a.nid = d.user_nid
WHERE d.position > $1 `
	relatedRedactionsPage = ` ORDER BY d.position LIMIT $2`
)

// RelatedRedactions lists at most limit stored redactions that were requested after a position, the oldest first.
func (tx *Tx) RelatedRedactions(after Pos, limit int) ([]RelatedRedaction, error) {
	return tx.relatedRedactions(relatedRedactionsQuery+relatedRedactionsPage, int64(after), limit)
}

// RelatedRedactionsOf is like RelatedRedactions, but for the requests of one user. It uses the index
// related_redactions_by_user.
func (tx *Tx) RelatedRedactionsOf(user ident.UserNID, after Pos, limit int) ([]RelatedRedaction, error) {
	return tx.relatedRedactions(relatedRedactionsQuery+`AND d.user_nid = $3`+relatedRedactionsPage, int64(after), limit, int64(user))
}

func (tx *Tx) relatedRedactions(query string, args ...any) ([]RelatedRedaction, error) {
	return collect(tx, func(r Row) (d RelatedRedaction, err error) {
		var sealed, deactivated, locked, suspended int64
		err = r.Scan(&d.Position, &d.User, &d.UserID, &d.Room, &d.RoomID, &d.EventID, &d.RelTypes, &d.Reason, &sealed, &d.After, &deactivated, &locked, &suspended)
		d.Deactivated, d.Locked, d.Suspended = deactivated != 0, locked != 0, suspended != 0
		if err == nil && sealed != 0 {
			err = unsealString(r, sealing.RelatedRedactions, int64(d.Position), &d.Reason)
		}
		return d, err
	}, query, args...)
}

// AdvanceRelatedRedaction records that the related events up to an order are done.
func (tx *Tx) AdvanceRelatedRedaction(p Pos, done ident.Order) error {
	_, err := tx.exec(`UPDATE related_redactions SET after_ord = $2 WHERE position = $1`, int64(p), int64(done))
	return err
}

// DeleteRelatedRedaction deletes a redaction whose related events are all done, or may no longer be redacted.
func (tx *Tx) DeleteRelatedRedaction(p Pos) error {
	if err := tx.soil(`SELECT body_key FROM related_redactions WHERE position = $1`, int64(p)); err != nil {
		return err
	}
	_, err := tx.exec(`DELETE FROM related_redactions WHERE position = $1`, int64(p))
	return err
}
