package rooms

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/deletions"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/expiry"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/storage/pace"
)

// PurgeBatch is how many events one purge transaction looks at, at most.
const PurgeBatch = 500

// outlierRest is how long ago state from before this server joined must have arrived to be purged. It may have been
// fetched in order to resolve the current state, which does not have it yet.
const outlierRest = 24 * time.Hour

// PurgeCursor is where a purge of a room continues. Its zero value is the beginning. Events without a place in the
// timeline, which were rejected, come before those of the timeline.
type PurgeCursor struct {
	timeline bool
	unplaced storage.Pos
	order    ident.Order
}

// Purged is the result of one transaction of a purge.
type Purged struct {
	Events  int           // number of messages whose content was removed
	Kept    int           // number of messages that were only hidden because a legal hold covers them
	Waiting int           // number of expired messages that the rule does not cover yet
	Oldest  time.Duration // the longest time between the expiry of one of the messages and its purge
	Next    PurgeCursor   // where to continue
	More    bool          // whether there may be more
}

// Purge removes expired messages of a room. It looks at some events that come after from, and removes those that rule
// covers. State events stay, and an event that the graph needs is reduced to a skeleton, which no client sees.
func (s *Service) Purge(ctx context.Context, r *Room, rule expiry.PurgeRule, from PurgeCursor, at *pace.Pace) (out Purged, err error) {
	limit, watermark, gone := at.Step(), rule.Watermark(), []storage.Pos(nil)
	err = s.touch(ctx, r.id, func(loaded *Room) storage.Write {
		r = loaded
		return storage.Write{Rests: true, Do: func(tx *storage.Tx) error {
			defer at.Measure()()
			out = Purged{}
			media := tx.DeletedMedia()
			batch, err := from.candidates(tx, r.nid, s.opts.Retention.SupersededState, limit)
			if err != nil {
				return err
			}
			out.Next, out.More = from.after(batch, limit, rule)
			if gone, err = s.purge(tx, r, batch, rule, &out); err != nil || len(batch) == 0 {
				return err
			}
			if len(gone) > 0 {
				if err := tx.Note(storage.LedgerPurged, int64(r.nid), 0, rule.String()); err != nil {
					return err
				}
			}
			if err := s.receipt(tx, r, deletions.Expired, &out, tx.DeletedMedia()-media); err != nil {
				return err
			}
			return tx.SetPurgedBefore(r.nid, watermark)
		}, Committed: func() { s.purged(r, gone, watermark) }}
	})
	return out, err
}

// candidates returns the events of a room that come after the cursor, up to limit. For state see storage.Tx.Unplaced.
func (c PurgeCursor) candidates(tx *storage.Tx, room ident.RoomNID, state bool, limit int) (batch []storage.PurgeCandidate, err error) {
	if !c.timeline {
		if batch, err = tx.Unplaced(room, c.unplaced, state, limit); err != nil || len(batch) == limit {
			return batch, err
		}
	}
	placed, err := tx.PurgeCandidates(room, c.order, limit-len(batch))
	return append(batch, placed...), err
}

// after returns the cursor after a batch of candidates, and whether there may be more to purge.
func (c PurgeCursor) after(batch []storage.PurgeCandidate, limit int, rule expiry.PurgeRule) (next PurgeCursor, more bool) {
	if len(batch) < limit {
		return c, false
	}
	last := batch[len(batch)-1]
	if last.Order == 0 {
		return PurgeCursor{unplaced: last.Position}, true
	}
	reached := func(e storage.PurgeCandidate) bool { return rule.Reaches(min(e.OriginTS, e.ReceivedTS)) }
	return PurgeCursor{timeline: true, order: last.Order}, slices.ContainsFunc(batch, reached)
}

// purge removes those messages of a batch that the rule covers, and returns the positions of those that readers must
// not see any more.
func (s *Service) purge(tx *storage.Tx, r *Room, batch []storage.PurgeCandidate, rule expiry.PurgeRule, out *Purged) (gone []storage.Pos, err error) {
	row, found, err := tx.RoomByNID(r.nid)
	if err != nil || !found {
		return nil, err
	}
	p := purging{tx: tx, room: r, ends: row.Extremities}
	now := s.opts.Now().UnixMilli()
	for _, c := range batch {
		if c.IsState {
			continue // see purgeState
		}
		over := c.Flags&storage.GoneEvent != 0
		switch fate := s.fateOf(r, c, rule); {
		case fate.Gone():
			err = p.remove(c)
		case fate == expiry.StaysHeld && !over && rule.Covers(c.OriginTS, c.ReceivedTS):
			p.keep(c)
		default:
			if !over && rule.Waits(c.OriginTS, c.ReceivedTS) {
				out.Waiting++
			}
			continue
		}
		if err != nil {
			return p.gone, err
		}
		if !over {
			out.Oldest = max(out.Oldest, time.Duration(now-rule.ExpiredAt(c.OriginTS, c.ReceivedTS))*time.Millisecond)
		}
	}
	if s.opts.Retention.SupersededState {
		if err := s.purgeState(&p, batch, rule); err != nil {
			return p.gone, err
		}
	}
	return p.gone, p.finish(batch, out)
}

