package media

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"time"

	"ebb/keyed"
	"ebb/mxerr"
	"ebb/storage"
)

// File is an open file to serve. The caller closes it.
type File struct {
	Content     io.ReadSeeker
	ContentType string
	Filename    string
	Size        int64
	file        *os.File
}

// Close closes the file.
func (f *File) Close() error { return f.file.Close() }

// ETag returns the entity tag of the file, which is its name on disk: the content of a file or thumbnail never changes
// under the same name.
func (f *File) ETag() string {
	sum := sha256.Sum256([]byte(f.file.Name()))
	return hex.EncodeToString(sum[:16])
}

// errDamaged means that a file on disk is missing, truncated or altered.
var errDamaged = errors.New("media: the file on disk differs from the upload")

// openBlob opens a file. It returns errDamaged if the file on disk differs from the stored one.
func (s *Service) openBlob(m storage.Media) (*File, error) {
	f, err := s.files.openIntact(m.Blob, m.Size)
	if err != nil {
		return nil, err
	}
	return &File{Content: f, ContentType: m.ContentType, Filename: m.Filename, Size: m.Size, file: f}, nil
}

// lost returns the error for an upload that is missing or damaged on disk. It logs the damage the first time.
func (s *Service) lost(m storage.Media, err error) error {
	if path := s.files.path(m.Blob); s.files.checked.report(path) {
		damaged.Inc()
		s.opts.Log.Error("A media file is damaged or missing: restore it from a backup", "file", path, "media_id", m.ID, "size", m.Size, "err", err)
	}
	return mxerr.NotFound("The file is missing or damaged on this server's disk").Because(err)
}

// openIntact opens a blob after checking its size and hash.
func (s *store) openIntact(name string, size int64) (*os.File, error) {
	f, err := os.Open(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	err = s.checked.check(f, func(info fs.FileInfo) error {
		if info.Size() != size {
			return fmt.Errorf("%w: it has %d bytes", errDamaged, info.Size())
		}
		hash := hmac.New(sha256.New, s.key)
		if _, err := io.Copy(hash, f); err != nil {
			return err
		}
		if hex.EncodeToString(hash.Sum(nil)) != name {
			return fmt.Errorf("%w: its hash differs", errDamaged)
		}
		_, err := f.Seek(0, io.SeekStart)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// intact reports whether a blob on disk is unchanged since it was stored.
func (s *store) intact(name string, size int64) bool {
	f, err := s.openIntact(name, size)
	if err != nil {
		return false
	}
	_ = f.Close() // opened for reading only
	return true
}

// openThumb opens an existing thumbnail. A thumbnail ends with its hash, because it is not synced and may therefore be
// truncated by a power failure.
func (s *store) openThumb(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = s.checked.check(f, func(fs.FileInfo) error {
		raw, err := io.ReadAll(f)
		if err != nil {
			return err
		}
		n := len(raw) - sha256.Size
		if n <= 0 {
			return errDamaged
		}
		if sum := sha256.Sum256(raw[:n]); !bytes.Equal(sum[:], raw[n:]) {
			return errDamaged
		}
		return nil
	})
	head := make([]byte, 512)
	n, readErr := f.ReadAt(head, 0)
	if errors.Is(readErr, io.EOF) {
		readErr = nil
	}
	info, statErr := f.Stat()
	if err = errors.Join(err, readErr, statErr); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	size := info.Size() - sha256.Size
	contentType := http.DetectContentType(head[:n])
	return &File{Content: io.NewSectionReader(f, 0, size), ContentType: contentType, Filename: thumbnailNames[contentType], Size: size, file: f}, nil
}

// thumbnailNames are the file names of thumbnails in the responses to browsers.
var thumbnailNames = map[string]string{"image/png": "thumbnail.png", "image/jpeg": "thumbnail.jpg", "image/gif": "thumbnail.gif"}

// maxChecked bounds the files that are recorded as checked. An entry takes about a hundred bytes.
const maxChecked = 20_000

// checkedFiles records which files were found intact, so that each file is read in full once and not for every request.
type checkedFiles struct {
	seen     *keyed.Map[string, stamp]
	reported *keyed.Map[string, bool] // files already reported as damaged
}

func newCheckedFiles(entries int) checkedFiles {
	return checkedFiles{seen: keyed.NewMap[string, stamp](entries), reported: keyed.NewMap[string, bool](entries)}
}

// stamp identifies a version of a file; it changes whenever the file is written to.
type stamp struct {
	size     int64
	modified time.Time
}

// check calls look unless the file was already found intact and has not changed since then.
func (c *checkedFiles) check(f *os.File, look func(fs.FileInfo) error) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	now := stamp{info.Size(), info.ModTime()}
	if was, found := c.seen.Get(f.Name()); found && was == now {
		return nil
	}
	if err := look(info); err != nil {
		return err
	}
	c.seen.Put(f.Name(), now)
	c.reported.Forget(f.Name())
	return nil
}

// report records that a file is damaged. It returns false if that was known before.
func (c *checkedFiles) report(path string) (news bool) {
	c.reported.Update(path, func(before, _ bool) bool {
		news = !before
		return true
	})
	return news
}
