// Package backup makes backups of a server, verifies them and unpacks them, and keeps the ledger, by which a restored
// server deletes again what was deleted after the backup.
//
// A folder of backups has a folder for each backup, named by its time, and a folder with the media files of all of
// them, so that a file that an earlier backup has is not copied again:
//
//	20261130T014000Z/manifest.json    hashes, versions; not encrypted
//	20261130T014000Z/database.age     the database: the SQLite file, or a dump by pg_dump
//	20261130T014000Z/files.tar.age    keys and configuration
//	20261130T014000Z/media.jsonl.age  which stored file is which media file
//	20261130T014000Z/stored.jsonl     the stored files with their hashes
//	media/ab/cdef…                    stored media files
//
// Everything with content is encrypted to age recipients, of whom the server knows only the public part. A backup is
// written to a folder whose name ends in .part and is renamed when it is complete and on disk, so a crash leaves at
// worst a .part folder and stored files that no backup has; the next backup removes both.
package backup

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"filippo.io/age/agessh"

	"ebb/digest"
	"ebb/storage"
)

// Database copies a database.
type Database interface {
	// Copy writes a consistent copy to w and describes the state of the database that was copied.
	Copy(ctx context.Context, w io.Writer) (storage.Held, error)
	Engine() string
}

// Options says what to back up, and where to.
type Options struct {
	Dir        string   // the folder of backups
	Recipients []string // age1…, or the public part of an SSH key
	Database   Database
	Files      map[string]string // keys and configuration: names in the backup and paths; those that do not exist are left out
	Media      string            // the server's media folder
	Ledger     bool              // whether the server has a ledger
	Keys       *BodyKeys         // the keys of message bodies on PostgreSQL; nil if there are none
	Keep       time.Duration     // older backups are deleted, but never the newest; 0: nothing is deleted
	Server     string
	Version    string
	Now        func() time.Time
}

// BodyKeys describes how the keys are copied under which messages in the database are encrypted. They are not in the
// folder of the backups, so that whoever has only one of the two can read no message.
type BodyKeys struct {
	Dir string // the folder for the keys of all backups: a file for each, named like the backup
	// Hold keeps all keys from being destroyed until release is called.
	Hold func(context.Context) (release func() error, err error)
	// Export writes the keys.
	Export func(io.Writer) error
}

// keysName returns the name of the file with the keys of a backup.
func keysName(backup string) string { return backup + ".keys.age" }

// Report is the result of Create.
type Report struct {
	Path    string        `json:"path"`
	Took    time.Duration `json:"took"`
	Bytes   int64         `json:"bytes"` // written, encrypted
	Media   Media         `json:"media"` // in the backup
	Added   Media         `json:"added"` // those that no earlier backup had
	Deleted []string      `json:"deleted,omitempty"`
	Oldest  time.Time     `json:"oldest"` // when the oldest backup in the folder was made
	Kept    int           `json:"kept"`   // number of backups in the folder
}

// ParseRecipients parses age recipients.
func ParseRecipients(texts []string) (list []age.Recipient, err error) {
	for _, text := range texts {
		var r age.Recipient
		text = strings.TrimSpace(text)
		if strings.HasPrefix(text, "ssh-") {
			r, err = agessh.ParseRecipient(text)
		} else {
			var parsed []age.Recipient
			if parsed, err = age.ParseRecipients(strings.NewReader(text)); err == nil {
				r = parsed[0]
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%.20q… is not the public part of an age key (age1…) or of an SSH key: %w", text, err)
		}
		list = append(list, r)
	}
	if len(list) == 0 {
		return nil, errors.New("there is no recipient: a backup without encryption is not made")
	}
	return list, nil
}

// Encrypt returns a writer that encrypts what is written to it for recipients. Closing it writes the end.
func Encrypt(w io.Writer, recipients []string) (io.WriteCloser, error) {
	list, err := ParseRecipients(recipients)
	if err != nil {
		return nil, err
	}
	return age.Encrypt(w, list...)
}

// creation is a backup that is being made.
type creation struct {
	Options
	recipients []age.Recipient
	part       string // the folder until the backup is complete
	manifest   Manifest
	report     Report
	known      map[string]storedFile // stored files of earlier backups
	pace       pacer
}

// Create makes a backup. If it fails, the earlier backups are as they were.
func Create(ctx context.Context, o Options) (r Report, err error) {
	start := time.Now()
	c := &creation{Options: o, known: map[string]storedFile{}}
	if c.recipients, err = ParseRecipients(o.Recipients); err != nil {
		return r, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return r, err
	}
	release, err := lockDir(o.Dir)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, release()) }()
	if err := removeUnfinished(o.Dir); err != nil {
		return r, err
	}
	earlier, err := List(o.Dir)
	if err != nil {
		return r, err
	}
	if err := c.know(earlier); err != nil {
		return r, err
	}
	if err := c.write(ctx); err != nil {
		return r, explain(errors.Join(err, os.RemoveAll(c.part)), o.Dir)
	}
	if err := c.prune(append(earlier, Listed{filepath.Base(c.report.Path), c.manifest})); err != nil {
		return r, fmt.Errorf("the backup %s is complete, but old files could not be deleted: %w", c.report.Path, err)
	}
	c.report.Took = time.Since(start)
	return c.report, nil
}

