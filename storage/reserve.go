package storage

import (
	"errors"
	"io/fs"
	"os"
)

// reserveSize is the size of the space that is reserved for a start on a full disk. SQLite cannot open a database, even
// for reading, without creating an index of 32 KiB for its log, which it deletes when it closes the database.
const reserveSize = 512 << 10

func (d sqliteDialect) reservePath() string { return d.path + ".reserve" }

// keepReserve creates the file that reserves the space, if it does not exist and the disk has enough room.
func (d sqliteDialect) keepReserve() error {
	if info, err := os.Stat(d.reservePath()); err == nil && info.Size() == reserveSize {
		return nil
	}
	err := os.WriteFile(d.reservePath(), make([]byte, reserveSize), 0o600)
	if err != nil {
		err = full(errors.Join(err, os.Remove(d.reservePath())))
	}
	return err
}

// freeReserve deletes the file and reports whether it existed.
func (d sqliteDialect) freeReserve() bool {
	err := os.Remove(d.reservePath())
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}

func (postgresDialect) keepReserve() error { return nil }
func (postgresDialect) freeReserve() bool  { return false }
