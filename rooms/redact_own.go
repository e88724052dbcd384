package rooms

import (
	"context"

	"maunium.net/go/mautrix/id"

	"ebb/deletions"
	"ebb/ident"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// MaxOwnRedactions is how many messages RedactMessages and RemoveMessages take: one write of 50 takes a few
// milliseconds, so sends of other users do not wait long.
const MaxOwnRedactions = 50

// RedactMessages sends redactions, as sender, of messages that sender has sent to a room. It leaves out those that are
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
			if e := stored[p]; e != nil && e.Room == room.nid && e.SenderNID == sender.UserNID && !e.IsState() && !e.Hidden() && e.RedactedBy == 0 {
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

// RemoveMessages removes the content of messages from this server without a redaction. Clients do not see these
// messages any more, and other servers get their redacted form. A message under a legal hold is only hidden until the
// hold is lifted. The same write calls also with the number of messages.
func (s *Service) RemoveMessages(ctx context.Context, room *Room, positions []storage.Pos, also func(tx *storage.Tx, n int) error) error {
	positions = positions[:min(len(positions), MaxOwnRedactions)]
	var gone []storage.Pos
	return s.touch(ctx, room.id, func(r *Room) storage.Write {
		return storage.Write{
			Do: func(tx *storage.Tx) error {
				gone = nil
				removed, media := int64(0), tx.DeletedMedia()
				rows, err := tx.EventsAt(positions)
				if err != nil {
					return err
				}
				for _, row := range rows {
					if row.Room != r.nid || row.IsState || row.Flags&storage.GoneEvent != 0 {
						continue
					}
					held := s.Held(row.Room, row.Sender)
					if err := removeMessage(tx, r.version, &row, held); err != nil {
						return err
					}
					if !held {
						removed++
					}
					gone = append(gone, row.Position)
				}
				if err := s.opts.Deletions.Count(tx, r.nid, deletions.Removed, removed, tx.DeletedMedia()-media); err != nil {
					return err
				}
				return also(tx, len(gone))
			},
			Committed: func() { s.purged(r, gone, 0) },
		}
	})
}

// removeMessage removes the content of a message, or only hides it if a legal hold keeps it.
func removeMessage(tx *storage.Tx, v *pdu.Version, row *storage.EventRow, held bool) error {
	var err error
	if held {
		err = hideMessage(tx, row)
	} else {
		err = skeletonize(tx, v, row)
	}
	if err != nil {
		return err
	}
	return tx.Note(storage.LedgerRemoved, int64(row.Position), 0, "")
}

// hideMessage hides a message that a legal hold keeps.
func hideMessage(tx *storage.Tx, row *storage.EventRow) error {
	kept := []storage.PurgeCandidate{{Position: row.Position, EventID: row.EventID}}
	dependents, err := tx.WithDependents(kept)
	if err != nil {
		return err
	}
	return tx.KeepEvents(kept, dependents)
}

// RemoveAgain removes the content of a message that RemoveMessages had removed, in a database that was restored from a
// backup, before any service uses it. It reports whether there was something to remove.
func RemoveAgain(tx *storage.Tx, p storage.Pos) (removed bool, err error) {
	row, found, err := tx.EventAt(p)
	if err != nil || !found || row.IsState || row.Flags&storage.GoneEvent != 0 {
		return false, err
	}
	room, found, err := tx.RoomByNID(row.Room)
	if err != nil || !found {
		return false, err
	}
	v, known := pdu.VersionOf(id.RoomVersion(room.Version))
	if !known {
		return false, nil
	}
	_, held, err := tx.HoldOn(row.Room, row.Sender)
	if err != nil {
		return false, err
	}
	return true, removeMessage(tx, v, &row, held)
}
