package storage

import (
	"strconv"

	"ebb/ident"
)

// Notice is a message from the server to a user that has not been delivered yet.
type Notice struct {
	NID       int64
	User      ident.UserNID
	UserID    string
	Kind      string
	Priority  int64 // lower numbers are delivered first
	Details   string
	Device    ident.DeviceNID // the session that its link ends; 0: none
	CreatedTS int64           // ms
	InRoom    bool            // it is still to be sent to the room
	MailTo    string          // addresses to which it is still to be sent, separated by spaces
	MailTS    int64           // ms; when the next e-mail is tried

	Deactivated bool // whether the user's account is deactivated
}

const (
	noticeColumns = `n.nid, n.user_nid, u.user_id, n.kind, n.priority, n.details, n.device_nid, n.created_ts, n.in_room, n.mail_to, n.mail_ts, coalesce(a.deactivated_ts, 0)`
	noticesFrom   = `SELECT ` + noticeColumns + ` FROM notices n JOIN users u ON u.nid = n.user_nid LEFT JOIN accounts a ON a.nid = n.user_nid `
)

func scanNotice(r Row) (n Notice, err error) {
	var deactivated int64
	err = r.Scan(&n.NID, &n.User, &n.UserID, &n.Kind, &n.Priority, &n.Details, &n.Device, &n.CreatedTS, &n.InRoom, &n.MailTo, &n.MailTS, &deactivated)
	n.Deactivated = deactivated != 0
	return n, err
}

const addNoticeQuery = `INSERT INTO notices (nid, user_nid, kind, priority, details, device_nid, created_ts, in_room, mail_to, mail_ts)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $7)`

// AddNotice stores a notice to be delivered.
func (tx *Tx) AddNotice(n Notice) error {
	_, err := tx.exec(addNoticeQuery, int64(tx.NextPos()), int64(n.User), n.Kind, n.Priority, n.Details, int64(n.Device), tx.now.UnixMilli(), n.InRoom, n.MailTo)
	return err
}

const (
	noticesForRoomsQuery = noticesFrom + `WHERE n.in_room = 1 AND (n.priority, n.nid) > ($1, $2) ORDER BY n.priority, n.nid LIMIT $3`
	noticesForMailQuery  = noticesFrom + `WHERE n.mail_to <> '' AND n.mail_ts <= $1 ORDER BY n.mail_ts, n.nid LIMIT $2`
	nextNoticeMailQuery  = `SELECT mail_ts FROM notices WHERE mail_to <> '' ORDER BY mail_ts LIMIT 1`
)

// NoticesForRooms returns at most limit notices that are to be sent to rooms, in the order of delivery, after the given
// one. It uses the index notices_for_rooms.
func (tx *Tx) NoticesForRooms(after Notice, limit int) ([]Notice, error) {
	return collect(tx, scanNotice, noticesForRoomsQuery, after.Priority, after.NID, limit)
}

// NoticesForMail returns at most limit notices that are to be sent by e-mail now, those that have waited longest first.
// It uses the index notices_for_mail.
func (tx *Tx) NoticesForMail(limit int) ([]Notice, error) {
	return collect(tx, scanNotice, noticesForMailQuery, tx.now.UnixMilli(), limit)
}

// NextNoticeMail returns when (ms) the next e-mail is to be sent. found is false if none is waiting.
func (tx *Tx) NextNoticeMail() (ts int64, found bool, err error) {
	return one(tx, scanNumber[int64], nextNoticeMailQuery)
}

const (
	noticeInRoomQuery     = `UPDATE notices SET in_room = 0 WHERE nid = $1 AND in_room = 1`
	noticeMailedQuery     = `UPDATE notices SET mail_to = $2, mail_ts = $3 WHERE nid = $1`
	dropDoneNoticeQuery   = `DELETE FROM notices WHERE nid = $1 AND in_room = 0 AND mail_to = ''`
	dropUserNoticesQuery  = `DELETE FROM notices WHERE user_nid = $1`
	countUserNoticesQuery = `SELECT count(*) FROM notices WHERE user_nid = $1`
)

// NoticeSent records that a notice is in the user's room. It returns false if it was there already.
func (tx *Tx) NoticeSent(nid int64) (bool, error) {
	n, err := tx.exec(noticeInRoomQuery, nid)
	if err == nil && n == 1 {
		_, err = tx.exec(dropDoneNoticeQuery, nid)
	}
	return n == 1, err
}

