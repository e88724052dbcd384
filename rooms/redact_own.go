package rooms

import (
	"context"

	"ebb/deletions"
	"ebb/ident"
	"ebb/rooms/eventcontent"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// MaxOwnRedactions is how many messages RedactMessages and RemoveMessages take: one write of 50 takes a few
// milliseconds, so sends of other users do not wait long.
const MaxOwnRedactions = 50

// RedactMessages sends redactions, as sender, of events that sender has sent to a room. It leaves out those that are
// redacted or hidden already. The same write calls also with the number of redactions.
//
// Errors: M_FORBIDDEN if the sender is not in the room or may not send redactions there.
func (s *Service) RedactMessages(
	ctx context.Context, room *Room, sender ident.Requester, reason string, positions []storage.Pos, also func(tx *storage.Tx, n int) error,
) error {
	if room.Membership(sender.UserID) != Join {
		return errNotInRoom()
	}
	var targets []*Event
	err := s.db.Read(ctx, func(tx *storage.Tx) error {
		stored, err := room.EventsAt(tx, positions[:min(len(positions), MaxOwnRedactions)])
		for _, p := range positions {
			if e := stored[p]; e != nil && e.Room == room.nid && e.SenderNID == sender.UserNID && !e.Hidden() && e.RedactedBy == 0 {
				targets = append(targets, e)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	if len(targets) == 0 {
		return s.db.Write(ctx, func(tx *storage.Tx) error { return also(tx, 0) })
	}
	content := redactionContent(reason)
	return unknownIsForbidden(s.change(ctx, room.id, func(b *batch) error {
		for _, e := range targets {
			if _, err := b.add(proto{typ: typeRedaction, sender: sender, content: content, redacts: e.ID(), target: e}); err != nil {
				return err
			}
		}
		b.extra = func(tx *storage.Tx, _ ident.RoomNID) error { return also(tx, len(targets)) }
		return nil
	}))
}

// PersonalState returns those of the given state events that contain something about a user that can be removed: own
// are events that the user has sent and of which a redaction removes something, and named are member events by others
// with the user's name or avatar.
func (r *Room) PersonalState(tx *storage.Tx, user ident.UserNID, positions []storage.Pos) (own, named []storage.Pos, err error) {
	stored, err := r.EventsAt(tx, positions)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range positions {
		e := stored[p]
		if e == nil || e.Room != r.nid {
			continue
		}
		pruned, err := eventcontent.WithoutPerson(r.version, e.Event, e.SenderNID == user)
		switch {
		case err != nil:
			return nil, nil, err
		case pruned == nil:
		case e.SenderNID == user:
			own = append(own, p)
		default:
			named = append(named, p)
		}
	}
	return own, named, nil
}

// RemoveMessages removes the content of messages from this server without a redaction. Clients do not see these
// messages any more, and other servers get their redacted form. A message that a legal hold or min_lifetime keeps is
// only hidden until nothing keeps it. Of state events, which stay, it removes what is personal of the user. The same
// write calls also with the number of events.
func (s *Service) RemoveMessages(
	ctx context.Context, room *Room, user ident.UserNID, positions []storage.Pos, also func(tx *storage.Tx, n int) error,
) error {
	positions = positions[:min(len(positions), MaxOwnRedactions)]
	var done removal
	return s.touch(ctx, room.id, func(r *Room) storage.Write {
		return storage.Write{
			Do: func(tx *storage.Tx) error {
				done = removal{svc: s, room: r, user: user}
				media := tx.DeletedMedia()
				rows, err := tx.EventsAt(positions)
				if err != nil {
					return err
				}
				for i := range rows {
					if err := done.remove(tx, &rows[i]); err != nil {
						return err
					}
				}
				if err := s.opts.Deletions.Count(tx, r.nid, deletions.Removed, done.removed, tx.DeletedMedia()-media); err != nil {
					return err
				}
				return also(tx, len(done.gone)+len(done.pruned))
			},
			Committed: func() { done.committed() },
		}
	})
}

// removal collects what one write of RemoveMessages removes.
type removal struct {
	svc     *Service
	room    *Room
	user    ident.UserNID
	gone    []storage.Pos // messages
	removed int64         // how many of them nothing keeps
	pruned  []*Event      // state events, in their new form
}

func (d *removal) remove(tx *storage.Tx, row *storage.EventRow) error {
	r := d.room
	if row.Room != r.nid || row.Flags&storage.GoneEvent != 0 {
		return nil
	}
	held := d.svc.Held(row.Room, row.Sender)
	if !row.IsState {
		kept := held || r.Retention().WithinMin(row.ReceivedTS, d.svc.nowMS())
		if d.gone = append(d.gone, row.Position); !kept {
			d.removed++
		}
		return removeMessage(tx, r.version, row, kept)
	}
	e, err := graph.LoadEvent(r.version, row)
	if err != nil {
		return err
	}
	pruned, err := eventcontent.WithoutPerson(r.version, e.Event, e.SenderNID == d.user)
	if err != nil || pruned == nil {
		return err
	}
	d.pruned = append(d.pruned, e.RedactedAs(pruned, row.RedactedBy))
	if held {
		o := &storage.Original{Position: row.Position, Room: r.nid, RedactedTS: tx.Now().UnixMilli()}
		return tx.RedactKeepingOriginal(o, row.EventID, pruned.JSON(), row.RedactedBy)
	}
	return tx.RedactEvent(r.nid, row.Position, row.EventID, pruned.JSON(), row.RedactedBy)
}

// committed is the Committed hook of the write.
func (d *removal) committed() {
	c := &Commit{Room: d.room, Purged: d.gone}
	for _, e := range d.pruned {
		c.Redacted = append(c.Redacted, CommittedRedaction{ID: e.ID(), Pos: e.Pos, By: e.RedactedBy})
	}
	d.svc.commit(c, headFunc(func(r *Room) {
		if len(d.gone) > 0 {
			r.head.ring = without(r.head.ring, d.gone)
		}
		for _, e := range d.pruned {
			r.replace(e)
		}
	}))
}

// removeMessage removes the content of a message, or only hides it if something keeps it.
func removeMessage(tx *storage.Tx, v *pdu.Version, row *storage.EventRow, kept bool) error {
	var err error
	if kept {
		err = hideMessage(tx, row)
	} else {
		err = skeletonize(tx, v, row)
	}
	if err != nil {
		return err
	}
	return tx.Note(storage.LedgerRemoved, int64(row.Position), 0, "")
}

// hideMessage hides a message that a legal hold or min_lifetime keeps. A purge removes it when nothing does any more.
func hideMessage(tx *storage.Tx, row *storage.EventRow) error {
	kept := []storage.PurgeCandidate{{Room: row.Room, Position: row.Position, EventID: row.EventID}}
	dependents, err := tx.WithDependents(kept)
	if err != nil {
		return err
	}
	return tx.KeepEvents(kept, dependents)
}

// RemoveAgain hides a message that RemoveMessages had removed, in a database that was restored from a backup, before
// any service uses it. The purge that follows removes its content. It reports whether there was something to hide.
func RemoveAgain(tx *storage.Tx, p storage.Pos) (removed bool, err error) {
	row, found, err := tx.EventAt(p)
	if err != nil || !found || row.IsState || row.Flags&storage.GoneEvent != 0 {
		return false, err
	}
	return true, hideMessage(tx, &row)
}
