package storage

import (
	"fmt"
	"math"
	"strings"

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
		err = r.Scan(&s.CreatedTS, &s.FirstTS, &s.SecondTS, &s.ExpiresTS)
		return s, err
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

// PersonalRow is a row of a small table: strings, and times in ms (int64) in the columns whose names end in "_ts".
type PersonalRow map[string]any

// PersonalTable is a query for what a small table has about a user, apart from secrets. It returns the given columns:
// times in those whose names end in "_ts", and texts in the others.
type PersonalTable struct{ Kind, columns, query string }

// SignIns are the small tables about sessions and sign-ins.
var SignIns = []PersonalTable{
	{"sign_ins", "device_id path created_ts", `SELECT device_id, path, created_ts FROM devices WHERE user_nid = $1 ORDER BY device_id LIMIT $2`},
	{"oauth_sessions", "device_id client_id scope created_ts used_ts", `SELECT d.device_id, s.client_id, s.scope, s.created_ts, s.used_ts
FROM devices d JOIN oauth_sessions s ON s.device_nid = d.nid WHERE d.user_nid = $1 ORDER BY d.device_id LIMIT $2`},
	{"oauth_sign_ins_in_progress", "client_id redirect_uri scope device_id expires_ts", `SELECT client_id, redirect_uri, scope, device_id, expires_ts
FROM oauth_codes WHERE user_nid = $1 ORDER BY expires_ts, hash LIMIT $2`},
	{"oauth_devices_in_progress", "client_id scope device_id address expires_ts", `SELECT client_id, scope, device_id, addr, expires_ts
FROM oauth_device_codes WHERE user_nid = $1 ORDER BY expires_ts, hash LIMIT $2`},
	{"access_tokens", "device_id expires_ts", `SELECT d.device_id, t.expires_ts FROM devices d JOIN access_tokens t ON t.device_nid = d.nid
WHERE d.user_nid = $1 ORDER BY d.device_id, t.nid LIMIT $2`},
	{"refresh_tokens", "device_id", `SELECT d.device_id FROM devices d JOIN refresh_tokens t ON t.device_nid = d.nid WHERE d.user_nid = $1 ORDER BY d.device_id, t.nid LIMIT $2`},
	{"approvals", "device_id operation target created_ts expires_ts approved_ts", `SELECT COALESCE(d.device_id, ''), a.operation, a.target, a.created_ts, a.expires_ts, a.approved_ts
FROM approvals a LEFT JOIN devices d ON d.nid = a.device_nid WHERE a.user_nid = $1 ORDER BY a.created_ts, a.session LIMIT $2`},
	{"networks", "seen_ts", `SELECT seen_ts FROM known_networks WHERE user_nid = $1 ORDER BY seen_ts, network LIMIT $2`},
	{"one_time_codes", "created_ts used_ts", `SELECT created_ts, used_ts FROM totp WHERE user_nid = $1 LIMIT $2`},
	{"enrolment_links", "made_by created_ts expires_ts", `SELECT made_by, created_ts, expires_ts FROM enrol_links WHERE user_nid = $1 LIMIT $2`},
	{"links_against_sign_ins", "kind details since_ts expires_ts", `SELECT kind, details, since_ts, expires_ts FROM disavowals WHERE user_nid = $1 ORDER BY notice_nid, hash LIMIT $2`},
}

// OtherData are other small tables that are exported as they are.
var OtherData = []PersonalTable{
	{"notices_to_be_sent", "kind details mail_to created_ts", `SELECT kind, details, mail_to, created_ts FROM notices WHERE user_nid = $1 ORDER BY nid LIMIT $2`},
	{"room_of_notices", "room_id", `SELECT r.room_id FROM notice_rooms n JOIN rooms r ON r.nid = n.room_nid WHERE n.user_nid = $1 LIMIT $2`},
	{"filters", "filter", `SELECT json FROM filters WHERE user_nid = $1 ORDER BY nid LIMIT $2`},
	{"sliding_sync_connections", "conn_id used_ts", `SELECT conn_id, used_ts FROM sliding_connections WHERE user_nid = $1 ORDER BY nid LIMIT $2`},
	{"room_addresses", "alias room_id", `SELECT a.alias, r.room_id FROM aliases a JOIN rooms r ON r.nid = a.room_nid WHERE a.creator_nid = $1 ORDER BY a.alias LIMIT $2`},
	{"cross_signing_keys", "usage key", `SELECT usage, json FROM cross_signing_keys WHERE user_nid = $1 ORDER BY usage LIMIT $2`},
	{"keys_that_you_signed", "user_id key signed_with signature", `SELECT u.user_id, s.target_key, s.key_id, s.signature FROM key_signatures s JOIN users u ON u.nid = s.target_nid
WHERE s.signer_nid = $1 ORDER BY u.user_id, s.target_key, s.key_id LIMIT $2`},
	{"key_backups", "version algorithm auth_data", `SELECT CAST(version AS TEXT), algorithm, auth_data FROM backup_versions
WHERE user_nid = $1 AND deleted = 0 ORDER BY backup_versions.version LIMIT $2`},
	{"dehydrated_devices", "device_id", `SELECT device_id FROM dehydrated_devices WHERE user_nid = $1 LIMIT $2`},
	{"profile_fields_that_you_changed", "name", `SELECT name FROM profile_changes WHERE user_nid = $1 ORDER BY name LIMIT $2`},
	{"erasure", "requested_ts finished_ts", `SELECT requested_ts, finished_ts FROM erasures WHERE user_nid = $1 LIMIT $2`},
}

// PersonalRows returns what a small table has about a user: at most limit rows.
func (tx *Tx) PersonalRows(of PersonalTable, user ident.UserNID, limit int) ([]PersonalRow, error) {
	columns := strings.Fields(of.columns)
	rows, err := collect(tx, func(r Row) (PersonalRow, error) { return scanPersonal(r, columns) }, of.query, int64(user), limit)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", of.Kind, err)
	}
	return rows, nil
}