// purgeState reduces old state events to skeletons, unless they are part of the current state. States before other
// events, state resolution and the authorisation of later events need them, but nothing of their content beyond what
// their redacted form has, except for the keys of third-party invites. Those that a legal hold covers are only hidden;
// graph.LoadEvent redacts them.
func (s *Service) purgeState(p *purging, batch []storage.PurgeCandidate, rule expiry.PurgeRule) error {
	var old, gone []storage.Pos
	for _, c := range batch {
		if s.mayBeOldState(p.room, c) && (c.Flags&storage.KeptEvent != 0 || rule.Covers(c.OriginTS, c.ReceivedTS)) {
			old = append(old, c.Position)
		}
	}
	superseded, err := p.tx.Superseded(old, typeThirdPartyInvite)
	if err != nil {
		return err
	}
	for _, c := range batch {
		switch {
		case !superseded[c.Position] || slices.Contains(p.ends, c.Position):
		case s.fateOf(p.room, c, rule).Gone():
			gone = append(gone, c.Position)
		case c.Flags&storage.KeptEvent == 0:
			p.keep(c)
		}
	}
	return p.reduceState(gone)
}

// mayBeOldState reports whether purgeState reduces an event unless it is current. An outlier may be about to become
// current if it has just arrived, or while events of the room are to be authorised again.
func (s *Service) mayBeOldState(r *Room, c storage.PurgeCandidate) bool {
	if !c.IsState || c.Flags&storage.SkeletonEvent != 0 {
		return false
	}
	return c.Order != 0 || c.ReceivedTS <= s.opts.Now().Add(-outlierRest).UnixMilli() && !r.Partial() && !r.hasUndecided()
}

// reduceState reduces state events to skeletons.
func (p *purging) reduceState(positions []storage.Pos) error {
	rows, err := p.tx.EventsAt(positions)
	if err != nil {
		return err
	}
	for i := range rows {
		if err := skeletonize(p.tx, p.room.version, &rows[i]); err != nil {
			return err
		}
		p.gone, p.purged = append(p.gone, rows[i].Position), p.purged+1
	}
	return nil
}

// fateOf returns what a purge does with a message. A message that was only hidden, because something kept it when its
// time was over, is still to be removed, even if the room's policy would show it now.
func (s *Service) fateOf(r *Room, c storage.PurgeCandidate, rule expiry.PurgeRule) expiry.Fate {
	return expiry.FateOf(expiry.Facts{
		Held:      s.Held(r.nid, c.Sender),
		WithinMin: !c.IsState && rule.WithinMin(c.ReceivedTS),
		Expired:   c.Flags&storage.KeptEvent != 0 || rule.Covers(c.OriginTS, c.ReceivedTS),
	})
}

// purging collects what one transaction of a purge does with messages of a room.
type purging struct {
	tx      *storage.Tx
	room    *Room
	ends    []storage.Pos // the room's forward extremities
	deleted []storage.PurgeCandidate
	kept    []storage.PurgeCandidate
	gone    []storage.Pos // messages that readers must not see any more
	purged  int
}

// remove deletes a message. If the graph needs it, or if it is a state event, remove reduces it to a skeleton.
func (p *purging) remove(c storage.PurgeCandidate) error {
	needed, skeleton := slices.Contains(p.ends, c.Position), c.Flags&storage.SkeletonEvent != 0
	switch {
	case c.IsState:
		return p.reduceState([]storage.Pos{c.Position})
	case needed && skeleton:
		return nil
	case needed:
		row, found, err := p.tx.EventAt(c.Position)
		if err == nil && found {
			err = skeletonize(p.tx, p.room.version, &row)
		}
		if err != nil {
			return err
		}
	default: // a skeleton that the graph no longer needs is deleted too
		p.deleted = append(p.deleted, c)
	}
	if !skeleton {
		p.gone = append(p.gone, c.Position)
		p.purged++
	}
	return nil
}

