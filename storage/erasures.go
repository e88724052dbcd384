package storage

import (
	"encoding/json"
	"strings"

	"ebb/ident"
)

// Erasure is how much of a user's data is erased when the account is closed.
type Erasure int64

// The kinds of erasure. The ledger and the database have their numbers.
const (
	NotErased        Erasure = iota
	Erased                   // users who join a room later get redacted copies of the user's events
	ErasedEverything         // the user's messages, media and names are removed too
)

// ErasureRow is the erasure of everything about a user.
type ErasureRow struct {
	User        ident.UserNID
	UserID      string
	RequestedTS int64 // ms
	Stage       int64 // see package erasure; 0 at the beginning
	Redacted    int64 // events for which a redaction was sent
	Removed     int64 // events that were removed from this server only
	Media       int64 // uploads that were deleted besides those of removed events
	AfterMedia  string
	FinishedTS  int64 // ms; 0: not finished
	// Had says how many rows of each kind of data (UserData) the user had when the erasure was requested. It is nil for
	// erasures from before this was recorded.
	Had map[string]int64
}

// userData lists the kinds of data that an erasure deletes besides events and uploads. The table of each has a column
// user_nid.
var userData = []struct{ kind, table string }{
	{"account data", "account_data"}, {"cross-signing keys", "cross_signing_keys"}, {"delayed events", "delayed_events"}, {"devices", "devices"},
	{"e-mail addresses", "emails"}, {"filters", "filters"}, {"identities at other services", "upstream_identities"}, {"key backups", "backup_versions"},
	{"keys in backups", "backup_keys"}, {"lifetimes of messages", "message_lifetimes"}, {"one-time codes", "totp"}, {"passkeys", "passkeys"},
	{"profile fields", "profile_fields"}, {"push rules", "push_rules"}, {"pushers", "pushers"}, {"read receipts", "receipts"},
	{"recovery codes", "recovery_codes"}, {"thread subscriptions", "thread_subscriptions"},
}

var userDataQuery = func() string {
	var all []string
	for _, d := range userData {
		all = append(all, `SELECT '`+d.kind+`', count(*) FROM `+d.table+` WHERE user_nid = $1`)
	}
	return strings.Join(all, " UNION ALL ")
}()

// UserData returns how many rows of each kind of data a user has that an erasure deletes besides events and uploads.
func (tx *Tx) UserData(user ident.UserNID) (map[string]int64, error) {
	type count struct {
		kind string
		n    int64
	}
	list, err := collect(tx, func(r Row) (c count, err error) { err = r.Scan(&c.kind, &c.n); return c, err }, userDataQuery, int64(user))
	out := map[string]int64{}
	for _, c := range list {
		if c.n > 0 {
			out[c.kind] = c.n
		}
	}
	return out, err
}

const addErasureQuery = `INSERT INTO erasures (user_nid, requested_ts, stage, had) VALUES ($1, $2, 0, $3) ON CONFLICT (user_nid) DO NOTHING`

// AddErasure stores that everything about a user is to be erased, and what data the user has. Call it before any of
// them is deleted. It returns false if that was stored before.
func (tx *Tx) AddErasure(user ident.UserNID) (added bool, err error) {
	had, err := tx.UserData(user)
	if err != nil {
		return false, err
	}
	text, err := json.Marshal(had)
	if err != nil {
		return false, err
	}
	n, err := tx.exec(addErasureQuery, int64(user), tx.now.UnixMilli(), string(text))
	return n == 1, err
}

const (
	erasureColumns = `SELECT e.user_nid, u.user_id, e.requested_ts, e.stage, e.redacted, e.removed, e.media, e.after_media, e.finished_ts, e.had
FROM erasures e JOIN users u ON u.nid = e.user_nid `
	erasureQuery  = erasureColumns + `WHERE e.user_nid = $1`
	erasuresQuery = erasureColumns + `WHERE e.finished_ts = 0 AND e.user_nid > $1 ORDER BY e.user_nid LIMIT $2`
)

