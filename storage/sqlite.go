package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"sync"

	"github.com/mattn/go-sqlite3"

	"ebb/config"
	"ebb/storage/filelock"
	"ebb/storage/pagegaps"
)

type sqliteDialect struct{ path string }

func newSQLite(path string) sqliteDialect { return sqliteDialect{path: filepath.Clean(path)} }

func (sqliteDialect) name() string   { return "sqlite" }
func (sqliteDialect) rowKey() string { return "INTEGER PRIMARY KEY" }

func (d sqliteDialect) lock() (filelock.Lock, error) {
	if err := os.MkdirAll(filepath.Dir(d.path), 0o700); err != nil {
		return filelock.Lock{}, full(fmt.Errorf("create the folder of the database: %w", err))
	}
	l, err := filelock.Take(d.path + ".lock")
	return l, full(err)
}

// writerPragmas are the settings of the write connection. Those whose order matters come before the first table is
// created.
var writerPragmas = []string{
	`page_size = 4096`,
	`auto_vacuum = INCREMENTAL`,
	`journal_mode = WAL`,
	`synchronous = FULL`, // the driver sets NORMAL, which loses acknowledged commits when power fails
	`secure_delete = ON`,
	`temp_store = MEMORY`,    // deleted messages must not remain in temporary files
	`cache_size = -16384`,    // KiB
	`wal_autocheckpoint = 0`, // the checkpointer does it, concurrently with commits
	`journal_size_limit = 16777216`,
}

// assertion is a setting that must have the given value. With another value Ebb does not start, because acknowledged
// writes might get lost, or deleted data might remain.
type assertion struct {
	pragma, want string
	advice       string // what to do if the value differs; %s stands for the file
}

var asserted = append([]assertion{
	{pragma: `journal_mode`, want: "wal", advice: "its file system lacks shared memory or locks, as network shares do: move %s to a local disk"},
	{pragma: `synchronous`, want: "2"},
	{pragma: `secure_delete`, want: "1"},
	{pragma: `temp_store`, want: "2"},
}, storedSettings...)

// storedSettings are the asserted settings that are stored in the file.
var storedSettings = []assertion{
	// A database that was restored from a dump has the default. Ebb does not convert it, because VACUUM writes
	// everything twice.
	{pragma: `auto_vacuum`, want: "2", advice: `it was made by another program, such as from a dump; run this once, as the server's user, while no server runs: ` +
		`sqlite3 '%s' "PRAGMA auto_vacuum = INCREMENTAL; VACUUM;"`},
}

// howToFix returns what to do about a wrong setting, as the end of an error message.
func (a assertion) howToFix(path string) string {
	if a.advice == "" {
		return ""
	}
	return ": " + fmt.Sprintf(a.advice, path)
}

// keepPrivate makes the files of the database accessible to their owner only. SQLite makes a new database readable by
// everybody, and gives the log and its index the permissions of the database.
func (d sqliteDialect) keepPrivate() error {
	f, err := os.OpenFile(d.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err == nil {
		return f.Close()
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create the database: %w%s", err, config.OwnerOf(err))
	}
	path, err := filepath.EvalSymlinks(d.path)
	if err != nil {
		return fmt.Errorf("open the database: %w", err)
	}
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			err = os.Chmod(path+suffix, info.Mode().Perm()&^0o077)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("keep the database private: %w%s", err, config.OwnerOf(err))
		}
	}
	return nil
}

// prepare clears the pages of a database that an older version of Ebb or another program has written.
func (d sqliteDialect) prepare(log *slog.Logger) error {
	pages, err := pagegaps.Clear(d.path)
	if pages > 0 {
		log.Info("copies of moved rows were removed from pages of the database", "pages", pages)
	}
	if err != nil {
		err = fmt.Errorf("open the database: %w%s", err, config.OwnerOf(err))
	}
	return full(err)
}

