package history

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms"
	"ebb/rooms/expiry"
	"ebb/rooms/graph"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Details describes a room for administrators.
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
	PurgedBefore int64          // ms; older message events have been purged
}

// RoomDetails returns the details of one room.
//
// Errors: rooms.ErrNoRoom.
func (s *Service) RoomDetails(ctx context.Context, room id.RoomID) (Details, error) {
	list, err := s.readDetails(ctx, func(tx *storage.Tx) ([]storage.RoomRow, error) {
		row, found, err := tx.RoomByID(string(room))
		if err == nil && !found {
			err = rooms.ErrNoRoom
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
// rooms are in memory, and loads none, unless retention depends on the kind of a room.
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
	if err == nil && s.rooms.RetentionPolicy().ByKind.Any() {
		err = s.addRetention(ctx, list)
	}
	return list, err
}

// addRetention sets the effective policies of rooms from memory, since they depend on more state than is read for a
// list.
func (s *Service) addRetention(ctx context.Context, list []Details) error {
	for i := range list {
		r, err := s.rooms.RoomByNID(ctx, list[i].NID)
		if err != nil {
			return err
		}
		list[i].Retention = r.Retention()
	}
	return nil
}

// detailsOf makes the details of rooms from their rows, their numbers of joined members and their describing state.
func (s *Service) detailsOf(rows []storage.RoomRow, joined map[ident.RoomNID]int64, state []storage.EventRow) ([]Details, error) {
	stateOf := make(map[ident.RoomNID]describingState, len(rows))
	for _, row := range rows {
		stateOf[row.NID] = describingState{}
	}
	versions := make(map[ident.RoomNID]*pdu.Version, len(rows))
	for i := range rows {
		v, err := rooms.VersionOf(&rows[i])
		if err != nil {
			return nil, err
		}
		versions[rows[i].NID] = v
	}
	for i := range state {
		e, err := graph.LoadEvent(versions[state[i].Room], &state[i])
		if err != nil {
			return nil, err
		}
		stateOf[e.Room][e.Type()] = e
	}
	list := make([]Details, len(rows))
	for i := range rows {
		row := &rows[i]
		state, override := stateOf[row.NID], rooms.RetentionOverride(row)
		list[i] = Details{
			NID: row.NID, ID: id.RoomID(row.RoomID), Version: versions[row.NID].ID, Name: state.text("m.room.name", "name"),
			Alias: state.text("m.room.canonical_alias", "alias"), Joined: int(joined[row.NID]), Encrypted: state["m.room.encryption"] != nil,
			Published: row.Published, Created: time.UnixMilli(row.CreatedTS), Retention: s.rooms.EffectiveRetention(override, state.of, 0),
			Override: override, PurgedBefore: row.PurgedBefore,
		}
	}
	return list, nil
}

// describingState holds events of a room's current state by type.
type describingState map[string]*rooms.Event

func (s describingState) of(typ string) *rooms.Event { return s[typ] }

// text returns the string with the given key in the content of the event of type typ, or "" if there is none.
func (s describingState) text(typ, member string) string {
	if s[typ] == nil {
		return ""
	}
	return s[typ].ContentString(member)
}