// NoticeMailed records the addresses to which a notice must still be sent, and the time (ms) at which to send it.
func (tx *Tx) NoticeMailed(nid int64, mailTo string, ts int64) error {
	if _, err := tx.exec(noticeMailedQuery, nid, mailTo, ts); err != nil {
		return err
	}
	_, err := tx.exec(dropDoneNoticeQuery, nid)
	return err
}

// CountNotices returns the number of a user's notices that are not delivered yet. It uses the index notices_by_user.
func (tx *Tx) CountNotices(user ident.UserNID) (int64, error) {
	n, _, err := one(tx, scanNumber[int64], countUserNoticesQuery, int64(user))
	return n, err
}

// NoticeRoom is the room to which a user's notices are sent.
type NoticeRoom struct {
	Room   ident.RoomNID
	Sender ident.UserNID
}

// NoticeRoom returns the room to which a user's notices are sent.
func (tx *Tx) NoticeRoom(user ident.UserNID) (NoticeRoom, bool, error) {
	return one(tx, func(r Row) (n NoticeRoom, err error) { err = r.Scan(&n.Room, &n.Sender); return n, err }, `SELECT room_nid, sender_nid FROM notice_rooms WHERE user_nid = $1`, int64(user))
}

const setNoticeRoomQuery = `INSERT INTO notice_rooms (user_nid, room_nid, sender_nid) VALUES ($1, $2, $3)
ON CONFLICT (user_nid) DO UPDATE SET room_nid = excluded.room_nid, sender_nid = excluded.sender_nid`

// SetNoticeRoom sets the room to which a user's notices are sent.
func (tx *Tx) SetNoticeRoom(user ident.UserNID, n NoticeRoom) error {
	_, err := tx.exec(setNoticeRoomQuery, int64(user), int64(n.Room), int64(n.Sender))
	return err
}

const countNoticeQuery = `INSERT INTO notice_counts (user_nid, kind, since_ts, number) VALUES ($1, $2, $3, 1) ON CONFLICT (user_nid, kind) DO UPDATE
SET number = CASE WHEN notice_counts.since_ts <= $4 THEN 1 ELSE notice_counts.number + 1 END,
since_ts = CASE WHEN notice_counts.since_ts <= $4 THEN excluded.since_ts ELSE notice_counts.since_ts END`

// CountNotice counts a notice of a kind to a user, and returns the number of such notices in the current interval. If
// that interval began before beforeTS (ms), it is over, and a new one begins.
func (tx *Tx) CountNotice(user ident.UserNID, kind string, beforeTS int64) (int64, error) {
	if _, err := tx.exec(countNoticeQuery, int64(user), kind, tx.now.UnixMilli(), beforeTS); err != nil {
		return 0, err
	}
	n, _, err := one(tx, scanNumber[int64], `SELECT number FROM notice_counts WHERE user_nid = $1 AND kind = $2`, int64(user), kind)
	return n, err
}

// metaNoticeSender begins the names of the rows of meta that mark accounts which send notices.
const metaNoticeSender = "notice_sender "

// IsNoticeSender reports whether an account was created to send notices.
func (tx *Tx) IsNoticeSender(user ident.UserNID) (bool, error) {
	_, found, err := one(tx, scanNumber[int64], metaNumberQuery, metaNoticeSender+strconv.FormatInt(int64(user), 10))
	return found, err
}

// MarkNoticeSender records that an account was created to send notices.
func (tx *Tx) MarkNoticeSender(user ident.UserNID) error {
	_, err := tx.exec(setMetaNumberQuery, metaNoticeSender+strconv.FormatInt(int64(user), 10), tx.now.UnixMilli())
	return err
}

// Disavowal is the link in an alert with which a user says "this was not me".
type Disavowal struct {
	Notice    int64
	User      ident.UserNID
	Kind      string
	Details   string
	Device    ident.DeviceNID // the session that it ends; 0: none
	SinceTS   int64           // ms; what was added to the account since then is removed
	ExpiresTS int64           // ms
}

