package main

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	_ "github.com/mattn/go-sqlite3" // registers the SQLite driver
)

// limitCommand is the argument that makes this program run as the limit. limitDelay is the flag for the delay added to
// each of its commits.
const (
	limitCommand = "be-the-limit"
	limitDelay   = "BENCH_LIMIT_DELAY"
)

// limit is a server that does only what accepting an event requires. Unlike a homeserver it has no users, permissions,
// state or transaction IDs.
type limit struct {
	key     ed25519.PrivateKey
	mu      sync.Mutex // guards the fields below, which describe one room
	depth   int64
	prev    string
	batches chan insert
	poll    poll
	dir     string
}

// insert is an event that waits to be written.
type insert struct {
	id   string
	json []byte
	done chan error
}

// serveLimit prints its address and serves requests until it is killed.
func serveLimit(dir string) error {
	delay, err := time.ParseDuration(os.Getenv(limitDelay))
	if err != nil {
		return err
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	l := &limit{key: key, prev: "$" + strings.Repeat("p", 43), batches: make(chan insert, 256), poll: poll{news: make(chan struct{})}, dir: dir}
	w, err := openLimitWriter(filepath.Join(dir, "limit.db"), delay)
	if err != nil {
		return err
	}
	go w.run(l.batches)
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /bare/", l.bare)
	mux.HandleFunc("PUT /built/", l.built)
	mux.HandleFunc("PUT /stored/", l.stored)
	mux.HandleFunc("PUT /all/", l.all)
	mux.HandleFunc("PUT /wake", l.poll.wake)
	mux.HandleFunc("GET /poll", l.poll.wait)
	mux.HandleFunc("GET /inuse", inUse)
	mux.HandleFunc("GET /"+limitFile, l.file)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, mux)
}

// bare responds to a PUT and does nothing else.
func (l *limit) bare(w http.ResponseWriter, r *http.Request) {
	if body, err := io.ReadAll(r.Body); err == nil {
		answer(w, body[:min(len(body), 60)])
	}
}

// built builds an event from the body and discards it.
func (l *limit) built(w http.ResponseWriter, r *http.Request) {
	if body, err := io.ReadAll(r.Body); err == nil {
		if id, _, err := l.event(body); err == nil {
			answer(w, []byte(`{"event_id":"`+id+`"}`))
		}
	}
}

// stored writes the body to the database as if it were a complete event.
func (l *limit) stored(w http.ResponseWriter, r *http.Request) {
	if body, err := io.ReadAll(r.Body); err == nil {
		l.mu.Lock()
		l.depth++
		id := "$" + strconv.FormatInt(l.depth, 10)
		l.mu.Unlock()
		l.store(w, id, body)
	}
}

// all builds an event, and responds when it is on disk.
func (l *limit) all(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	id, event, err := l.event(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	l.store(w, id, event)
}

func (l *limit) store(w http.ResponseWriter, id string, event []byte) {
	i := insert{id: id, json: event, done: make(chan error, 1)}
	l.batches <- i
	if err := <-i.done; err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, []byte(`{"event_id":"`+id+`"}`))
}

func answer(w http.ResponseWriter, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // the client notices an error
}

