package retention

import (
	"context"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/storage"
)

// Gone counts what a policy would remove.
type Gone struct {
	Messages int64
	Media    int   // files to which nothing else refers
	Bytes    int64 // of the messages, the originals of redacted ones, and the files
}

// Bounds of a trial.
const (
	tryPage  = 500     // events that one query reads
	maxMedia = 100_000 // different media whose references are counted
)

// trial is what is known after some pages of a trial.
type trial struct {
	Gone
	refs map[storage.MediaName]int64 // how many of the messages refer to the media
}

// Try counts what a policy would remove from a room now, without removing anything. It reads the whole room.
func (j *Job) Try(ctx context.Context, room *rooms.Room, p expiry.Policy) (Gone, error) {
	cutoff, expires := expiry.CutoffOf(p, j.opts.Now())
	if !expires {
		return Gone{}, nil
	}
	t := trial{refs: map[storage.MediaName]int64{}}
	for after, more := ident.Order(0), true; more; {
		err := j.opts.DB.Read(ctx, func(tx *storage.Tx) error {
			rows, err := tx.Expired(room.NID(), after, storage.Cutoff(cutoff), tryPage)
			if err != nil || len(rows) == 0 {
				more = false
				return err
			}
			after, more = rows[len(rows)-1].Order, len(rows) == tryPage
			return t.add(tx, j.removable(room, rows))
		})
		if err != nil {
			return Gone{}, err
		}
	}
	err := j.opts.DB.Read(ctx, t.countMedia)
	return t.Gone, err
}

// removable returns the events that no legal hold covers.
func (j *Job) removable(room *rooms.Room, rows []storage.EventRow) (out []storage.EventRow) {
	for _, row := range rows {
		if !j.opts.Rooms.Held(room.NID(), row.Sender) {
			out = append(out, row)
		}
	}
	return out
}

// add counts messages and their references to media.
func (t *trial) add(tx *storage.Tx, rows []storage.EventRow) error {
	positions := make([]storage.Pos, len(rows))
	for i, row := range rows {
		t.Messages++
		t.Bytes += int64(len(row.JSON))
		positions[i] = row.Position
	}
	originals, err := tx.OriginalBytes(positions)
	if err != nil {
		return err
	}
	t.Bytes += originals
	refs, err := tx.MediaRefsOf(positions)
	for _, m := range refs {
		if t.refs[m] > 0 || len(t.refs) < maxMedia {
			t.refs[m]++
		}
	}
	return err
}

// countMedia counts the media to which only the counted messages refer.
func (t *trial) countMedia(tx *storage.Tx) error {
	uses, err := tx.MediaUses(t.refs)
	for _, u := range uses {
		if u.Refs == t.refs[u.MediaName] {
			t.Media++
			t.Bytes += u.Size
		}
	}
	return err
}
