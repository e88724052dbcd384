// Package settings copies account data of a user from a room to the room that replaces it.
package settings

import (
	"encoding/json"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
)

// The account data that follows a user from a room to its replacement.
const (
	TypeTags   = "m.tag"
	TypeDirect = "m.direct"
)

// CopyTags copies a user's tags from a room to the room that replaces it, unless the new room has tags already.
func CopyTags(tx *storage.Tx, user ident.UserNID, from, to ident.RoomNID) (changed bool, err error) {
	tags, found, err := tx.AccountData(user, from, TypeTags)
	if err != nil || !found {
		return false, err
	}
	if _, already, err := tx.AccountData(user, to, TypeTags); err != nil || already {
		return false, err
	}
	return true, tx.SetAccountData(user, to, TypeTags, tags)
}

// CopyDirect adds the new room to m.direct wherever the old one is listed.
func CopyDirect(tx *storage.Tx, user ident.UserNID, from, to id.RoomID) (changed bool, err error) {
	raw, found, err := tx.AccountData(user, 0, TypeDirect)
	if err != nil || !found {
		return false, err
	}
	direct := map[string][]id.RoomID{}
	if json.Unmarshal([]byte(raw), &direct) != nil {
		clear(direct) // m.direct of another shape stays as it is
	}
	for who, rooms := range direct {
		if slices.Contains(rooms, from) && !slices.Contains(rooms, to) {
			direct[who], changed = append(rooms, to), true
		}
	}
	if !changed {
		return false, nil
	}
	out, err := json.Marshal(direct)
	if err != nil {
		return false, err
	}
	return true, tx.SetAccountData(user, 0, TypeDirect, string(out))
}
