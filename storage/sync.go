package storage

// Queries of /sync over the core tables.

// AccountDatum is one event of a user's account data.
type AccountDatum struct {
	Room    int64 // 0: global
	Type    string
	Content string
}

const accountDataSinceQuery = `SELECT room_nid, type, content FROM account_data
WHERE user_nid = $1 AND position > $2 AND position <= $3 ORDER BY position`

// AccountDataSince lists what a user's account data, global and of rooms, became in (since, upTo], oldest change first.
// It rides account_data_by_position.
func (tx *Tx) AccountDataSince(user int64, since, upTo Pos) ([]AccountDatum, error) {
	return collect(tx, func(r Row) (d AccountDatum, err error) {
		err = r.Scan(&d.Room, &d.Type, &d.Content)
		return d, err
	}, accountDataSinceQuery, user, int64(since), int64(upTo))
}

// SyncReceipt is a read receipt as /sync gives it.
type SyncReceipt struct {
	Position Pos
	User     string
	UserNID  int64
	Type     string
	Thread   string // "": unthreaded
	EventID  string
	TS       int64 // ms
}

const receiptsSinceQuery = `SELECT r.position, u.user_id, r.user_nid, r.type, r.thread, r.event_id, r.ts
FROM receipts r JOIN users u ON u.nid = r.user_nid
WHERE r.room_nid = $1 AND r.position > $2 AND r.position <= $3 AND (r.type <> 'm.read.private' OR r.user_nid = $4)
ORDER BY r.position DESC LIMIT $5`

// ReceiptsSince lists the newest receipts of a room that were set in (since, upTo] and that user may see: everybody's
// public ones and the user's own private ones. Newest first, at most limit. It rides receipts_by_position.
func (tx *Tx) ReceiptsSince(room int64, since, upTo Pos, user int64, limit int) ([]SyncReceipt, error) {
	return collect(tx, func(r Row) (c SyncReceipt, err error) {
		err = r.Scan(&c.Position, &c.User, &c.UserNID, &c.Type, &c.Thread, &c.EventID, &c.TS)
		return c, err
	}, receiptsSinceQuery, room, int64(since), int64(upTo), user, limit)
}

const ownReceiptsQuery = `SELECT r.position, u.user_id, r.user_nid, r.type, r.thread, r.event_id, r.ts
FROM receipts r JOIN users u ON u.nid = r.user_nid
WHERE r.room_nid = $1 AND r.user_nid = $2 AND r.position <= $3 ORDER BY r.position`

// OwnReceipts lists a user's own receipts in a room, set up to a position, oldest first. It rides the primary key.
func (tx *Tx) OwnReceipts(room, user int64, upTo Pos) ([]SyncReceipt, error) {
	return collect(tx, func(r Row) (c SyncReceipt, err error) {
		err = r.Scan(&c.Position, &c.User, &c.UserNID, &c.Type, &c.Thread, &c.EventID, &c.TS)
		return c, err
	}, ownReceiptsQuery, room, user, int64(upTo))
}
