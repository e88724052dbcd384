package storage

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"ebb/ident"
)

// LegalHold is a legal hold on a room or on a user. While it stands, no event that it covers is deleted.
type LegalHold struct {
	NID      int64
	Room     ident.RoomNID // 0: the hold is on a user
	User     ident.UserNID // 0: the hold is on a room
	RoomID   string
	UserID   string
	Reason   string
	AddedBy  string
	AddedTS  int64 // ms, like all times here
	ReviewTS int64
	AskedBy  string // who asked for the hold to be lifted
	AskedTS  int64
	LiftedBy string // who confirmed that
	LiftedTS int64  // 0: the hold stands
	// Follows is the hold that this one follows: its room replaces the room of that hold or was replaced by it, also by
	// way of other rooms. 0: an administrator has added the hold.
	Follows int64
}

const legalHoldsFrom = `SELECT h.nid, h.room_nid, h.user_nid, coalesce(r.room_id, ''), coalesce(u.user_id, ''), h.reason, h.added_by, h.added_ts, h.review_ts, h.asked_by, h.asked_ts,
h.lifted_by, h.lifted_ts, h.follows FROM legal_holds h LEFT JOIN rooms r ON r.nid = h.room_nid LEFT JOIN users u ON u.nid = h.user_nid `

func scanLegalHold(r Row) (h LegalHold, err error) {
	err = r.Scan(&h.NID, &h.Room, &h.User, &h.RoomID, &h.UserID, &h.Reason, &h.AddedBy, &h.AddedTS, &h.ReviewTS, &h.AskedBy, &h.AskedTS, &h.LiftedBy, &h.LiftedTS, &h.Follows)
	return h, err
}

const addLegalHoldQuery = `INSERT INTO legal_holds (nid, room_nid, user_nid, reason, added_by, added_ts, review_ts, follows) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`

// AddLegalHold stores a hold and returns its number.
func (tx *Tx) AddLegalHold(h LegalHold) (nid int64, err error) {
	nid = int64(tx.NextPos())
	if _, err = tx.exec(addLegalHoldQuery, nid, int64(h.Room), int64(h.User), h.Reason, h.AddedBy, h.AddedTS, h.ReviewTS, h.Follows); err != nil {
		return nid, err
	}
	name := holdOnRoom
	if h.Room == 0 {
		name = holdOnUser
	}
	name += " " + strconv.FormatInt(h.ReviewTS, 10)
	if h.Follows != 0 {
		name += " " + strconv.FormatInt(h.Follows, 10)
	}
	return nid, tx.Note(LedgerHold, int64(h.Room)+int64(h.User), nid, name)
}

const holdsToExtendQuery = `SELECT nid, room_nid, user_nid, '', '', reason, added_by, added_ts, review_ts, '', 0, '', 0, CASE WHEN follows <> 0 THEN follows ELSE nid END
FROM legal_holds h WHERE room_nid = $1 AND lifted_ts = 0 AND NOT EXISTS (SELECT 1 FROM legal_holds o WHERE o.room_nid = $2 AND o.lifted_ts = 0
    AND CASE WHEN o.follows <> 0 THEN o.follows ELSE o.nid END = CASE WHEN h.follows <> 0 THEN h.follows ELSE h.nid END) ORDER BY h.nid`

// ExtendLegalHolds adds to a room the holds on another one that do not cover it yet. It returns how many these were.
func (tx *Tx) ExtendLegalHolds(from, to ident.RoomNID) (added int, err error) {
	missing, err := collect(tx, scanLegalHold, holdsToExtendQuery, int64(from), int64(to))
	if err != nil {
		return 0, err
	}
	for _, h := range missing {
		h.Room, h.AddedTS = to, tx.Now().UnixMilli()
		if _, err := tx.AddLegalHold(h); err != nil {
			return 0, err
		}
	}
	return len(missing), nil
}

// What the name of a LedgerHold entry begins with. The review date follows, and the hold that this one follows, if any.
const (
	holdOnRoom = "room"
	holdOnUser = "user"
)

// AddHoldAgain stores a hold that was added after a backup, from its entry in the ledger. It does nothing if the backup
// has the hold, or does not know the room or the user.
func (tx *Tx) AddHoldAgain(e LedgerEntry) (added bool, err error) {
	if _, found, err := tx.LegalHold(e.Value); err != nil || found {
		return false, err
	}
	on, rest, _ := strings.Cut(e.Name, " ")
	review, follows, _ := strings.Cut(rest, " ")
	reviewTS, err := strconv.ParseInt(review, 10, 64)
	if err != nil {
		return false, err
	}
	followed := int64(0)
	if follows != "" {
		if followed, err = strconv.ParseInt(follows, 10, 64); err != nil {
			return false, err
		}
	}
	var room, user int64
	query := `SELECT 1 FROM rooms WHERE nid = $1`
	if room = e.Ref; on == holdOnUser {
		room, user, query = 0, e.Ref, `SELECT 1 FROM users WHERE nid = $1`
	}
	if _, found, err := one(tx, scanNumber[int64], query, e.Ref); err != nil || !found {
		return false, err
	}
	_, err = tx.exec(addLegalHoldQuery, e.Value, room, user, "(added after the backup that was restored)", "ledger", e.TS, reviewTS, followed)
	return err == nil, err
}

