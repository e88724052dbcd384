package storage

import (
	"math"

	"ebb/ident"
)

const (
	sentWindowQuery = `SELECT ord FROM events WHERE room_nid = $1 AND ord > $2 ORDER BY ord LIMIT 1 OFFSET $3`
	sentEventsQuery = `SELECT ` + eventColumns + ` FROM events e WHERE e.room_nid = $1 AND e.ord > $2 AND e.ord <= $3 AND e.sender_nid = $4 ORDER BY e.ord LIMIT $5`
)

// SentEvents returns the events that a user has sent, state events included, among the next events of a room's timeline
// after an order: at most limit of them. next is the order after which the following call continues, and more reports
// whether there may be more. It uses the index events_by_order.
func (tx *Tx) SentEvents(room ident.RoomNID, user ident.UserNID, after ident.Order, window, limit int) (rows []EventRow, next ident.Order, more bool, err error) {
	next, more, err = one(tx, scanNumber[ident.Order], sentWindowQuery, int64(room), int64(after), window-1)
	if err != nil {
		return nil, 0, false, err
	}
	if !more {
		next = math.MaxInt64
	}
	rows, err = collect(tx, scanEvent, sentEventsQuery, int64(room), int64(after), int64(next), int64(user), limit)
	if len(rows) == limit {
		next, more = rows[limit-1].Order, true
	}
	return rows, next, more, err
}

// AuditAfter returns a page of the audit log: at most limit records after a number, in order.
func (tx *Tx) AuditAfter(seq int64, limit int) ([]AuditRow, error) {
	return collect(tx, scanAudit, `SELECT `+auditColumns+` FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2`, seq, limit)
}

// BrowserSession is a session of a browser, without its secret.
type BrowserSession struct{ CreatedTS, FirstTS, SecondTS, ExpiresTS int64 } // ms

const browserSessionsQuery = `SELECT created_ts, first_ts, second_ts, expires_ts FROM web_sessions
WHERE user_nid = $1 AND pending = 0 AND expires_ts > $2 ORDER BY created_ts, hash LIMIT $3`

// BrowserSessions returns at most limit sessions of a user's browsers, oldest first. It uses the index
// web_sessions_by_user.
func (tx *Tx) BrowserSessions(user ident.UserNID, limit int) ([]BrowserSession, error) {
	return collect(tx, func(r Row) (s BrowserSession, err error) {
		return s, r.Scan(&s.CreatedTS, &s.FirstTS, &s.SecondTS, &s.ExpiresTS)
	}, browserSessionsQuery, int64(user), tx.now.UnixMilli(), limit)
}

const shownUploadsQuery = `SELECT m.media_id FROM media m
WHERE m.blob <> '' AND NOT EXISTS (SELECT 1 FROM media_quarantine q WHERE q.server = '' AND q.media_id = m.media_id) AND m.media_id IN `

// ShownUploads returns how many of the given uploads, at most maxIn, exist and are not in quarantine.
func (tx *Tx) ShownUploads(mediaIDs []string) (int, error) {
	list, args := In(1, mediaIDs)
	found, err := collect(tx, scanString, shownUploadsQuery+list, args...)
	return len(found), err
}
