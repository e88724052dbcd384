package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
)

// Identity is the private part of a key to which backups are encrypted.
type Identity = age.Identity

// ReadIdentities reads the file with the private part of an age key or an SSH key.
func ReadIdentities(path string) ([]age.Identity, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if strings.Contains(string(raw), "-----BEGIN") {
		id, err := agessh.ParseIdentity(raw)
		if err != nil {
			return nil, fmt.Errorf("%s is not the private part of an SSH key without a passphrase: %w", path, err)
		}
		return []age.Identity{id}, nil
	}
	ids, err := age.ParseIdentities(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%s is not the private part of an age key (AGE-SECRET-KEY-…): %w", path, err)
	}
	return ids, nil
}

// Checked is the result of Verify.
type Checked struct {
	Manifest  Manifest `json:"manifest"`
	Decrypted bool     `json:"decrypted"` // whether everything was also decrypted
}

// Verify checks that every file of the backup in dir is there and unchanged. With identities, it also decrypts
// everything.
func Verify(dir string, identities []age.Identity) (c Checked, err error) {
	m, err := ReadManifest(dir)
	if err != nil {
		return c, err
	}
	c = Checked{Manifest: *m, Decrypted: len(identities) > 0}
	for _, p := range m.Parts {
		if err := verifyFile(filepath.Join(dir, filepath.Base(p.Name)), p.Size, p.SHA256, encrypted(p.Name, identities)); err != nil {
			return c, err
		}
	}
	files, err := readStored(dir)
	if err != nil {
		return c, err
	}
	stored := map[string]bool{}
	for _, f := range files {
		if err := verifyFile(storedPath(filepath.Dir(dir), f.Name), f.Size, f.SHA256, identities); err != nil {
			return c, err
		}
		stored[f.Name] = true
	}
	if len(files) != m.Media.Files {
		return c, fmt.Errorf("%w: it has %d media files instead of %d", ErrDamaged, len(files), m.Media.Files)
	}
	if !c.Decrypted {
		return c, nil
	}
	return c, eachMedia(dir, identities, func(f mediaFile) error {
		if !stored[f.Stored] {
			return fmt.Errorf("%w: %s is missing in %s", ErrDamaged, f.Stored, storedPart)
		}
		return nil
	})
}

// encrypted returns the identities if the given part is encrypted, and nil if it is not.
func encrypted(part string, identities []age.Identity) []age.Identity {
	if strings.HasSuffix(part, ".age") {
		return identities
	}
	return nil
}

// verifyFile checks the size and the hash of a file. With identities, it also decrypts the file.
func verifyFile(path string, size int64, sum string, identities []age.Identity) (err error) {
	in, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is missing", ErrDamaged, path)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	hash := sha256.New()
	read := io.TeeReader(in, hash)
	if len(identities) > 0 {
		plain, err := age.Decrypt(read, identities...)
		if err != nil {
			return unreadable(path, err)
		}
		if _, err := io.Copy(io.Discard, plain); err != nil {
			return fmt.Errorf("%w: %s cannot be decrypted: %w", ErrDamaged, path, err)
		}
	}
	if _, err := io.Copy(io.Discard, read); err != nil {
		return err
	}
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if info.Size() != size || hex.EncodeToString(hash.Sum(nil)) != sum {
		return fmt.Errorf("%w: %s was changed", ErrDamaged, path)
	}
	return nil
}

// ErrWrongKey means that a backup is encrypted to other keys than those that were given.
var ErrWrongKey = errors.New("the backup is encrypted to another key")

func unreadable(path string, err error) error {
	if none := new(age.NoIdentityMatchError); errors.As(err, &none) {
		return fmt.Errorf("%w; its manifest lists the recipients", ErrWrongKey)
	}
	return fmt.Errorf("%w: %s cannot be decrypted: %w", ErrDamaged, path, err)
}

// open returns the content of an encrypted file.
func open(path string, identities []age.Identity) (io.Reader, io.Closer, error) {
	in, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: %s is missing", ErrDamaged, path)
	}
	if err != nil {
		return nil, nil, err
	}
	plain, err := age.Decrypt(in, identities...)
	if err != nil {
		return nil, nil, errors.Join(unreadable(path, err), in.Close())
	}
	return plain, in, nil
}

// eachMedia calls f for every media file of a backup.
func eachMedia(dir string, identities []age.Identity, f func(mediaFile) error) error {
	plain, file, err := open(filepath.Join(dir, mediaPart), identities)
	if err != nil {
		return err
	}
	return errors.Join(eachLine(plain, f), file.Close())
}

// OpenKeys decrypts the keys of messages of a backup, which are in a folder of their own. The caller closes the result.
func OpenKeys(m *Manifest, folder string, identities []Identity) (io.Reader, io.Closer, error) {
	path := filepath.Join(folder, m.Keys.Name)
	if err := verifyFile(path, m.Keys.Size, m.Keys.SHA256, nil); err != nil {
		return nil, nil, fmt.Errorf("the keys of the messages in the backup: %w", err)
	}
	return open(path, identities)
}