// event builds and signs an event as for other servers, with content hash, reference hash and signature.
func (l *limit) event(body []byte) (id string, event []byte, err error) {
	var content map[string]any
	if err := json.Unmarshal(body, &content); err != nil {
		return "", nil, err
	}
	canonical, err := json.Marshal(content) // keys are sorted, and the texts used here need no escaping
	if err != nil {
		return "", nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.depth++
	// The keys are in canonical order: auth_events, content, depth, hashes, origin_server_ts, prev_events, room_id,
	// sender, signatures, type.
	const auth = `{"auth_events":["$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa","$bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"],"content":`
	depth := strconv.AppendInt([]byte(`,"depth":`), l.depth, 10)
	rest := []byte(`,"origin_server_ts":1700000000000,"prev_events":["` + l.prev + `"],"room_id":"!roomroomroomroomroom:localhost","sender":"@sender:localhost"`)
	const end = `,"type":"m.room.message"}`
	content256 := sha256.Sum256(join([]byte(auth), canonical, depth, rest, []byte(end)))
	hashes := []byte(`,"hashes":{"sha256":"` + base64.RawStdEncoding.EncodeToString(content256[:]) + `"}`)
	redacted := join([]byte(auth), []byte("{}"), depth, hashes, rest, []byte(end))
	reference := sha256.Sum256(redacted)
	signature := base64.RawStdEncoding.EncodeToString(ed25519.Sign(l.key, redacted))
	l.prev = "$" + base64.RawURLEncoding.EncodeToString(reference[:])
	return l.prev, join([]byte(auth), canonical, depth, hashes, rest,
		[]byte(`,"signatures":{"localhost":{"ed25519:1":"`+signature+`"}}`), []byte(end)), nil
}

func join(parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	out := make([]byte, 0, n)
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// limitWriter is the single writer of the limit's database.
type limitWriter struct {
	db     *sql.DB
	insert *sql.Stmt
	delay  time.Duration
	rows   int64
}

const limitSchema = `CREATE TABLE events (position INTEGER PRIMARY KEY, room INTEGER NOT NULL, id TEXT NOT NULL UNIQUE, json BLOB NOT NULL);
CREATE INDEX events_by_room ON events (room, position);`

func openLimitWriter(path string, delay time.Duration) (*limitWriter, error) {
	db, err := sql.Open("sqlite3", "file:"+path+"?_journal_mode=WAL&_synchronous=FULL")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	ctx := context.Background()
	if _, err := db.ExecContext(ctx, limitSchema); err != nil {
		return nil, err
	}
	stmt, err := db.PrepareContext(ctx, "INSERT INTO events VALUES (?, ?, ?, ?)")
	return &limitWriter{db: db, insert: stmt, delay: delay}, err
}

// run commits the inserts that arrived during the previous commit, at most 64 at a time.
func (w *limitWriter) run(in <-chan insert) {
	for first := range in {
		batch := []insert{first}
		for more := true; more && len(batch) < 64; {
			select {
			case next := <-in:
				batch = append(batch, next)
			default:
				more = false
			}
		}
		err := w.commit(batch)
		for _, i := range batch {
			i.done <- err
		}
	}
}

func (w *limitWriter) commit(batch []insert) error {
	ctx := context.Background()
	tx, err := w.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	stmt := tx.StmtContext(ctx, w.insert) //nolint:sqlclosecheck // the transaction closes it
	for _, i := range batch {
		w.rows++
		if _, err := stmt.ExecContext(ctx, w.rows, w.rows%50, i.id, i.json); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	time.Sleep(w.delay)
	return tx.Commit()
}

// inUse returns the size in bytes of the heap and the stacks in use after a garbage collection.
func inUse(w http.ResponseWriter, _ *http.Request) {
	runtime.GC()
	runtime.GC() // twice, because pools release their memory only at the second collection
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	answer(w, strconv.AppendUint(nil, m.HeapAlloc+m.StackInuse, 10))
}

// poll serves long polls and wakes them.
type poll struct {
	mu   sync.Mutex // guards at and news
	at   int
	news chan struct{} // closed at the next wake-up
}

func (p *poll) wake(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // the client notices an error
	p.mu.Lock()
	p.at++
	close(p.news)
	p.news = make(chan struct{})
	p.mu.Unlock()
	answer(w, []byte("{}"))
}

// pollBody is as long as a /sync response with one message.
var pollBody = strings.Repeat("x", 1000)

func (p *poll) wait(w http.ResponseWriter, r *http.Request) {
	since, _ := strconv.Atoi(r.URL.Query().Get("since")) // an empty value is 0
	p.mu.Lock()
	at, news := p.at, p.news
	p.mu.Unlock()
	if at <= since {
		select {
		case <-news:
		case <-r.Context().Done():
			return
		}
		p.mu.Lock()
		at = p.at
		p.mu.Unlock()
	}
	answer(w, []byte(`{"next_batch":"`+strconv.Itoa(at)+`","rooms":"`+pollBody+`"}`))
}

// limitFile is the name of the file that the limit serves from its folder.
const limitFile = "file"

// fileBuffer is as large as the chunks in which Ebb writes files.
const fileBuffer = 64 << 10

// file serves a file that is not encrypted, through memory: no server can use sendfile with TLS.
func (l *limit) file(w http.ResponseWriter, _ *http.Request) {
	f, err := os.Open(filepath.Join(l.dir, limitFile))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Length", strconv.FormatInt(info.Size(), 10))
	_, _ = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{f}, make([]byte, fileBuffer)) // the client notices an error
}
