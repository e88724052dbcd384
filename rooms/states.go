package rooms

import (
	"context"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/graph"
	"ebb/storage"
	"ebb/storage/statechain"
)

// NeedStates ends a search for states of a room that nothing needs (see storage.Tx.BeginStateSweep). It records which
// ones are needed because the room in memory may refer to them, or because writes have referred to them since the
// search began. Nothing refers to the other ones after that, so that they can be deleted. It returns false if that is
// not certain.
func (s *Service) NeedStates(ctx context.Context, room id.RoomID, states statechain.Set) (known bool, err error) {
	_, release, err := s.hold(ctx, room, receiving) // its holder may have read a state before it takes the writer lock
	if err != nil {
		return false, err
	}
	defer release()
	err = s.touch(ctx, room, func(r *Room) storage.Write {
		if r.next.queued != nil {
			<-r.next.queued.Done() // which may set the numbers of snapshots
		}
		for _, x := range r.next.extremities {
			states.Need(x.After.Written())
		}
		for _, at := range append([]*graph.Snapshot{r.next.snapshot}, r.next.resolvedFrom...) {
			states.Need(at.Written())
		}
		return storage.Write{Do: func(tx *storage.Tx) error { known = tx.NeedWatchedStates(states); return nil }}
	})
	return known, err
}