// removeUnfinished removes what an interrupted run has left.
func removeUnfinished(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), unfinished) && e.IsDir() {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// know reads from the given backups which stored files exist already. It refuses backups of another server.
func (c *creation) know(earlier []Listed) error {
	for _, b := range earlier {
		if b.Server != c.Server {
			return fmt.Errorf("%s has backups of %s: use a folder of its own for each server", c.Dir, b.Server)
		}
		files, err := readStored(filepath.Join(c.Dir, b.Name))
		if err != nil {
			return err
		}
		for _, f := range files {
			c.known[f.Name] = f
		}
	}
	return nil
}

// write writes the backup and makes it durable.
func (c *creation) write(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, c.pace.finish()) }()
	now, err := c.begin(ctx)
	if err != nil {
		return err
	}
	recipients := slices.Clone(c.Recipients)
	slices.Sort(recipients)
	c.manifest = Manifest{Format: manifestFormat, Version: c.Version, Server: c.Server, Engine: c.Database.Engine(), Created: now, Recipients: recipients}
	// The database comes first: a file that a row names is stored before the row, so it is there afterwards, unless it
	// has been deleted meanwhile.
	if err := c.writeDatabase(ctx); err != nil {
		return err
	}
	if err := c.encrypt(filesPart, c.writeFiles); err != nil {
		return err
	}
	var stored []storedFile
	err = c.encrypt(mediaPart, func(w io.Writer) (err error) {
		stored, err = c.writeMedia(ctx, json.NewEncoder(w))
		return err
	})
	if err != nil {
		return err
	}
	if err := c.plainPart(storedPart, stored); err != nil {
		return err
	}
	return c.finish()
}

