package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"ebb/bodykeys"
	"ebb/ident"
	"ebb/storage/sealing"
	"ebb/storage/values"
)

// These functions create, check and destroy the keys of sealed texts.

// metaBodyKeys is the row of meta with the ID of the folder of keys; metaSealedUpTo has the position up to which events
// from before there were keys have been sealed, or allSealed.
const (
	metaBodyKeys   = "body_keys"
	metaSealedUpTo = "sealed_up_to"
	allSealed      = int64(1)<<62 - 1
)

// ErrNoBodyKeys means that message bodies in the database are encrypted, and that the folder with their keys is
// missing, belongs to another database, or lacks keys.
var ErrNoBodyKeys = errors.New("the keys of the message bodies are missing")

// ErrKeys means that a message body cannot be read or written, because the folder with the keys cannot be used.
var ErrKeys = sealing.ErrKeys

// IsOutage reports whether an error means that the database cannot store or read anything at the moment, whatever it
// is.
func IsOutage(err error) bool {
	return errors.Is(err, ErrFull) || errors.Is(err, ErrClosed) || errors.Is(err, ErrKeys) || errors.Is(err, ErrAway)
}

const anyEventQuery = `SELECT 1 FROM events LIMIT 1`

// bootKeys opens the folder of keys, and compares it with the database. The first start creates it.
func (db *DB) bootKeys(w conn) error {
	var used string
	if err := w.query(func(r Row) error { return r.Scan(&used) }, identityQuery, metaBodyKeys); err != nil {
		return err
	}
	if used == "" && db.sealer != nil && db.cfg.KeysIfNew {
		old := false
		if err := w.query(func(Row) error { old = true; return nil }, anyEventQuery); err != nil {
			return err
		}
		if old {
			db.neverSeal(w)
		}
	}
	s := db.sealer
	if s == nil {
		return errOrNil(used != "", fmt.Errorf("%w: database_keys must name the folder of the keys under which message bodies in this database are encrypted", ErrNoBodyKeys))
	}
	var err error
	if used == "" {
		s.Folder, err = db.firstKeys(w)
	} else {
		s.Folder, err = db.openKeys(used)
	}
	if err != nil {
		return err
	}
	return db.compareKeys(w)
}

// neverSeal leaves message bodies in plain text. It is called before the database is used.
func (db *DB) neverSeal(w conn) {
	db.sealer = nil
	if d, ok := db.dialect.(postgresDialect); ok {
		d.sealer = nil
		db.dialect = d
	}
	if c, ok := w.(*pgConn); ok {
		c.sealer = nil
	}
}

// openKeys opens the folder of keys with an ID.
func (db *DB) openKeys(id string) (*bodykeys.Folder, error) {
	f, err := bodykeys.Open(db.cfg.BodyKeys)
	switch {
	case errors.Is(err, bodykeys.ErrNoFolder):
		return nil, fmt.Errorf("%w: %s (database_keys) has none, but message bodies in this database are encrypted: restore the folder from its own copy, "+
			"or make the folder available that another server used for this database", ErrNoBodyKeys, db.cfg.BodyKeys)
	case err == nil && f.ID() != id:
		return nil, fmt.Errorf("%w: the keys in %s (database_keys) belong to another database", ErrNoBodyKeys, db.cfg.BodyKeys)
	}
	return f, err
}

// firstKeys creates the folder of keys for a database that has none. It refuses a folder with keys, which belong to
// another database.
func (db *DB) firstKeys(w conn) (*bodykeys.Folder, error) {
	f, err := bodykeys.Create(db.cfg.BodyKeys)
	if err != nil {
		return nil, fmt.Errorf("create the folder of keys (database_keys): %w", err)
	}
	err = f.Each(func(bodykeys.ID, func() (time.Time, error)) error {
		return fmt.Errorf("%w: the keys in %s (database_keys) belong to another database: name an empty folder", ErrNoBodyKeys, db.cfg.BodyKeys)
	})
	if err != nil {
		return nil, err
	}
	_, err = w.exec(addMetaQuery, metaBodyKeys, f.ID())
	if err == nil {
		db.cfg.Log.Warn("messages in this database are encrypted from now on: keep a copy of the folder with their keys, but not in the same backup as the database", "folder", f.Path())
	}
	return f, full(err)
}

