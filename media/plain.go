package media

import (
	"context"
	"errors"
	"fmt"

	"ebb/storage"
)

// plainBatch is how many blobs with unencrypted files are listed at a time.
const plainBatch = 100

// encryptAll encrypts the files from before files were encrypted. It leaves damaged files as they are.
func (s *Service) encryptAll(ctx context.Context) error {
	done := 0
	for after := ""; ; {
		var page []storage.PlainBlob
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			page, err = tx.PlainBlobs(after, plainBatch)
			return err
		})
		if err != nil || len(page) == 0 {
			if done > 0 {
				s.opts.Log.Info("media files were encrypted", "files", done)
			}
			return err
		}
		for _, b := range page {
			after = b.Blob
			switch _, err := s.encryptPlain(ctx, b.Blob, b.Size); {
			case err == nil:
				done++
			case errors.Is(err, errDamaged): // reported when it is requested
			default:
				return fmt.Errorf("encrypt a media file: %w", err)
			}
		}
		if err := s.unlinkAll(ctx); err != nil {
			return err
		}
	}
}

// encryptPlain encrypts the file of a blob from before files were encrypted, and returns the new file. The unencrypted
// one is queued for removal in the same write.
func (s *Service) encryptPlain(ctx context.Context, blob string, size int64) (f storage.MediaFile, err error) {
	plain, err := s.files.openPlain(blob, size)
	if err != nil {
		return f, err
	}
	in, err := s.files.receive(plain, size)
	if err = errors.Join(err, plain.Close()); err != nil {
		return f, err
	}
	replaced := false
	_, err = s.placeFile(ctx, in, func(tx *storage.Tx, file storage.MediaFile) (err error) {
		f = file
		replaced, err = tx.ReplacePlainMedia(blob, file)
		if err == nil && !replaced {
			err = errGone() // deleted, or encrypted by another request
		}
		return err
	})
	return f, err
}
