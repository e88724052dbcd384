package rooms

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"
	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Room returns a room by ID. It returns ErrNoRoom if this server does not know it.
func (s *Service) Room(ctx context.Context, roomID id.RoomID) (*Room, error) {
	if r := s.cache.ByID(roomID); r != nil {
		r.used.Store(s.opts.Now().Unix())
		return r, nil
	}
	return s.loadOne(ctx, func(tx *storage.Tx) (storage.RoomRow, bool, error) { return tx.RoomByID(string(roomID)) })
}

// RoomByNID returns a room by number.
func (s *Service) RoomByNID(ctx context.Context, nid ident.RoomNID) (*Room, error) {
	if r := s.cache.ByNID(nid); r != nil {
		r.used.Store(s.opts.Now().Unix())
		return r, nil
	}
	return s.loadOne(ctx, func(tx *storage.Tx) (storage.RoomRow, bool, error) { return tx.RoomByNID(nid) })
}

// Cached returns a room if it is in memory, and nil otherwise.
func (s *Service) Cached(nid ident.RoomNID) *Room { return s.cache.ByNID(nid) }

// RoomsByNID returns the rooms with the given numbers, in the same order. Several rooms that are not in memory are read
// together.
func (s *Service) RoomsByNID(ctx context.Context, nids []ident.RoomNID) ([]*Room, error) {
	found, missing := s.cache.List(nids)
	loaded := make(map[ident.RoomNID]*Room, len(missing))
	for part := range slices.Chunk(missing, MaxLoad) {
		var finds []func(*storage.Tx) ([]storage.RoomRow, error)
		for some := range slices.Chunk(part, MaxLoad/2) {
			finds = append(finds, func(tx *storage.Tx) ([]storage.RoomRow, error) { return tx.RoomsByNID(some) })
		}
		rooms, err := s.load(ctx, finds...)
		if err != nil {
			return nil, err
		}
		maps.Copy(loaded, rooms)
	}
	now := s.opts.Now().Unix()
	for i, r := range found {
		if r == nil {
			r = loaded[nids[i]]
		}
		if r == nil {
			return nil, ErrNoRoom
		}
		r.used.Store(now)
		found[i] = r
	}
	return found, nil
}

// Preload reads the given rooms from the database in one read, at most MaxLoad of them, so that later calls find them
// in memory. It does nothing unless several are missing in memory, and it ignores rooms that this server does not know.
func (s *Service) Preload(ctx context.Context, rooms []id.RoomID) error {
	missing := make([]string, 0, len(rooms))
	for _, roomID := range rooms {
		if s.cache.ByID(roomID) == nil {
			missing = append(missing, string(roomID))
		}
	}
	if len(missing) < 2 {
		return nil
	}
	_, err := s.load(ctx, func(tx *storage.Tx) ([]storage.RoomRow, error) {
		return tx.RoomsByID(missing[:min(len(missing), MaxLoad)])
	})
	return err
}

// MaxLoad is the number of rooms that are read at a time, half of them on each of two connections. Other loads wait a
// few milliseconds for it.
const MaxLoad = 64

// loadOne loads one room. find returns its row.
func (s *Service) loadOne(ctx context.Context, find func(*storage.Tx) (storage.RoomRow, bool, error)) (*Room, error) {
	loaded, err := s.load(ctx, func(tx *storage.Tx) ([]storage.RoomRow, error) {
		row, found, err := find(tx)
		if err == nil && !found {
			err = ErrNoRoom
		}
		return []storage.RoomRow{row}, err
	})
	for _, r := range loaded {
		r.used.Store(s.opts.Now().Unix())
		return r, err
	}
	return nil, err
}

// load reads rooms from the database and caches them. Each find returns the rows of other rooms; they are read at the
// same time. Concurrent loads of a room return the same Room.
func (s *Service) load(ctx context.Context, finds ...func(*storage.Tx) ([]storage.RoomRow, error)) (map[ident.RoomNID]*Room, error) {
	s.loading.Lock()
	defer s.loading.Unlock()
	parts := make([]map[ident.RoomNID]*Room, len(finds))
	var all errgroup.Group
	for i, find := range finds[1:] {
		all.Go(func() (err error) {
			parts[i+1], err = s.readAll(ctx, find)
			return err
		})
	}
	var err error
	parts[0], err = s.readAll(ctx, finds[0])
	if err := errors.Join(err, all.Wait()); err != nil {
		return nil, err
	}
	out := map[ident.RoomNID]*Room{}
	for _, part := range parts {
		for nid, r := range part {
			r.used.Store(s.opts.Now().Unix())
			out[nid] = s.cache.Add(r.id, r.nid, r)
		}
	}
	return out, nil
}

