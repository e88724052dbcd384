package backup

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"ebb/regular"
	"ebb/storage"
)

// The ledger is a file of lines, each a JSON object. The MAC of a line covers the line and the MAC of the line before,
// under a key derived from a secret of the database. So nobody without the database or a backup of it can forge a line,
// and no line in the middle can be removed. A second file with the suffix headSuffix has the number and MAC of the last
// line, so that a ledger that has lost its end is noticed too.

// headSuffix is appended to the name of a ledger to get the name of the file about its last line.
const headSuffix = ".head"

// ledgerSecret is the purpose for which storage.DB.Secret derives the key of the ledger.
const ledgerSecret = "ledger"

// LedgerKey returns the key of the ledger of a database.
func LedgerKey(db *storage.DB) []byte { return db.Secret(ledgerSecret) }

// ledgerLine is a line of the ledger.
type ledgerLine struct {
	Line  int64  `json:"line"` // from 1
	Seq   int64  `json:"seq"`
	TS    int64  `json:"ts"` // ms
	Kind  string `json:"kind"`
	Ref   int64  `json:"ref,omitempty"`
	Value int64  `json:"value,omitempty"`
	Name  string `json:"name,omitempty"`
	MAC   string `json:"mac"`
}

// sign returns the MAC of a line. previous is the MAC of the line before.
func (l ledgerLine) sign(key []byte, previous string) string {
	l.MAC = ""
	text, _ := json.Marshal(l) // numbers and strings only
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "ebb ledger 1\n%s\n%s", previous, text)
	return hex.EncodeToString(mac.Sum(nil))
}

func (l ledgerLine) entry() storage.LedgerEntry {
	return storage.LedgerEntry{Seq: storage.Pos(l.Seq), TS: l.TS, Kind: l.Kind, Ref: l.Ref, Value: l.Value, Name: l.Name}
}

// maxLedgerLine bounds a line of the ledger, in bytes.
const maxLedgerLine = 16 << 10

// ErrLedger means that a ledger is damaged, truncated or belongs to another database.
var ErrLedger = errors.New("the ledger is damaged")

// LedgerEnd describes the end of the valid part of a ledger.
type LedgerEnd struct {
	storage.LedgerHead
	Seq  storage.Pos
	Time time.Time // when the last entry was made; zero if there is none
	size int64     // length in bytes of the part that was read
}

// ReadLedger reads a ledger and calls f for every entry; f may be nil. An unfinished last line, which a crash leaves,
// is ignored. It returns the end of the valid part also if it returns ErrLedger.
func ReadLedger(path string, key []byte, f func(storage.LedgerEntry) error) (end LedgerEnd, err error) {
	file, err := regular.Open(path)
	if err != nil {
		return end, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	head, err := readHead(path)
	if err != nil {
		return end, err
	}
	headSeen := head.Line == 0
	in := bufio.NewReaderSize(file, maxLedgerLine)
	for {
		raw, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return end, fmt.Errorf("%w: line %d: %w", ErrLedger, end.Line+1, err)
		}
		var l ledgerLine
		if err := json.Unmarshal(raw, &l); err != nil || l.Line != end.Line+1 || !hmac.Equal([]byte(l.MAC), []byte(l.sign(key, end.MAC))) {
			return end, fmt.Errorf("%w: line %d of %s was changed, or the ledger belongs to another database", ErrLedger, end.Line+1, path)
		}
		end.Line, end.MAC, end.Seq, end.Time = l.Line, l.MAC, storage.Pos(l.Seq), time.UnixMilli(l.TS)
		end.size += int64(len(raw))
		headSeen = headSeen || end.LedgerHead == head
		if f != nil {
			if err := f(l.entry()); err != nil {
				return end, err
			}
		}
	}
	if !headSeen {
		return end, fmt.Errorf("%w: %s ends at line %d, but line %d was written", ErrLedger, path, end.Line, head.Line)
	}
	return end, nil
}

// readHead reads the file about the last line of a ledger. The result is zero if there is none.
func readHead(path string) (h storage.LedgerHead, err error) {
	raw, err := regular.ReadFile(path+headSuffix, 1<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &h)
	}
	return h, err
}

// LedgerOptions are the dependencies of a Ledger.
type LedgerOptions struct {
	DB   *storage.DB
	Path string
	Log  *slog.Logger
}

// Ledger moves entries from the queue in the database to the file. Nothing else writes the file. An entry leaves the
// queue only after it is in the file on disk; if a crash intervenes, the entry's number shows that the file has it.
type Ledger struct {
	opts LedgerOptions
	file *os.File // nil until open succeeds
	end  LedgerEnd
}