// orphanAge is the age at which a key that the database does not know is destroyed. Until then, another process may be
// about to record it.
const orphanAge = time.Hour

// compareKeys checks that the folder has all keys that are used, and destroys keys that nothing uses: they are left
// from a crash between the creation of a key and the commit that uses it. It also finds the spare keys.
func (db *DB) compareKeys(w conn) error {
	s := db.sealer
	recorded, err := recordedKeys(w)
	if err != nil {
		return err
	}
	var orphans, spares []bodykeys.ID
	err = s.Folder.Each(func(id bodykeys.ID, created func() (time.Time, error)) error {
		state, known := recorded[id]
		if !known {
			at, err := created()
			if err == nil && time.Since(at) > orphanAge {
				orphans = append(orphans, id)
			}
			return err
		}
		if state == spareKey {
			spares = append(spares, id)
		}
		delete(recorded, id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the folder of keys: %w", err)
	}
	for id, state := range recorded {
		if !state.needed() {
			delete(recorded, id)
		}
	}
	if len(recorded) > 0 {
		return fmt.Errorf("%w: %s (database_keys) lacks %d keys under which message bodies in this database are encrypted: "+
			"restore the folder from its own copy, which must be as new as the database", ErrNoBodyKeys, db.cfg.BodyKeys, len(recorded))
	}
	for _, id := range orphans {
		if err := s.Folder.Destroy(id); err != nil {
			return err
		}
	}
	s.AddSpares(spares)
	return nil
}

// makeSpares makes spare keys whenever there are few, until stopSpares is called.
func (db *DB) makeSpares() {
	defer close(db.spares.ended)
	for {
		select {
		case <-db.sealer.Low:
		case <-db.spares.stopping:
			return
		}
		if err := db.addSpares(db.ctx, sealing.SpareKeys); err != nil && !errors.Is(err, ErrClosed) {
			db.cfg.Log.Warn("Cannot make keys for message bodies in advance", "err", err)
		}
	}
}

// stopSpares ends makeSpares.
func (db *DB) stopSpares() {
	if db.sealer != nil {
		close(db.spares.stopping)
		<-db.spares.ended
	}
}

// addSpares makes keys until there are n spares. A key is durable before the database knows it. If a key cannot be
// made, those that were made before are used nevertheless.
func (db *DB) addSpares(ctx context.Context, n int) error {
	s := db.sealer
	var ids []bodykeys.ID
	var failed error
	for range n - s.Spares() {
		id, err := s.NewKey()
		if err != nil {
			failed = full(err)
			break
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return failed
	}
	p := db.Enqueue(Write{
		Do: func(tx *Tx) error {
			for _, id := range ids {
				if _, err := tx.exec(addKeyQuery, int64(id), int64(0), int64(0), int64(0), int64(spareKey)); err != nil {
					return err
				}
			}
			return nil
		},
		Committed: func() { s.AddSpares(ids) },
	})
	return errors.Join(failed, p.Wait(ctx))
}

// A sealedColumn is a column with sealed texts.
type sealedColumn struct {
	table string
	in    sealing.In
	blob  bool // whether the column has bytes instead of text
	kind  sealing.Kind
	// list selects the number and the text of at most $2 rows under key $1; move replaces the text and the key of row
	// $1 under key $4.
	list, move string
}

// sealedColumns lists all columns with sealed texts.
var sealedColumns = []sealedColumn{
	{"events", sealing.Events, false, sealing.Bodies, `SELECT position, json FROM events WHERE body_key = $1 LIMIT $2`,
		`UPDATE events SET json = $2, body_key = $3 WHERE position = $1 AND body_key = $4`},
	{"originals", sealing.Events, false, sealing.Bodies, `SELECT position, json FROM originals WHERE body_key = $1 LIMIT $2`, // copied from events
		`UPDATE originals SET json = $2, body_key = $3 WHERE position = $1 AND body_key = $4`},
	{"delayed_events", sealing.DelayedEvents, false, sealing.Bodies, `SELECT position, content FROM delayed_events WHERE body_key = $1 LIMIT $2`,
		`UPDATE delayed_events SET content = $2, body_key = $3 WHERE position = $1 AND body_key = $4`},
	{"related_redactions", sealing.RelatedRedactions, false, sealing.Bodies, `SELECT position, reason FROM related_redactions WHERE body_key = $1 LIMIT $2`,
		`UPDATE related_redactions SET reason = $2, body_key = $3 WHERE position = $1 AND body_key = $4`},
	{"stripped_state", sealing.StrippedState, false, sealing.Bodies, `SELECT user_nid, json FROM stripped_state WHERE body_key = $1 LIMIT $2`,
		`UPDATE stripped_state SET json = $2, body_key = $3 WHERE user_nid = $1 AND body_key = $4`},
	{"media_files", sealing.MediaFiles, false, sealing.MediaKeys, `SELECT nid, sealed_key FROM media_files WHERE body_key = $1 LIMIT $2`,
		`UPDATE media_files SET sealed_key = $2, body_key = $3 WHERE nid = $1 AND body_key = $4`},
	{"url_previews", sealing.URLPreviews, false, sealing.Previews, `SELECT nid, json FROM url_previews WHERE body_key = $1 LIMIT $2`,
		`UPDATE url_previews SET json = $2, body_key = $3 WHERE nid = $1 AND body_key = $4`},
	{"reports", sealing.Reports, false, sealing.Reasons, `SELECT nid, reason FROM reports WHERE body_key = $1 LIMIT $2`,
		`UPDATE reports SET reason = $2, body_key = $3 WHERE nid = $1 AND body_key = $4`},
	{"own_redactions", sealing.OwnRedactions, false, sealing.Reasons, `SELECT position, reason FROM own_redactions WHERE body_key = $1 LIMIT $2`,
		`UPDATE own_redactions SET reason = $2, body_key = $3 WHERE position = $1 AND body_key = $4`},
	{"search_parts", sealing.SearchParts, true, sealing.Search, `SELECT nid, data FROM search_parts WHERE body_key = $1 LIMIT $2`,
		`UPDATE search_parts SET data = $2, body_key = $3 WHERE nid = $1 AND body_key = $4`},
}

const (
	// resealBatch is the number of texts that one write seals again.
	resealBatch = 64
	// tendInterval is how often keys are retired, apart from after purges.
	tendInterval = time.Hour
	// maxDirty is how long a key may be dirty before it is retired. With tendInterval and the time that the work takes,
	// this is at most MaxKeyDelay.
	maxDirty = 22 * time.Hour
	// keysPerPage is the number of keys that are listed at a time.
	keysPerPage = 256
)

// TendKeys retires dirty keys at intervals, and seals what is stored in plain text from before there were keys, until
// ctx ends.
func (db *DB) TendKeys(ctx context.Context) error {
	if db.sealer == nil {
		return nil
	}
	tick := time.NewTicker(tendInterval)
	defer tick.Stop()
	for {
		if err := errors.Join(db.sealOld(ctx), db.RetireKeys(ctx, false)); err != nil && ctx.Err() == nil {
			db.cfg.Log.Error("Cannot retire keys of message bodies; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// usedKeyRow is a row of body_keys.
type usedKeyRow struct {
	id    bodykeys.ID
	slot  sealing.Slot
	state keyState
	dirty int64 // ms
}

const (
	keyColumns       = `SELECT nid, room_nid, kind, day, state, dirty_ts FROM body_keys `
	endingKeysQuery  = keyColumns + `WHERE state <> 1 AND state >= 2 AND nid > $1 ORDER BY nid LIMIT $2`
	dirtyKeysQuery   = keyColumns + `WHERE dirty_ts > 0 AND state = 1 AND nid > $1 ORDER BY nid LIMIT $2`
	setKeyStateQuery = `UPDATE body_keys SET state = $2 WHERE nid = $1`
)

func scanKeyRow(r Row) (k usedKeyRow, err error) {
	var id, kind, state int64
	err = r.Scan(&id, &k.slot.Room, &kind, &k.slot.Day, &state, &k.dirty)
	k.id, k.slot.Kind, k.state = bodykeys.ID(id), sealing.Kind(kind), keyState(state)
	return k, err
}

// RetireKeys destroys keys under which something was deleted, so that it cannot be read anywhere any more. What is left
// under such a key is sealed under another one first. Keys under which nothing is left are destroyed at once, others
// after maxDirty, or at once if all is set. It may be interrupted at any point; the next call continues.
func (db *DB) RetireKeys(ctx context.Context, all bool) error {
	s := db.sealer
	if s == nil {
		return nil
	}
	db.tending.Lock()
	defer db.tending.Unlock()
	err := db.retireKeys(ctx, all)
	if errors.Is(err, errKeysHeld) {
		db.cfg.Log.Info("keys of deleted messages stay until the backup is complete")
		err = nil
	}
	return err
}

func (db *DB) retireKeys(ctx context.Context, all bool) error {
	due := db.cfg.Now().Add(-maxDirty).UnixMilli()
	if err := db.eachKey(ctx, endingKeysQuery, db.retire); err != nil {
		return err
	}
	return db.eachKey(ctx, dirtyKeysQuery, func(ctx context.Context, k usedKeyRow) error {
		if !all && k.dirty > due {
			empty, err := db.keyEmpty(ctx, k)
			if err != nil || !empty {
				return err
			}
		}
		return db.retire(ctx, k)
	})
}

// eachKey calls f for each key that a query selects. A key that is damaged does not keep it from the others.
func (db *DB) eachKey(ctx context.Context, query string, f func(context.Context, usedKeyRow) error) error {
	var after bodykeys.ID
	var failed error // the first failure
	for {
		var page []usedKeyRow
		err := db.Read(ctx, func(tx *Tx) (err error) {
			page, err = collect(tx, scanKeyRow, query, int64(after), keysPerPage)
			return err
		})
		if err != nil {
			return err
		}
		for _, k := range page {
			if err := f(ctx, k); err != nil {
				err = fmt.Errorf("retire key %x: %w", int64(k.id), err)
				if !db.keyAlone(err) {
					return err
				}
				if failed == nil {
					failed = err
				}
			}
			after = k.id
		}
		if len(page) < keysPerPage {
			return failed
		}
	}
}

// keyAlone reports whether an error is about one key, so that other keys can still be retired.
func (db *DB) keyAlone(err error) bool {
	return (errors.Is(err, sealing.ErrKeys) || errors.Is(err, sealing.ErrSealed)) && db.sealer.Folder.Check() == nil
}

// keyEmpty reports whether nothing is sealed under a key.
func (db *DB) keyEmpty(ctx context.Context, k usedKeyRow) (empty bool, err error) {
	err = db.Read(ctx, func(tx *Tx) error {
		empty, err = tx.keyEmpty(k)
		return err
	})
	return empty, err
}

func (tx *Tx) keyEmpty(k usedKeyRow) (bool, error) {
	for _, c := range sealedColumns {
		if c.kind != k.slot.Kind {
			continue
		}
		found := false
		if err := tx.each(func(Row) error { found = true; return nil }, c.list, int64(k.id), 1); err != nil || found {
			return false, err
		}
	}
	return true, nil
}

// keysLock is one half of the key of the advisory lock that a backup holds while it copies the database and then its
// keys. A key is destroyed only while nobody else holds the lock.
const keysLock = 0x656263

const (
	lockKeysQuery   = `SELECT pg_advisory_lock_shared(CAST($1 AS INT), hashtext(current_schema()))`
	tryKeysQuery    = `SELECT pg_try_advisory_lock(CAST($1 AS INT), hashtext(current_schema()))`
	unlockKeysQuery = `SELECT pg_advisory_unlock(CAST($1 AS INT), hashtext(current_schema()))`
)

// HoldKeys keeps all keys of a database on PostgreSQL from being destroyed until release is called. The database may be
// in use by another process.
func HoldKeys(ctx context.Context, dsn string) (release func() error, err error) {
	d, err := parseDSN(dsn)
	if err != nil {
		return nil, err
	}
	c, err := d.peek(ctx)
	if c == nil || err != nil {
		return nil, errors.Join(err, errOrNil(err == nil, errors.New("there is no database yet")))
	}
	if err := c.query(func(Row) error { return nil }, lockKeysQuery, keysLock); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c.close, nil
}

// errKeysHeld means that a backup is being made.
var errKeysHeld = errors.New("storage: a backup holds the keys")

// retire destroys a key, unless a backup is being made.
func (db *DB) retire(ctx context.Context, k usedKeyRow) (err error) {
	c, err := db.readers.take(ctx)
	if err != nil {
		return err
	}
	defer db.readers.give(c)
	got := false
	if err := c.query(func(r Row) error { return r.Scan(&got) }, tryKeysQuery, keysLock); err != nil {
		return err
	}
	if !got {
		return errKeysHeld
	}
	defer func() {
		err = errors.Join(err, c.query(func(Row) error { return nil }, unlockKeysQuery, keysLock))
	}()
	return db.replaceKey(ctx, k)
}

// replaceKey seals what is left under a key under another one, and destroys the key.
func (db *DB) replaceKey(ctx context.Context, k usedKeyRow) error {
	if k.state == usedKey {
		if err := db.Write(ctx, func(tx *Tx) error { return tx.stopSealing(k) }); err != nil {
			return err
		}
	}
	if k.state != doomedKey {
		if err := db.addSpares(ctx, sealing.SpareKeys/2); err != nil {
			return err
		}
		for more := true; more; {
			if err := db.Write(ctx, func(tx *Tx) (err error) { more, err = tx.resealSome(k); return err }); err != nil {
				return err
			}
		}
	}
	db.sealer.WaitForReads()
	if err := db.sealer.Destroy(k.id); err != nil {
		return err
	}
	return db.Write(ctx, func(tx *Tx) error {
		_, err := tx.exec(`DELETE FROM body_keys WHERE nid = $1 AND state = 3`, int64(k.id))
		return err
	})
}

// stopSealing ends the use of a key for new texts.
func (tx *Tx) stopSealing(k usedKeyRow) error {
	tx.db.sealer.Stop(k.slot, k.id)
	_, err := tx.exec(setKeyStateQuery, int64(k.id), int64(retiringKey))
	return err
}

// resealSome seals some texts under a key that is being retired under another key of its slot, and reports whether
// there may be more. If none is left, it dooms the key. Nothing can be added to it any more, since all writes run one
// after the other and none seals under this key.
func (tx *Tx) resealSome(k usedKeyRow) (more bool, err error) {
	for _, c := range sealedColumns {
		if c.kind != k.slot.Kind {
			continue
		}
		rows, err := tx.sealedUnder(c, k)
		if err != nil {
			return false, err
		}
		if len(rows) == 0 {
			continue
		}
		to, err := tx.keyFor(k.slot)
		if err != nil {
			return false, err
		}
		for _, r := range rows {
			if err := tx.move(c, r, k, to); err != nil {
				return false, err
			}
		}
		return true, nil
	}
	_, err = tx.exec(setKeyStateQuery, int64(k.id), int64(doomedKey))
	return false, err
}

// openedRow is a text that was sealed.
type openedRow struct {
	row  int64
	text []byte
}

// sealedUnder returns some texts of a column that are sealed under a key.
func (tx *Tx) sealedUnder(c sealedColumn, k usedKeyRow) ([]openedRow, error) {
	return collect(tx, c.open, c.list, int64(k.id), resealBatch)
}

// open scans a row that the statement list selects.
func (c sealedColumn) open(r Row) (o openedRow, err error) {
	if err = r.Scan(&o.row, &o.text); err != nil {
		return o, err
	}
	if c.blob {
		o.text, err = r.openBlob(c.in, o.row, o.text)
	} else {
		o.text, err = r.open(c.in, o.row, o.text)
	}
	return o, err
}

func (tx *Tx) move(c sealedColumn, r openedRow, from usedKeyRow, to sealing.Key) error {
	var text any
	if c.blob {
		text = values.Blob(to.Seal(c.in, r.row, r.text))
	} else {
		text = to.SealText(c.in, r.row, r.text)
	}
	_, err := tx.exec(c.move, r.row, text, int64(to.ID), int64(from.id))
	return err
}

// plainEvent is an event that is stored in plain text.
type plainEvent struct {
	position   Pos
	room       ident.RoomNID
	receivedTS int64
	typ        string
	txnID      string
	json       []byte
}

const (
	plainEventsQuery = `SELECT position, room_nid, received_ts, type, coalesce(txn_id, ''), json FROM events WHERE position > $1 AND body_key = 0 ORDER BY position LIMIT $2`
	sealEventQuery   = `UPDATE events SET json = $2, body_key = $3, txn_id = NULL WHERE position = $1 AND body_key = 0 AND json = $4`
	plainBlocksQuery = searchBlockColumns + `b WHERE EXISTS (SELECT 1 FROM search_parts p WHERE p.nid = b.nid * 2048 AND p.body_key = 0) ORDER BY nid LIMIT $1`
)

// sealOld seals events from before there were keys. The search index of such a database and the keys of its media are
// sealed too. Texts that disappear by themselves within a short time, and reports, are left as they are.
func (db *DB) sealOld(ctx context.Context) error {
	var after int64
	err := db.Read(ctx, func(tx *Tx) (err error) {
		after, _, err = one(tx, scanNumber[int64], `SELECT value FROM meta WHERE name = 'sealed_up_to'`)
		return err
	})
	for err == nil && after != allSealed {
		after, err = db.sealSomeOld(ctx, after)
	}
	if err == nil {
		err = db.sealOldBlocks(ctx)
	}
	if err == nil {
		err = db.sealOldMediaKeys(ctx)
	}
	return err
}

// sealSomeOld seals some events after a position, and returns the position up to which all are sealed.
func (db *DB) sealSomeOld(ctx context.Context, after int64) (upTo int64, err error) {
	var page []plainEvent
	err = db.Read(ctx, func(tx *Tx) error {
		page, err = collect(tx, func(r Row) (e plainEvent, err error) {
			err = r.Scan(&e.position, &e.room, &e.receivedTS, &e.typ, &e.txnID, &e.json)
			return e, err
		}, plainEventsQuery, after, resealBatch)
		return err
	})
	if err == nil {
		err = db.addSpares(ctx, resealBatch)
	}
	if err != nil {
		return after, err
	}
	upTo = allSealed
	if len(page) > 0 {
		upTo = int64(page[len(page)-1].position)
	}
	return upTo, db.Write(ctx, func(tx *Tx) error {
		for _, e := range page {
			if err := tx.sealPlainEvent(e); err != nil {
				return err
			}
		}
		_, err := tx.exec(setMetaNumberQuery, metaSealedUpTo, upTo)
		return err
	})
}

// sealPlainEvent seals an event unless it has changed since it was read; a redaction or a purge has stored it sealed
// then, or its JSON is only what is left of it.
func (tx *Tx) sealPlainEvent(e plainEvent) error {
	if staysPlain(e.typ) {
		return nil
	}
	k, err := tx.keyFor(sealing.Slot{Room: e.room, Day: sealing.DayOf(e.receivedTS)})
	if err != nil {
		return err
	}
	_, err = tx.exec(sealEventQuery, int64(e.position), k.SealText(sealing.Events, int64(e.position), sealing.EventText(e.txnID, e.json)), int64(k.ID), string(e.json))
	return err
}

// sealOldBlocks seals the blocks of the search index from before there were keys.
func (db *DB) sealOldBlocks(ctx context.Context) error {
	for {
		sealed := 0
		err := db.Write(ctx, func(tx *Tx) error {
			blocks, err := collect(tx, scanSearchBlock, plainBlocksQuery, 1)
			sealed = len(blocks)
			for _, b := range blocks {
				if err == nil {
					err = tx.sealBlock(b)
				}
			}
			return err
		})
		if err != nil || sealed == 0 {
			return err
		}
	}
}

func (tx *Tx) sealBlock(b SearchBlock) error {
	block, err := tx.ReadSearchBlock(b)
	if err != nil {
		return err
	}
	for i, data := range slices.Concat([][]byte{block.Head}, block.Parts) {
		if err := tx.updatePart(b.Room, b.head()+int64(i), data); err != nil {
			return err
		}
	}
	return nil
}
