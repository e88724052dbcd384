package accountdata

import (
	"context"
	"encoding/json"

	"ebb/ident"
	"ebb/rooms"
	"ebb/storage"
)

// WithoutGoneMarkers removes from a list of account data the m.fully_read markers at messages that have expired. It
// reuses data.
func (s *Service) WithoutGoneMarkers(ctx context.Context, tx *storage.Tx, data []storage.AccountDatum) ([]storage.AccountDatum, error) {
	var refs []storage.EventRef
	for _, d := range data {
		if ref, ok := markedEvent(d.Room, d.Type, d.Content); ok {
			refs = append(refs, ref)
		}
	}
	if len(refs) == 0 {
		return data, nil
	}
	gone, err := s.rooms.GoneEvents(ctx, tx, refs)
	if err != nil || len(gone) == 0 {
		return data, err
	}
	kept := data[:0]
	for _, d := range data {
		if ref, ok := markedEvent(d.Room, d.Type, d.Content); !ok || !gone[ref] {
			kept = append(kept, d)
		}
	}
	return kept, nil
}

// markedEvent returns the event that an m.fully_read marker is at. It returns false for other account data.
func markedEvent(room ident.RoomNID, typ, content string) (ref storage.EventRef, ok bool) {
	if typ != rooms.FullyRead || room == 0 {
		return ref, false
	}
	var marker struct {
		EventID string `json:"event_id"`
	}
	if json.Unmarshal([]byte(content), &marker) != nil || marker.EventID == "" {
		return ref, false
	}
	return storage.EventRef{Room: room, EventID: marker.EventID}, true
}