// writeDatabase copies the database, and the keys of messages in it.
func (c *creation) writeDatabase(ctx context.Context) (err error) {
	if c.Keys != nil {
		release, err := c.Keys.Hold(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	err = c.encrypt(databasePart, func(w io.Writer) error {
		held, err := c.Database.Copy(ctx, w)
		c.manifest.Migration = held.Migration
		if c.Ledger {
			c.manifest.Ledger = &held.Ledger
		}
		return err
	})
	if err != nil || c.Keys == nil {
		return err
	}
	return c.writeKeys()
}

// writeKeys copies the keys of messages to their own folder.
func (c *creation) writeKeys() error {
	if err := os.MkdirAll(c.Keys.Dir, 0o700); err != nil {
		return err
	}
	name := keysName(filepath.Base(c.report.Path))
	path := filepath.Join(c.Keys.Dir, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a backup that failed in this second
		return err
	}
	size, sum, err := c.encryptTo(path, c.Keys.Export)
	if err != nil {
		return fmt.Errorf("copy the keys of messages to %s: %w", c.Keys.Dir, err)
	}
	c.manifest.Keys = &Part{name, size, sum}
	return syncAll(c.Keys.Dir)
}

// pruneKeys deletes the keys of backups that are gone.
func (c *creation) pruneKeys(kept []Listed) error {
	if c.Keys == nil {
		return nil
	}
	needed := map[string]bool{}
	for _, b := range kept {
		needed[keysName(b.Name)] = true
	}
	entries, err := os.ReadDir(c.Keys.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, isKeys := strings.CutSuffix(e.Name(), keysName("")); isKeys && !needed[e.Name()] {
			if err := os.Remove(filepath.Join(c.Keys.Dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// begin chooses the name of the backup, by its time, and creates the folder. It waits while a backup of the same second
// exists.
func (c *creation) begin(ctx context.Context) (now time.Time, err error) {
	for {
		now = c.Now().UTC()
		path := filepath.Join(c.Dir, now.Format(nameFormat))
		if _, err := os.Lstat(path); err != nil {
			c.report.Path, c.part = path, path+unfinished
			return now, os.Mkdir(c.part, 0o700)
		}
		select {
		case <-time.After(time.Second / 4):
		case <-ctx.Done():
			return now, ctx.Err()
		}
	}
}

// finish writes the manifest, makes everything durable and gives the backup its name.
func (c *creation) finish() error {
	c.manifest.Media = c.report.Media
	c.manifest.Checksum = c.manifest.checksum()
	text, err := json.MarshalIndent(c.manifest, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.part, manifestName), append(text, '\n'), 0o600); err != nil {
		return err
	}
	if err := errors.Join(c.pace.finish(), syncAll(c.Dir)); err != nil {
		return err
	}
	if err := os.Rename(c.part, c.report.Path); err != nil {
		return err
	}
	return syncDir(c.Dir)
}

// writeBuffer is the size of the buffer of a file that is written.
const writeBuffer = 256 << 10

// encryptTo creates a file with the encrypted form of what f writes. It returns its size and its hash.
func (c *creation) encryptTo(path string, f func(io.Writer) error) (size int64, sum string, err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, "", err
	}
	paced := &pacedFile{file: file, pace: &c.pace}
	defer paced.Close()
	buffer := bufio.NewWriterSize(paced, writeBuffer)
	out := digest.NewWriter(buffer)
	sealed, err := age.Encrypt(out, c.recipients...)
	if err != nil {
		return 0, "", err
	}
	if err := f(sealed); err != nil {
		return 0, "", err
	}
	if err := errors.Join(sealed.Close(), buffer.Flush()); err != nil {
		return 0, "", err
	}
	c.report.Bytes += out.Size()
	return out.Size(), out.SHA256(), nil
}

// encrypt writes an encrypted part of the backup.
func (c *creation) encrypt(name string, f func(io.Writer) error) error {
	size, sum, err := c.encryptTo(filepath.Join(c.part, name), f)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	c.manifest.Parts = append(c.manifest.Parts, Part{name, size, sum})
	return nil
}

// plainPart writes the list of stored files.
func (c *creation) plainPart(name string, stored []storedFile) (err error) {
	file, err := os.OpenFile(filepath.Join(c.part, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	buffer := bufio.NewWriterSize(file, writeBuffer)
	out := digest.NewWriter(buffer)
	enc := json.NewEncoder(out)
	for _, f := range stored {
		if err := enc.Encode(f); err != nil {
			return err
		}
	}
	if err := buffer.Flush(); err != nil {
		return err
	}
	c.report.Bytes += out.Size()
	c.manifest.Parts = append(c.manifest.Parts, Part{name, out.Size(), out.SHA256()})
	return nil
}

// writeFiles writes the keys and the configuration as a tar archive.
func (c *creation) writeFiles(w io.Writer) error {
	archive := tar.NewWriter(w)
	names := make([]string, 0, len(c.Files))
	for name := range c.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		content, err := os.ReadFile(c.Files[name])
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := archive.Write(content); err != nil {
			return err
		}
	}
	return archive.Close()
}

// prune deletes backups that are too old, and stored files that no backup has.
func (c *creation) prune(all []Listed) error {
	kept := all[:0:0]
	for i, b := range all {
		if c.Keep == 0 || i == len(all)-1 || c.manifest.Created.Sub(b.Created) < c.Keep {
			kept = append(kept, b)
			continue
		}
		// The manifest goes first, so that an interrupted run leaves no folder that looks complete.
		path := filepath.Join(c.Dir, b.Name)
		if err := os.Rename(path, path+unfinished); err != nil {
			return err
		}
		if err := os.RemoveAll(path + unfinished); err != nil {
			return err
		}
		c.report.Deleted = append(c.report.Deleted, b.Name)
	}
	c.report.Kept, c.report.Oldest = len(kept), kept[0].Created
	if err := c.pruneKeys(kept); err != nil {
		return err
	}
	needed := map[string]bool{}
	for _, b := range kept {
		files, err := readStored(filepath.Join(c.Dir, b.Name))
		if err != nil {
			return err
		}
		for _, f := range files {
			needed[f.Name] = true
		}
	}
	return removeUnneeded(filepath.Join(c.Dir, mediaDir), needed)
}
