package bodykeys

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// exportMagic begins an export; the ID of the folder follows in the same line. Each further line is the number of a key
// and the key, in hexadecimal. The last line is exportEnd.
const (
	exportMagic = "ebb body keys 1 "
	exportEnd   = "end"
)

// Export writes all keys of a folder, for a backup.
func (f *Folder) Export(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%s%s\n", exportMagic, f.id)
	err := f.Each(func(id ID, _ func() (time.Time, error)) error {
		k, err := f.Key(id)
		switch {
		case errors.Is(err, ErrMissing): // destroyed a moment ago
			return nil
		case errors.Is(err, ErrDamaged): // a file that is being written, which nothing uses yet, or a lost key
			return nil
		case err != nil:
			return err
		}
		_, err = fmt.Fprintf(out, "%016x %x\n", uint64(id), k[:])
		return err
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(out, exportEnd)
	return out.Flush()
}

// Import creates a folder with the keys of an export, and returns how many these are. If there is a folder already, it
// must be from an import of the same export that was interrupted.
func Import(path string, r io.Reader) (n int, err error) {
	in := bufio.NewScanner(r)
	in.Scan()
	folder, ok := strings.CutPrefix(in.Text(), exportMagic)
	if !ok || len(folder) != 2*idLength {
		return 0, errors.Join(in.Err(), errors.New("this is no export of the keys of message bodies"))
	}
	f := &Folder{path: path, id: folder}
	if err := f.makeFolders(); err != nil {
		return 0, err
	}
	for in.Scan() {
		if in.Text() == exportEnd {
			return n, f.finishImport()
		}
		if err := f.importKey(in.Text()); err != nil {
			return n, err
		}
		n++
	}
	return n, errors.Join(in.Err(), fmt.Errorf("the export of the keys ends after %d keys", n))
}

func (f *Folder) importKey(line string) error {
	number, text, _ := strings.Cut(line, " ")
	raw, err := hex.DecodeString(number)
	if err != nil || len(raw) != 8 {
		return errors.New("the export of the keys is damaged")
	}
	var id ID
	for _, b := range raw {
		id = id<<8 | ID(b)
	}
	var k Key
	raw, err = hex.DecodeString(text)
	if err != nil || len(raw) != len(k) || id <= 0 {
		return errors.New("the export of the keys is damaged")
	}
	copy(k[:], raw)
	return os.WriteFile(f.file(id), encode(k), 0o600)
}

// finishImport makes all files durable at once, since an fsync for each would take minutes, and writes the ID.
func (f *Folder) finishImport() error {
	syscall.Sync()
	path := filepath.Join(f.path, idFile)
	if err := os.WriteFile(path, []byte(f.id+"\n"), 0o600); err != nil {
		return err
	}
	syscall.Sync()
	return nil
}
