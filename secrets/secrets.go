// Package secrets encrypts texts that are stored in the database but must stay secret from somebody who has a copy of
// it, such as the seeds of one-time codes. The keys are in a file outside the database, one per line, the current one
// first. So a backup of the database alone reveals none of these texts, and if the file is lost, they are unreadable
// for good.
//
// An encrypted text is called sealed. It names its key. So texts that were sealed with an earlier key can still be
// opened after a new key was added (Rotate), and the packages that store them seal them again one by one (Stale). A
// sealed text is bound to the row of the database in which it is stored, and cannot be opened for another row.
package secrets

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"

	"ebb/regular"
)

// File is the name of the key file within the data directory.
const File = "secrets.key"

// The lengths of a key and of its ID.
const (
	idLength  = 4 // bytes, written in hexadecimal
	keyLength = chacha20poly1305.KeySize
)

// maxKeys bounds the number of keys in a file. After so many rotations, all texts that were sealed with the oldest key
// have been sealed again.
const maxKeys = 100

// Errors of Open.
var (
	ErrUnknownKey = errors.New("secrets: the text was encrypted under a key that is not in the key file")
	ErrDamaged    = errors.New("secrets: the text is damaged, or belongs to another row")
)

// Ring holds the keys of a key file and encrypts texts with them. It is safe for concurrent use.
type Ring struct {
	path string
	// mu guards keys; a leaf lock, except that Rotate writes the file under it.
	mu   sync.RWMutex
	keys []key // the current one first
}

type key struct {
	id  string
	key [keyLength]byte
}

// Exists reports whether there is a key file in a folder.
func Exists(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, File))
	return !errors.Is(err, fs.ErrNotExist)
}

// Load reads the key file of a folder.
func Load(dir string) (*Ring, error) {
	r := &Ring{path: filepath.Join(dir, File)}
	raw, err := regular.ReadFile(r.path, 1<<20)
	if err != nil {
		return nil, fmt.Errorf("read the key of the secrets: %w", err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
		k, err := parse(line)
		if err != nil || len(r.keys) == maxKeys {
			return nil, fmt.Errorf("%s: line %d is not a key; restore the file from a backup", r.path, len(r.keys)+1) // the line is secret
		}
		r.keys = append(r.keys, k)
	}
	return r, nil
}

// Create writes a key file with a new key into a folder. It never replaces one.
func Create(dir string) (*Ring, error) {
	r := &Ring{path: filepath.Join(dir, File), keys: []key{newKey()}}
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create the key of the secrets: %w", err)
	}
	_, err = f.WriteString(text(r.keys))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("create the key of the secrets: %w", err), os.Remove(r.path))
	}
	return r, nil
}

func newKey() (k key) {
	var id [idLength]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	_, _ = rand.Read(k.key[:])
	k.id = hex.EncodeToString(id[:])
	return k
}

func parse(line string) (k key, err error) {
	id, encoded, _ := strings.Cut(strings.TrimSpace(line), " ")
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil || len(raw) != keyLength || len(id) != 2*idLength {
		return k, errors.New("not a key")
	}
	k.id = id
	copy(k.key[:], raw)
	return k, nil
}

// text returns the content of a key file.
func text(keys []key) string {
	var b strings.Builder
	for _, k := range keys {
		fmt.Fprintf(&b, "%s %s\n", k.id, base64.RawStdEncoding.EncodeToString(k.key[:]))
	}
	return b.String()
}

// Current returns the ID of the key with which new texts are sealed.
func (r *Ring) Current() string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.keys[0].id
}

// Has reports whether the key file has a key with the given ID.
func (r *Ring) Has(id string) bool { _, ok := r.find(id); return ok }

func (r *Ring) find(id string) (key, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, k := range r.keys {
		if k.id == id {
			return k, true
		}
	}
	return key{}, false
}

// Seal encrypts a text with the current key. row names the row in which the text is stored, for example "totp:17"; Open
// needs the same name.
func (r *Ring) Seal(row string, plain []byte) (string, error) {
	k, _ := r.find(r.Current())
	aead, err := chacha20poly1305.NewX(k.key[:])
	if err != nil {
		return "", err
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	_, _ = rand.Read(nonce) // 24 random bytes do not repeat
	return k.id + "." + base64.RawURLEncoding.EncodeToString(aead.Seal(nonce, nonce, plain, []byte(row))), nil
}

// Open decrypts a text that was sealed for the given row; see Seal.
//
// Errors: ErrUnknownKey, ErrDamaged.
func (r *Ring) Open(row, sealed string) ([]byte, error) {
	id, encoded, _ := strings.Cut(sealed, ".")
	k, known := r.find(id)
	if !known {
		return nil, ErrUnknownKey
	}
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil || len(raw) < chacha20poly1305.NonceSizeX {
		return nil, ErrDamaged
	}
	aead, err := chacha20poly1305.NewX(k.key[:])
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, raw[:chacha20poly1305.NonceSizeX], raw[chacha20poly1305.NonceSizeX:], []byte(row))
	if err != nil {
		return nil, ErrDamaged
	}
	return plain, nil
}

// Stale reports whether a text was sealed with a former key, so that the package that stores the text should seal it
// again.
func (r *Ring) Stale(sealed string) bool {
	id, _, _ := strings.Cut(sealed, ".")
	return id != r.Current()
}

// Rotate adds a new key, with which texts are sealed from now on. The former keys stay in the file.
func (r *Ring) Rotate() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := append([]key{newKey()}, r.keys...)
	if len(keys) > maxKeys {
		return fmt.Errorf("%s has %d keys already: remove the oldest lines", r.path, maxKeys)
	}
	next := r.path + ".new"
	if err := writeFile(next, text(keys)); err != nil {
		return errors.Join(fmt.Errorf("write the key of the secrets: %w", err), os.Remove(next))
	}
	if err := os.Rename(next, r.path); err != nil {
		return fmt.Errorf("write the key of the secrets: %w", err)
	}
	r.keys = keys
	return nil
}

// writeFile writes a file that only its owner can read, and syncs it, so that it survives a power failure.
func writeFile(path, content string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Sync(), f.Close())
}
