package rooms

import (
	"context"

	"ebb/rooms/graph"
	"ebb/storage"
)

// reader returns a reader of the room's stored graph.
func (r *Room) reader(tx *storage.Tx) *graph.Reader { return r.readerWith(tx, nil) }

// readerWith is like reader, but uses a cache that several readers share.
func (r *Room) readerWith(tx *storage.Tx, facts *graph.Facts) *graph.Reader {
	return graph.NewReader(graph.Room{NID: r.nid, ID: r.id, Version: r.version, Entered: r.entered(), Partial: r.partialState() != nil}, tx, facts)
}

// settled waits until all queued writes of the room are done, and then calls f in a read transaction. The writer lock
// is held. Only events that need the database wait like this, as when the graph forks; a message that follows the
// newest event does not.
func (r *Room) settled(ctx context.Context, f func(tx *storage.Tx) error) error {
	if q := r.next.queued; q != nil {
		<-q.Done()
	}
	return r.svc.db.Read(context.WithoutCancel(ctx), f)
}
