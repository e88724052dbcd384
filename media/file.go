package media

import (
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
	"ebb/regular"
	"ebb/storage"
)

// File is an open file to serve. The caller closes it.
type File struct {
	Content     io.ReadSeeker
	ContentType string
	Filename    string
	Size        int64
	file        *os.File
	key         []byte // nil for a file from before files were encrypted
}

// Close closes the file.
func (f *File) Close() error {
	if u, ok := f.Content.(*unsealer); ok {
		u.release()
	}
	return f.file.Close()
}

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
	f := &File{ContentType: m.ContentType, Filename: m.Filename, Size: m.Size}
	var err error
	if m.File.Name == "" {
		f.file, err = s.files.openPlain(m.Blob, m.Size)
		f.Content = f.file
		return opened(f, err)
	}
	if f.key, err = s.opts.Secrets.Open(sealedRow(m.File.Name), m.File.SealedKey); err != nil {
		return nil, fmt.Errorf("%w: its key cannot be decrypted: %w", errDamaged, err)
	}
	f.file, f.Content, err = s.files.openSealed(s.files.path(m.File.Name), f.key, m.Size)
	return opened(f, err)
}

func opened(f *File, err error) (*File, error) {
	if err != nil {
		return nil, err
	}
	return f, nil
}

// sealedRow names the row with the key of a file for package secrets.
func sealedRow(name string) string { return "media:" + name }

// lost returns the error for an upload that is missing or damaged on disk. It logs the damage the first time.
func (s *Service) lost(m storage.Media, err error) error {
	if path := s.files.path(nameOf(m)); s.files.checked.report(path) {
		damaged.Inc()
		s.opts.Log.Error("A media file is damaged or missing: restore it from a backup", "file", path, "media_id", m.ID, "size", m.Size, "err", err)
	}
	return mxerr.NotFound("The file is missing or damaged on this server's disk").Because(err)
}

// nameOf returns the name of the file of media.
func nameOf(m storage.Media) string {
	if m.File.Name == "" {
		return m.Blob // from before files were encrypted
	}
	return m.File.Name
}

// open opens a file and calls look, unless the file is known to be intact.
func (s *store) open(path string, look func(*os.File, fs.FileInfo) error) (*os.File, error) {
	f, err := regular.Open(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, regular.ErrOther) {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	if err := s.checked.check(f, func(info fs.FileInfo) error { return look(f, info) }); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// openPlain opens a file from before files were encrypted, after checking its size and hash.
func (s *store) openPlain(blob string, size int64) (*os.File, error) {
	return s.open(s.path(blob), func(f *os.File, info fs.FileInfo) error {
		if info.Size() != size {
			return fmt.Errorf("%w: it has %d bytes", errDamaged, info.Size())
		}
		hash := hmac.New(sha256.New, s.key)
		if _, err := io.Copy(hash, f); err != nil {
			return err
		}
		if hex.EncodeToString(hash.Sum(nil)) != blob {
			return fmt.Errorf("%w: its hash differs", errDamaged)
		}
		_, err := f.Seek(0, io.SeekStart)
		return err
	})
}

// openSealed opens an encrypted file after checking its size and that all of it can be decrypted. A negative size
// stands for any.
func (s *store) openSealed(path string, key []byte, size int64) (*os.File, *unsealer, error) {
	f, err := s.open(path, func(f *os.File, info fs.FileInfo) error {
		if size < 0 {
			size = contentSize(info.Size())
		}
		if size < 0 || info.Size() != sealedSize(size) {
			return fmt.Errorf("%w: it has %d bytes", errDamaged, info.Size())
		}
		u, err := newUnsealer(f, key, size)
		if err != nil {
			return err
		}
		defer u.release()
		return u.verify()
	})
	if err != nil {
		return nil, nil, err
	}
	if size < 0 {
		info, err := f.Stat()
		if err != nil {
			return nil, nil, errors.Join(err, f.Close())
		}
		size = contentSize(info.Size())
	}
	u, err := newUnsealer(f, key, size)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	u.ahead = s.ahead
	return f, u, nil
}

// intact reports whether a file on disk is unchanged since it was stored.
func (s *Service) intact(m storage.Media) bool {
	f, err := s.openBlob(m)
	if err != nil {
		return false
	}
	_ = f.Close() // opened for reading only
	return true
}

// openThumb opens an existing thumbnail of a file with the given key. A thumbnail is not synced and may therefore be
// truncated by a power failure.
func (s *store) openThumb(path string, key []byte) (*File, error) {
	file, content, err := s.openSealed(path, key, -1)
	if err != nil {
		return nil, err
	}
	f := &File{Content: content, Size: content.size, file: file}
	head := make([]byte, 512)
	n, err := io.ReadFull(content, head)
	if isShort(err) {
		err = nil
	}
	_, seekErr := content.Seek(0, io.SeekStart)
	if err = errors.Join(err, seekErr); err != nil || n == 0 {
		return nil, errors.Join(errDamaged, err, f.Close())
	}
	f.ContentType = http.DetectContentType(head[:n])
	f.Filename = thumbnailNames[f.ContentType]
	return f, nil
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
