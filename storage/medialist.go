package storage

import (
	"ebb/ident"
	"ebb/storage/mxc"
)

// SweptMedia is an upload with what decides whether it is still used.
type SweptMedia struct {
	Media
	Referenced  bool // a stored text refers to it
	Quarantined bool // an administrator has withdrawn it
}

const (
	isMediaReferenced  = `EXISTS (SELECT 1 FROM media_refs r WHERE r.media_id = m.media_id AND r.server = '')`
	isMediaQuarantined = `EXISTS (SELECT 1 FROM media_quarantine q WHERE q.server = '' AND q.media_id = m.media_id)`
	sweptColumns       = mediaColumns + `, CASE WHEN ` + isMediaReferenced + ` THEN 1 ELSE 0 END, CASE WHEN ` + isMediaQuarantined + ` THEN 1 ELSE 0 END
FROM media m LEFT JOIN media_files f ON f.blob = m.blob `
	sweepMediaQuery = `SELECT ` + sweptColumns + `WHERE m.media_id > $1 AND m.blob <> '' AND m.expires_ts = 0 ORDER BY m.media_id LIMIT $2`
	listMediaQuery  = `SELECT ` + sweptColumns + `WHERE (m.created_ts, m.media_id) > ($1, $2) AND m.blob <> '' AND m.created_ts < $3 AND m.size >= $4
AND (CAST($5 AS BIGINT) = 0 OR m.user_nid = CAST($5 AS BIGINT))
AND (CAST($6 AS BIGINT) = 0 OR EXISTS (SELECT 1 FROM media_refs r JOIN events e ON e.position = r.owner
    WHERE r.media_id = m.media_id AND r.server = '' AND r.kind IN (0, 2) AND e.room_nid = CAST($6 AS BIGINT)))
ORDER BY m.created_ts, m.media_id LIMIT $7`
)

func scanSweptMedia(r Row) (m SweptMedia, err error) {
	var referenced, quarantined int64
	err = scanMediaAnd(r, &m.Media, &referenced, &quarantined)
	m.Referenced, m.Quarantined = referenced != 0, quarantined != 0
	return m, err
}

// SweepMedia returns a page of all complete uploads: at most limit of those whose media ID comes after the given one.
func (tx *Tx) SweepMedia(after string, limit int) ([]SweptMedia, error) {
	return collect(tx, scanSweptMedia, sweepMediaQuery, after, limit)
}

// MediaFilter selects media. Fields other than Before and MinSize select everything if they are zero.
type MediaFilter struct {
	User    ident.UserNID
	Room    ident.RoomNID // an event of the room refers to the media
	Before  int64         // ms; uploaded or fetched before
	MinSize int64
}

// ListMedia returns a page of the uploads that a filter selects, the oldest first: at most limit of those after the
// given one. It uses the index media_by_age.
func (tx *Tx) ListMedia(filter MediaFilter, after Media, limit int) ([]SweptMedia, error) {
	return collect(tx, scanSweptMedia, listMediaQuery, after.Created, after.ID, filter.Before, filter.MinSize, int64(filter.User), int64(filter.Room), limit)
}

const listRemoteMediaQuery = `SELECT ` + remoteMediaColumns + `
WHERE (m.fetched_ts, m.server, m.media_id) > ($1, $2, $3) AND m.fetched_ts < $4 AND m.size >= $5
AND (CAST($6 AS BIGINT) = 0 OR EXISTS (SELECT 1 FROM media_refs r JOIN events e ON e.position = r.owner
    WHERE r.media_id = m.media_id AND r.server = m.server AND r.kind IN (0, 2) AND e.room_nid = CAST($6 AS BIGINT)))
ORDER BY m.fetched_ts, m.server, m.media_id LIMIT $7`

// ListRemoteMedia is like ListMedia for cached files of other servers. It uses the index remote_media_by_age.
func (tx *Tx) ListRemoteMedia(filter MediaFilter, after RemoteMedia, limit int) ([]RemoteMedia, error) {
	return collect(tx, scanRemoteMedia, listRemoteMediaQuery, after.Fetched, after.Server, after.ID, filter.Before, filter.MinSize, int64(filter.Room), limit)
}

const quarantineQuery = `INSERT INTO media_quarantine (server, media_id, since_ts) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`

// QuarantineMedia withdraws media, or lifts that. It returns false if nothing changed.
func (tx *Tx) QuarantineMedia(m MediaName, on bool) (bool, error) {
	query, args, value := `DELETE FROM media_quarantine WHERE server = $1 AND media_id = $2`, []any{m.Server, m.ID}, int64(0)
	if on {
		query, args, value = quarantineQuery, append(args, tx.Now().UnixMilli()), 1
	}
	n, err := tx.exec(query, args...)
	if err != nil || n == 0 {
		return false, err
	}
	return true, tx.Note(LedgerQuarantine, 0, value, m.Server+"/"+m.ID)
}

// SetMediaUnused records since when (ms) uploads, at most maxIn, wait for their deletion; 0: they do not.
func (tx *Tx) SetMediaUnused(mediaIDs []string, since int64) error {
	list, args := In(2, mediaIDs)
	_, err := tx.exec(`UPDATE media SET unused_ts = $1 WHERE media_id IN `+list, append([]any{since}, args...)...)
	return err
}