// LegalHold returns a hold by number.
func (tx *Tx) LegalHold(nid int64) (LegalHold, bool, error) {
	return one(tx, scanLegalHold, legalHoldsFrom+`WHERE h.nid = $1`, nid)
}

// LegalHolds returns at most limit holds after the given one, the oldest first, without those that follow another one.
// Holds that were lifted are included if lifted is set.
func (tx *Tx) LegalHolds(after int64, lifted bool, limit int) ([]LegalHold, error) {
	return collect(tx, scanLegalHold, legalHoldsFrom+`WHERE h.nid > $1 AND h.follows = 0 AND (h.lifted_ts = 0 OR $2 <> 0) ORDER BY h.nid LIMIT $3`, after, lifted, limit)
}

// FollowingHolds returns at most limit of the holds that follow a hold, after the given one, the oldest first.
func (tx *Tx) FollowingHolds(nid, after int64, limit int) ([]LegalHold, error) {
	return collect(tx, scanLegalHold, legalHoldsFrom+`WHERE h.follows = $1 AND h.nid > $2 ORDER BY h.nid LIMIT $3`, nid, after, limit)
}

// StandingHolds returns the rooms and users on which there are holds, one entry for each hold. Only administrators add
// holds, so their number is not bounded.
func (tx *Tx) StandingHolds() ([]LegalHold, error) {
	return collect(tx, func(r Row) (h LegalHold, err error) { err = r.Scan(&h.NID, &h.Room, &h.User); return h, err }, `SELECT nid, room_nid, user_nid FROM legal_holds WHERE lifted_ts = 0`)
}

// AskToLift records that an administrator asked for a hold to be lifted. An empty name withdraws the request.
func (tx *Tx) AskToLift(nid int64, by string, ts int64) error {
	_, err := tx.exec(`UPDATE legal_holds SET asked_by = $2, asked_ts = $3 WHERE nid = $1`, nid, by, ts)
	return err
}

const liftHoldQuery = `UPDATE legal_holds SET lifted_by = $2, lifted_ts = $3 WHERE (nid = $1 OR follows = $1) AND lifted_ts = 0 RETURNING room_nid, user_nid`

// LiftLegalHold records that a hold was lifted, and with it the holds that follow it. It returns the rooms and the user
// on which these were. The rows stay.
func (tx *Tx) LiftLegalHold(nid int64, by string, ts int64) ([]LegalHold, error) {
	lifted, err := collect(tx, func(r Row) (h LegalHold, err error) { err = r.Scan(&h.Room, &h.User); return h, err }, liftHoldQuery, nid, by, ts)
	if err != nil {
		return nil, err
	}
	return lifted, tx.Note(LedgerLifted, nid, 0, "")
}

// ReviewLegalHold sets the next review date of a hold and of those that follow it.
func (tx *Tx) ReviewLegalHold(nid, reviewTS int64) error {
	_, err := tx.exec(`UPDATE legal_holds SET review_ts = $2 WHERE nid = $1 OR follows = $1`, nid, reviewTS)
	return err
}

const keepEventsQuery = `UPDATE events SET flags = flags | $1, push = 0, thread_root = 0 WHERE position IN `

// KeepEvents hides messages that expired while a legal hold covers them. Of what depends on them, only what may be
// evidence stays: their media and the reports about them. with is the result of WithDependents for these events.
func (tx *Tx) KeepEvents(events []PurgeCandidate, with map[Pos]bool) error {
	for _, e := range events {
		if with[e.Position] {
			if err := tx.removeOwnDependents(kept, e.Position, e.EventID); err != nil {
				return err
			}
		}
	}
	for part := range slices.Chunk(events, maxIn) {
		if err := tx.removeCommonDependents(kept, part); err != nil {
			return err
		}
		list, args := In(2, positionsOf(part))
		if _, err := tx.exec(keepEventsQuery+list, append([]any{int64(KeptEvent)}, args...)...); err != nil {
			return err
		}
	}
	return nil
}

// KeptBy names a room and a sender.
type KeptBy struct {
	Room   ident.RoomNID
	Sender ident.UserNID
}

var (
	isKept      = flagsAre(KeptEvent, KeptEvent)
	keptByQuery = `SELECT DISTINCT room_nid, sender_nid FROM events WHERE ` + isKept + ` AND (room_nid, sender_nid) > ($1, $2) ORDER BY room_nid, sender_nid LIMIT $3`
	keptOfQuery = candidatesFrom + `WHERE room_nid = $1 AND sender_nid = $2 AND position > $3 AND ` + isKept + ` ORDER BY position LIMIT $4`
)

