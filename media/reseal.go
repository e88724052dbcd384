package media

import (
	"context"

	"ebb/storage"
)

// resealBatch is the number of keys that Reseal processes in one write, which keeps writes short.
const resealBatch = 100

// Reseal encrypts the keys of files again that were encrypted under a former key of package secrets. It leaves those
// that cannot be decrypted, because their key was lost.
func (s *Service) Reseal(ctx context.Context) error {
	for after := ""; ; {
		var keys []storage.MediaKey
		err := s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
			if keys, err = tx.MediaKeys(after, resealBatch); err != nil {
				return err
			}
			for _, k := range keys {
				if err := s.reseal(tx, k); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(keys) < resealBatch {
			return err
		}
		after = keys[len(keys)-1].Blob
	}
}

func (s *Service) reseal(tx *storage.Tx, k storage.MediaKey) error {
	if !s.opts.Secrets.Stale(k.SealedKey) {
		return nil
	}
	key, err := s.opts.Secrets.Open(sealedRow(k.Name), k.SealedKey)
	if err != nil {
		return nil //nolint:nilerr // openBlob reports it
	}
	sealed, err := s.opts.Secrets.Seal(sealedRow(k.Name), key)
	if err != nil {
		return err
	}
	return tx.ResealMediaKey(k.Blob, sealed)
}
