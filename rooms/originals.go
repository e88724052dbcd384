package rooms

import (
	"time"

	"ebb/deletions"
	"ebb/rooms/expiry"
	"ebb/storage"
)

// FateOfOriginal returns what a purge at a time does with the original of a redacted event of a room with the given
// policy. The original also goes with the event, which a purge treats like any other message.
func (s *Service) FateOfOriginal(o *storage.Original, policy expiry.Policy, at time.Time) expiry.Fate {
	_, erased := s.ErasedAt(o.Sender)
	return expiry.FateOf(expiry.Facts{
		Held:      s.Held(o.Room, o.Sender),
		WithinMin: !o.IsState && policy.WithinMin(o.ReceivedTS, at.UnixMilli()),
		Erased:    erased,
		Redacted:  !o.Readable || at.UnixMilli() >= o.RedactedTS+s.opts.Retention.Redacted.Milliseconds(),
	})
}

// OriginalReadable reports whether moderators of the room may read the original of a redacted event. They may not if
// only a legal hold or min_lifetime keeps it.
func (s *Service) OriginalReadable(o *storage.Original) bool {
	_, erased := s.ErasedAt(o.Sender)
	return o.Readable && !erased && s.nowMS() < o.RedactedTS+s.opts.Retention.Redacted.Milliseconds()
}

// original describes the original of an event that is redacted, and reports whether it is kept. redactedTS is when this
// server received the redaction (ms).
func (b *batch) original(e *Event, redactedTS int64) (o *storage.Original, keep bool) {
	o = &storage.Original{
		Position: e.Pos, Room: b.room.nid, Sender: e.SenderNID, RedactedTS: redactedTS, ReceivedTS: e.ReceivedTS, IsState: e.IsState(),
		Readable: b.svc.opts.Retention.Redacted > 0,
	}
	return o, !b.svc.FateOfOriginal(o, b.room.Retention(), b.svc.opts.Now()).Gone()
}

// writeOriginal stores the original of an event that is stored in its redacted form because it was redacted, or had
// expired, before it arrived.
func (b *batch) writeOriginal(tx *storage.Tx, e *pendingEvent) error {
	if e.original == nil {
		return nil
	}
	redactedTS := e.ReceivedTS
	if len(e.revealed) > 0 {
		redactedTS = e.revealed[0].ReceivedTS
	}
	o, keep := b.original(e.Event, redactedTS)
	if e.Flags&storage.SkeletonEvent != 0 { // expired
		o.Readable, keep = false, b.svc.Held(o.Room, o.Sender)
	}
	if !keep {
		return nil
	}
	o.JSON = e.original
	return tx.AddOriginal(o)
}

// DeleteOriginal deletes the original of a redacted event, and counts that for a receipt.
func (s *Service) DeleteOriginal(tx *storage.Tx, o *storage.Original) error {
	return s.counted(tx, o.Room, deletions.Redacted, 1, func() error { return tx.DeleteOriginal(o.Position) })
}
