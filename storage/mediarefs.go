package storage

import (
	"ebb/ident"
	"ebb/storage/mxc"
	"ebb/storage/sealing"
)

// MediaRefKind is the kind of a text that refers to media by mxc URI. The kinds of texts that never expire have the
// highest numbers.
type MediaRefKind int64

// The kinds of texts that refer to media.
const (
	MessageMedia     MediaRefKind = iota // the owner is the position of an event that is not a state event
	DelayedMedia                         // the owner is the position of a delayed event
	StateMedia                           // the owner is the position of a state event
	ProfileMedia                         // the owner is a user; the part is the name of a profile field
	AccountDataMedia                     // the owner is a user; the part is the room's number and the type
)

// MediaName identifies media. Server is "" for media of this server.
type MediaName = mxc.Name

const addMediaRefQuery = `INSERT INTO media_refs (owner, kind, part, server, media_id) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`

func (tx *Tx) addMediaRefs(kind MediaRefKind, owner int64, part string, text []byte) error {
	for _, m := range mxc.In(text, tx.db.cfg.Server) {
		if _, err := tx.exec(addMediaRefQuery, owner, int64(kind), part, m.Server, m.ID); err != nil {
			return err
		}
	}
	return nil
}

// addEventMedia records the media to which an event refers. For most events it only searches the text for "mxc://".
func (tx *Tx) addEventMedia(p Pos, isState bool, flags EventFlags, text []byte) error {
	if flags&RejectedEvent != 0 || !mxc.Any(text) {
		return nil
	}
	kind := MessageMedia
	if isState {
		kind = StateMedia
	}
	return tx.addMediaRefs(kind, int64(p), "", text)
}

const addMediaAgainQuery = `SELECT state_key IS NOT NULL, flags, json FROM events WHERE position = $1`

// addEventMediaAgain records the media of an event that was rejected and is accepted now.
func (tx *Tx) addEventMediaAgain(p Pos) error {
	var isState bool
	var flags int64
	var text []byte
	err := tx.each(func(r Row) (err error) {
		err = r.Scan(&isState, &flags, &text)
		if err == nil && sealing.IsSealed(text) {
			_, text, err = openEvent(r, p, text)
		}
		return err
	}, addMediaAgainQuery, int64(p))
	if err != nil {
		return err
	}
	return tx.addEventMedia(p, isState, EventFlags(flags), text)
}

const dropMediaRefsQuery = `DELETE FROM media_refs WHERE owner = $1 AND kind = $2 AND part = $3`

// replaceMediaRefs records the media to which the given text refers, when it replaces an earlier text. Media of the
// earlier text stay until a search for unused media finds them.
func (tx *Tx) replaceMediaRefs(kind MediaRefKind, owner int64, part, text string) error {
	if _, err := tx.exec(dropMediaRefsQuery, owner, int64(kind), part); err != nil {
		return err
	}
	return tx.addMediaRefs(kind, owner, part, mxc.Unescaped(text))
}

const (
	dropEventMediaQuery = `DELETE FROM media_refs WHERE owner = $1 AND kind IN (0, 2)`
	// dropRejectedMediaQuery leaves the references of events under a legal hold, which keeps their media.
	dropRejectedMediaQuery = dropEventMediaQuery + ` AND NOT EXISTS (SELECT 1 FROM events e JOIN legal_holds h ON ` + standingHold + ` WHERE e.position = $1)`
	takeEventMediaQuery    = dropEventMediaQuery + ` RETURNING server, media_id`
	takeRowsMediaQuery     = `DELETE FROM media_refs WHERE kind IN (0, 2) AND owner IN (
    SELECT position FROM events WHERE id_hash = $1 AND event_id = $2 AND +room_nid = $3) RETURNING server, media_id`
	takeUserMediaQuery     = `DELETE FROM media_refs WHERE owner = $1 AND kind IN (3, 4) RETURNING server, media_id`
	takeSomeUserMediaQuery = `DELETE FROM media_refs WHERE (owner, kind, part, server, media_id) IN
(SELECT owner, kind, part, server, media_id FROM media_refs WHERE owner = $1 AND kind IN (3, 4) LIMIT $2) RETURNING server, media_id`
)

// releaseEventMedia deletes the references of the row of an event, and the media to which nothing else refers.
func (tx *Tx) releaseEventMedia(p Pos) error {
	_, err := tx.releaseMedia(takeEventMediaQuery, int64(p))
	return err
}

// releaseMedia runs a query that deletes references and returns their media. Then it deletes those of the media to
// which nothing refers any more. It returns the number of the references.
func (tx *Tx) releaseMedia(query string, args ...any) (int, error) {
	names, err := collect(tx, scanMediaName, query, args...)
	if err != nil {
		return 0, err
	}
	for _, m := range names {
		if err := tx.deleteUnreferenced(m); err != nil {
			return 0, err
		}
	}
	return len(names), nil
}

func scanMediaName(r Row) (m MediaName, err error) {
	err = r.Scan(&m.Server, &m.ID)
	return m, err
}