func scanErasure(r Row) (e ErasureRow, err error) {
	var had string
	err = r.Scan(&e.User, &e.UserID, &e.RequestedTS, &e.Stage, &e.Redacted, &e.Removed, &e.Media, &e.AfterMedia, &e.FinishedTS, &had)
	if err == nil && had != "" {
		err = json.Unmarshal([]byte(had), &e.Had)
	}
	return e, err
}

// Erasure returns the erasure of everything about a user.
func (tx *Tx) Erasure(user ident.UserNID) (ErasureRow, bool, error) {
	return one(tx, scanErasure, erasureQuery, int64(user))
}

// Erasures lists unfinished erasures, at most limit of those of users after the given one. It uses the index
// erasures_by_end.
func (tx *Tx) Erasures(after ident.UserNID, limit int) ([]ErasureRow, error) {
	return collect(tx, scanErasure, erasuresQuery, int64(after), limit)
}

const advanceErasureQuery = `UPDATE erasures SET stage = $2, redacted = $3, removed = $4, media = $5, after_media = $6, finished_ts = $7 WHERE user_nid = $1`

// AdvanceErasure stores how far an erasure has come.
func (tx *Tx) AdvanceErasure(e *ErasureRow) error {
	_, err := tx.exec(advanceErasureQuery, int64(e.User), e.Stage, e.Redacted, e.Removed, e.Media, e.AfterMedia, e.FinishedTS)
	return err
}

const erasureCountsQuery = `SELECT coalesce(sum(redacted), 0), coalesce(sum(removed), 0) FROM own_redactions WHERE user_nid = $1 AND everything = 1`

// ErasureCounts returns for how many events of a user an erasure that is not finished has sent redactions, and how many
// events it has removed from this server only.
func (tx *Tx) ErasureCounts(user ident.UserNID) (redacted, removed int64, err error) {
	type counts struct{ redacted, removed int64 }
	c, _, err := one(tx, func(r Row) (c counts, err error) { err = r.Scan(&c.redacted, &c.removed); return c, err }, erasureCountsQuery, int64(user))
	return c.redacted, c.removed, err
}

const userMediaQuery = `SELECT media_id FROM media WHERE user_nid = $1 AND media_id > $2 ORDER BY media_id LIMIT $3`

// DeleteUserMedia deletes the uploads of a user to which no stored text refers, of at most limit uploads after the
// given one. It returns the last upload that it has looked at, "" if there was none, and how many it has deleted. It
// uses the index media_by_user.
func (tx *Tx) DeleteUserMedia(user ident.UserNID, after string, limit int) (last string, deleted int, err error) {
	names, err := collect(tx, scanString, userMediaQuery, int64(user), after, limit)
	before := tx.media
	for _, name := range names {
		last = name
		if err == nil {
			err = tx.deleteUnreferenced(MediaName{ID: name})
		}
	}
	return last, int(tx.media - before), err
}

// erasableEntirely holds the statements that EraseEntirely adds to those of EraseData.
var erasableEntirely = []string{
	`DELETE FROM receipts WHERE user_nid = $1`,
	`DELETE FROM own_redaction_marks WHERE user_nid = $1`,
	`DELETE FROM media WHERE user_nid = $1 AND blob = ''`,
}

// EraseEntirely deletes what EraseData deletes, and also the user's public receipts, requests to redact messages, and
// reserved media IDs.
func (tx *Tx) EraseEntirely(user ident.UserNID) error {
	if err := tx.EraseData(user); err != nil {
		return err
	}
	if _, err := tx.deleteOwnRedactions(`user_nid = $1`, int64(user)); err != nil {
		return err
	}
	for _, q := range erasableEntirely {
		if _, err := tx.exec(q, int64(user)); err != nil {
			return err
		}
	}
	return nil
}
