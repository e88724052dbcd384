package storage

import "ebb/ident"

// PusherRow is a pusher of a local user.
type PusherRow struct {
	NID        ident.PusherNID
	User       ident.UserNID
	UserID     string
	Device     ident.DeviceNID
	DeviceID   string // "" if there is no device
	Kind       string
	AppID      string
	Pushkey    string
	AppName    string
	DeviceName string
	Lang       string
	ProfileTag string
	Data       string // JSON
	Enabled    bool
	NoBadge    bool
	UpdatedTS  int64 // ms
	Locked     bool  // the account is locked
	PusherProgress
}

// PusherProgress records up to which event a pusher has been served, and its failures.
type PusherProgress struct {
	Delivered    Pos
	Pending      bool // events after Delivered wait for the pusher; otherwise it has been served up to Tx.Pushed if that is later
	Failures     int64
	FailingSince int64 // ms; 0: the last attempt succeeded
	RetryTS      int64 // ms
}

const pusherColumns = `SELECT p.nid, p.user_nid, u.user_id, p.device_nid, coalesce(d.device_id, ''), p.kind, p.app_id, p.pushkey, p.app_name, p.device_name,
p.lang, p.profile_tag, p.data, p.enabled, p.no_badge, p.updated_ts, p.delivered, p.pending, p.failures, p.failing_since, p.retry_ts, coalesce(a.locked, 0)
FROM pushers p JOIN users u ON u.nid = p.user_nid LEFT JOIN devices d ON d.nid = p.device_nid LEFT JOIN accounts a ON a.nid = p.user_nid`

func scanPusher(r Row) (p PusherRow, err error) {
	var enabled, noBadge, pending, locked int64
	err = r.Scan(&p.NID, &p.User, &p.UserID, &p.Device, &p.DeviceID, &p.Kind, &p.AppID, &p.Pushkey, &p.AppName, &p.DeviceName,
		&p.Lang, &p.ProfileTag, &p.Data, &enabled, &noBadge, &p.UpdatedTS, &p.Delivered, &pending, &p.Failures, &p.FailingSince, &p.RetryTS, &locked)
	p.Enabled, p.NoBadge, p.Pending, p.Locked = enabled != 0, noBadge != 0, pending != 0, locked != 0
	return p, err
}

// UserPushers lists a user's pushers, oldest first. It uses the index pushers_by_user.
func (tx *Tx) UserPushers(user ident.UserNID) ([]PusherRow, error) {
	return collect(tx, scanPusher, pusherColumns+` WHERE p.user_nid = $1 ORDER BY p.nid`, int64(user))
}

// Pusher returns a pusher by its number.
func (tx *Tx) Pusher(nid ident.PusherNID) (PusherRow, bool, error) {
	return one(tx, scanPusher, pusherColumns+` WHERE p.nid = $1`, int64(nid))
}

// PushersWithKey lists at most limit pushers with a key, of all users. It uses the index pushers_by_key.
func (tx *Tx) PushersWithKey(appID, pushkey string, limit int) ([]PusherRow, error) {
	return collect(tx, scanPusher, pusherColumns+` WHERE p.app_id = $1 AND p.pushkey = $2 ORDER BY p.user_nid LIMIT $3`, appID, pushkey, limit)
}

// Pushers returns a page of all pushers by number: at most limit of those after a number.
func (tx *Tx) Pushers(after ident.PusherNID, limit int) ([]PusherRow, error) {
	return collect(tx, scanPusher, pusherColumns+` WHERE p.nid > $1 ORDER BY p.nid LIMIT $2`, int64(after), limit)
}

const addPusherQuery = `INSERT INTO pushers (nid, user_nid, device_nid, kind, app_id, pushkey, app_name, device_name, lang, profile_tag, data, enabled, no_badge, updated_ts, delivered)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`

// AddPusher stores a new pusher, and sets its number and the position from which on it is served.
func (tx *Tx) AddPusher(p *PusherRow) error {
	p.NID, p.Delivered = ident.PusherNID(tx.NextPos()), tx.NextPos()
	_, err := tx.exec(addPusherQuery, int64(p.NID), int64(p.User), int64(p.Device), p.Kind, p.AppID, p.Pushkey, p.AppName, p.DeviceName, p.Lang, p.ProfileTag, p.Data,
		p.Enabled, p.NoBadge, p.UpdatedTS, int64(p.Delivered))
	return err
}

const setPusherQuery = `UPDATE pushers SET device_nid = $2, kind = $3, app_name = $4, device_name = $5, lang = $6, profile_tag = $7, data = $8, enabled = $9, no_badge = $10,
updated_ts = $11, delivered = $12, failures = 0, failing_since = 0, retry_ts = 0 WHERE nid = $1`

// SetPusher replaces the client's settings of a pusher and resets its failures.
func (tx *Tx) SetPusher(p *PusherRow) error {
	_, err := tx.exec(setPusherQuery, int64(p.NID), int64(p.Device), p.Kind, p.AppName, p.DeviceName, p.Lang, p.ProfileTag, p.Data,
		p.Enabled, p.NoBadge, p.UpdatedTS, int64(p.Delivered))
	return err
}

