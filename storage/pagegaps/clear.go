package pagegaps

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// Mark is the application ID of a database whose pages have all been written by the VFS or gone through Clear: "Ebb1".
const Mark = 0x45626231

const (
	headerSize    = 100
	magic         = "SQLite format 3\x00"
	pageSizeAt    = 16
	markAt        = 68
	clearedAtOnce = 1 << 20 // bytes
)

// Clear overwrites the gaps of all pages of a database file with zeros, unless the file has Mark, and returns the
// number of pages that it changed. A file that is missing, empty or no database is left alone. The caller must ensure
// that this process has not opened the database: when Clear closes the file, the locks of the process on it are
// released. If Clear is interrupted, the database is intact, and calling it again continues.
func Clear(path string) (pages int, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	header := make([]byte, headerSize)
	if _, err := io.ReadFull(f, header); err == io.EOF || err == io.ErrUnexpectedEOF {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	if !bytes.HasPrefix(header, []byte(magic)) || binary.BigEndian.Uint32(header[markAt:]) == Mark {
		return 0, nil
	}
	pageSize := int(binary.BigEndian.Uint16(header[pageSizeAt:]))
	if pageSize == 1 { // 65,536 does not fit
		pageSize = largestPage
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	if pages, err = clearPages(f, pageSize, info.Size()); err != nil {
		return pages, fmt.Errorf("clear unused parts of the database's pages: %w", err)
	}
	return pages, f.Sync()
}

// clearPages overwrites the gaps of the pages of a file.
func clearPages(f *os.File, pageSize int, fileSize int64) (pages int, err error) {
	if pageSize < smallestPage {
		return 0, nil
	}
	buf := make([]byte, clearedAtOnce)
	for at := int64(0); at < fileSize; at += int64(len(buf)) {
		n, err := f.ReadAt(buf, at)
		if err != nil && err != io.EOF {
			return pages, err
		}
		for i := 0; i+pageSize <= n; i += pageSize {
			from, to := dirty(buf[i:i+pageSize], at+int64(i), fileSize)
			if from == to {
				continue
			}
			if _, err := f.WriteAt(zeros[from:to], at+int64(i+from)); err != nil {
				return pages, err
			}
			pages++
		}
	}
	return pages, nil
}
