package backup

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"filippo.io/age"
)

// Target says where Unpack writes a backup.
type Target struct {
	Database func(r io.Reader) error // reads the copy of the database
	Media    string                  // the media folder
	File     func(name string, content []byte) error
}

// maxUnpackedFile bounds a key file or the configuration in a backup, in bytes.
const maxUnpackedFile = 16 << 20

// Unpack decrypts the backup in dir. The caller has verified it; a file that is changed afterwards is still noticed,
// because its decryption fails.
func Unpack(ctx context.Context, dir string, identities []age.Identity, to Target) error {
	if err := unpackFiles(dir, identities, to.File); err != nil {
		return err
	}
	plain, file, err := open(filepath.Join(dir, databasePart), identities)
	if err != nil {
		return err
	}
	if err := errors.Join(to.Database(plain), file.Close()); err != nil {
		return fmt.Errorf("restore the database: %w", err)
	}
	err = eachMedia(dir, identities, func(f mediaFile) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return unpackMedia(filepath.Dir(dir), identities, f, to.Media)
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to.Media, 0o700); err != nil {
		return err
	}
	return syncAll(to.Media)
}

// unpackFiles decrypts the keys and the configuration.
func unpackFiles(dir string, identities []age.Identity, file func(name string, content []byte) error) error {
	plain, in, err := open(filepath.Join(dir, filesPart), identities)
	if err != nil {
		return err
	}
	archive := tar.NewReader(plain)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return in.Close()
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%w: %s: %w", ErrDamaged, filesPart, err), in.Close())
		}
		content, err := io.ReadAll(io.LimitReader(archive, maxUnpackedFile))
		if err == nil {
			err = file(filepath.Base(h.Name), content)
		}
		if err != nil {
			return errors.Join(err, in.Close())
		}
	}
}

func unpackMedia(backups string, identities []age.Identity, f mediaFile, media string) error {
	if !filepath.IsLocal(f.Path) || slices.Contains(leftOut, filepath.Dir(f.Path)) {
		return fmt.Errorf("%w: the name of a media file leads elsewhere", ErrDamaged)
	}
	plain, in, err := open(storedPath(backups, f.Stored), identities)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	path := filepath.Join(media, f.Path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return WriteFile(path, plain)
}

// WriteFile creates a file with the content of r. It does not sync it.
func WriteFile(path string, r io.Reader) error {
	out, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, r)
	return errors.Join(err, out.Close())
}

// ReadFile returns a file of the archive of keys and configuration of the backup in dir, or nil if it has no such file.
func ReadFile(dir, name string, identities []Identity) (content []byte, err error) {
	err = unpackFiles(dir, identities, func(has string, c []byte) error {
		if has == name {
			content = c
		}
		return nil
	})
	return content, err
}
