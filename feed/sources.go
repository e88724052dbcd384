package feed

import (
	"context"
	"encoding/json"

	"ebb/ident"
	"ebb/storage"
)

// E2EE is the part of the end-to-end encryption service that /sync uses. Every change that these methods report must
// wake the user or the device through wake.Hub (Users or Device) in the Committed hook: a device that was not woken is
// not looked at again.
type E2EE interface {
	// ToDevice lists the messages for a device at positions in (since, upTo], oldest first, at most limit.
	ToDevice(tx *storage.Tx, device ident.DeviceNID, since, upTo storage.Pos, limit int) ([]storage.ToDevice, error)
	// AckToDevice deletes the messages of a device up to a position, which the client has now confirmed.
	AckToDevice(ctx context.Context, device ident.DeviceNID, upTo storage.Pos) error
	// DeviceListChanges lists the users whose devices or identity keys changed in (since, upTo] and who share a room
	// with user; user is listed too.
	DeviceListChanges(tx *storage.Tx, user ident.UserNID, since, upTo storage.Pos) ([]ident.UserNID, error)
	// KeyCounts returns the number of unclaimed one-time keys of a device by algorithm, and the algorithms whose
	// fallback key is unused.
	KeyCounts(tx *storage.Tx, device ident.DeviceNID) (oneTime []storage.KeyCount, unusedFallback []string, err error)
}

// Push is the part of the push rules that /sync uses. A change of a user's rules must wake the user (wake.Hub.Users).
type Push interface {
	// RulesSince returns the content of m.push_rules if it changed in (since, upTo]; with since 0 it always returns it.
	RulesSince(tx *storage.Tx, user ident.UserNID, since, upTo storage.Pos) (content json.RawMessage, changed bool, err error)
}
