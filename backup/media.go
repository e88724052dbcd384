package backup

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// storedNameSize is the length of the name of a stored file in bytes, before it is written in hexadecimal.
const storedNameSize = 16

// storedName returns the name under which a media file is stored. It is the same in every backup as long as the file
// and the recipients are the same. Media files are never changed in place; when one is replaced, for example by an
// encrypted form, its size or its time changes.
func (c *creation) storedName(path string, info fs.FileInfo) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "ebb stored 1\n%s\n%s\n%d\n%d", strings.Join(c.manifest.Recipients, "\n"), path, info.Size(), info.ModTime().UnixNano()))
	return hex.EncodeToString(sum[:storedNameSize])
}

// leftOut lists the folders in the media folder that are not copied: unfinished uploads, and thumbnails, which the
// server makes again.
var leftOut = []string{"tmp", "thumb"}

// writeMedia stores the media files that no earlier backup has, and writes the list of all of them.
func (c *creation) writeMedia(ctx context.Context, list *json.Encoder) (stored []storedFile, err error) {
	err = filepath.WalkDir(c.Media, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // there are no media, or a file was deleted meanwhile
		}
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		rel, err := filepath.Rel(c.Media, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains(leftOut, rel) {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		f, m, err := c.storeMedia(path, rel)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		stored = append(stored, f)
		c.report.Media.Files++
		c.report.Media.Bytes += f.Size
		return list.Encode(m)
	})
	return stored, err
}

// storeMedia stores a media file, unless an earlier backup has it. It returns fs.ErrNotExist if the file has been
// deleted.
func (c *creation) storeMedia(path, rel string) (f storedFile, m mediaFile, err error) {
	in, err := os.Open(path)
	if err != nil {
		return f, m, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	info, err := in.Stat()
	if err != nil {
		return f, m, err
	}
	m = mediaFile{Path: rel, Size: info.Size(), Stored: c.storedName(rel, info)}
	target := storedPath(c.Dir, m.Stored)
	if f, ok := c.known[m.Stored]; ok {
		if has, err := os.Stat(target); err == nil && has.Size() == f.Size {
			return f, m, nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return f, m, err
	}
	next := target + unfinished
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return f, m, err
	}
	f.Name = m.Stored
	f.Size, f.SHA256, err = c.encryptTo(next, func(w io.Writer) error {
		n, err := io.Copy(w, in)
		if err == nil && n != info.Size() {
			err = fmt.Errorf("%s has changed from %d to %d bytes while it was read", path, info.Size(), n)
		}
		return err
	})
	if err != nil {
		return f, m, errors.Join(err, os.Remove(next))
	}
	c.report.Added.Files++
	c.report.Added.Bytes += f.Size
	return f, m, os.Rename(next, target)
}

// eachLine decodes every line of a list.
func eachLine[T any](r io.Reader, f func(T) error) error {
	for dec := json.NewDecoder(bufio.NewReader(r)); ; {
		var v T
		if err := dec.Decode(&v); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%w: a list of files: %w", ErrDamaged, err)
		}
		if err := f(v); err != nil {
			return err
		}
	}
}

// readStored reads the list of the stored files of a backup.
func readStored(dir string) (files []storedFile, err error) {
	in, err := os.Open(filepath.Join(dir, storedPart))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	err = eachLine(in, func(f storedFile) error {
		files = append(files, f)
		return nil
	})
	return files, err
}

// removeUnneeded removes the stored files that are not needed.
func removeUnneeded(dir string, needed map[string]bool) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		if needed[filepath.Base(filepath.Dir(path))+filepath.Base(path)] {
			return nil
		}
		return os.Remove(path) //nolint:gosec // the folder belongs to this program alone
	})
}
