package media

import (
	"bufio"
	"crypto/hmac"
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

// store keeps blobs as files below dir:
//
//	ab/cdef…           a blob, named by the keyed hash of its content (nobody outside chooses or predicts the name)
//	thumb/ab/cdef….SPEC  its thumbnails
//	tmp/               uploads in progress; emptied at boot
//
// The database refers to a blob by its hash. A file is made durable before the row that refers to it is written, and
// the row is deleted before the file is removed. So a crash leaves at worst a file without a row, which sweep removes.
type store struct {
	dir string
	key []byte // for the keyed hashes
	// claims guards a blob between the check that no row refers to it and the removal of its file. Code that adds or
	// removes rows for a blob holds its claim; see docs/locks.md.
	claims  *keyed.Semaphore[string]
	checked checkedFiles
}

func openStore(dir string, key []byte, checked int) (*store, error) {
	s := &store{dir: dir, key: key, claims: keyed.NewSemaphore[string](1, 0), checked: newCheckedFiles(checked)}
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

// path returns the path of a blob. name is always a hash made by this server.
func (s *store) path(name string) string { return filepath.Join(s.dir, name[:2], name[2:]) }

func (s *store) thumbPath(name, spec string) string {
	return filepath.Join(s.thumbDir(), name[:2], name[2:]+"."+thumbGeneration+spec)
}

// thumbGeneration is the prefix of the file names of thumbnails. It is increased when thumbnails are made differently,
// so that old ones are no longer served.
const thumbGeneration = "2-"

// errTooLarge means that an upload exceeds its limit.
var errTooLarge = errors.New("media: larger than allowed")

// incoming is an upload in a temporary file.
type incoming struct {
	store *store
	tmp   string
	Name  string // blob name
	Size  int64
}

// receive copies at most limit bytes of r to a temporary file.
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
	hash := hmac.New(sha256.New, s.key)
	w := bufio.NewWriterSize(io.MultiWriter(f, hash), 64<<10)
	n, err := io.Copy(w, io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if n > limit {
		return nil, errTooLarge
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	return &incoming{store: s, tmp: f.Name(), Name: hex.EncodeToString(hash.Sum(nil)), Size: n}, nil
}

// keep durably renames the upload to its blob name. The caller holds the claim on the blob.
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

// writeThumb writes a thumbnail, followed by its hash. It needs no fsync, because a lost thumbnail is made again. The
// caller holds the blob's claim.
func (s *store) writeThumb(name, path string, data []byte) error {
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
	sum := sha256.Sum256(data)
	_, err = f.Write(data)
	if err == nil {
		_, err = f.Write(sum[:])
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

// remove deletes a blob and its thumbnails. The caller holds the claim on the blob and has checked that no row refers
// to it.
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

// each calls f with the name of every blob on disk, and with the name of the blob of every thumbnail. Names may repeat.
func (s *store) each(f func(name string) error) error {
	return s.walk(s.dir, func(path string) error {
		base, _, _ := strings.Cut(filepath.Base(path), ".")
		name := filepath.Base(filepath.Dir(path)) + base
		if len(name) != 2*sha256.Size {
			return nil // not a blob
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
