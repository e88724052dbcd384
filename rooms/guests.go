package rooms

import (
	"errors"

	"ebb/ident"
	"ebb/mxerr"
)

// AdmitsGuests reports whether guests may join the room.
// Spec: client-server-api#guest-access
func (r *Room) AdmitsGuests() bool { return admitsGuests(r.State(typeGuestAccess, "")) }

func admitsGuests(e *Event) bool { return e != nil && e.ContentString("guest_access") == "can_join" }

func errNoGuests() *mxerr.Error {
	return mxerr.GuestAccessForbidden("This room does not allow guests; create an account to join it")
}

// admitGuest returns an error if a sender is a guest and the room does not allow guests.
func (b *batch) admitGuest(sender ident.Requester) error {
	if !sender.Guest {
		return nil
	}
	e, err := b.room.provisionalState(typeGuestAccess, "")
	if err != nil || admitsGuests(e) {
		return err
	}
	return errNoGuests()
}

// unlessNoRoom returns err, or nil if it says that there is no such room.
func unlessNoRoom(err error) error {
	if errors.Is(err, ErrNoRoom) {
		return nil
	}
	return err
}