// KeptEvents lists the rooms, and the senders in each, with events that were kept by a hold when they expired: at most
// limit that come after the given one. It uses the index events_kept.
func (tx *Tx) KeptEvents(after KeptBy, limit int) ([]KeptBy, error) {
	return collect(tx, scanKeptBy, keptByQuery, int64(after.Room), int64(after.Sender), limit)
}

func scanKeptBy(r Row) (k KeptBy, err error) {
	err = r.Scan(&k.Room, &k.Sender)
	return k, err
}

// KeptCandidates lists the events of a sender in a room that were kept by a hold when they expired, after a position.
// It uses the index events_kept.
func (tx *Tx) KeptCandidates(of KeptBy, after Pos, limit int) ([]PurgeCandidate, error) {
	return collect(tx, scanCandidate, keptOfQuery, int64(of.Room), int64(of.Sender), int64(after), limit)
}

const (
	// holdNumber is the number of the hold that an administrator has added.
	holdNumber = `CASE WHEN h.follows <> 0 THEN h.follows ELSE h.nid END`

	standingHold = `h.lifted_ts = 0 AND (h.room_nid <> 0 AND h.room_nid = e.room_nid OR h.user_nid <> 0 AND h.user_nid = e.sender_nid)`

	// heldMediaRefs is the part of a query for references of held events to media.
	heldMediaRefs = `media_refs r JOIN events e ON e.position = r.owner JOIN legal_holds h ON ` + standingHold + ` WHERE r.kind IN (0, 2)`

	holdOnMediaQuery    = `SELECT ` + holdNumber + ` FROM ` + heldMediaRefs + ` AND r.media_id = $1 AND r.server = $2 ORDER BY h.nid LIMIT 1`
	holdOnUploaderQuery = `SELECT h.nid FROM media m JOIN legal_holds h ON h.user_nid = m.user_nid AND h.lifted_ts = 0 WHERE m.media_id = $1 ORDER BY h.nid LIMIT 1`
)

// HoldOnMedia returns the number of a legal hold that covers media: one on their uploader, or one that covers an event
// which refers to them.
func (tx *Tx) HoldOnMedia(m MediaName) (nid int64, held bool, err error) {
	if m.Server == "" {
		if nid, held, err = one(tx, scanNumber[int64], holdOnUploaderQuery, m.ID); err != nil || held {
			return nid, held, err
		}
	}
	return one(tx, scanNumber[int64], holdOnMediaQuery, m.ID, m.Server)
}

const holdOnQuery = `SELECT ` + holdNumber + ` FROM legal_holds h WHERE lifted_ts = 0 AND (room_nid <> 0 AND room_nid = $1 OR user_nid <> 0 AND user_nid = $2) ORDER BY h.nid LIMIT 1`

// HoldOn returns the number of a legal hold that covers the events of a sender in a room. It is for use where there is
// no rooms.Service, whose Held reads nothing.
func (tx *Tx) HoldOn(room ident.RoomNID, sender ident.UserNID) (nid int64, held bool, err error) {
	return one(tx, scanNumber[int64], holdOnQuery, int64(room), int64(sender))
}

const holdConcernsQuery = `SELECT h.nid FROM legal_holds h WHERE h.lifted_ts = 0 AND (h.user_nid = $1
    OR h.room_nid IN (SELECT room_nid FROM memberships WHERE user_nid = $1 AND membership IN ('join', 'leave', 'ban'))) LIMIT 1`

// HoldConcerns reports whether there is a legal hold on a user, or on a room that the user is or was in.
func (tx *Tx) HoldConcerns(user ident.UserNID) (bool, error) {
	_, found, err := one(tx, scanNumber[int64], holdConcernsQuery, int64(user))
	return found, err
}

const countHoldsQuery = `SELECT count(*), coalesce(sum(CASE WHEN review_ts <= $1 THEN 1 ELSE 0 END), 0) FROM legal_holds
WHERE lifted_ts = 0 AND follows = 0`

// CountLegalHolds returns how many holds stand that administrators have added, and how many of them were to be reviewed
// by now (ms).
func (tx *Tx) CountLegalHolds(now int64) (all, overdue int64, err error) {
	_, _, err = one(tx, func(r Row) (struct{}, error) { return struct{}{}, r.Scan(&all, &overdue) }, countHoldsQuery, now)
	return all, overdue, err
}

// legalHoldsFile is the migration since which countHoldsQuery works.
const legalHoldsFile = "0106_followed_holds.sql"

// PeekOverdueHolds returns how many legal holds are past their review date. It opens the database as Peek does, also
// while the server uses it.
func PeekOverdueHolds(ctx context.Context, dsn string, now int64) (overdue int64, err error) {
	d, err := parseDSN(dsn)
	if err != nil {
		return 0, err
	}
	c, err := d.peek(ctx)
	if c == nil || err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	applied, err := appliedMigrations(c)
	if err != nil || !slices.Contains(applied, legalHoldsFile) {
		return 0, err
	}
	var all int64
	err = c.query(func(r Row) error { return r.Scan(&all, &overdue) }, countHoldsQuery, now)
	return overdue, err
}
