package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"ebb/storage"
)

// Image is an image that AddImage has stored.
type Image struct {
	ID            string
	ContentType   string
	Size          int64
	Width, Height int // as displayed
}

// ErrNoImage means that a file is not an image that this server stores by itself.
var ErrNoImage = errors.New("media: not a PNG, JPEG, GIF or WebP image of a bounded size")

// AddImage stores an image that this server has fetched from elsewhere, until a time. Its type is the one that its
// bytes show. The image belongs to no user.
//
// Errors: ErrNoImage, also beyond limit bytes.
func (s *Service) AddImage(ctx context.Context, body io.Reader, limit int64, expires time.Time) (img Image, err error) {
	network := &watched{Reader: body}
	in, err := s.files.receive(network, limit)
	if errors.Is(err, errTooLarge) || network.err != nil {
		return img, fmt.Errorf("%w: %w", ErrNoImage, err)
	}
	if err != nil {
		return img, err
	}
	p, err := in.inspect()
	if err == nil && !p.decodable() {
		err = errNoPicture
	}
	if err != nil {
		return img, errors.Join(fmt.Errorf("%w: %w", ErrNoImage, err), in.drop())
	}
	m := storage.Media{
		ID: newMediaID(), Blob: in.Name, Size: in.Size, ContentType: "image/" + p.format, Created: s.opts.Now().UnixMilli(), Expires: expires.UnixMilli(),
	}
	if err := s.place(ctx, in, func(tx *storage.Tx, _ *incoming) error { return tx.InsertMedia(m) }); err != nil {
		return img, err
	}
	if err := s.PruneTemporary(ctx); err != nil {
		s.opts.Log.Warn("Cannot remove expired images of link previews", "err", err)
	}
	img = Image{ID: m.ID, ContentType: m.ContentType, Size: m.Size}
	img.Width, img.Height = p.oriented()
	return img, nil
}

// inspect reads the header of a received image.
func (in *incoming) inspect() (picture, error) {
	f, err := os.Open(in.tmp)
	if err != nil {
		return picture{}, err
	}
	defer func() { _ = f.Close() }() // only read
	return inspect(f)
}

// PruneTemporary removes the files of AddImage that have expired, and then those that expire first until the rest fits
// into TemporarySize.
func (s *Service) PruneTemporary(ctx context.Context) error {
	select {
	case s.remote.pruning <- struct{}{}:
		defer func() { <-s.remote.pruning }()
	case <-ctx.Done():
		return ctx.Err()
	}
	now, err := s.removeBy(ctx)
	if err != nil {
		return err
	}
	for {
		var size int64
		var first []storage.Media
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			if size, err = tx.ExpiringMediaSize(); err == nil {
				first, err = tx.SoonestExpiringMedia(pruneBatch)
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, m := range first {
			if m.Expires > now.UnixMilli() && size <= s.opts.TemporarySize {
				return nil
			}
			if err := s.removeTemporary(ctx, m); err != nil {
				return fmt.Errorf("remove %s: %w", m.ID, err)
			}
			size -= m.Size
		}
		if len(first) < pruneBatch {
			return nil
		}
	}
}

func (s *Service) removeTemporary(ctx context.Context, m storage.Media) error {
	release, err := s.files.claims.Acquire(ctx, m.Blob)
	if err != nil {
		return err
	}
	defer release()
	if err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteMedia(m.ID) }); err != nil {
		return err
	}
	return s.removeUnnamedClaimed(ctx, m.Blob)
}
