package storage

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"ebb/ident"
	"ebb/storage/postings"
	"ebb/storage/sealing"
	"ebb/storage/values"
)

// These are the rows of the search index. Package search decides what its blocks contain and when they are written;
// this file has the functions that remove events from them (see dependents).

// SearchBlock describes a block of the search index. A block has some of the events of a room; see package postings.
type SearchBlock struct {
	NID         Pos
	Room        ident.RoomNID
	First, Last Pos // positions of its first and last event
	Docs, Parts int
	Stale       int64 // how often events were purged whose terms the block still has
}

// partsPerBlock is the distance of the keys of two blocks in search_parts: one key for the head, and one for each part.
const partsPerBlock = 2 * postings.MaxParts

func (b *SearchBlock) head() int64 { return int64(b.NID) * partsPerBlock }

// Part returns the key of part n of the block in the table of parts. Part -1 is the head.
func (b *SearchBlock) Part(n int) int64 { return b.head() + 1 + int64(n) }

const searchBlockColumns = `SELECT nid, room_nid, first_pos, last_pos, docs, parts, stale FROM search_blocks `

func scanSearchBlock(r Row) (b SearchBlock, err error) {
	var docs, parts int64
	err = r.Scan(&b.NID, &b.Room, &b.First, &b.Last, &docs, &parts, &b.Stale)
	b.Docs, b.Parts = int(docs), int(parts)
	return b, err
}

