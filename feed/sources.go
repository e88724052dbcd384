package feed

import (
	"context"
	"encoding/json"

	"ebb/ident"
	"ebb/storage"
)

// E2EE is what /sync asks of the end-to-end encryption service. Every change that these methods would tell a user or a
// device of must wake it through wake.Hub (Users or Device) in the Committed hook: a device that was not woken is not
// looked at again.
type E2EE interface {
	// ToDevice lists the messages for a device at positions in (since, upTo], oldest first, at most limit.
	ToDevice(tx *storage.Tx, device ident.DeviceNID, since, upTo storage.Pos, limit int) ([]storage.ToDevice, error)
	// AckToDevice forgets the messages of a device up to a position, which the client has now confirmed.
	AckToDevice(ctx context.Context, device ident.DeviceNID, upTo storage.Pos) error
	// DeviceListChanges lists the users whose devices or identity keys changed in (since, upTo] and who share a room
	// with user; user is listed too.
	DeviceListChanges(tx *storage.Tx, user ident.UserNID, since, upTo storage.Pos) ([]ident.UserNID, error)
	// KeyCounts counts the unclaimed one-time keys of a device by algorithm, and names the algorithms whose fallback
	// key nobody was given yet.
	KeyCounts(tx *storage.Tx, device ident.DeviceNID) (oneTime []storage.KeyCount, unusedFallback []string, err error)
}

// Push is what /sync asks of the push rules. A change of a user's rules wakes the user (wake.Hub.Users).
type Push interface {
	// RulesSince gives the content of m.push_rules when it changed in (since, upTo]; since 0 always gives it.
	RulesSince(tx *storage.Tx, user ident.UserNID, since, upTo storage.Pos) (content json.RawMessage, changed bool, err error)
}
