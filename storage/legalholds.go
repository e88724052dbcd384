package storage

import (
	"slices"

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
}

const legalHoldsFrom = `SELECT h.nid, h.room_nid, h.user_nid, coalesce(r.room_id, ''), coalesce(u.user_id, ''), h.reason, h.added_by, h.added_ts, h.review_ts, h.asked_by, h.asked_ts,
h.lifted_by, h.lifted_ts FROM legal_holds h LEFT JOIN rooms r ON r.nid = h.room_nid LEFT JOIN users u ON u.nid = h.user_nid `

func scanLegalHold(r Row) (h LegalHold, err error) {
	err = r.Scan(&h.NID, &h.Room, &h.User, &h.RoomID, &h.UserID, &h.Reason, &h.AddedBy, &h.AddedTS, &h.ReviewTS, &h.AskedBy, &h.AskedTS, &h.LiftedBy, &h.LiftedTS)
	return h, err
}

const addLegalHoldQuery = `INSERT INTO legal_holds (nid, room_nid, user_nid, reason, added_by, added_ts, review_ts) VALUES ($1, $2, $3, $4, $5, $6, $7)`

// AddLegalHold stores a hold and returns its number.
func (tx *Tx) AddLegalHold(h LegalHold) (nid int64, err error) {
	nid = int64(tx.NextPos())
	_, err = tx.exec(addLegalHoldQuery, nid, int64(h.Room), int64(h.User), h.Reason, h.AddedBy, h.AddedTS, h.ReviewTS)
	return nid, err
}

// LegalHold returns a hold by number.
func (tx *Tx) LegalHold(nid int64) (LegalHold, bool, error) {
	return one(tx, scanLegalHold, legalHoldsFrom+`WHERE h.nid = $1`, nid)
}

// LegalHolds returns at most limit holds after the given one, the oldest first. Holds that were lifted are included if
// lifted is set.
func (tx *Tx) LegalHolds(after int64, lifted bool, limit int) ([]LegalHold, error) {
	return collect(tx, scanLegalHold, legalHoldsFrom+`WHERE h.nid > $1 AND (h.lifted_ts = 0 OR $2 <> 0) ORDER BY h.nid LIMIT $3`, after, lifted, limit)
}

// StandingHolds returns the rooms and users on which there are holds, one entry for each hold. Only administrators add
// holds, so their number is not bounded.
func (tx *Tx) StandingHolds() ([]LegalHold, error) {
	return collect(tx, func(r Row) (h LegalHold, err error) {
		err = r.Scan(&h.NID, &h.Room, &h.User)
		return h, err
	}, `SELECT nid, room_nid, user_nid FROM legal_holds WHERE lifted_ts = 0`)
}

// AskToLift records that an administrator asked for a hold to be lifted. An empty name withdraws the request.
func (tx *Tx) AskToLift(nid int64, by string, ts int64) error {
	_, err := tx.exec(`UPDATE legal_holds SET asked_by = $2, asked_ts = $3 WHERE nid = $1`, nid, by, ts)
	return err
}

// LiftLegalHold records that a hold was lifted. The row stays.
func (tx *Tx) LiftLegalHold(nid int64, by string, ts int64) error {
	_, err := tx.exec(`UPDATE legal_holds SET lifted_by = $2, lifted_ts = $3 WHERE nid = $1 AND lifted_ts = 0`, nid, by, ts)
	return err
}

// ReviewLegalHold sets the next review date of a hold.
func (tx *Tx) ReviewLegalHold(nid, reviewTS int64) error {
	_, err := tx.exec(`UPDATE legal_holds SET review_ts = $2 WHERE nid = $1`, nid, reviewTS)
	return err
}

const keepEventsQuery = `UPDATE events SET flags = flags | $1, push = 0, thread_root = 0 WHERE position IN `

// KeepEvents hides messages that expired while a legal hold covers them. Of what depends on them, only what may be
// evidence stays: their media and the reports about them. with is the result of WithDependents for these events.
func (tx *Tx) KeepEvents(events []PurgeCandidate, with map[Pos]bool) error {
	positions := make([]Pos, len(events))
	for i, e := range events {
		positions[i] = e.Position
		if with[e.Position] {
			if err := tx.removeOwnDependents(kept, e.Position, e.EventID); err != nil {
				return err
			}
		}
	}
	for part := range slices.Chunk(positions, maxIn) {
		if err := tx.removeCommonDependents(kept, part); err != nil {
			return err
		}
		list, args := In(2, part)
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
	return collect(tx, func(r Row) (k KeptBy, err error) {
		err = r.Scan(&k.Room, &k.Sender)
		return k, err
	}, keptByQuery, int64(after.Room), int64(after.Sender), limit)
}

// KeptCandidates lists the events of a sender in a room that were kept by a hold when they expired, after a position.
// It uses the index events_kept.
func (tx *Tx) KeptCandidates(of KeptBy, after Pos, limit int) ([]PurgeCandidate, error) {
	return collect(tx, scanCandidate, keptOfQuery, int64(of.Room), int64(of.Sender), int64(after), limit)
}
