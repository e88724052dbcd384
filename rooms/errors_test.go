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
			t.Errorf("%s: %v", name, err)
		}
	}
	if code := mxerr.Code(byID); code != mxerr.CodeNotFound {
		t.Errorf("a room that nobody knows: %s", code)
	}
	if code := mxerr.Code(unknownIsForbidden(byID)); code != mxerr.CodeForbidden {
		t.Errorf("for somebody who must not know that: %s", code)
	}
}
