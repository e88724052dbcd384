package feed

import (
	"context"
	"slices"

	"ebb/ident"
	"ebb/rooms/graph"
	"ebb/storage"
)

// bumpTypes are the events that count as activity for people.
var bumpTypes = []string{
	"m.room.create", "m.room.message", "m.room.encrypted", "m.sticker", "m.call.invite", "m.poll.start", "org.matrix.msc3381.poll.start",
	"m.beacon_info", "org.matrix.msc3672.beacon_info",
}

// maxBumps bounds the cached results of Tx.Bump.
const maxBumps = 20_000

// bumpKey is the key under which a result of Tx.Bump is cached. upTo is the position up to which the room's timeline is
// not in memory.
type bumpKey struct {
	room ident.RoomNID
	upTo storage.Pos
}

// bumpStamp returns the position of the newest event of a room that counts as activity for people. It reads the
// database only if there is no such event among those in memory.
func (b *slidingBuilder) bumpStamp(ctx context.Context, r *roomWork) (storage.Pos, error) {
	ring, reach := r.room.Ring()
	for _, e := range slices.Backward(ring) {
		if e.Pos <= b.upTo && slices.Contains(bumpTypes, e.Type()) && !b.ignores(e.Sender()) {
			return e.Pos, nil
		}
	}
	key := bumpKey{r.Room, reach}
	if pos, known := b.sliding.bumps.Get(key); known {
		return max(pos, 1), nil
	}
	var pos storage.Pos
	err := b.read(ctx, func(tx *storage.Tx) (err error) {
		pos, err = tx.Bump(r.Room, ident.Order(reach)*graph.OrderStep)
		return err
	})
	if err == nil {
		b.sliding.bumps.Put(key, pos)
	}
	return max(pos, 1), err
}
