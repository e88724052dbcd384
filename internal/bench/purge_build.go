package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// copyServer copies the folder of a server that is not running.
func copyServer(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, raw, 0o600)
	})
}

const (
	sourceQuery = `CREATE TEMP TABLE source AS SELECT e.* FROM events e JOIN rooms r ON r.nid = e.room_nid
WHERE e.type = 'm.room.message' AND e.ord > 0 AND r.room_id IN (SELECT value FROM json_each(?))`
	// The hash of an event's ID is random, as a keyed hash is.
	multiplyQuery = `INSERT INTO events (position, room_nid, ord, id_hash, event_id, type, state_key, sender_nid, origin_ts, received_ts,
snapshot, flags, redacted_by, thread_root, push, device_nid, txn_id, json)
SELECT position + ?1, room_nid, ord + ?1 * 65536, random(), '$' || substr(hex(randomblob(22)), 2), type, state_key, sender_nid, origin_ts, received_ts,
snapshot, flags, redacted_by, thread_root, push, device_nid, txn_id, json FROM source ORDER BY position`
	lastOrderQuery = `UPDATE rooms SET last_order = max(last_order, (SELECT coalesce(max(ord), 0) FROM events WHERE room_nid = nid))`
)

// multiply adds copies of the messages of some rooms to a database that is not open. Sending a million messages would
// take minutes.
func multiply(path string, rooms []string, passes int) (err error) {
	list, err := json.Marshal(rooms)
	if err != nil {
		return err
	}
	db, err := sql.Open("sqlite3", "file:"+path+"?_synchronous=OFF&_cache_size=-262144&_secure_delete=on")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1) // which has the temporary table
	ctx := context.Background()
	if _, err := db.ExecContext(ctx, sourceQuery, string(list)); err != nil {
		return err
	}
	var first, last, at int64
	if err := db.QueryRowContext(ctx, `SELECT min(position), max(position) FROM source`).Scan(&first, &last); err != nil {
		return err
	}
	if err := db.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = 'position'`).Scan(&at); err != nil {
		return err
	}
	for range passes {
		if _, err := db.ExecContext(ctx, multiplyQuery, at+1-first); err != nil {
			return err
		}
		at += last - first + 1
	}
	if _, err := db.ExecContext(ctx, `UPDATE meta SET value = ? WHERE name = 'position'`, at); err != nil {
		return err
	}
	_, err = db.ExecContext(ctx, lastOrderQuery)
	return err
}

// indexed waits until the search index has all messages.
func (p *process) indexed() (err error) {
	db, err := sql.Open("sqlite3", "file:"+filepath.Join(p.dir, "ebb.db")+"?mode=ro")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for end := time.Now().Add(20 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		var gaps int
		if err := db.QueryRowContext(context.Background(), `SELECT count(*) FROM search_gaps`).Scan(&gaps); err != nil || gaps == 0 {
			return err
		}
	}
	return errors.New("the search index is not complete after 20 minutes")
}

// purgedFiles is the number of media files that are purged, and purgedFileSize the size of each.
const (
	purgedFiles    = 2000
	purgedFileSize = 16 << 10
)

// purgeMedia measures how fast files are removed whose messages have expired.
func (b *bench) purgeMedia() error {
	p, err := b.startEbb("purge-media", 0)
	if err != nil {
		return err
	}
	defer p.stop()
	h, err := newHouse(p, 8, 1)
	if err != nil {
		return err
	}
	var rates []float64
	for range min(b.rounds, 3) {
		if err := h.sendFiles(purgedFiles); err != nil {
			return err
		}
		if err := h.expire("1s", h.rooms[0]); err != nil {
			return err
		}
		time.Sleep(1500 * time.Millisecond) // until the last message has expired, too
		start := time.Now()
		if _, err := p.purgeNow(); err != nil {
			return err
		}
		if err := p.withoutMedia(start.Add(time.Minute)); err != nil {
			return err
		}
		rates = append(rates, purgedFiles/time.Since(start).Seconds())
		if _, err := p.command("room retention clear", h.rooms[0][0]); err != nil {
			return err
		}
	}
	b.print(figure{fmt.Sprintf("purge of %d messages with a file of %d KB", purgedFiles, purgedFileSize>>10), "files/s", rates, nil, "≥ 500"})
	return nil
}

// sendFiles uploads n different files and sends a message with each.
func (h *house) sendFiles(n int) error {
	return parallel(len(h.senders), n, func(i int) error {
		c := newConn(h.addr, h.senders[i%len(h.senders)].token) // whose own connection may be in use
		defer c.close()
		content := bytes.Repeat([]byte(strconv.FormatInt(txns.Add(1), 10)+" "), purgedFileSize)[:purgedFileSize]
		var made struct {
			URI string `json:"content_uri"`
		}
		answer, err := c.do("POST", "/_matrix/media/v3/upload?filename="+url.QueryEscape(strconv.Itoa(i)), content)
		if err == nil {
			err = json.Unmarshal(answer, &made)
		}
		if err == nil {
			_, err = c.do("PUT", sendPath(h.rooms[0][0]), fmt.Appendf(nil, `{"msgtype":"m.file","body":"%d","url":%q}`, i, made.URI))
		}
		return err
	})
}

// withoutMedia waits until no media file is left.
func (p *process) withoutMedia(end time.Time) error {
	for time.Now().Before(end) {
		files := 0
		err := filepath.WalkDir(filepath.Join(p.dir, "media"), func(_ string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.Type().IsRegular() {
				files++
				return fs.SkipAll
			}
			return err
		})
		if err != nil || files == 0 {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return errors.New("media files are left")
}
