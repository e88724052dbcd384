package storage

import (
	"errors"
	"io/fs"
	"os"
)

// reserveSize is the room that is kept for a start on a full disk: SQLite does not open a database, not even for reading,
// without making an index of 32 KiB for its log, which it removes when it closes the database.
const reserveSize = 512 << 10

func (d sqliteDialect) reservePath() string { return d.path + ".reserve" }

// keepReserve makes the file that keeps the room, where there is none and the disk has enough.
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

// freeReserve gives the room back, and reports whether there was any.
func (d sqliteDialect) freeReserve() bool {
	err := os.Remove(d.reservePath())
	return err == nil || !errors.Is(err, fs.ErrNotExist)
}

func (postgresDialect) keepReserve() error { return nil }
func (postgresDialect) freeReserve() bool  { return false }