// readAll reads the rooms whose rows find returns. Those that are cached already are not read.
func (s *Service) readAll(ctx context.Context, find func(*storage.Tx) ([]storage.RoomRow, error)) (map[ident.RoomNID]*Room, error) {
	out := map[ident.RoomNID]*Room{}
	err := s.db.ReadInner(ctx, func(tx *storage.Tx) error {
		rows, err := find(tx)
		if err != nil {
			return err
		}
		rows = slices.DeleteFunc(rows, func(row storage.RoomRow) bool {
			r := s.cache.ByNID(row.NID) // loaded by another goroutine meanwhile
			if r != nil {
				out[row.NID] = r
			}
			return r != nil
		})
		stored, err := readRooms(tx, rows)
		for i := range stored {
			if err == nil {
				err = s.open(&stored[i], out)
			}
		}
		return err
	})
	return out, err
}

// open builds a Room from its stored head, and adds it to into.
func (s *Service) open(stored *storedRoom, into map[ident.RoomNID]*Room) error {
	row := &stored.row
	version, err := VersionOf(row)
	if err != nil {
		return err
	}
	r := &Room{
		svc: s, nid: row.NID, id: id.RoomID(row.RoomID), version: version,
		fetching: make(chan struct{}, 1), receiving: make(chan struct{}, 1), signing: make(chan struct{}, 1),
	}
	into[r.nid] = r
	return r.fill(stored)
}

// VersionOf returns the version of a stored room.
func VersionOf(row *storage.RoomRow) (*pdu.Version, error) {
	version, ok := pdu.VersionOf(id.RoomVersion(row.Version))
	if !ok {
		return nil, fmt.Errorf("room %s has the unknown version %q", row.RoomID, row.Version)
	}
	return version, nil
}

// storedRoom is the stored head of a room.
type storedRoom struct {
	row     storage.RoomRow
	length  int64 // length of the chain of its snapshot
	state   []storage.CurrentEntry
	members []storage.MemberRow
	recent  []*storage.EventRow // newest first
	receipt storage.Pos         // position of the newest receipt
	ends    map[storage.Pos]id.EventID

	undecided bool // the room has undecided events
}

// readRooms reads the heads of rooms, with a few queries for all of them.
func readRooms(tx *storage.Tx, rows []storage.RoomRow) ([]storedRoom, error) {
	out := make([]storedRoom, len(rows))
	at := make(map[ident.RoomNID]*storedRoom, len(rows))
	var nids []ident.RoomNID
	var snapshots []int64
	for i := range rows {
		out[i].row = rows[i]
		at[rows[i].NID] = &out[i]
		nids, snapshots = append(nids, rows[i].NID), append(snapshots, rows[i].Snapshot)
	}
	if len(nids) == 0 {
		return nil, nil
	}
	lengths, err1 := tx.SnapshotLengths(snapshots)
	receipts, err2 := tx.LastReceipts(nids)
	state, err3 := tx.CurrentStates(nids)
	members, err4 := tx.RoomMembers(nids)
	undecided, err5 := tx.UndecidedCounts(nids)
	recent, err6 := tx.RecentEvents(nids, ringFill)
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return nil, err
	}
	for _, e := range state {
		at[e.Room].state = append(at[e.Room].state, e)
	}
	for _, m := range members {
		at[m.Room].members = append(at[m.Room].members, m)
	}
	for i := range recent {
		s := at[recent[i].Room]
		s.recent = append(s.recent, &recent[i])
	}
	for i := range out {
		s := &out[i]
		s.undecided = undecided[s.row.NID] > 0
		s.length, s.receipt = lengths[s.row.Snapshot], storage.Pos(receipts[s.row.NID])
		slices.SortFunc(s.recent, func(a, b *storage.EventRow) int { return cmp.Compare(b.Order, a.Order) })
	}
	return out, readEnds(tx, out)
}

// readEnds reads the IDs of the forward extremities of rooms. Most are among the recent events.
func readEnds(tx *storage.Tx, rooms []storedRoom) error {
	names := map[storage.Pos]id.EventID{}
	var unnamed []storage.Pos
	for i := range rooms {
		for _, e := range rooms[i].recent {
			names[e.Position] = id.EventID(e.EventID)
		}
		for _, pos := range rooms[i].row.Extremities {
			if names[pos] == "" {
				unnamed = append(unnamed, pos)
			}
		}
	}
	found, err := tx.EventIDsAt(unnamed)
	for _, e := range found {
		names[e.Position] = id.EventID(e.EventID)
	}
	for i := range rooms {
		rooms[i].ends = map[storage.Pos]id.EventID{}
		for _, pos := range rooms[i].row.Extremities {
			rooms[i].ends[pos] = names[pos]
		}
	}
	return err
}