// DeletePusher deletes a pusher.
func (tx *Tx) DeletePusher(nid ident.PusherNID) error {
	_, err := tx.exec(`DELETE FROM pushers WHERE nid = $1`, int64(nid))
	return err
}

const setPusherProgressQuery = `UPDATE pushers SET delivered = $2, pending = $3, failures = $4, failing_since = $5, retry_ts = $6 WHERE nid = $1 AND delivered <= $2`

// SetPusherProgress stores how far a pusher has been served. It never goes back: a pusher that was enabled in the
// meantime begins later.
func (tx *Tx) SetPusherProgress(nid ident.PusherNID, p PusherProgress) error {
	_, err := tx.exec(setPusherProgressQuery, int64(nid), int64(p.Delivered), p.Pending, p.Failures, p.FailingSince, p.RetryTS)
	return err
}

// Pushed returns a position up to which all those pushers have been served that have nothing pending.
func (tx *Tx) Pushed() (Pos, error) {
	p, _, err := one(tx, scanNumber[int64], `SELECT value FROM meta WHERE name = 'pushed'`)
	return Pos(p), err
}

// SetPushed stores the value of Pushed.
func (tx *Tx) SetPushed(p Pos) error {
	_, err := tx.exec(`INSERT INTO meta (name, value) VALUES ('pushed', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, int64(p))
	return err
}

// LiveEvent is an event that arrived as news, not as history.
type LiveEvent struct {
	Position Pos
	Room     ident.RoomNID
	Sender   ident.UserNID
}

const liveEventsQuery = `SELECT position, room_nid, sender_nid FROM events
WHERE position > $1 AND position <= $2 AND ord = position * 65536 AND flags & $4 = 0 ORDER BY position LIMIT $3`

// LiveEvents lists at most limit events that clients see, after a position and up to another. It uses the primary key.
func (tx *Tx) LiveEvents(after, upTo Pos, limit int) ([]LiveEvent, error) {
	return collect(tx, func(r Row) (e LiveEvent, err error) {
		err = r.Scan(&e.Position, &e.Room, &e.Sender)
		return e, err
	}, liveEventsQuery, int64(after), int64(upTo), limit, int64(HiddenEvent))
}

const readersSinceQuery = `SELECT DISTINCT c.user_nid FROM rooms r JOIN receipts c ON c.room_nid = r.nid AND c.position > $1
WHERE c.user_nid IN (SELECT user_nid FROM pushers)`

// ReadersSince lists the users who have pushers and whose receipts moved after the given position. In each room it uses
// the index receipts_by_position.
func (tx *Tx) ReadersSince(after Pos) ([]ident.UserNID, error) {
	return collect(tx, scanNumber[ident.UserNID], readersSinceQuery, int64(after))
}

const pushedInvitesQuery = `SELECT DISTINCT m.user_nid, m.room_nid, m.position FROM pushers p JOIN memberships m ON m.user_nid = p.user_nid
WHERE m.membership = 'invite' AND m.position > $1 ORDER BY m.position LIMIT $2`

// PushedInvites lists at most limit pending invites of users who have pushers, beginning after the given position. It
// uses the primary key of memberships.
func (tx *Tx) PushedInvites(after Pos, limit int) ([]MemberRow, error) {
	return collect(tx, scanInvite, pushedInvitesQuery, int64(after), limit)
}

func scanInvite(r Row) (m MemberRow, err error) {
	err = r.Scan(&m.User, &m.Room, &m.Position)
	return m, err
}

const invitesOfQuery = `SELECT user_nid, room_nid, position FROM memberships
WHERE user_nid = $1 AND membership = 'invite' AND position > $2 AND position <= $3 ORDER BY position LIMIT $4`

// InvitesOf lists at most limit pending invites of a user after a position and up to another. It uses the primary key.
func (tx *Tx) InvitesOf(user ident.UserNID, after, upTo Pos, limit int) ([]MemberRow, error) {
	return collect(tx, scanInvite, invitesOfQuery, int64(user), int64(after), int64(upTo), limit)
}

const invitesBeforeQuery = `SELECT user_nid, room_nid, position FROM memberships
WHERE user_nid = $1 AND membership = 'invite' AND position >= $2 AND position < $3 ORDER BY position DESC LIMIT $4`

// InvitesBefore lists at most limit pending invites of a user before a position, newest first, down to and including
// the position from. It uses the primary key.
func (tx *Tx) InvitesBefore(user ident.UserNID, from, before Pos, limit int) ([]MemberRow, error) {
	return collect(tx, scanInvite, invitesBeforeQuery, int64(user), int64(from), int64(before), limit)
}

const unreadRoomsQuery = `SELECT m.room_nid FROM memberships m JOIN rooms r ON r.nid = m.room_nid WHERE m.user_nid = $1 AND m.membership = 'join'
AND r.last_order > coalesce((SELECT max(c.ord) FROM receipts c WHERE c.room_nid = m.room_nid AND c.user_nid = $1
AND c.type IN ('m.read', 'm.read.private') AND c.thread = ''), 0) ORDER BY r.last_order DESC LIMIT $2`

// UnreadRooms lists joined rooms of a user that have events after the user's receipts, at most limit, those with the
// newest events first. It uses the primary keys.
func (tx *Tx) UnreadRooms(user ident.UserNID, limit int) ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], unreadRoomsQuery, int64(user), limit)
}

// Notifying is an event that notified a user.
type Notifying struct {
	Position Pos
	Room     ident.RoomNID
	Push     int64 // pushrules.Class for the user
}

const (
	// orderStep is graph.OrderStep: the order of an event that arrived as news is its position times this.
	orderStep = 65536
	// notifyWindow is how many positions are searched at first for events that notified a user; each further step
	// searches twice as many, up to maxNotifyWindow. A step reads the events that the user's rooms have there, and the
	// next one begins where they have some. So an idle room costs nothing, and a busy one in which nothing notifies the
	// user a bounded time: about 50 ms.
	notifyWindow    = 2048
	maxNotifyWindow = 16384
	// maxNotifySteps bounds the steps of one search.
	maxNotifySteps = 12
)

const notifyingQuery = `SELECT e.position, e.room_nid, coalesce(p.push, e.push) FROM memberships m JOIN events e ON e.room_nid = m.room_nid
LEFT JOIN event_push p ON p.user_nid = $1 AND p.room_nid = e.room_nid AND p.position = e.position
WHERE m.user_nid = $1 AND m.membership = 'join' AND m.joined_pos > 0 AND e.ord > $2 AND e.ord <= $3 AND e.ord >= m.joined_pos * 65536
AND e.ord = e.position * 65536 AND e.flags & $4 = 0 AND e.sender_nid <> $1 AND coalesce(p.push, e.push) & $5 <> 0`

const (
	notifyingAfterQuery  = notifyingQuery + ` ORDER BY e.ord LIMIT $6`
	notifyingBeforeQuery = notifyingQuery + ` ORDER BY e.ord DESC LIMIT $6`
	nextOrderQuery       = `SELECT coalesce(min((SELECT min(e.ord) FROM events e WHERE e.room_nid = m.room_nid AND e.ord > $2)), 0) FROM memberships m WHERE m.user_nid = $1 AND m.membership = 'join'`
	formerOrderQuery     = `SELECT coalesce(max((SELECT max(e.ord) FROM events e WHERE e.room_nid = m.room_nid AND e.ord < $2)), 0) FROM memberships m WHERE m.user_nid = $1 AND m.membership = 'join'`
)

func (tx *Tx) notifying(query string, user ident.UserNID, after, upTo int64, classes int64, limit int) ([]Notifying, error) {
	return collect(tx, func(r Row) (n Notifying, err error) {
		err = r.Scan(&n.Position, &n.Room, &n.Push)
		return n, err
	}, query, int64(user), after, upTo, int64(HiddenEvent), classes, limit)
}

// NotifyingAfter lists at most limit events in (after, upTo] that notified a user, in rooms to which the user is
// joined, oldest first. reached is the position up to which it has searched. It uses the index events_by_order.
func (tx *Tx) NotifyingAfter(user ident.UserNID, after, upTo Pos, limit int) (found []Notifying, reached Pos, err error) {
	window, at, end := int64(notifyWindow), int64(after)*orderStep, int64(upTo)*orderStep
	for range maxNotifySteps {
		next, _, err := one(tx, scanNumber[int64], nextOrderQuery, int64(user), at)
		if err != nil || next == 0 || next > end {
			return found, upTo, err
		}
		to := min(next+window*orderStep, end)
		more, err := tx.notifying(notifyingAfterQuery, user, next-1, to, 1, limit-len(found))
		if err != nil {
			return nil, 0, err
		}
		if found = append(found, more...); len(found) == limit {
			return found, found[limit-1].Position, nil
		}
		at, window = to, min(2*window, maxNotifyWindow)
	}
	return found, Pos(at / orderStep), nil
}

// NotifyingBefore lists at most limit events before a position that notified a user, in rooms to which the user is
// joined, newest first. It lists only events whose class has one of the bits of classes. reached is the position down
// to which it has searched; 0 means that it has searched everything. It uses the index events_by_order.
func (tx *Tx) NotifyingBefore(user ident.UserNID, before Pos, classes int64, limit int) (found []Notifying, reached Pos, err error) {
	window, at := int64(notifyWindow), int64(before)*orderStep
	for range maxNotifySteps {
		former, _, err := one(tx, scanNumber[int64], formerOrderQuery, int64(user), at)
		if err != nil || former <= 0 {
			return found, 0, err
		}
		from := max(former-window*orderStep, 0)
		more, err := tx.notifying(notifyingBeforeQuery, user, from, former, classes, limit-len(found))
		if err != nil {
			return nil, 0, err
		}
		if found = append(found, more...); len(found) == limit {
			return found, found[limit-1].Position, nil
		}
		at, window = from+1, min(2*window, maxNotifyWindow)
	}
	return found, Pos((at + orderStep - 1) / orderStep), nil
}
