package feed

import (
	"encoding/binary"
	"errors"
	"slices"

	"ebb/ident"
	"ebb/storage"
)

// slidingState is the state of a connection after a certain answer: what a client that has received the answer has. It
// names rooms and holds nothing of their content. A room that is up to date takes one or two bytes when encoded.
type slidingState struct {
	parts []string // texts of requiredState
	sets  [][]int  // sorted indexes of parts, together the state that a client has of a room
	rooms []sentRoom
	data  bool // the client has the user's global account data
	// profiles is profilesExtension.text of the fields that the client has of the users who share its rooms; "": none
	profiles string
}

// sentRoom records what a client has of a room.
type sentRoom struct {
	room  ident.RoomNID
	since storage.Pos // the client has the room up to here; 0: up to the position of its token
	sentShape
}

// sentShape is the part of a sentRoom that is the same for many rooms.
type sentShape struct {
	set      int   // the state that the client has
	limit    uint8 // the client has so many of the newest events up to since, or all
	stage    stage
	dm       bool // the client knows the room as a direct chat
	receipts bool // the client has the receipts up to since
	data     bool // the client has the user's account data up to the position of its token
}

// stage says in which form the client last got a room: as a joined room, as stripped state, or as a room that the user
// has left.
type stage uint8

const (
	stageJoined stage = iota
	stageStripped
	stageLeft
)

// slidingStateVersion is the version of encoded states. Those of version 1 lack profiles; those before version 3 have
// no runs of rooms.
const slidingStateVersion = 3

// encode encodes the state for slidingStateOf. It leaves out sets, and parts of sets, that no room uses.
func (s *slidingState) encode() []byte {
	var shapes []sentShape
	var sets, parts []int
	shapeAt, setAt, partAt := map[sentShape]int{}, map[int]int{}, map[int]int{}
	for i := range s.rooms {
		shape := s.rooms[i].sentShape
		if indexIn(shapeAt, &shapes, shape) < len(shapes)-1 {
			continue
		}
		if indexIn(setAt, &sets, shape.set); len(s.sets) > 0 {
			for _, part := range s.sets[shape.set] {
				indexIn(partAt, &parts, part)
			}
		}
	}
	dst := make([]byte, 0, 256+2*len(s.rooms))
	dst = append(dst, slidingStateVersion, flag(s.data, 1))
	dst = binary.AppendUvarint(dst, uint64(len(s.profiles)))
	dst = append(dst, s.profiles...)
	dst = binary.AppendUvarint(dst, uint64(len(parts)))
	for _, part := range parts {
		dst = binary.AppendUvarint(dst, uint64(len(s.parts[part])))
		dst = append(dst, s.parts[part]...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(sets)))
	for _, set := range sets {
		dst = binary.AppendUvarint(dst, uint64(len(s.sets[set])))
		for _, part := range s.sets[set] {
			dst = binary.AppendUvarint(dst, uint64(partAt[part]))
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(shapes)))
	for _, shape := range shapes {
		dst = binary.AppendUvarint(dst, uint64(setAt[shape.set]))
		dst = append(dst, shape.limit, byte(shape.stage)|flag(shape.dm, 4)|flag(shape.receipts, 8)|flag(shape.data, 16))
	}
	return s.encodeRooms(dst, shapeAt)
}

// encodeRooms appends the rooms in runs, each of which consists of a shape, the position since, and the differences
// between the numbers of rooms with both. Most rooms are up to date and have the same shape.
func (s *slidingState) encodeRooms(dst []byte, shapeAt map[sentShape]int) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s.rooms)))
	var last ident.RoomNID
	for rest := s.rooms; len(rest) > 0; {
		first := rest[0]
		n := slices.IndexFunc(rest, func(r sentRoom) bool { return r.since != first.since || r.sentShape != first.sentShape })
		if n < 0 {
			n = len(rest)
		}
		dst = binary.AppendUvarint(dst, uint64(shapeAt[first.sentShape])<<1|uint64(flag(first.since != 0, 1)))
		if first.since != 0 {
			dst = binary.AppendUvarint(dst, uint64(first.since))
		}
		dst = binary.AppendUvarint(dst, uint64(n))
		for i := range rest[:n] {
			dst = binary.AppendUvarint(dst, uint64(rest[i].room-last))
			last = rest[i].room
		}
		rest = rest[n:]
	}
	return dst
}

// indexIn returns the index of v in list, and appends v if the list does not have it. at holds the known indexes.
func indexIn[T comparable](at map[T]int, list *[]T, v T) int {
	i, known := at[v]
	if !known {
		i = len(*list)
		at[v] = i
		*list = append(*list, v)
	}
	return i
}

func flag(set bool, bit byte) byte {
	if set {
		return bit
	}
	return 0
}

var errSlidingState = errors.New("not the state of a connection")

// stateReader reads an encoded slidingState. After a mistake it returns zeros.
type stateReader struct {
	rest []byte
	bad  bool
}

func (r *stateReader) number() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.bad, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// count reads the number of things that follow, each of which takes at least one byte.
func (r *stateReader) count() int { return int(r.below(uint64(len(r.rest)) + 1)) }

