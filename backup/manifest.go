package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ebb/storage"
)

// manifestFormat is the version of the format. A reader refuses other versions.
const manifestFormat = 1

// Names of the files of a backup.
const (
	manifestName = "manifest.json"
	databasePart = "database.age"
	filesPart    = "files.tar.age"
	mediaPart    = "media.jsonl.age" // which stored file is which file of the media folder
	storedPart   = "stored.jsonl"    // the stored files, with their hashes; not encrypted, so that they can be verified without the key
	mediaDir     = "media"           // stored files of all backups in a folder
	unfinished   = ".part"           // suffix of a backup that is not complete
	lockName     = ".lock"
)

// Manifest describes a backup. It is not encrypted, and has nothing about users.
type Manifest struct {
	Format     int                 `json:"format"`
	Version    string              `json:"ebb_version"`
	Server     string              `json:"server_name"`
	Engine     string              `json:"database"` // sqlite or postgres
	Migration  string              `json:"migration"`
	Created    time.Time           `json:"created"`
	Recipients []string            `json:"recipients"`
	Parts      []Part              `json:"parts"`
	Media      Media               `json:"media"`
	Ledger     *storage.LedgerHead `json:"ledger,omitempty"` // the last line when the backup was made; nil without a ledger
	Keys       *Part               `json:"keys,omitempty"`   // the keys of messages, which are in another folder; nil if there are none
	Checksum   string              `json:"checksum"`         // of the manifest with this field empty
}

// Part is a file of a backup.
type Part struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Media counts the media files of a backup.
type Media struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"` // on disk, encrypted
}

// checksum returns the value of the field Checksum.
func (m Manifest) checksum() string {
	m.Checksum = ""
	text, _ := json.Marshal(m) // numbers, strings and times only
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// ErrNoBackup means that a folder is not a backup.
var ErrNoBackup = errors.New("not a backup of Ebb")

// ErrDamaged means that a file of a backup is missing or was changed.
var ErrDamaged = errors.New("the backup is damaged")

// ReadManifest reads the manifest of the backup in dir.
func ReadManifest(dir string) (*Manifest, error) {
	raw, err := os.ReadFile(filepath.Join(dir, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is %w: it has no %s", dir, ErrNoBackup, manifestName)
	}
	if err != nil {
		return nil, err
	}
	m := new(Manifest)
	dec := json.NewDecoder(bytes.NewReader(raw))
	if err := dec.Decode(m); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, manifestName, err)
	}
	if m.Format != manifestFormat {
		return nil, fmt.Errorf("the backup has format %d, and this version of Ebb knows only format %d: use the version that made it, %s", m.Format, manifestFormat, m.Version)
	}
	if m.Checksum != m.checksum() {
		return nil, fmt.Errorf("%w: %s was changed", ErrDamaged, manifestName)
	}
	return m, nil
}

// nameFormat is the time format of the names of backups. Sorting the names sorts the backups by time.
const nameFormat = "20060102T150405Z"

// Listed is a backup in a folder of backups.
type Listed struct {
	Name string
	Manifest
}

// List returns the complete backups in a folder, oldest first. It fails if one of them has no readable manifest.
func List(dir string) (list []Listed, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if _, err := time.Parse(nameFormat, e.Name()); err != nil || !e.IsDir() {
			continue
		}
		m, err := ReadManifest(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("%w; move %s out of the way", err, filepath.Join(dir, e.Name()))
		}
		list = append(list, Listed{e.Name(), *m})
	}
	slices.SortFunc(list, func(a, b Listed) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// storedFile is a file in the media folder of the backups.
type storedFile struct {
	Name   string `json:"name"` // of the file in mediaDir
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// mediaFile says which file of the server's media folder a stored file is.
type mediaFile struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	Stored string `json:"stored"`
}

// storedPath returns the path of a stored file. It returns "" if the name is not one that Create makes, so that a
// changed list cannot name files elsewhere.
func storedPath(dir, name string) string {
	if raw, err := hex.DecodeString(name); err != nil || len(raw) != storedNameSize {
		return ""
	}
	return filepath.Join(dir, mediaDir, name[:2], name[2:])
}