const (
	disavowalColumns  = `notice_nid, user_nid, kind, details, device_nid, since_ts, expires_ts`
	addDisavowalQuery = `INSERT INTO disavowals (hash, ` + disavowalColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`
	disavowalQuery    = `SELECT ` + disavowalColumns + ` FROM disavowals WHERE hash = $1 AND expires_ts > $2`
	// It uses the index disavowals_by_user.
	dropDisavowalsQuery = `DELETE FROM disavowals WHERE user_nid = $1 AND notice_nid = $2`
	// It uses the index disavowals_by_expiry.
	expireDisavowalsQuery = `DELETE FROM disavowals WHERE hash IN (SELECT hash FROM disavowals WHERE expires_ts <= $1 ORDER BY expires_ts LIMIT $2)`
)

// AddDisavowal stores the hash of a link's token.
func (tx *Tx) AddDisavowal(hash string, d Disavowal) error {
	_, err := tx.exec(addDisavowalQuery, hash, d.Notice, int64(d.User), d.Kind, d.Details, int64(d.Device), d.SinceTS, d.ExpiresTS)
	return err
}

// Disavowal finds a link that has not expired.
func (tx *Tx) Disavowal(hash string) (Disavowal, bool, error) {
	return one(tx, func(r Row) (d Disavowal, err error) {
		err = r.Scan(&d.Notice, &d.User, &d.Kind, &d.Details, &d.Device, &d.SinceTS, &d.ExpiresTS)
		return d, err
	}, disavowalQuery, hash, tx.now.UnixMilli())
}

// DropDisavowals deletes the links of a notice.
func (tx *Tx) DropDisavowals(user ident.UserNID, notice int64) error {
	_, err := tx.exec(dropDisavowalsQuery, int64(user), notice)
	return err
}

// ExpireDisavowals deletes at most limit links that have expired, and returns their number.
func (tx *Tx) ExpireDisavowals(limit int) (int64, error) {
	return tx.exec(expireDisavowalsQuery, tx.now.UnixMilli(), limit)
}

const (
	knownNetworksQuery = `SELECT network FROM known_networks WHERE user_nid = $1 AND seen_ts > $2 ORDER BY seen_ts DESC, network LIMIT $3`
	seeNetworkQuery    = `INSERT INTO known_networks (user_nid, network, seen_ts) VALUES ($1, $2, $3) ON CONFLICT (user_nid, network) DO UPDATE SET seen_ts = excluded.seen_ts`
	trimNetworksQuery  = `DELETE FROM known_networks WHERE user_nid = $1 AND network IN
(SELECT network FROM known_networks WHERE user_nid = $1 ORDER BY seen_ts DESC, network LIMIT 100 OFFSET $2)`
	// It uses the index known_networks_by_age.
	expireNetworksQuery = `DELETE FROM known_networks WHERE (user_nid, network) IN (SELECT user_nid, network FROM known_networks WHERE seen_ts <= $1 ORDER BY seen_ts LIMIT $2)`
)

// KnownNetworks returns at most limit hashes of networks from which a user has signed in since a time (ms).
func (tx *Tx) KnownNetworks(user ident.UserNID, sinceTS int64, limit int) ([]string, error) {
	return collect(tx, scanString, knownNetworksQuery, int64(user), sinceTS, limit)
}

// SeeNetwork records that a user signs in from a network, and keeps at most the given number of networks for the user.
func (tx *Tx) SeeNetwork(user ident.UserNID, network string, keep int) error {
	if _, err := tx.exec(seeNetworkQuery, int64(user), network, tx.now.UnixMilli()); err != nil {
		return err
	}
	_, err := tx.exec(trimNetworksQuery, int64(user), keep)
	return err
}

// ExpireNetworks deletes at most limit networks that were last used before a time (ms), and returns their number.
func (tx *Tx) ExpireNetworks(beforeTS int64, limit int) (int64, error) {
	return tx.exec(expireNetworksQuery, beforeTS, limit)
}

// ForgetNotices deletes the undelivered notices of a user whose account is closed, and the counts, links and networks
// that were stored for alerts.
func (tx *Tx) ForgetNotices(user ident.UserNID) error {
	for _, q := range []string{
		dropUserNoticesQuery,
		`DELETE FROM notice_counts WHERE user_nid = $1`,
		`DELETE FROM disavowals WHERE user_nid = $1`,
		`DELETE FROM known_networks WHERE user_nid = $1`,
	} {
		if _, err := tx.exec(q, int64(user)); err != nil {
			return err
		}
	}
	return nil
}

const laterSessionsQuery = `SELECT ` + deviceColumns + ` FROM devices WHERE user_nid = $1 AND (nid = $2 OR created_ts >= $3) ORDER BY nid LIMIT $4`

// LaterSessions returns the given device of a user and those that were added since a time (ms), oldest first, at most
// limit of them.
func (tx *Tx) LaterSessions(user ident.UserNID, device ident.DeviceNID, sinceTS int64, limit int) ([]DeviceRow, error) {
	return collect(tx, scanDevice, laterSessionsQuery, int64(user), int64(device), sinceTS, limit)
}

// RemoveSince removes everything that was added to an account since a time (ms) and that could help somebody to sign
// in: second factors, e-mail addresses and verifications of addresses, identities at other services, enrolment links.
// Only administrators can link accounts to the LDAP directory.
func (tx *Tx) RemoveSince(user ident.UserNID, ts int64) error {
	if err := tx.removeFactorsSince(user, ts); err != nil {
		return err
	}
	identities, err := tx.UpstreamIdentities(user, maxRemoved)
	if err != nil {
		return err
	}
	for _, i := range identities {
		if i.CreatedTS < ts || i.Issuer == DirectoryIssuer {
			continue
		}
		if _, err := tx.DeleteUpstreamIdentity(i); err != nil {
			return err
		}
	}
	for _, q := range []string{
		`DELETE FROM enrol_links WHERE user_nid = $1 AND created_ts >= $2`,
		`DELETE FROM email_sessions WHERE address IN (SELECT address FROM emails WHERE user_nid = $1 AND added_ts >= $2)`,
		`DELETE FROM emails WHERE user_nid = $1 AND added_ts >= $2`,
	} {
		if _, err := tx.exec(q, int64(user), ts); err != nil {
			return err
		}
	}
	return nil
}

// maxRemoved bounds the passkeys and identities of a user that RemoveSince examines. Accounts can have fewer.
const maxRemoved = 1000

// removeFactorsSince removes second factors that were added since a time (ms), so that they do not come back with a
// backup either.
func (tx *Tx) removeFactorsSince(user ident.UserNID, ts int64) error {
	keys, err := tx.Passkeys(user, maxRemoved)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.CreatedTS < ts {
			continue
		}
		if _, err := tx.DeletePasskey(user, k.CredentialID); err != nil {
			return err
		}
	}
	for kind, q := range map[string]string{
		LedgerTOTP:     `DELETE FROM totp WHERE user_nid = $1 AND created_ts >= $2`,
		LedgerRecovery: `DELETE FROM recovery_codes WHERE user_nid = $1 AND created_ts >= $2`,
	} {
		n, err := tx.exec(q, int64(user), ts)
		if err == nil && n > 0 {
			err = tx.Note(kind, int64(user), 0, "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

const recentDevicesQuery = `SELECT ` + deviceColumns + ` FROM devices WHERE user_nid = $1 AND nid <> $2 ORDER BY seen_ts DESC, nid DESC LIMIT $3`

// RecentDevices returns at most limit of a user's devices other than the given one, those that were seen last first.
func (tx *Tx) RecentDevices(user ident.UserNID, except ident.DeviceNID, limit int) ([]DeviceRow, error) {
	return collect(tx, scanDevice, recentDevicesQuery, int64(user), int64(except), limit)
}

const administratorsQuery = `SELECT nid FROM accounts WHERE admin = 1 AND deactivated_ts = 0 ORDER BY nid LIMIT $1`

// Administrators returns at most limit administrators.
func (tx *Tx) Administrators(limit int) ([]ident.UserNID, error) {
	return collect(tx, scanNumber[ident.UserNID], administratorsQuery, limit)
}

// DropDisavowal deletes a link.
func (tx *Tx) DropDisavowal(hash string) error {
	_, err := tx.exec(`DELETE FROM disavowals WHERE hash = $1`, hash)
	return err
}

const noticeAddedNowQuery = `SELECT nid FROM notices WHERE user_nid = $1 AND kind = $2 AND created_ts = $3 LIMIT 1`

// NoticeAddedNow reports whether a notice of a kind was added at the time of this write.
func (tx *Tx) NoticeAddedNow(user ident.UserNID, kind string) (bool, error) {
	_, found, err := one(tx, scanNumber[int64], noticeAddedNowQuery, int64(user), kind, tx.now.UnixMilli())
	return found, err
}
