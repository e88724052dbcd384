package rooms

import (
	"context"

	"ebb/rooms/graph"
	"ebb/storage"
)

// reader returns a reader of the room's stored graph.
func (r *Room) reader(tx *storage.Tx) *graph.Reader { return r.readerWith(tx, nil) }

// readerWith is reader with a cache that several readers share.
func (r *Room) readerWith(tx *storage.Tx, facts *graph.Facts) *graph.Reader {
	return graph.NewReader(graph.Room{NID: r.nid, ID: r.id, Version: r.version, Entered: r.entered(), Partial: r.partialState() != nil}, tx, facts)
}

// settled waits until no write of the room is queued, then reads. The writer lock is held. Only events that need the
// database wait like this, as when the graph forks; a message that follows the newest event does not.
func (r *Room) settled(ctx context.Context, f func(tx *storage.Tx) error) error {
	if q := r.next.queued; q != nil {
		<-q.Done()
	}
	return r.svc.db.Read(context.WithoutCancel(ctx), f)
}