func (d sqliteDialect) openWriter(context.Context) (conn, error) {
	if err := d.keepPrivate(); err != nil {
		return nil, full(err)
	}
	c, err := openLite(d.path, "rwc", writerPragmas)
	if err != nil {
		return nil, full(err)
	}
	if err := errors.Join(d.checkSettings(c, asserted), full(mark(c))); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

// mark records in a database that all its pages are clear, unless it says so already.
func mark(c *liteConn) error {
	var id int64
	if err := c.pragma(`application_id`, &id); err != nil || id == pagegaps.Mark {
		return err
	}
	return c.pragma(fmt.Sprintf(`application_id = %d`, pagegaps.Mark))
}

func (d sqliteDialect) checkSettings(c *liteConn, settings []assertion) error {
	for _, a := range settings {
		var got string
		if err := c.pragma(a.pragma, &setting{&got}); err != nil || got != a.want {
			return errors.Join(fmt.Errorf("%s of %s is %s, it must be %s%s", a.pragma, d.path, got, a.want, a.howToFix(d.path)), err)
		}
	}
	return nil
}

// setting is a scan destination for the value of a PRAGMA. It accepts numbers as well as text.
type setting struct{ text *string }

func (s *setting) Scan(src any) error { *s.text = fmt.Sprint(src); return nil }

// openLite opens a connection. It is used by one goroutine at a time and so needs none of SQLite's mutexes.
func openLite(path, mode string, pragmas []string) (*liteConn, error) {
	vfs, err := pagegaps.VFS()
	if err != nil {
		return nil, err
	}
	dsn := (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: "vfs=" + vfs + "&mode=" + mode + "&_busy_timeout=10000&_mutex=no"}).String()
	raw, err := (&sqlite3.SQLiteDriver{}).Open(dsn)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	c := &liteConn{c: raw.(*sqlite3.SQLiteConn), stmts: map[string]*statement{}}
	for _, p := range pragmas {
		if err := c.pragma(p); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	return c, nil
}

// liteReaders is the pool of reading connections to SQLite. It opens connections on demand and prefers the one used
// last, whose cache is warm.
type liteReaders struct {
	open   func() (*liteConn, error)
	tokens chan struct{} // one for each connection that may be in use
	closed chan struct{}

	mu   sync.Mutex // guards idle; a leaf
	idle []conn
}

// readerPragmas are the settings of the reading connections. Memory mapping stays off, because an I/O error would end
// the process.
var readerPragmas = []string{`query_only = ON`, `temp_store = MEMORY`, `cache_size = -4096`}

func (d sqliteDialect) openReaders(n int) (readers, error) {
	p := &liteReaders{
		open:   func() (*liteConn, error) { return openLite(d.path, "ro", readerPragmas) },
		tokens: make(chan struct{}, n), closed: make(chan struct{}),
	}
	for range n {
		p.tokens <- struct{}{}
	}
	return p, nil
}

func (p *liteReaders) take(ctx context.Context) (conn, error) {
	select {
	case <-p.closed:
		return nil, ErrClosed
	default:
	}
	select {
	case <-p.tokens:
	case <-p.closed:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if c := p.pop(); c != nil {
		return c, nil
	}
	c, err := p.open()
	if err != nil {
		p.tokens <- struct{}{}
		return nil, err
	}
	return c, nil
}

func (p *liteReaders) pop() conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.idle) - 1
	if n < 0 {
		return nil
	}
	c := p.idle[n]
	p.idle = p.idle[:n]
	return c
}

func (p *liteReaders) give(c conn) {
	if c.broken() {
		_ = c.close() // its user has received the error
	} else {
		p.mu.Lock()
		p.idle = append(p.idle, c)
		p.mu.Unlock()
	}
	p.tokens <- struct{}{}
}

func (p *liteReaders) close() error {
	close(p.closed)
	for range cap(p.tokens) {
		<-p.tokens
	}
	var errs []error
	for _, c := range p.idle {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}
