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

// Image is an image stored by AddImage.
type Image struct {
	ID            string
	ContentType   string
	Size          int64
	Width, Height int // as displayed
}

// ErrNoImage means that a file is not an image that AddImage accepts.
var ErrNoImage = errors.New("media: not a PNG, JPEG, GIF or WebP image of a bounded size")

// AddImage stores an image that this server has fetched from elsewhere, until a given time. It determines the type from
// the content. The image belongs to no user.
//
// Errors: ErrNoImage, also for an image larger than limit bytes.
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
		ID: newMediaID(), Blob: in.Blob, Size: in.Size, ContentType: "image/" + p.format, Created: s.opts.Now().UnixMilli(), Expires: expires.UnixMilli(),
	}
	if _, err := s.place(ctx, in, func(tx *storage.Tx, _ *incoming) error { return tx.InsertMedia(m) }); err != nil {
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
	defer func() { _ = f.Close() }() // the file was only read
	content, err := newUnsealer(f, in.key, in.Size)
	if err != nil {
		return picture{}, err
	}
	defer content.release()
	return inspect(content)
}

// PruneTemporary removes the files stored by AddImage that have expired. It then removes those that expire next until
// the rest fits into TemporarySize.
func (s *Service) PruneTemporary(ctx context.Context) error {
	return s.prune(ctx, s.opts.TemporarySize, func(tx *storage.Tx, now time.Time) (size int64, first []removable, err error) {
		if size, err = tx.ExpiringMediaSize(); err != nil {
			return 0, nil, err
		}
		files, err := tx.SoonestExpiringMedia(pruneBatch)
		for _, m := range files {
			first = append(first, removable{
				name: m.ID, size: m.Size, expired: m.Expires <= now.UnixMilli(),
				forget: func(tx *storage.Tx) error {
					_, err := tx.DeleteMedia(m.ID)
					return err
				},
			})
		}
		return size, first, err
	})
}
