package rooms

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/expiry"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Details is what administrators are shown of a room.
type Details struct {
	NID          ident.RoomNID
	ID           id.RoomID
	Version      id.RoomVersion
	Name         string // "" if the room has none
	Alias        string // the canonical one; "" if the room has none
	Joined       int    // joined members
	Encrypted    bool
	Published    bool
	Created      time.Time      // when this server first knew the room
	Retention    expiry.Policy  // the effective policy
	Override     *expiry.Policy // the administrator's policy; nil if there is none
	PurgedBefore int64          // ms; older message events are gone for good
}

// RoomDetails returns the details of one room.
//
// Errors: ErrNoRoom.
func (s *Service) RoomDetails(ctx context.Context, room id.RoomID) (Details, error) {
	list, err := s.readDetails(ctx, func(tx *storage.Tx) ([]storage.RoomRow, error) {
		row, found, err := tx.RoomByID(string(room))
		if err == nil && !found {
			err = ErrNoRoom
		}
		return []storage.RoomRow{row}, err
	})
	if err != nil {
		return Details{}, err
	}
	return list[0], nil
}

// ListRooms returns the details of at most limit rooms, in the order of their numbers; after is the number of the room
// before them, 0 for the first page.
func (s *Service) ListRooms(ctx context.Context, after ident.RoomNID, limit int) ([]Details, error) {
	return s.readDetails(ctx, func(tx *storage.Tx) ([]storage.RoomRow, error) { return tx.RoomRows(after, limit) })
}

// readDetails returns the details of the rooms that find finds, from one snapshot. It reads the database even if the
// rooms are in memory, and loads none.
func (s *Service) readDetails(ctx context.Context, find func(*storage.Tx) ([]storage.RoomRow, error)) (list []Details, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err := find(tx)
		if err != nil || len(rows) == 0 {
			return err
		}
		nids := make([]ident.RoomNID, len(rows))
		for i := range rows {
			nids[i] = rows[i].NID
		}
		joined, err := tx.JoinedCounts(nids)
		if err != nil {
			return err
		}
		state, err := tx.DescribingState(nids)
		if err != nil {
			return err
		}
		list, err = s.detailsOf(rows, joined, state)
		return err
	})
	return list, err
}

// detailsOf makes the details of rooms from their rows, their numbers of joined members and their describing state.
func (s *Service) detailsOf(rows []storage.RoomRow, joined map[ident.RoomNID]int64, state []storage.EventRow) ([]Details, error) {
	stateOf := make(map[ident.RoomNID][]storage.EventRow, len(rows))
	for _, e := range state {
		stateOf[e.Room] = append(stateOf[e.Room], e)
	}
	list := make([]Details, len(rows))
	for i := range rows {
		row := &rows[i]
		version, err := versionOf(row)
		if err != nil {
			return nil, err
		}
		h := head{state: map[pdu.StateKey]*Event{}, override: overrideOf(row)}
		for j := range stateOf[row.NID] {
			e, err := fromRow(version, &stateOf[row.NID][j])
			if err != nil {
				return nil, err
			}
			h.state[pdu.StateKey{Type: e.Type()}] = e
		}
		list[i] = Details{
			NID: row.NID, ID: id.RoomID(row.RoomID), Version: version.ID, Name: h.text(typeName, "name"), Alias: h.text(typeCanonicalAlias, "alias"),
			Joined: int(joined[row.NID]), Encrypted: h.state[pdu.StateKey{Type: typeEncryption}] != nil, Published: row.Published,
			Created: time.UnixMilli(row.CreatedTS), Retention: s.effective(&h), Override: h.override, PurgedBefore: row.PurgedBefore,
		}
	}
	return list, nil
}

// text returns a string member of a state event with an empty state key, empty if there is none.
func (h *head) text(typ, key string) string {
	e := h.state[pdu.StateKey{Type: typ}]
	if e == nil {
		return ""
	}
	return e.ContentString(key)
}
