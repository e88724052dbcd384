package rooms

import (
	"ebb/rooms/selfdestruct"
	"ebb/storage"
)

// maxSelfDestructs bounds the messages of a user in a room that are still to be destroyed. Beyond it, the oldest are
// destroyed at once: earlier than their sender asked for, but none is forgotten.
const maxSelfDestructs = 1000

// writeSelfDestruct stores when a message is to be destroyed, if it asks for that. Package redactions does it.
// Spec: MSC2228
func (b *batch) writeSelfDestruct(tx *storage.Tx, e *pendingEvent) error {
	if e.IsState() || e.Order == 0 || e.Flags&(storage.HiddenEvent|storage.SkeletonEvent) != 0 {
		return nil
	}
	wish, ok, _ := selfdestruct.Parse(e.Content(), e.ReceivedTS) // invalid values from other servers have no effect
	if !ok {
		return nil
	}
	e.destructs = true
	d := storage.SelfDestruct{Position: e.Pos, Room: e.Room, Sender: e.SenderNID, DueTS: wish.At, AfterRead: wish.AfterRead}
	return tx.AddSelfDestruct(&d, maxSelfDestructs, b.svc.nowMS())
}
