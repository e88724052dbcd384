// Package bodykeys keeps the keys under which package storage encrypts message bodies in a PostgreSQL database. They
// are in a folder outside the database, one file for each key. Destroying a key makes everything unreadable that was
// encrypted under it, wherever copies are: in the database's files, in its write-ahead log, on replicas and in backups
// of the database. Therefore the folder must never be in the same backup as the database.
//
// A key has a random number, and the database records what it is for. A file is created under its final name, is never
// changed, and is overwritten and removed when the key is destroyed, so several processes can use one folder, also over
// a network file system.
package bodykeys

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ebb/regular"
)

// ID is the number of a key. It is positive.
type ID int64

// Key is an AES-256 key.
type Key [32]byte

// Errors of a Folder.
var (
	// ErrMissing means that a folder has no key with the given number: it was destroyed or lost.
	ErrMissing = errors.New("bodykeys: there is no such key")
	// ErrDamaged means that the file of a key does not contain a key.
	ErrDamaged = errors.New("bodykeys: the file of a key is damaged")
	// ErrNoFolder means that a path is not a folder that Create has created.
	ErrNoFolder = errors.New("bodykeys: there is no folder of keys")
)

const (
	// idFile is the name of the file with the random ID of a folder. It is written last, so a folder that has it is
	// complete.
	idFile   = "folder.id"
	idLength = 16 // bytes
	// magic begins the file of a key. The key and the beginning of a hash of both follow.
	magic     = "ebbkey1\n"
	sumLength = 8
	keyFile   = len(magic) + len(Key{}) + sumLength
)

// Folder is a folder of keys. It is safe for concurrent use, also by several processes.
type Folder struct {
	path string
	id   string
}

// Create creates a folder of keys, with its parents. If there is one already, it opens it.
func Create(path string) (*Folder, error) {
	if f, err := Open(path); !errors.Is(err, ErrNoFolder) {
		return f, err
	}
	if err := (&Folder{path: path}).makeFolders(); err != nil {
		return nil, err
	}
	var id [idLength]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	if err := writeFile(filepath.Join(path, idFile), []byte(hex.EncodeToString(id[:])+"\n")); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := errors.Join(syncFolder(path), syncFolder(filepath.Dir(path))); err != nil {
		return nil, err
	}
	return Open(path)
}

// makeFolders creates the folder, with its parents, and the folders for the files in it.
func (f *Folder) makeFolders() error {
	if err := os.MkdirAll(f.path, 0o700); err != nil {
		return err
	}
	for i := range 256 {
		if err := os.Mkdir(filepath.Join(f.path, hex.EncodeToString([]byte{byte(i)})), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// Open opens a folder of keys. The error is ErrNoFolder if there is none.
func Open(path string) (*Folder, error) {
	raw, err := regular.ReadFile(filepath.Join(path, idFile), 1<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNoFolder, path)
	}
	if err != nil {
		return nil, err
	}
	id := strings.TrimSpace(string(raw))
	if len(id) != 2*idLength {
		return nil, fmt.Errorf("%s does not contain the ID of a folder of keys", filepath.Join(path, idFile))
	}
	return &Folder{path: path, id: id}, nil
}

// Check returns an error unless the folder can be read and is the one that was opened. It is not if the disk or the
// network share that has it was unmounted.
//
// Errors: ErrNoFolder.
func (f *Folder) Check() error {
	at, err := Open(f.path)
	if err == nil && at.id != f.id {
		err = fmt.Errorf("%w in %s: the keys there belong to another database", ErrNoFolder, f.path)
	}
	return err
}

// ID returns the random ID of the folder.
func (f *Folder) ID() string { return f.id }

// Path returns the path of the folder.
func (f *Folder) Path() string { return f.path }

// file returns the path of the file of a key.
func (f *Folder) file(id ID) string {
	name := fmt.Sprintf("%016x", uint64(id))
	return filepath.Join(f.path, name[len(name)-2:], name)
}

// New creates a key. When it returns, the key is on disk and survives a power failure.
func (f *Folder) New() (ID, error) {
	if err := f.Check(); err != nil {
		return 0, fmt.Errorf("create a key for message bodies: %w", err)
	}
	var random [8]byte
	_, _ = rand.Read(random[:])
	id := ID(binary.BigEndian.Uint64(random[:])>>1 | 1)
	var k Key
	_, _ = rand.Read(k[:])
	path := f.file(id)
	if err := writeFile(path, encode(k)); err != nil { // a number that exists is an error, not a second key
		return 0, fmt.Errorf("create a key for message bodies: %w", err)
	}
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return 0, fmt.Errorf("create a key for message bodies: %w", err)
	}
	return id, nil
}

func encode(k Key) []byte {
	raw := append([]byte(magic), k[:]...)
	sum := sha256.Sum256(raw)
	return append(raw, sum[:sumLength]...)
}

// Key reads a key.
//
// Errors: ErrMissing, ErrDamaged, ErrNoFolder.
func (f *Folder) Key(id ID) (k Key, err error) {
	raw, err := regular.ReadFile(f.file(id), 1<<10)
	if errors.Is(err, fs.ErrNotExist) {
		if err := f.Check(); err != nil {
			return k, err
		}
		return k, fmt.Errorf("%w: %s", ErrMissing, f.file(id))
	}
	if err != nil {
		return k, err
	}
	if len(raw) == keyFile {
		copy(k[:], raw[len(magic):])
	}
	if !bytes.Equal(raw, encode(k)) {
		return Key{}, fmt.Errorf("%w: %s", ErrDamaged, f.file(id))
	}
	return k, nil
}

// Destroy overwrites the file of a key and removes it. When it returns, nothing brings the key back after a power
// failure. If the key is gone already, it does nothing.
func (f *Folder) Destroy(id ID) error {
	path := f.file(id)
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		if err := f.Check(); err != nil { // the folder is away, and the key comes back with it
			return fmt.Errorf("destroy a key: %w", err)
		}
		return syncFolder(filepath.Dir(path)) // the removal may be from a moment before a crash
	}
	if err != nil {
		return fmt.Errorf("destroy a key: %w", err)
	}
	_, err = file.WriteAt(make([]byte, keyFile), 0)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("destroy a key: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("destroy a key: %w", err)
	}
	return syncFolder(filepath.Dir(path))
}

// Each calls visit for each key of the folder, with the time at which it was created, in no particular order. Files
// that are not keys are skipped.
func (f *Folder) Each(visit func(id ID, created func() (time.Time, error)) error) error {
	for i := range 256 {
		dir := filepath.Join(f.path, hex.EncodeToString([]byte{byte(i)}))
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			n, err := strconv.ParseUint(e.Name(), 16, 63)
			if err != nil || f.file(ID(n)) != filepath.Join(dir, e.Name()) {
				continue
			}
			if err := visit(ID(n), func() (time.Time, error) { return modified(e) }); err != nil {
				return err
			}
		}
	}
	return nil
}

func modified(e fs.DirEntry) (time.Time, error) {
	info, err := e.Info()
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// writeFile creates a file that only its owner can read, and syncs it. It never replaces a file.
func writeFile(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