func scanPersonal(r Row, columns []string) (PersonalRow, error) {
	texts, times, into := make([]string, len(columns)), make([]int64, len(columns)), make([]any, len(columns))
	isTime := func(i int) bool { return strings.HasSuffix(columns[i], "_ts") }
	for i := range columns {
		if into[i] = &texts[i]; isTime(i) {
			into[i] = &times[i]
		}
	}
	err := r.Scan(into...)
	row := PersonalRow{}
	for i, name := range columns {
		if row[name] = texts[i]; isTime(i) {
			row[name] = times[i]
		}
	}
	return row, err
}

const followedThreadsQuery = `SELECT e.room_nid, e.event_id, r.room_id, t.state FROM thread_subscriptions t JOIN events e ON e.position = t.root JOIN rooms r ON r.nid = e.room_nid
WHERE t.user_nid = $1 ORDER BY t.root LIMIT $2`

// FollowedThread is a thread to which a user has subscribed, or has unsubscribed.
type FollowedThread struct {
	EventRef // the root
	RoomID   string
	State    Subscription
}

// FollowedThreads returns at most limit threads to which a user has subscribed, or has unsubscribed.
func (tx *Tx) FollowedThreads(user ident.UserNID, limit int) ([]FollowedThread, error) {
	return collect(tx, func(r Row) (t FollowedThread, err error) {
		err = r.Scan(&t.Room, &t.EventID, &t.RoomID, &t.State)
		return t, err
	}, followedThreadsQuery, int64(user), limit)
}

const readableOriginalsQuery = `SELECT position, room_nid, sender_nid, redacted_ts, readable, json FROM originals
WHERE room_nid = $1 AND sender_nid = $2 AND position > $3 AND readable = 1 AND redacted_ts > $4 ORDER BY position LIMIT $5`

// ReadableOriginals returns the originals of a sender's redacted events in a room that are kept for retention.redacted:
// at most limit after a position, in order, that were redacted after a time (ms). It reads the index
// originals_by_sender.
func (tx *Tx) ReadableOriginals(of KeptBy, after Pos, redactedAfter int64, limit int) ([]Original, error) {
	return collect(tx, scanOriginal, readableOriginalsQuery, int64(of.Room), int64(of.Sender), int64(after), redactedAfter, limit)
}

// ExportRequest is an export of an account that somebody has asked for.
type ExportRequest struct {
	User          ident.UserNID
	UserID        string // set by ExportRequests
	Admin         bool   // an administrator has asked for it
	Conversations bool   // with what others have written
	RequestedTS   int64  // ms
	Attempts      int64  // how many starts of the server have begun to build it again
}

const putExportRequestQuery = `INSERT INTO export_requests (user_nid, admin, conversations, requested_ts, attempts) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (user_nid, admin) DO UPDATE SET conversations = excluded.conversations, requested_ts = excluded.requested_ts, attempts = excluded.attempts`

// PutExportRequest stores a request. It replaces an earlier one for the same user by the same side.
func (tx *Tx) PutExportRequest(r ExportRequest) error {
	_, err := tx.exec(putExportRequestQuery, int64(r.User), r.Admin, r.Conversations, r.RequestedTS, r.Attempts)
	return err
}

// DeleteExportRequest deletes a request, if it is stored.
func (tx *Tx) DeleteExportRequest(user ident.UserNID, admin bool) error {
	_, err := tx.exec(`DELETE FROM export_requests WHERE user_nid = $1 AND admin = $2`, int64(user), admin)
	return err
}

const exportRequestsQuery = `SELECT r.user_nid, u.user_id, r.admin, r.conversations, r.requested_ts, r.attempts
FROM export_requests r JOIN users u ON u.nid = r.user_nid ORDER BY r.requested_ts, r.user_nid, r.admin LIMIT $1`

// ExportRequests lists at most limit requests, the oldest first.
func (tx *Tx) ExportRequests(limit int) ([]ExportRequest, error) {
	return collect(tx, func(r Row) (e ExportRequest, err error) {
		var admin, conversations int64
		err = r.Scan(&e.User, &e.UserID, &admin, &conversations, &e.RequestedTS, &e.Attempts)
		e.Admin, e.Conversations = admin != 0, conversations != 0
		return e, err
	}, exportRequestsQuery, limit)
}
