package storage

import "ebb/ident"

// WebSession is the session of a browser in which a user has signed in to the web pages, or has begun to.
type WebSession struct {
	User      ident.UserNID
	Localpart string
	Evidence  int64  // what the user has shown
	Pending   bool   // a second factor is missing
	FirstTS   int64  // ms; when the user last showed a first factor
	SecondTS  int64  // ms; when the user last showed a second factor
	Later     bool   // the user has decided to set up a second factor another time
	ExpiresTS int64  // ms
	Upstream  string // the session of an identity provider from which it began, or ""
}

const (
	dropWebSessionsQuery = `DELETE FROM web_sessions WHERE hash IN (SELECT hash FROM web_sessions WHERE expires_ts <= $1 ORDER BY expires_ts LIMIT 1000)`
	// It uses the index web_sessions_by_user.
	trimWebSessionsQuery = `DELETE FROM web_sessions WHERE hash IN
(SELECT hash FROM web_sessions WHERE user_nid = $1 AND pending = $2 ORDER BY created_ts DESC, hash DESC LIMIT 100 OFFSET $3)`
	addWebSessionQuery = `INSERT INTO web_sessions (hash, user_nid, evidence, pending, first_ts, second_ts, created_ts, expires_ts, upstream)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`
)

// AddWebSession stores the hash of a browser's cookie. It also deletes expired sessions, and the user's oldest ones
// beyond most. Pending sessions are counted separately, so that somebody who knows only the password ends no others.
func (tx *Tx) AddWebSession(hash string, s WebSession, most int) error {
	if _, err := tx.exec(dropWebSessionsQuery, tx.now.UnixMilli()); err != nil {
		return err
	}
	if _, err := tx.exec(trimWebSessionsQuery, int64(s.User), s.Pending, most-1); err != nil {
		return err
	}
	_, err := tx.exec(addWebSessionQuery, hash, int64(s.User), s.Evidence, s.Pending, s.FirstTS, s.SecondTS, tx.now.UnixMilli(), s.ExpiresTS, s.Upstream)
	return err
}

const anyWebSessionQuery = `SELECT w.user_nid, a.localpart, w.evidence, w.pending, w.first_ts, w.second_ts, w.later, w.expires_ts, w.upstream
FROM web_sessions w JOIN accounts a ON a.nid = w.user_nid
WHERE w.hash = $1 AND w.expires_ts > $2 AND a.deactivated_ts = 0 AND a.locked = 0`

// AnyWebSession finds the session of a browser, which may lack a second factor. It finds none if the account is locked
// or deactivated.
func (tx *Tx) AnyWebSession(hash string) (WebSession, bool, error) {
	return one(tx, func(r Row) (s WebSession, err error) {
		err = r.Scan(&s.User, &s.Localpart, &s.Evidence, &s.Pending, &s.FirstTS, &s.SecondTS, &s.Later, &s.ExpiresTS, &s.Upstream)
		return s, err
	}, anyWebSessionQuery, hash, tx.now.UnixMilli())
}

// WebSession is like AnyWebSession, but finds only sessions whose user has signed in completely.
func (tx *Tx) WebSession(hash string) (WebSession, bool, error) {
	s, found, err := tx.AnyWebSession(hash)
	if err != nil || !found || s.Pending {
		return WebSession{}, false, err
	}
	return s, true, nil
}

const moveWebSessionQuery = `UPDATE web_sessions SET hash = $2, evidence = $3, pending = $4, first_ts = $5, second_ts = $6, expires_ts = $7, upstream = $8 WHERE hash = $1`

// MoveWebSession gives the session of a browser another cookie and stores the evidence that its user has given since.
// It returns false if the session has ended.
func (tx *Tx) MoveWebSession(from, to string, s WebSession) (bool, error) {
	n, err := tx.exec(moveWebSessionQuery, from, to, s.Evidence, s.Pending, s.FirstTS, s.SecondTS, s.ExpiresTS, s.Upstream)
	return n == 1, err
}

// DeferFactor records that the user of a browser sets up a second factor another time.
func (tx *Tx) DeferFactor(hash string) error {
	_, err := tx.exec(`UPDATE web_sessions SET later = 1 WHERE hash = $1`, hash)
	return err
}

// DropWebSession deletes the session of a browser.
func (tx *Tx) DropWebSession(hash string) error {
	_, err := tx.exec(`DELETE FROM web_sessions WHERE hash = $1`, hash)
	return err
}
