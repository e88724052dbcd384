package redactions

import (
	"testing"

	"ebb/ident"
)

func newDestructs() *destructs {
	return &destructs{wake: make(chan struct{}, 1), waiting: map[ident.RoomNID]struct{}{}, rooms: map[ident.RoomNID]struct{}{}}
}

// A commit between the check of a room and what follows from it must not be lost.
func TestARoomIsForgottenOnlyIfNothingHappenedSinceItWasTaken(t *testing.T) {
	d := newDestructs()
	d.wait(1)
	d.again([]ident.RoomNID{1})
	if list := d.take(); len(list) != 1 {
		t.Fatalf("taken are %v", list)
	}
	d.again([]ident.RoomNID{1}) // as a commit does
	d.forget(1)
	if _, found := d.waiting[1]; !found {
		t.Error("the room is forgotten although something has happened in it")
	}
	d.take()
	d.forget(1)
	if len(d.waiting) != 0 {
		t.Error("the room is not forgotten")
	}
}

func TestBeyondTheBoundEveryRoomIsChecked(t *testing.T) {
	d := newDestructs()
	for nid := range ident.RoomNID(maxWaitingRooms) {
		d.wait(nid + 1)
	}
	d.wait(1) // known already
	if d.more {
		t.Error("the bound is reached too early")
	}
	d.wait(maxWaitingRooms + 1)
	if !d.more || len(d.waiting) != maxWaitingRooms {
		t.Errorf("%d rooms, more: %v", len(d.waiting), d.more)
	}
}
