package rooms

import (
	"errors"
	"testing"

	"ebb/ident"
	"ebb/mxerr"
)

func TestUnknownRoomsAreReportedByOneError(t *testing.T) {
	h := oneHouse(t)
	_, byID := h.svc.Room(t.Context(), "!none:here")
	_, byNID := h.svc.RoomByNID(t.Context(), 1<<40)
	_, many := h.svc.RoomsByNID(t.Context(), []ident.RoomNID{1 << 40, 1<<40 + 1})
	for name, err := range map[string]error{"by id": byID, "by number": byNID, "many": many, "hidden from who is not there": unknownIsForbidden(byID)} {
		if !errors.Is(err, ErrNoRoom) {
			t.Errorf("%s: got %v, want ErrNoRoom", name, err)
		}
	}
	if code := mxerr.Code(byID); code != mxerr.CodeNotFound {
		t.Errorf("the error for an unknown room has code %s, want %s", code, mxerr.CodeNotFound)
	}
	if code := mxerr.Code(unknownIsForbidden(byID)); code != mxerr.CodeForbidden {
		t.Errorf("the error for a user who must not learn whether the room exists has code %s, want %s", code, mxerr.CodeForbidden)
	}
}
