package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"ebb/mxerr"
	"ebb/processors"
	"ebb/storage"
)

// Thumbnail finds or makes a thumbnail. If an image is already small enough or cannot be scaled, Thumbnail returns the
// image itself. It refuses files that are not images.
//
// Errors: those of Open; 400 M_UNKNOWN if the file is not an image; 413 M_TOO_LARGE for a still thumbnail of an
// animation that is too large.
// Spec: client-server-api#get_matrixclientv1mediathumbnailservernamemediaid
func (s *Service) Thumbnail(ctx context.Context, mediaID string, want Size, wait time.Duration) (*File, error) {
	m, err := s.await(ctx, mediaID, min(wait, maxWait))
	if err != nil {
		return nil, err
	}
	f, err := s.thumbnailOf(ctx, m, want)
	switch {
	case errors.Is(err, errDamaged):
		err = s.lost(m, err)
	case errors.Is(err, errTooLarge):
		err = mxerr.TooLarge("The image is too large for a thumbnail")
	}
	return f, err
}

// thumbnailOf finds or makes a thumbnail of a file. It returns errDamaged if the file on disk is lost, and errTooLarge
// if no thumbnail can be made.
func (s *Service) thumbnailOf(ctx context.Context, m storage.Media, want Size) (*File, error) {
	if m.File.Name == "" { // the key of the file encrypts its thumbnails
		file, err := s.encryptPlain(ctx, m.Blob, m.Size)
		if err != nil {
			return nil, err
		}
		m.File = file
	}
	key, err := s.opts.Secrets.Open(sealedRow(m.File.Name), m.File.SealedKey)
	if err != nil {
		return nil, fmt.Errorf("%w: its key cannot be decrypted: %w", errDamaged, err)
	}
	if f, err := s.files.openThumb(s.files.thumbPath(m.File.Name, fit(want).spec()), key); err == nil {
		return f, nil
	}
	src, err := s.openBlob(m)
	if err != nil {
		return nil, err
	}
	f, err := s.thumbnailFrom(ctx, m, src, want)
	if f != src {
		err = errors.Join(err, src.Close())
	}
	return f, err
}

// thumbnailFrom returns src, or a thumbnail of it.
func (s *Service) thumbnailFrom(ctx context.Context, m storage.Media, src *File, want Size) (*File, error) {
	p, err := inspect(src.Content)
	if errors.Is(err, errNoPicture) {
		return otherImage(src)
	}
	if err != nil {
		return nil, err
	}
	pl := planFor(p, want, m.Size)
	src.ContentType = "image/" + p.format
	if pl.original {
		return src, nil
	}
	if pl.animated && pl.cost(p) > maxDecoded {
		pl.animated = false
	}
	f, err := s.findOrMake(ctx, m.File.Name, src, p, pl)
	if errors.Is(err, errNoThumbnail) && pl.animated { // a later frame may be broken
		pl.animated = false
		f, err = s.findOrMake(ctx, m.File.Name, src, p, pl)
	}
	if (errors.Is(err, errNoThumbnail) || errors.Is(err, storage.ErrFull)) && (!p.animated || want.Animated) {
		_, err = src.Content.Seek(0, io.SeekStart)
		return src, err
	}
	if errors.Is(err, errNoThumbnail) {
		if !p.decodable() {
			return nil, errTooLarge
		}
		return nil, noThumbnail()
	}
	return f, err
}

func noThumbnail() error {
	return mxerr.New(http.StatusBadRequest, mxerr.CodeUnknown, "This server cannot make a thumbnail of this file")
}

// otherImage handles files that cannot be decoded. It returns the original if the file is an image, and an error
// otherwise.
func otherImage(src *File) (*File, error) {
	head := make([]byte, 512)
	n, err := io.ReadFull(src.Content, head)
	if err != nil && !isShort(err) {
		return nil, err
	}
	found := sniffType(head[:n])
	if _, known := sniff(head[:n]); known || !strings.HasPrefix(found, "image/") {
		return nil, noThumbnail()
	}
	src.ContentType = found
	_, err = src.Content.Seek(0, io.SeekStart)
	return src, err
}

// findOrMake opens the planned thumbnail, making it first if it does not exist.
func (s *Service) findOrMake(ctx context.Context, name string, src *File, p picture, pl plan) (*File, error) {
	cost := pl.cost(p)
	if !p.decodable() || cost > maxDecoded {
		return nil, errNoThumbnail
	}
	path := s.files.thumbPath(name, pl.name)
	if f, err := s.files.openThumb(path, src.key); err == nil {
		return f, nil
	}
	leave, err := s.enterThumbnails(ctx, cost)
	if err != nil {
		return nil, err
	}
	defer leave()
	if f, err := s.files.openThumb(path, src.key); err == nil {
		return f, nil // another request has made it in the meantime
	}
	if _, err := src.Content.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	data, err := thumbnail(ctx, src.Content, p, pl)
	if err != nil {
		return nil, err
	}
	release, err := s.files.claims.Acquire(ctx, name)
	if err != nil {
		return nil, err
	}
	defer release()
	if named, err := s.named(ctx, []string{name}); err != nil || !named[name] {
		return nil, errors.Join(err, errGone()) // deleted in the meantime, so its thumbnail must not stay
	}
	if err := s.files.writeThumb(name, path, src.key, data); err != nil {
		return nil, err
	}
	thumbnails.Inc()
	return s.files.openThumb(path, src.key)
}

// maxGarbage bounds the memory that thumbnails leave to the garbage collector. The collector would otherwise let it
// grow as large as all other data in memory. A collection costs much less than decoding that much.
const maxGarbage = 64 << 20

// slowPicture is the cost from which on a picture occupies a processor for longer than the scheduler lets others wait,
// which is 10 ms.
const slowPicture = 4 << 20

// enterThumbnails waits for a worker and for the memory that a thumbnail needs. Workers bound the CPU time that
// strangers can use, and other requests get processors beside them.
func (s *Service) enterThumbnails(ctx context.Context, cost int64) (leave func(), err error) {
	select {
	case s.workers <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := s.memory.Acquire(ctx, cost); err != nil {
		<-s.workers
		return nil, err
	}
	give := func() {}
	if cost >= slowPicture {
		give = processors.Raise(cap(s.workers) + 1) // one for each worker, and one for a commit
	}
	return func() {
		give()
		if s.garbage.Add(cost) >= maxGarbage {
			s.garbage.Store(0)
			debug.FreeOSMemory()
		}
		s.memory.Release(cost)
		<-s.workers
	}, nil
}

// removeOldThumbs removes thumbnails with an older thumbGeneration.
func (s *store) removeOldThumbs() error {
	return s.walk(s.thumbDir(), func(path string) error {
		if _, spec, _ := strings.Cut(path, "."); !strings.HasPrefix(spec, thumbGeneration) {
			return os.Remove(path)
		}
		return nil
	})
}