// DeleteUnusedMedia deletes an upload that waits for its deletion since a time (ms) or longer. It returns false if
// there is none, or if something refers to it now.
func (tx *Tx) DeleteUnusedMedia(mediaID string, since int64) (bool, error) {
	m, found, err := tx.Media(mediaID)
	if err != nil || !found || m.Unused == 0 || m.Unused > since {
		return false, err
	}
	if err := tx.deleteUnreferenced(MediaName{ID: mediaID}); err != nil {
		return false, err
	}
	_, found, err = tx.Media(mediaID)
	return !found, err
}

const encryptedRoomsQuery = `SELECT m.room_nid FROM memberships m JOIN current_state s ON s.room_nid = m.room_nid AND s.type = 'm.room.encryption' AND s.state_key = ''
WHERE m.user_nid = $1 AND m.membership IN ('join', 'leave', 'ban') AND m.room_nid > $2 ORDER BY m.room_nid LIMIT $3`

// EncryptedRoomsOf returns a page of the encrypted rooms that a user is or was in: at most limit of those after the
// given one. It uses the primary keys.
func (tx *Tx) EncryptedRoomsOf(user ident.UserNID, after ident.RoomNID, limit int) ([]ident.RoomNID, error) {
	return collect(tx, scanNumber[ident.RoomNID], encryptedRoomsQuery, int64(user), int64(after), limit)
}

// metaMediaRefs is the row of meta that says that the references of texts from before there was media_refs are
// recorded.
const metaMediaRefs = "media_refs"

// MediaRefsRecorded reports whether SetMediaRefsRecorded has been called.
func (tx *Tx) MediaRefsRecorded() (bool, error) {
	_, found, err := one(tx, scanString, identityQuery, metaMediaRefs)
	return found, err
}

// SetMediaRefsRecorded records that the references of all texts are recorded.
func (tx *Tx) SetMediaRefsRecorded() error {
	_, err := tx.exec(addMetaQuery, metaMediaRefs, "")
	return err
}

const oldEventMediaQuery = `SELECT position, state_key IS NOT NULL, flags, json FROM events WHERE position > $1 AND json LIKE '%mxc://%' ORDER BY position LIMIT $2`

// RecordEventMedia records the references of at most limit events after a position. It returns the position of the last
// one, or 0 if there are no more.
func (tx *Tx) RecordEventMedia(after Pos, limit int) (last Pos, err error) {
	type event struct {
		p       Pos
		isState bool
		flags   int64
		text    []byte
	}
	page, err := collect(tx, func(r Row) (e event, err error) { err = r.Scan(&e.p, &e.isState, &e.flags, &e.text); return e, err }, oldEventMediaQuery, int64(after), limit)
	if err != nil {
		return 0, err
	}
	for _, e := range page {
		if err := tx.addEventMedia(e.p, e.isState, EventFlags(e.flags), e.text); err != nil {
			return 0, err
		}
		last = e.p
	}
	return last, nil
}

const (
	oldProfileMediaQuery = `SELECT user_nid, name, value FROM profile_fields WHERE (user_nid, name) > ($1, $2) AND value LIKE '%mxc:%' ORDER BY user_nid, name LIMIT $3`
	oldAccountMediaQuery = `SELECT user_nid, room_nid, type, content FROM account_data
WHERE (user_nid, room_nid, type) > ($1, $2, $3) AND content LIKE '%mxc:%' ORDER BY user_nid, room_nid, type LIMIT $4`
	oldDelayedMediaQuery = `SELECT position, content FROM delayed_events WHERE position > $1 AND content LIKE '%mxc:%' ORDER BY position LIMIT $2`
)

// MediaOwner is a text other than an event: a profile field, account data or a delayed event. Its zero value comes
// before the first one of each kind.
type MediaOwner struct {
	Kind  MediaRefKind
	Owner int64
	Room  ident.RoomNID // of account data
	Part  string        // name of a profile field, type of account data
	text  string
}

// RecordOtherMedia records the references of at most limit texts of one kind other than events, after the given one. It
// returns the last one, and whether there may be more.
func (tx *Tx) RecordOtherMedia(after MediaOwner, limit int) (last MediaOwner, more bool, err error) {
	last = after
	scan := func(r Row) (o MediaOwner, err error) {
		o.Kind = after.Kind
		switch after.Kind {
		case ProfileMedia:
			err = r.Scan(&o.Owner, &o.Part, &o.text)
		case AccountDataMedia:
			err = r.Scan(&o.Owner, &o.Room, &o.Part, &o.text)
		default:
			err = r.Scan(&o.Owner, &o.text)
		}
		return o, err
	}
	var page []MediaOwner
	switch after.Kind {
	case ProfileMedia:
		page, err = collect(tx, scan, oldProfileMediaQuery, after.Owner, after.Part, limit)
	case AccountDataMedia:
		page, err = collect(tx, scan, oldAccountMediaQuery, after.Owner, int64(after.Room), after.Part, limit)
	default:
		page, err = collect(tx, scan, oldDelayedMediaQuery, after.Owner, limit)
	}
	for _, o := range page {
		if err != nil {
			break
		}
		part := o.Part
		if o.Kind == AccountDataMedia {
			part = accountDataPart(o.Room, o.Part)
		}
		err = tx.addMediaRefs(o.Kind, o.Owner, part, mxc.Unescaped(o.text))
		last = o
	}
	return last, len(page) == limit, err
}