// SearchBlocks returns at most limit blocks of the given rooms, the newest first. It uses the index
// search_blocks_by_room.
func (tx *Tx) SearchBlocks(rooms []ident.RoomNID, limit int) ([]SearchBlock, error) {
	var out []SearchBlock
	for part := range slices.Chunk(rooms, maxIn) {
		list, args := In(2, part)
		found, err := collect(tx, scanSearchBlock, searchBlockColumns+`WHERE room_nid IN `+list+` ORDER BY last_pos DESC LIMIT $1`, append([]any{limit}, args...)...)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	slices.SortFunc(out, func(a, b SearchBlock) int { return int(b.Last - a.Last) })
	return out[:min(len(out), limit)], nil
}

const (
	blocksBetweenQuery = searchBlockColumns + `WHERE room_nid = $1 AND last_pos >= $2 AND first_pos <= $3 ORDER BY last_pos LIMIT $4`
	blockBeforeQuery   = searchBlockColumns + `WHERE room_nid = $1 AND last_pos < $2 ORDER BY last_pos DESC LIMIT 1`
)

// SearchBlocksBetween returns, in order, at most limit blocks of a room that may have events at positions from first to
// last. It uses the index search_blocks_by_room.
func (tx *Tx) SearchBlocksBetween(room ident.RoomNID, first, last Pos, limit int) ([]SearchBlock, error) {
	return collect(tx, scanSearchBlock, blocksBetweenQuery, int64(room), int64(first), int64(last), limit)
}

// SearchBlockBefore returns the last block of a room before a position. It uses the index search_blocks_by_room.
func (tx *Tx) SearchBlockBefore(room ident.RoomNID, p Pos) (SearchBlock, bool, error) {
	return one(tx, scanSearchBlock, blockBeforeQuery, int64(room), int64(p))
}

// SearchParts returns parts and heads by their keys. It uses the primary key.
func (tx *Tx) SearchParts(keys []int64) (map[int64][]byte, error) {
	out := make(map[int64][]byte, len(keys))
	for part := range slices.Chunk(keys, maxIn) {
		list, args := In(1, part)
		err := tx.each(func(r Row) error {
			key, data, err := scanPart(r)
			out[key] = data
			return err
		}, partColumns+`WHERE nid IN `+list, args...)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

const (
	partColumns     = `SELECT nid, data, body_key FROM search_parts `
	blockPartsQuery = partColumns + `WHERE nid >= $1 AND nid < $2 ORDER BY nid`
)

func scanPart(r Row) (key int64, data []byte, err error) {
	var sealed int64
	err = r.Scan(&key, &data, &sealed)
	if err == nil && sealed != 0 {
		data, err = r.openBlob(sealing.SearchParts, key, data)
	}
	return key, data, err
}

// ReadSearchBlock reads a whole block. It uses the primary key.
func (tx *Tx) ReadSearchBlock(b SearchBlock) (out postings.Block, err error) {
	rows, err := collect(tx, func(r Row) (data []byte, err error) { _, data, err = scanPart(r); return data, err }, blockPartsQuery, b.head(), b.head()+partsPerBlock)
	if err != nil {
		return out, err
	}
	if len(rows) != b.Parts+1 {
		return out, fmt.Errorf("block %d of the search index has %d parts instead of %d", b.NID, len(rows)-1, b.Parts)
	}
	return postings.Block{Head: rows[0], Parts: rows[1:]}, nil
}

const insertBlockQuery = `INSERT INTO search_blocks (nid, room_nid, first_pos, last_pos, docs, parts) VALUES ($1, $2, $3, $4, $5, $6)`

// InsertSearchBlock stores a block with some events of a room.
func (tx *Tx) InsertSearchBlock(room ident.RoomNID, docs []postings.Doc, block postings.Block) error {
	b := SearchBlock{NID: tx.NextPos()}
	if _, err := tx.exec(insertBlockQuery, int64(b.NID), int64(room), docs[0].Pos, docs[len(docs)-1].Pos, len(docs), len(block.Parts)); err != nil {
		return err
	}
	for i, data := range append([][]byte{block.Head}, block.Parts...) {
		if err := tx.insertPart(room, b.head()+int64(i), data); err != nil {
			return err
		}
	}
	return nil
}

// ErrSearchChanged means that a block is no longer the one that was read.
var ErrSearchChanged = errors.New("storage: the block of the search index has changed")

// unchanged returns ErrSearchChanged if a block has lost events or was deleted since the caller read it and its head.
func (tx *Tx) unchanged(b SearchBlock, head []byte) error {
	now, err := tx.SearchParts([]int64{b.head()})
	if err != nil {
		return err
	}
	stale, found, err := one(tx, scanNumber[int64], `SELECT stale FROM search_blocks WHERE nid = $1`, int64(b.NID))
	if err == nil && (!found || stale != b.Stale || !bytes.Equal(now[b.head()], head)) {
		return ErrSearchChanged
	}
	return err
}

// DeleteSearchBlock deletes a block, or returns ErrSearchChanged if it has changed since the caller read it with this
// head.
func (tx *Tx) DeleteSearchBlock(b SearchBlock, head []byte) error {
	if err := tx.unchanged(b, head); err != nil {
		return err
	}
	return tx.dropSearchBlock(b)
}

func (tx *Tx) dropSearchBlock(b SearchBlock) error {
	if _, err := tx.exec(`DELETE FROM search_blocks WHERE nid = $1`, int64(b.NID)); err != nil {
		return err
	}
	if err := tx.soil(`SELECT body_key FROM search_parts WHERE nid >= $1 AND nid < $2`, b.head(), b.head()+partsPerBlock); err != nil {
		return err
	}
	_, err := tx.exec(`DELETE FROM search_parts WHERE nid >= $1 AND nid < $2`, b.head(), b.head()+partsPerBlock)
	return err
}

// insertPart stores a part or the head of a block.
func (tx *Tx) insertPart(room ident.RoomNID, key int64, data []byte) error {
	if tx.db.sealer == nil {
		_, err := tx.exec(`INSERT INTO search_parts (nid, data) VALUES ($1, $2)`, key, values.Blob(data))
		return err
	}
	k, err := tx.keyFor(sealing.Slot{Room: room, Kind: sealing.Search, Day: sealing.DayOf(tx.now.UnixMilli())})
	if err != nil {
		return err
	}
	_, err = tx.exec(`INSERT INTO search_parts (nid, data, body_key) VALUES ($1, $2, $3)`, key, values.Blob(k.Seal(sealing.SearchParts, key, data)), int64(k.ID))
	return err
}

// updatePart replaces a part or the head of a block.
func (tx *Tx) updatePart(room ident.RoomNID, key int64, data []byte) error {
	if tx.db.sealer == nil {
		_, err := tx.exec(updatePartQuery, key, values.Blob(data))
		return err
	}
	if err := tx.soil(`SELECT body_key FROM search_parts WHERE nid = $1`, key); err != nil {
		return err
	}
	k, err := tx.keyFor(sealing.Slot{Room: room, Kind: sealing.Search, Day: sealing.DayOf(tx.now.UnixMilli())})
	if err != nil {
		return err
	}
	_, err = tx.exec(updateSealedPartQuery, key, values.Blob(k.Seal(sealing.SearchParts, key, data)), int64(k.ID))
	return err
}

// ClearSearch deletes at most limit blocks of the index, and reports whether there may be more. Once no block is left,
// it also deletes the record of what was indexed.
func (tx *Tx) ClearSearch(limit int) (more bool, err error) {
	blocks, err := collect(tx, scanSearchBlock, searchBlockColumns+`ORDER BY nid LIMIT $1`, limit)
	if err != nil {
		return false, err
	}
	for _, b := range blocks {
		if err := tx.dropSearchBlock(b); err != nil {
			return false, err
		}
	}
	if len(blocks) == limit {
		return true, nil
	}
	if _, err := tx.exec(`DELETE FROM search_gaps`); err != nil {
		return false, err
	}
	return false, tx.SetSearchedUpTo(0)
}

// outdateSearch marks blocks of a room that may have terms of events that are about to be purged; see search.Clean.
func (tx *Tx) outdateSearch(room ident.RoomNID, events []PurgeCandidate) error {
	_, err := tx.exec(`UPDATE search_blocks SET stale = stale + 1 WHERE room_nid = $1 AND last_pos >= $2 AND first_pos <= $3`,
		int64(room), int64(events[0].Position), int64(events[len(events)-1].Position))
	return err
}

// StaleSearchBlock returns a block that may have terms of purged events. It uses the index search_blocks_stale.
func (tx *Tx) StaleSearchBlock() (SearchBlock, bool, error) {
	return one(tx, scanSearchBlock, searchBlockColumns+`WHERE stale > 0 ORDER BY nid LIMIT 1`)
}

// CleanSearchBlock replaces parts of a stale block by those without the terms of purged events, or returns
// ErrSearchChanged if the block has changed since the caller read it with the head before. The last call for a block
// has the new head, which is nil if no event is left. Pending receipts say that messages were deleted until then.
func (tx *Tx) CleanSearchBlock(b SearchBlock, before []byte, parts []postings.Part, head []byte, last bool) error {
	err := tx.unchanged(b, before)
	if err == nil {
		err = tx.replaceParts(b, parts)
	}
	if err != nil || !last {
		return err
	}
	if err := tx.replaceHead(b, head); err != nil {
		return err
	}
	if _, err := tx.exec(`UPDATE search_blocks SET stale = 0 WHERE nid = $1`, int64(b.NID)); err != nil {
		return err
	}
	_, err = tx.exec(`UPDATE pending_receipts SET until_ts = greatest(until_ts, $2, (`+lastDirtyQuery+`)) WHERE room_nid = $1`, int64(b.Room), tx.now.UnixMilli())
	return err
}

// removeFromSearch removes the given events of a room from the blocks of the index.
func (tx *Tx) removeFromSearch(room ident.RoomNID, events []PurgeCandidate) error {
	positions := positionsOf(events)
	blocks, err := tx.SearchBlocksBetween(room, positions[0], positions[len(positions)-1], len(positions)+1)
	if err != nil {
		return err
	}
	for _, b := range blocks {
		if err := tx.removeFromBlock(b, positions); err != nil {
			return err
		}
	}
	return nil
}

// removeFromBlock removes from a block the events at the given positions, which are sorted. The block need not have all
// of them.
func (tx *Tx) removeFromBlock(b SearchBlock, positions []Pos) error {
	block, err := tx.ReadSearchBlock(b)
	if err != nil {
		return err
	}
	head, parts, some, err := block.Without(func(pos int64) bool {
		_, found := slices.BinarySearch(positions, Pos(pos))
		return found
	})
	if err != nil {
		return fmt.Errorf("block %d: %w", b.NID, err)
	}
	if !some {
		return nil
	}
	if err := tx.replaceParts(b, parts); err != nil {
		return err
	}
	return tx.replaceHead(b, head)
}

const (
	updatePartQuery       = `UPDATE search_parts SET data = $2 WHERE nid = $1`
	updateSealedPartQuery = `UPDATE search_parts SET data = $2, body_key = $3 WHERE nid = $1`
)

func (tx *Tx) replaceParts(b SearchBlock, parts []postings.Part) error {
	for _, p := range parts {
		if err := tx.updatePart(b.Room, b.Part(p.Number), p.Data); err != nil {
			return err
		}
	}
	return nil
}

// replaceHead replaces the head of a block. If it is nil, because no event is left, replaceHead deletes the block.
func (tx *Tx) replaceHead(b SearchBlock, head []byte) error {
	if head == nil {
		return tx.dropSearchBlock(b)
	}
	return tx.updatePart(b.Room, b.head(), head)
}

// SearchableEvent is an event that may have text for the index.
type SearchableEvent struct {
	Position   Pos
	Room       ident.RoomNID
	Order      ident.Order
	Type       string
	OriginTS   int64
	ReceivedTS int64
	JSON       []byte
}

var (
	// isSearchable holds for events that clients may see and that are not redacted.
	isSearchable    = `ord > 0 AND redacted_by = 0 AND ` + isShown
	searchableQuery = `SELECT position, room_nid, ord, type, origin_ts, received_ts, json FROM events
WHERE position > $1 AND position <= $2 AND type IN ('m.room.message', 'm.room.name', 'm.room.topic') AND ` + isSearchable + ` ORDER BY position LIMIT $3`
	stillShownQuery = `SELECT position FROM events WHERE ` + isSearchable + ` AND position IN `
)

// SearchableEvents returns at most limit events above a position and up to another one that may have text for the
// index, in order. It uses the primary key.
func (tx *Tx) SearchableEvents(after, upTo Pos, limit int) ([]SearchableEvent, error) {
	return collect(tx, func(r Row) (e SearchableEvent, err error) {
		err = r.Scan(&e.Position, &e.Room, &e.Order, &e.Type, &e.OriginTS, &e.ReceivedTS, &e.JSON)
		if err == nil && sealing.IsSealed(e.JSON) {
			_, e.JSON, err = openEvent(r, e.Position, e.JSON)
		}
		return e, err
	}, searchableQuery, int64(after), int64(upTo), limit)
}

// StillShown reports which of the given positions belong to events that clients may still see and that are not
// redacted. It uses the primary key.
func (tx *Tx) StillShown(positions []Pos) (map[Pos]bool, error) {
	out := make(map[Pos]bool, len(positions))
	for part := range slices.Chunk(positions, maxIn) {
		list, args := In(1, part)
		found, err := collect(tx, scanNumber[Pos], stillShownQuery+list, args...)
		if err != nil {
			return nil, err
		}
		for _, p := range found {
			out[p] = true
		}
	}
	return out, nil
}

// SearchedUpTo returns the position up to which events have been indexed. No block has a later event.
func (tx *Tx) SearchedUpTo() (Pos, error) {
	p, _, err := one(tx, scanNumber[Pos], `SELECT value FROM meta WHERE name = 'search'`)
	return p, err
}

// SetSearchedUpTo stores the position up to which events have been indexed.
func (tx *Tx) SetSearchedUpTo(p Pos) error {
	_, err := tx.exec(`INSERT INTO meta (name, value) VALUES ('search', $1) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, int64(p))
	return err
}

// SearchGap is a range of positions whose events are not in the index yet: above After up to UpTo.
type SearchGap struct{ After, UpTo Pos }

// SearchGaps returns at most limit gaps of the index, the newest first.
func (tx *Tx) SearchGaps(limit int) ([]SearchGap, error) {
	return collect(tx, func(r Row) (g SearchGap, err error) {
		err = r.Scan(&g.After, &g.UpTo)
		return g, err
	}, `SELECT first_pos, last_pos FROM search_gaps ORDER BY first_pos DESC LIMIT $1`, limit)
}

// AddSearchGap stores a gap.
func (tx *Tx) AddSearchGap(g SearchGap) error {
	_, err := tx.exec(`INSERT INTO search_gaps (first_pos, last_pos) VALUES ($1, $2)`, int64(g.After), int64(g.UpTo))
	return err
}

// NarrowSearchGap records that the events of a gap up to the position after are in the index now. If these are all
// events of the gap, it deletes the gap.
func (tx *Tx) NarrowSearchGap(g SearchGap, after Pos) error {
	if after >= g.UpTo {
		_, err := tx.exec(`DELETE FROM search_gaps WHERE first_pos = $1`, int64(g.After))
		return err
	}
	_, err := tx.exec(`UPDATE search_gaps SET first_pos = $2 WHERE first_pos = $1`, int64(g.After), int64(after))
	return err
}
