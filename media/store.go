package media

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"ebb/keyed"
	"ebb/storage"
)

// store keeps the files below dir:
//
//	ab/cdef…           an encrypted file, with a random name; or a file from before files were encrypted, named by its blob
//	thumb/ab/cdef….SPEC  its thumbnails, encrypted with the same key
//	tmp/               uploads in progress, encrypted too; emptied at boot
//
// A blob is identified by the keyed hash of its content, so that the same content is stored once. Its row in
// media_files has the name of its file and the key. A file is made durable before its row is written. When the row is
// deleted, the key is gone, and the same write queues the name of the file, which Service.Unlink then removes. So a
// crash leaves at worst a file without a row, which Sweep removes.
type store struct {
	dir string
	key []byte // for the keyed hashes
	// claims guards the thumbnails of a file, by its name: between the check that the file has a row and the writing of
	// a thumbnail, and during the removal of the file; see docs/locks.md.
	claims  *keyed.Semaphore[string]
	checked checkedFiles
	ahead   aheadSlots
}

func openStore(dir string, key []byte, checked int) (*store, error) {
	s := &store{dir: dir, key: key, claims: keyed.NewSemaphore[string](1, 0), checked: newCheckedFiles(checked), ahead: make(aheadSlots, maxAhead)}
	if err := os.RemoveAll(s.tmpDir()); err != nil {
		return nil, fmt.Errorf("empty the folder of unfinished uploads: %w", err)
	}
	for _, d := range []string{dir, s.tmpDir(), s.thumbDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("create media folder: %w", err)
		}
	}
	return s, nil
}

func (s *store) tmpDir() string   { return filepath.Join(s.dir, "tmp") }
func (s *store) thumbDir() string { return filepath.Join(s.dir, "thumb") }

// path returns the path of a file. name is always one made by this server.
func (s *store) path(name string) string { return filepath.Join(s.dir, name[:2], name[2:]) }

// exists reports whether there is a file.
func (s *store) exists(name string) bool {
	_, err := os.Lstat(s.path(name))
	return err == nil
}

func (s *store) thumbPath(name, spec string) string {
	return filepath.Join(s.thumbDir(), name[:2], name[2:]+"."+thumbGeneration+spec)
}

// thumbGeneration is the prefix of the file names of thumbnails. It is increased when thumbnails are made differently,
// so that old ones are no longer served.
const thumbGeneration = "3-"

// errTooLarge means that an upload exceeds its limit.
var errTooLarge = errors.New("media: larger than allowed")

// incoming is an upload in a temporary file.
type incoming struct {
	store *store
	tmp   string
	Blob  string // keyed hash of the content
	Name  string // of the file
	Size  int64
	key   []byte
}

// receive encrypts at most limit bytes of r into a temporary file.
func (s *store) receive(r io.Reader, limit int64) (in *incoming, err error) {
	f, err := os.CreateTemp(s.tmpDir(), "upload-")
	if err != nil {
		return nil, storage.Full(fmt.Errorf("create upload file: %w", err))
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = storage.Full(errors.Join(err, os.Remove(f.Name())))
			in = nil
		}
	}()
	key, hash := newFileKey(), hmac.New(sha256.New, s.key)
	to, err := newSealer(f, key)
	if err != nil {
		return nil, err
	}
	n, err := io.Copy(io.MultiWriter(to, hash), io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, errTooLarge
	}
	if err := errors.Join(to.Close(), f.Sync()); err != nil {
		return nil, err
	}
	return &incoming{store: s, tmp: f.Name(), Blob: hex.EncodeToString(hash.Sum(nil)), Name: newFileName(), Size: n, key: key}, nil
}

// newFileName returns a random name, as long as that of a file from before files were encrypted.
func newFileName() string {
	var b [sha256.Size]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// keep durably renames the upload to its name.
func (in *incoming) keep() error {
	dst := in.store.path(in.Name)
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return storage.Full(err)
	}
	if err := os.Rename(in.tmp, dst); err != nil {
		return storage.Full(err)
	}
	return storage.Full(errors.Join(syncDir(filepath.Dir(dst)), syncDir(in.store.dir)))
}

// drop removes the temporary file of an upload unless it was kept.
func (in *incoming) drop() error {
	err := os.Remove(in.tmp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it was kept
	}
	return err
}

// writeThumb writes a thumbnail, encrypted with the key of its file. It needs no fsync, because a lost thumbnail is
// made again. The caller holds the file's claim.
func (s *store) writeThumb(name, path string, key, data []byte) error {
	if err := s.makeThumbRoom(name); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return storage.Full(err)
	}
	f, err := os.CreateTemp(s.tmpDir(), "thumb-")
	if err != nil {
		return storage.Full(err)
	}
	to, err := newSealer(f, key)
	if err == nil {
		_, err = to.Write(data)
		err = errors.Join(err, to.Close())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return storage.Full(errors.Join(err, os.Remove(f.Name())))
	}
	return os.Rename(f.Name(), path)
}

// maxThumbnails bounds the stored thumbnails of one file, since crops may have any proportions.
const maxThumbnails = 24

// makeThumbRoom removes the oldest thumbnail of a file if the file has the maximum number of thumbnails.
func (s *store) makeThumbRoom(name string) error {
	paths, err := filepath.Glob(s.thumbPath(name, "*"))
	if err != nil || len(paths) < maxThumbnails {
		return err
	}
	oldest, at := "", time.Time{}
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && (oldest == "" || info.ModTime().Before(at)) {
			oldest, at = p, info.ModTime()
		}
	}
	return os.Remove(oldest)
}

// remove deletes a file and its thumbnails. The caller holds the claim on the file, and no row refers to it.
func (s *store) remove(name string) error {
	thumbs, err := filepath.Glob(s.thumbPath(name, "*"))
	if err != nil {
		return err
	}
	for _, p := range append(thumbs, s.path(name)) {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// syncRemoved makes the removal of files durable.
func (s *store) syncRemoved(names []string) error {
	dirs := map[string]bool{}
	for _, name := range names {
		dirs[filepath.Dir(s.path(name))] = true
		dirs[filepath.Dir(s.thumbPath(name, ""))] = true
	}
	var errs []error
	for dir := range dirs {
		if err := syncDir(dir); !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// each calls f with the name of every file on disk, and with the name of the file of every thumbnail. Names may repeat.
func (s *store) each(f func(name string) error) error {
	return s.walk(s.dir, func(path string) error {
		base, _, _ := strings.Cut(filepath.Base(path), ".")
		name := filepath.Base(filepath.Dir(path)) + base
		if len(name) != 2*sha256.Size {
			return nil // not one of ours
		}
		return f(name)
	})
}

// walk calls f for every file below dir except for uploads in progress.
func (s *store) walk(dir string, f func(path string) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Dir(path) == s.tmpDir() {
			return err
		}
		return f(path)
	})
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
