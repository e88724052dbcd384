package e2ee

import (
	"context"

	"ebb/ident"
	"ebb/storage"
)

// ToDevice returns at most limit messages for a device at positions in (since, upTo], oldest first.
func (s *Service) ToDevice(tx *storage.Tx, device ident.DeviceNID, since, upTo storage.Pos, limit int) ([]storage.ToDevice, error) {
	return tx.ToDevice(device, since, upTo, limit)
}

// AckToDevice deletes the messages for a device up to the position that the client has confirmed.
func (s *Service) AckToDevice(ctx context.Context, device ident.DeviceNID, upTo storage.Pos) error {
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteToDevice(device, upTo) })
}

// DeviceListChanges returns the users whose devices or identity keys changed in (since, upTo]: those who share a room
// with user, user itself, and those whose keys user signed from another device.
func (s *Service) DeviceListChanges(tx *storage.Tx, user ident.UserNID, since, upTo storage.Pos) ([]ident.UserNID, error) {
	return tx.DeviceListChanges(user, since, upTo)
}

// KeyCounts returns two things about a device: the number of its unclaimed one-time keys by algorithm, and the
// algorithms for which it has an unused fallback key. The numbers always include signed_curve25519.
func (s *Service) KeyCounts(tx *storage.Tx, device ident.DeviceNID) (oneTime []storage.KeyCount, unusedFallback []string, err error) {
	counts, err := oneTimeKeyCounts(tx, device)
	if err != nil {
		return nil, nil, err
	}
	for algorithm, n := range counts {
		oneTime = append(oneTime, storage.KeyCount{Algorithm: algorithm, Count: n})
	}
	unusedFallback, err = tx.UnusedFallbackKeys(device)
	return oneTime, unusedFallback, err
}
