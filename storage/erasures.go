package storage

import "ebb/ident"

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
}

const addErasureQuery = `INSERT INTO erasures (user_nid, requested_ts, stage) VALUES ($1, $2, 0) ON CONFLICT (user_nid) DO NOTHING`

// AddErasure stores that everything about a user is to be erased. It returns false if that was stored before.
func (tx *Tx) AddErasure(user ident.UserNID) (added bool, err error) {
	n, err := tx.exec(addErasureQuery, int64(user), tx.now.UnixMilli())
	return n == 1, err
}

const (
	erasureColumns = `SELECT e.user_nid, u.user_id, e.requested_ts, e.stage, e.redacted, e.removed, e.media, e.after_media, e.finished_ts
FROM erasures e JOIN users u ON u.nid = e.user_nid `
	erasureQuery  = erasureColumns + `WHERE e.user_nid = $1`
	erasuresQuery = erasureColumns + `WHERE e.finished_ts = 0 AND e.user_nid > $1 ORDER BY e.user_nid LIMIT $2`
)

func scanErasure(r Row) (e ErasureRow, err error) {
	return e, r.Scan(&e.User, &e.UserID, &e.RequestedTS, &e.Stage, &e.Redacted, &e.Removed, &e.Media, &e.AfterMedia, &e.FinishedTS)
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
	c, _, err := one(tx, func(r Row) (c counts, err error) { return c, r.Scan(&c.redacted, &c.removed) }, erasureCountsQuery, int64(user))
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