const (
	isReferencedQuery       = `SELECT 1 FROM media_refs WHERE media_id = $1 AND server = $2 LIMIT 1`
	isQuarantinedQuery      = `SELECT 1 FROM media_quarantine WHERE media_id = $1 AND server = $2`
	deleteUnreferencedQuery = `DELETE FROM media WHERE media_id = $1 AND blob <> '' AND expires_ts = 0 RETURNING blob`
	rememberGoneQuery       = `INSERT INTO media_gone (id_hash, gone_ts) VALUES ($1, $2) ON CONFLICT (id_hash) DO UPDATE SET gone_ts = excluded.gone_ts`
)

// MediaReferenced reports whether a stored text refers to the media. It uses the index media_refs_by_media.
func (tx *Tx) MediaReferenced(m MediaName) (bool, error) { return tx.exists(isReferencedQuery, m) }

// MediaQuarantined reports whether an administrator has withdrawn the media.
func (tx *Tx) MediaQuarantined(m MediaName) (bool, error) { return tx.exists(isQuarantinedQuery, m) }

func (tx *Tx) exists(query string, m MediaName) (bool, error) {
	_, found, err := one(tx, scanNumber[int64], query, m.ID, m.Server)
	return found, err
}

// deleteUnreferenced deletes media to which no text refers, unless they are in quarantine.
func (tx *Tx) deleteUnreferenced(m MediaName) error {
	referenced, err := tx.MediaReferenced(m)
	if err != nil || referenced {
		return err
	}
	kept, err := tx.MediaQuarantined(m)
	if err != nil || kept {
		return err
	}
	if m.Server == "" { // a hold on the uploader covers the file whoever refers to it
		if _, held, err := one(tx, scanNumber[int64], holdOnUploaderQuery, m.ID); err != nil || held {
			return err
		}
	}
	if m.Server != "" {
		if _, err := tx.exec(rememberGoneQuery, tx.goneHash(m), tx.Now().UnixMilli()); err != nil {
			return err
		}
		tx.media++
		return tx.DeleteRemoteMedia(m.Server, m.ID)
	}
	blob, found, err := one(tx, scanString, deleteUnreferencedQuery, m.ID)
	if err != nil || !found {
		return err
	}
	tx.media++
	if err := tx.Note(LedgerMedia, 0, 0, m.ID); err != nil {
		return err
	}
	return tx.releaseBlob(blob)
}

func (tx *Tx) goneHash(m MediaName) int64 { return tx.IDHash(m.Server + "/" + m.ID) }

// MediaGone reports whether the last reference to media of another server was deleted recently. ForgetGoneMedia deletes
// the rows about earlier deletions.
func (tx *Tx) MediaGone(m MediaName) (bool, error) {
	_, found, err := one(tx, scanNumber[int64], `SELECT gone_ts FROM media_gone WHERE id_hash = $1`, tx.goneHash(m))
	return found, err
}

const forgetGoneQuery = `DELETE FROM media_gone WHERE id_hash IN (SELECT id_hash FROM media_gone WHERE gone_ts < $1 ORDER BY gone_ts LIMIT $2)`

// ForgetGoneMedia deletes at most limit of the rows about media whose last reference was deleted before a time (ms),
// and reports whether there may be more. It uses the index media_gone_by_time.
func (tx *Tx) ForgetGoneMedia(before int64, limit int) (more bool, err error) {
	n, err := tx.exec(forgetGoneQuery, before, limit)
	return n == int64(limit), err
}

// MediaRef is a stored text that refers to media.
type MediaRef struct {
	Kind                 MediaRefKind
	Owner                int64
	Part                 string
	Room                 ident.RoomNID // this and the fields below are set only if the text is a stored event
	EventID              string
	Sender               ident.UserNID
	Flags                EventFlags
	Redacted             bool
	OriginTS, ReceivedTS int64 // ms
}

const mediaRefsQuery = `SELECT r.kind, r.owner, r.part, coalesce(e.room_nid, 0), coalesce(e.event_id, ''), coalesce(e.sender_nid, 0), coalesce(e.flags, 0), coalesce(e.redacted_by, 0), coalesce(e.origin_ts, 0), coalesce(e.received_ts, 0)
FROM media_refs r LEFT JOIN events e ON e.position = r.owner AND r.kind IN (0, 2)
WHERE r.media_id = $1 AND r.server = $2 AND (r.kind, r.owner, r.part) < ($3, $4, $5)
ORDER BY r.kind DESC, r.owner DESC, r.part DESC LIMIT $6`

// FirstMediaRef is the argument after with which MediaRefs returns the first page.
var FirstMediaRef = MediaRef{Kind: AccountDataMedia + 1}

// MediaRefs returns a page of the texts that refer to media: at most limit of those that come after the given one.
// Texts that do not expire come first, then the others, newest first. It uses the index media_refs_by_media.
func (tx *Tx) MediaRefs(m MediaName, after MediaRef, limit int) ([]MediaRef, error) {
	return collect(tx, func(r Row) (ref MediaRef, err error) {
		var kind, flags, redactedBy int64
		err = r.Scan(&kind, &ref.Owner, &ref.Part, &ref.Room, &ref.EventID, &ref.Sender, &flags, &redactedBy, &ref.OriginTS, &ref.ReceivedTS)
		ref.Kind, ref.Flags, ref.Redacted = MediaRefKind(kind), EventFlags(flags), redactedBy != 0
		return ref, err
	}, mediaRefsQuery, m.ID, m.Server, int64(after.Kind), after.Owner, after.Part, limit)
}