// keep hides a message or an old state event that a legal hold covers.
func (p *purging) keep(c storage.PurgeCandidate) {
	p.kept, p.gone = append(p.kept, c), append(p.gone, c.Position)
}

// finish carries out what was collected about the messages of a batch.
func (p *purging) finish(batch []storage.PurgeCandidate, out *Purged) error {
	if out.Events, out.Kept = p.purged, len(p.kept); len(p.deleted)+len(p.kept) == 0 {
		return nil
	}
	dependents, err := p.tx.WithDependents(batch)
	if err != nil {
		return err
	}
	if err := p.tx.PurgeEvents(p.deleted, dependents, true); err != nil {
		return fmt.Errorf("purge %d messages: %w", len(p.deleted), err)
	}
	return p.tx.KeepEvents(p.kept, dependents)
}

// receipt counts what one transaction of a purge has removed. With the last transaction, the receipt about the room is
// complete.
func (s *Service) receipt(tx *storage.Tx, r *Room, kind string, out *Purged, media int64) error {
	if err := s.opts.Deletions.Count(tx, r.nid, kind, int64(out.Events), media); err != nil || out.More {
		return err
	}
	return s.opts.Deletions.Close(tx, r.nid, kind, func() deletions.Room {
		return deletions.Room{ID: r.id, Policy: r.Retention().String(), Servers: r.OtherServers()}
	})
}

// counted deletes something of a room in other ways than by a purge, and counts that for a receipt.
func (s *Service) counted(tx *storage.Tx, room ident.RoomNID, kind string, events int64, remove func() error) error {
	media := tx.DeletedMedia()
	if err := remove(); err != nil {
		return err
	}
	return s.opts.Deletions.Count(tx, room, kind, events, tx.DeletedMedia()-media)
}

// skeletonize reduces a message to its redacted form, which no client sees.
func skeletonize(tx *storage.Tx, v *pdu.Version, row *storage.EventRow) error {
	e, err := pdu.ParseStored(v, id.EventID(row.EventID), row.JSON)
	if err == nil {
		e, err = e.Redact()
	}
	if err == nil {
		err = tx.SkeletonizeEvent(row.Position, row.EventID, row.Flags, e.JSON())
	}
	if err != nil {
		return fmt.Errorf("reduce %s: %w", row.EventID, err)
	}
	return nil
}

// purged is the Committed hook of a purge. It removes the deleted events from memory.
func (s *Service) purged(r *Room, gone []storage.Pos, cutoff int64) {
	s.commit(&Commit{Room: r, Purged: gone}, headFunc(func(r *Room) {
		r.head.purged = max(r.head.purged, cutoff)
		if len(gone) > 0 {
			r.head.ring = without(r.head.ring, gone)
		}
	}))
}

// without returns the ring without the events in gone. An event whose thread root is deleted moves to the main
// timeline.
func without(ring []*Event, gone []storage.Pos) []*Event {
	out := make([]*Event, 0, 2*ringSize)
	for _, e := range ring {
		if slices.Contains(gone, e.Pos) {
			continue
		}
		if e.ThreadRoot != 0 && slices.Contains(gone, e.ThreadRoot) {
			e = e.WithoutThread()
		}
		out = append(out, e)
	}
	return out
}

// SetRetentionOverride sets the administrator's retention policy for a room. If override is nil, it removes that
// policy, so that the room's own policy applies.
func (s *Service) SetRetentionOverride(ctx context.Context, roomID id.RoomID, override *expiry.Policy) error {
	var low, high *int64
	text, err := json.Marshal(override)
	if err != nil {
		return err
	}
	if override != nil {
		if override.Min != nil && override.Max != nil && *override.Max < *override.Min {
			return mxerr.InvalidParam("The maximum must not be shorter than the minimum")
		}
		low, high = expiry.Millis(override.Min), expiry.Millis(override.Max)
	}
	return s.touch(ctx, roomID, func(r *Room) storage.Write {
		return storage.Write{
			Do: func(tx *storage.Tx) error {
				if err := tx.Note(storage.LedgerOverride, int64(r.nid), 0, string(text)); err != nil {
					return err
				}
				return tx.SetRetentionOverride(r.nid, override != nil, low, high, s.opts.Now().UnixMilli())
			},
			Committed: func() {
				s.commit(&Commit{Room: r, Retention: true}, headFunc(func(r *Room) {
					r.head.override = override
					r.head.policy = s.effective(&r.head)
				}))
			},
		}
	})
}

// Override returns the administrator's retention policy for the room, or nil if there is none.
func (r *Room) Override() *expiry.Policy {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.head.override
}
