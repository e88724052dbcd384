package legalhold

import (
	"encoding/json"

	"maunium.net/go/mautrix/event"

	"ebb/ident"
	"ebb/storage"
)

// Follow extends the holds on a room, and on the rooms that replace it or that it replaced, to all of these rooms. It
// is called in each write that adds a hold or changes which room replaces which, and returns the holds that it has
// added.
//
// One room replaces another if each names the other: the tombstone of the old room the new one, and the create event of
// the new room the old one. Anybody can create a room that claims to replace another, or end a room in favour of one of
// somebody else's, so one of the two does not count.
func Follow(tx *storage.Tx, room ident.RoomNID) (added []Change, err error) {
	for queue := []ident.RoomNID{room}; len(queue) > 0; queue = queue[1:] {
		linked, err := links(tx, queue[0])
		if err != nil {
			return nil, err
		}
		for _, other := range linked {
			for _, pair := range [][2]ident.RoomNID{{queue[0], other}, {other, queue[0]}} {
				n, err := tx.ExtendLegalHolds(pair[0], pair[1])
				if err != nil {
					return nil, err
				}
				for range n {
					added = append(added, Change{Room: pair[1]})
				}
				if n > 0 {
					queue = append(queue, pair[1])
				}
			}
		}
	}
	return added, nil
}

// links returns the rooms that a room replaces or that replace it, of those that are stored.
func links(tx *storage.Tx, room ident.RoomNID) (linked []ident.RoomNID, err error) {
	row, found, err := tx.RoomByNID(room)
	if err != nil || !found {
		return nil, err
	}
	from, err := predecessor(tx, room)
	if err != nil {
		return nil, err
	}
	to, err := successor(tx, room)
	if err != nil {
		return nil, err
	}
	for _, l := range []struct {
		other string
		back  func(*storage.Tx, ident.RoomNID) (string, error)
	}{{from, successor}, {to, predecessor}} {
		if l.other == "" {
			continue
		}
		other, found, err := tx.RoomByID(l.other)
		if err != nil {
			return nil, err
		}
		if !found {
			continue
		}
		back, err := l.back(tx, other.NID)
		if err != nil {
			return nil, err
		}
		if back == row.RoomID {
			linked = append(linked, other.NID)
		}
	}
	return linked, nil
}

// predecessor returns the room that the create event of a room names as the one it replaces, or "".
func predecessor(tx *storage.Tx, room ident.RoomNID) (string, error) {
	var e struct {
		Content struct {
			Predecessor struct {
				RoomID string `json:"room_id"`
			} `json:"predecessor"`
		} `json:"content"`
	}
	err := content(tx, room, event.StateCreate, &e)
	return e.Content.Predecessor.RoomID, err
}

// successor returns the room that the tombstone of a room names, or "".
func successor(tx *storage.Tx, room ident.RoomNID) (string, error) {
	var e struct {
		Content struct {
			Replacement string `json:"replacement_room"`
		} `json:"content"`
	}
	err := content(tx, room, event.StateTombstone, &e)
	return e.Content.Replacement, err
}

// content decodes the event of a room's current state with the given type and an empty state key. Members with a wrong
// type count as absent.
func content(tx *storage.Tx, room ident.RoomNID, typ event.Type, into any) error {
	row, found, err := tx.CurrentStateEvent(room, typ.Type)
	if err != nil || !found {
		return err
	}
	_ = json.Unmarshal(row.JSON, into) // see above
	return nil
}
