package retention

import (
	"context"
	"regexp"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/storage"
)

// Gone counts what a policy would remove.
type Gone struct {
	Messages, Bytes int64
	Media           int // different files to which the messages link
}

// Bounds of a trial.
const (
	tryPage  = 500     // events that one query reads
	maxMedia = 100_000 // different files that are counted
)

var mediaURI = regexp.MustCompile(`mxc://[^"\\\s]{1,500}`)

// Try counts what a policy would remove from a room now, without removing anything. It reads the whole room.
func (j *Job) Try(ctx context.Context, room *rooms.Room, p expiry.Policy) (g Gone, err error) {
	cutoff, expires := expiry.CutoffOf(p, j.opts.Now())
	if !expires {
		return g, nil
	}
	files := map[string]bool{}
	for after, more := ident.Order(0), true; more; {
		err = j.opts.DB.Read(ctx, func(tx *storage.Tx) error {
			rows, err := tx.Expired(room.NID(), after, storage.Cutoff(cutoff), tryPage)
			for _, row := range rows {
				after = row.Order
				g.Messages++
				g.Bytes += int64(len(row.JSON))
				for _, uri := range mediaURI.FindAllString(string(row.JSON), -1) {
					if len(files) < maxMedia {
						files[uri] = true
					}
				}
			}
			more = len(rows) == tryPage
			return err
		})
		if err != nil {
			return g, err
		}
	}
	g.Media = len(files)
	return g, nil
}