// NewLedger returns a Ledger. Run starts it.
func NewLedger(o LedgerOptions) *Ledger { return &Ledger{opts: o} }

const (
	// ledgerBatch is the number of entries that are written at once.
	ledgerBatch = 500
	// ledgerRetry is the pause after a failure.
	ledgerRetry = 10 * time.Second
)

// Run writes entries until ctx ends, and then those that are still in the queue.
func (l *Ledger) Run(ctx context.Context) error {
	for {
		var again <-chan time.Time
		if err := l.write(ctx, true); err != nil && ctx.Err() == nil {
			l.opts.Log.Error("Cannot write the ledger; a backup that is restored now would bring back what was deleted. Trying again", "file", l.opts.Path, "err", err)
			again = time.After(ledgerRetry)
		}
		select {
		case <-l.opts.DB.Noted():
		case <-again:
		case <-ctx.Done():
			if err := l.Write(context.WithoutCancel(ctx)); err != nil {
				l.opts.Log.Error("Cannot write the ledger; the next start tries again", "file", l.opts.Path, "err", err)
			}
			return nil // the file stays open for Write
		}
	}
}

// Write writes the entries of all database writes that were queued before the call.
func (l *Ledger) Write(ctx context.Context) error { return l.write(ctx, false) }

// write does the work of Write. If checked is set, it checks the file even if there are no entries.
func (l *Ledger) write(ctx context.Context, checked bool) error {
	if err := l.opts.DB.Flush(ctx); err != nil {
		return err
	}
	for {
		var queue []storage.LedgerEntry
		var path string
		var head storage.LedgerHead
		err := l.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			if queue, err = tx.LedgerQueue(ledgerBatch); err == nil {
				path, head, err = tx.LedgerHead()
			}
			return err
		})
		if err != nil || len(queue) == 0 && !checked {
			return err
		}
		if l.file == nil {
			if err := l.open(path, head); err != nil {
				return err
			}
		}
		if len(queue) == 0 {
			return nil
		}
		if err := l.append(queue); err != nil {
			err = errors.Join(err, l.file.Close())
			l.file, l.end = nil, LedgerEnd{}
			return err
		}
		last := queue[len(queue)-1].Seq
		if err := l.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.AdvanceLedger(last, l.opts.Path, l.end.LedgerHead) }); err != nil {
			return err
		}
		if len(queue) < ledgerBatch {
			return nil
		}
	}
}

// open opens the file and removes an unfinished line from its end. path and head are what the database records: if the
// file at this path has lost lines, for example because its disk is not mounted, nothing is written to it.
func (l *Ledger) open(path string, head storage.LedgerHead) error {
	key := LedgerKey(l.opts.DB)
	end, err := ReadLedger(l.opts.Path, key, nil)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w; restore the file, or give backup.ledger a new name and make a backup at once", err)
	}
	if path == l.opts.Path && end.Line < head.Line {
		return fmt.Errorf("%w: %s has %d lines, but %d were written; mount its disk or restore the file, or give backup.ledger a new name and make a backup at once",
			ErrLedger, path, end.Line, head.Line)
	}
	file, err := os.OpenFile(l.opts.Path, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := file.Truncate(end.size); err != nil {
		return errors.Join(err, file.Close())
	}
	if _, err := file.Seek(end.size, io.SeekStart); err != nil {
		return errors.Join(err, file.Close())
	}
	l.file, l.end = file, end
	return nil
}

// append appends entries to the file, except for those that it has already.
func (l *Ledger) append(queue []storage.LedgerEntry) error {
	key := LedgerKey(l.opts.DB)
	var b bytes.Buffer
	end := l.end
	for _, e := range queue {
		if e.Seq <= end.Seq {
			continue
		}
		line := ledgerLine{Line: end.Line + 1, Seq: int64(e.Seq), TS: e.TS, Kind: e.Kind, Ref: e.Ref, Value: e.Value, Name: e.Name}
		line.MAC = line.sign(key, end.MAC)
		text, err := json.Marshal(line)
		if err != nil {
			return err
		}
		b.Write(append(text, '\n'))
		end.Line, end.MAC, end.Seq, end.Time = line.Line, line.MAC, e.Seq, time.UnixMilli(e.TS)
	}
	if b.Len() == 0 {
		return nil
	}
	end.size += int64(b.Len())
	if _, err := l.file.Write(b.Bytes()); err != nil {
		return err
	}
	if err := l.file.Sync(); err != nil {
		return err
	}
	l.end = end
	head, err := json.Marshal(end.LedgerHead)
	if err != nil {
		return err
	}
	return replaceFile(l.opts.Path+headSuffix, append(head, '\n'))
}