// below reads a number that must be smaller than bound.
func (r *stateReader) below(bound uint64) uint64 {
	v := r.number()
	if v >= bound {
		r.bad = true
		return 0
	}
	return v
}

func (r *stateReader) bytes(n int) []byte {
	if n > len(r.rest) {
		r.bad, r.rest = true, nil
		return make([]byte, n)
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

// slidingStateOf decodes a state that encode has encoded.
func slidingStateOf(data []byte) (*slidingState, error) {
	s := &slidingState{}
	return s, s.decode(data)
}

// decode sets s to the state that encode has encoded. It reuses the memory of s.
func (s *slidingState) decode(data []byte) error {
	r := stateReader{rest: data}
	version := r.number()
	if version < 1 || version > slidingStateVersion {
		return errSlidingState
	}
	s.data, s.profiles = r.number() == 1, ""
	if version > 1 {
		s.profiles = string(r.bytes(r.count()))
	}
	s.parts = resized(s.parts, r.count())
	for i := range s.parts {
		if text := r.bytes(r.count()); string(text) != s.parts[i] {
			s.parts[i] = string(text)
		}
	}
	s.sets = resized(s.sets, r.count())
	for i := range s.sets {
		s.sets[i] = resized(s.sets[i], r.count())
		for j := range s.sets[i] {
			s.sets[i][j] = int(r.below(uint64(len(s.parts))))
		}
	}
	shapes := make([]sentShape, r.count())
	for i := range shapes {
		set := int(r.below(uint64(max(len(s.sets), 1))))
		b := r.bytes(2)
		shapes[i] = sentShape{set: set, limit: b[0], stage: stage(b[1] & 3), dm: b[1]&4 != 0, receipts: b[1]&8 != 0, data: b[1]&16 != 0}
	}
	s.rooms = resized(s.rooms, r.count())
	if version < 3 {
		r.singleRooms(s.rooms, shapes)
	} else {
		r.runs(s.rooms, shapes)
	}
	if r.bad || len(r.rest) > 0 {
		return errSlidingState
	}
	return nil
}

// resized returns a slice of n elements in the memory of s, if that is large enough. The elements have any values.
func resized[T any](s []T, n int) []T { return slices.Grow(s[:0], n)[:n] }

// runs reads rooms as encodeRooms has written them.
func (r *stateReader) runs(rooms []sentRoom, shapes []sentShape) {
	var last ident.RoomNID
	for len(rooms) > 0 && !r.bad {
		of := r.shape(shapes)
		n := r.below(uint64(len(rooms)) + 1)
		for i := range rooms[:n] {
			last += ident.RoomNID(r.number())
			of.room = last
			rooms[i] = of
		}
		if rooms = rooms[n:]; n == 0 {
			r.bad = true
		}
	}
}

// singleRooms reads rooms of states before version 3, in which each room has its number, its shape and its position.
func (r *stateReader) singleRooms(rooms []sentRoom, shapes []sentShape) {
	var last ident.RoomNID
	for i := range rooms {
		last += ident.RoomNID(r.number())
		rooms[i] = r.shape(shapes)
		rooms[i].room = last
	}
}

// shape reads the shape and the position of rooms.
func (r *stateReader) shape(shapes []sentShape) (of sentRoom) {
	v := r.below(2 * uint64(len(shapes)))
	if r.bad {
		return of
	}
	of.sentShape = shapes[v>>1]
	if v&1 != 0 {
		of.since = storage.Pos(r.number())
	}
	return of
}

// slidingChange is a decoded slidingState that collects the changes made by one answer.
type slidingChange struct {
	slidingState
	added   []sentRoom
	changed bool
}

// set replaces the room with index i by r, which must be a new value for the same room.
func (c *slidingChange) set(i int, r sentRoom) {
	if c.rooms[i] != r {
		c.rooms[i], c.changed = r, true
	}
}

// add adds a room that the client did not have.
func (c *slidingChange) add(r sentRoom) { c.added, c.changed = append(c.added, r), true }

// result returns the state after the change.
func (c *slidingChange) result() *slidingState {
	if len(c.added) > 0 {
		c.rooms = append(slices.Clip(c.rooms), c.added...)
		slices.SortFunc(c.rooms, func(a, b sentRoom) int { return int(a.room - b.room) })
	}
	return &c.slidingState
}

// setOf returns the index of the set that consists of the given selections, each in the form of requiredState.text. It
// adds the set if it is new.
func (c *slidingChange) setOf(texts []string) int {
	set := make([]int, 0, len(texts))
	for _, text := range texts {
		i := slices.Index(c.parts, text)
		if i < 0 {
			i = len(c.parts)
			c.parts = append(slices.Clip(c.parts), text)
		}
		set = append(set, i)
	}
	slices.Sort(set)
	set = slices.Compact(set)
	for i, other := range c.sets {
		if slices.Equal(set, other) {
			return i
		}
	}
	c.sets = append(slices.Clip(c.sets), set)
	return len(c.sets) - 1
}

// texts returns the texts of the selections in a set.
func (s *slidingState) texts(set int) []string {
	if set >= len(s.sets) {
		return nil
	}
	texts := make([]string, len(s.sets[set]))
	for i, part := range s.sets[set] {
		texts[i] = s.parts[part]
	}
	return texts
}
