package feed

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/storage"
)

const (
	// maxSlidingConnections bounds the connections of a device. A new one replaces the one that was used least
	// recently. Element X has two.
	maxSlidingConnections = 16
	// slidingLife is how long a connection that is not used is remembered.
	slidingLife = 30 * 24 * time.Hour
	// slidingTouch is how exact the time of the last use is in the database.
	slidingTouch = 24 * time.Hour
	// slidingSweep is the time between two searches for old connections, and maxSlidingSweep how many one deletes.
	slidingSweep    = time.Hour
	maxSlidingSweep = 1000
	// maxSlidingState and maxSlidingRoom bound the state of a connection in bytes: so many, and so many more for each
	// of the user's rooms.
	maxSlidingState = 64 << 10
	maxSlidingRoom  = 32
	// maxSlidingMemory bounds the states in memory, in bytes. The others are read from the database when they are used.
	maxSlidingMemory = 64 << 20
	// maxSlidingAsks bounds the parsed requests in memory, in bytes: about 8 for each of their texts. Others are parsed
	// again.
	maxSlidingAsks = 4 << 20
)

// slidingPos is the parsed form of pos, the token of sliding sync. Its text is:
//
// s1_<position>_p_<epoch>_<typing>_<chain>_<connection>_<serial>
//
// The first five fields have the same meaning as in a Token. connection is the number of the connection. serial is the
// serial number of the connection's state after the answer with this pos. An answer that does not change the state has
// the serial of the answer before it, and is not recorded anywhere.
type slidingPos struct {
	Token
	conn   int64
	serial int64
}

func (p slidingPos) append(dst []byte) []byte {
	dst = append(dst, tokenPrefix...)
	dst = strconv.AppendInt(dst, int64(p.Pos), 10)
	dst = append(dst, "_p_"...)
	dst = strconv.AppendUint(dst, uint64(p.Epoch), 16)
	dst = append(dst, '_')
	dst = strconv.AppendInt(dst, p.Typing, 10)
	if p.Active {
		dst = append(dst, 'a')
	}
	dst = append(dst, '_')
	dst = strconv.AppendUint(dst, uint64(p.Chain), 16)
	dst = append(dst, '_')
	dst = strconv.AppendInt(dst, p.conn, 10)
	dst = append(dst, '_')
	return strconv.AppendInt(dst, p.serial, 10)
}

// parseSlidingPos parses a pos. It returns an error for any text that append would not have produced.
func parseSlidingPos(text string) (p slidingPos, err error) {
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok || len(text) > maxTokenLength {
		return p, errToken
	}
	var parts [7]string
	for i := range parts {
		var more bool
		if parts[i], rest, more = strings.Cut(rest, "_"); more != (i < len(parts)-1) {
			return p, errToken
		}
	}
	parts[3], p.Active = strings.CutSuffix(parts[3], "a")
	pos, err1 := strconv.ParseInt(parts[0], 10, 64)
	epoch, err2 := strconv.ParseUint(parts[2], 16, 32)
	typing, err3 := strconv.ParseInt(parts[3], 10, 64)
	chain, err4 := strconv.ParseUint(parts[4], 16, 32)
	conn, err5 := strconv.ParseInt(parts[5], 10, 64)
	serial, err6 := strconv.ParseInt(parts[6], 10, 64)
	p.Pos, p.Epoch, p.Typing, p.Chain = storage.Pos(pos), uint32(epoch), typing, uint32(chain)
	p.conn, p.serial = conn, serial
	var own [maxTokenLength]byte
	if cmp.Or(err1, err2, err3, err4, err5, err6) != nil || pos < 0 || typing < 0 || conn <= 0 || serial <= 0 || string(p.append(own[:0])) != text {
		return p, errToken
	}
	return p, nil
}

// slidingConn is a connection of sliding sync in memory. What it has in addition to its row in the database only saves
// work.
type slidingConn struct {
	user   ident.UserNID
	device ident.DeviceNID
	connID string

	// mu guards what follows; a leaf in docs/locks.md.
	mu     sync.Mutex
	nid    int64 // 0 until the connection is stored
	used   int64 // ms, as in the database
	turn   int64 // number of the newest request: an older one must not replace the state that belongs to its answer
	states []heldState
	look   slidingLook
	last   *slidingText // of the last request; nil: unknown
}

// lastText returns what the last request of the connection wanted, or nil if that is not known.
func (c *slidingConn) lastText() *slidingText {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// heldState is an encoded slidingState with its serial number.
type heldState struct {
	serial int64
	data   []byte
}

// slidingLook is what a connection remembers of the last time that the server looked for news for it. As long as
// nothing has changed since, the server need not look again.
type slidingLook struct {
	session *session // the session to which own and rooms belong; nil: nothing is known
	wants   uint64   // slidingQuery.wants of the request
	serial  int64    // of the state that the client has after the answer
	from    storage.Pos
	upTo    storage.Pos // the server looked for news between from and upTo
	own     uint64      // the counts of wake.Sub.News, read before upTo
	rooms   uint64
	found   bool // there were news, so a client that asks again from the position from must get them again
	stuck   bool // something that is out of the client's ranges has changed
	// messages: the answer had to-device messages or sticky events. A client that does not acknowledge them gets them
	// again.
	messages bool
	// delivered is the newest to-device message that the client has got and not acknowledged; -1: unknown.
	delivered storage.Pos
	toDevice  storage.Pos // next_batch of to_device
	counts    string      // the counts of one-time and fallback keys: JSON keys and values
	lists     string      // the numbers of rooms in the lists: see listCounts
}

// covers reports whether the last look has shown that there are no news of the device itself after the position since.
// It does not if the request wants something else than the last one, or if the count of news, own, has changed.
func (l *slidingLook) covers(s *session, wants uint64, since storage.Pos, own uint64) bool {
	return l.session == s && l.wants == wants && l.own == own && !l.messages && (since >= l.upTo || !l.found && since >= l.from)
}

func errUnknownPos() error {
	return mxerr.New(http.StatusBadRequest, mxerr.CodeUnknownPos, "Unknown pos: the connection has expired or is not yours. Start again without pos.")
}

// errSuperseded ends a request after which the client has sent another one on the same connection.
var errSuperseded = errors.New("a newer request on this connection")

// slidingMemory holds the caches of a Service for sliding sync: connections, what their users' rooms and account data
// say, bump stamps, and parsed requests. Answers would be correct without them.
type slidingMemory struct {
	conns *keyed.Map[int64, heldConn]
	users *keyed.Memo[ident.UserNID, *slidingUser]
	bumps *keyed.Map[bumpKey, storage.Pos] // results of Tx.Bump
	asks  *keyed.Map[askKey, *slidingAsk]
	// scratch holds *slidingScratch.
	scratch sync.Pool
	swept   time.Time // when old connections were last deleted; only Tick uses it
}

func newSlidingMemory(o Options) *slidingMemory {
	return &slidingMemory{
		conns:   keyed.NewSizedMap(int64(o.Cache.Entries(maxSlidingMemory)), func(_ int64, c heldConn) int64 { return c.size }),
		users:   keyed.NewMemo(keyed.Options[ident.UserNID, *slidingUser]{Entries: o.Cache.Entries(maxSlidingUsers)}),
		bumps:   keyed.NewMap[bumpKey, storage.Pos](o.Cache.Entries(maxBumps)),
		asks:    keyed.NewSizedMap(int64(o.Cache.Entries(maxSlidingAsks)), func(_ askKey, a *slidingAsk) int64 { return int64(8*a.size) + 512 }),
		scratch: sync.Pool{New: func() any { return new(slidingScratch) }},
		swept:   o.Now(),
	}
}

// heldConn is a connection in the cache, with its size in bytes, which the cache bounds.
type heldConn struct {
	*slidingConn
	size int64
}

// openSliding finds the connection of a request and the state that the client has.
func (s *Service) openSliding(ctx context.Context, r *slidingRun) error {
	if r.Pos == "" {
		r.conn = &slidingConn{user: r.UserNID, device: r.DeviceNID, connID: r.Body.ConnID, look: slidingLook{delivered: -1}}
		r.since.Chain = random32()
		return nil
	}
	var err error
	if r.since, err = parseSlidingPos(r.Pos); err != nil || r.since.Pos > s.opts.DB.Settled() {
		return errUnknownPos()
	}
	if r.conn, err = s.slidingConn(ctx, r.since.conn); err != nil {
		return err
	}
	c := r.conn
	if c.user != r.UserNID || c.device != r.DeviceNID || c.connID != r.Body.ConnID {
		return errUnknownPos()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.states, func(h heldState) bool { return h.serial == r.since.serial })
	if i < 0 {
		return errUnknownPos()
	}
	if i > 0 {
		c.states = slices.Clone(c.states[i:]) // the client has got this one, and so does not need those before it
	}
	r.base = c.states[0].data
	c.turn++
	r.turn = c.turn
	return nil
}

// slidingConn returns the stored connection with the given number, from the cache if it is there.
func (s *Service) slidingConn(ctx context.Context, nid int64) (*slidingConn, error) {
	if held, ok := s.sliding.conns.Get(nid); ok {
		return held.slidingConn, nil
	}
	var row storage.SlidingConnection
	var states []storage.SlidingState
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		var found bool
		if row, found, err = tx.SlidingConnection(nid); err == nil && !found {
			err = errUnknownPos()
		}
		if err == nil {
			states, err = tx.SlidingStates(nid)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	c := &slidingConn{
		nid: nid, user: row.User, device: row.Device, connID: row.ConnID, used: row.Used,
		look: slidingLook{delivered: -1},
	}
	for _, state := range states {
		data, err := base64.RawStdEncoding.DecodeString(state.State)
		if err != nil {
			return nil, fmt.Errorf("state %d of connection %d: %w", state.Serial, nid, err)
		}
		c.states = append(c.states, heldState{state.Serial, data})
	}
	return s.holdSliding(c), nil
}

// holdSliding adds a connection to the cache and returns it. If another request has added the same connection in the
// meantime, it returns that one.
func (s *Service) holdSliding(c *slidingConn) *slidingConn {
	c.mu.Lock()
	size := int64(1 << 10) // with the slidingText
	for _, state := range c.states {
		size += int64(len(state.data))
	}
	nid := c.nid
	c.mu.Unlock()
	return s.sliding.conns.Update(nid, func(before heldConn, known bool) heldConn {
		if known && before.slidingConn != c {
			return before
		}
		return heldConn{c, size}
	}).slidingConn
}

// slidingSave is the write that stores a new state of a connection. The method do makes the changes in the database;
// the method done then makes those in memory.
type slidingSave struct {
	*Service
	run     *slidingRun
	state   heldState
	nid     int64   // number of the connection
	now     int64   // ms
	dropped []int64 // connections that create deleted
}

// saveSliding stores next, the state of the connection after the answer. It returns the number of the connection and
// the serial number of the state. On a full disk it keeps the state in memory only, so that clients can still read; a
// restart then loses it.
func (s *Service) saveSliding(ctx context.Context, r *slidingRun, next *slidingState) (nid, serial int64, err error) {
	data := slices.Clone(next.encode()) // at its size
	if len(data) > maxSlidingState+maxSlidingRoom*r.rooms {
		return 0, 0, mxerr.TooLarge("The lists and subscriptions of this connection want too many different things")
	}
	w := &slidingSave{Service: s, run: r, state: heldState{data: data}, now: s.opts.Now().UnixMilli()}
	err = s.opts.DB.Enqueue(storage.Write{Do: w.do, Committed: w.done}).Wait(ctx)
	if errors.Is(err, storage.ErrFull) && r.since.conn != 0 {
		w.done()
		err = nil
	}
	return w.nid, w.state.serial, err
}

// do stores the state, and the connection if it is new. It runs in the committer.
func (w *slidingSave) do(tx *storage.Tx) error {
	c := w.run.conn
	w.nid, w.dropped = w.run.since.conn, nil
	c.mu.Lock()
	superseded := w.run.turn != c.turn
	w.state.serial = 1
	if n := len(c.states); n > 0 {
		w.state.serial = c.states[n-1].serial + 1
	}
	c.mu.Unlock()
	if superseded {
		return errSuperseded
	}
	if w.nid == 0 {
		if err := w.create(tx); err != nil {
			return err
		}
	} else if found, err := tx.SlidingUsed(w.nid, w.now); err != nil {
		return err
	} else if !found {
		return errUnknownPos()
	}
	text := base64.RawStdEncoding.EncodeToString(w.state.data)
	return tx.AddSlidingState(w.nid, w.run.since.serial, storage.SlidingState{Serial: w.state.serial, State: text})
}

// create stores a new connection. It deletes the device's older connection with the same conn_id, connections that have
// not been used for slidingLife, and the oldest ones beyond maxSlidingConnections.
func (w *slidingSave) create(tx *storage.Tx) error {
	c := w.run.conn
	others, err := tx.SlidingOfDevice(c.user, c.device)
	if err != nil {
		return err
	}
	for i, o := range others {
		if o.ConnID == c.connID || len(others)-i >= maxSlidingConnections || w.now-o.Used > slidingLife.Milliseconds() {
			w.dropped = append(w.dropped, o.NID)
		}
	}
	if err := tx.DropSliding(w.dropped); err != nil {
		return err
	}
	w.nid, err = tx.AddSliding(storage.SlidingConnection{User: c.user, Device: c.device, ConnID: c.connID, Used: w.now})
	return err
}

// done keeps the new state in memory. It runs in the committer.
func (w *slidingSave) done() {
	for _, nid := range w.dropped {
		w.sliding.conns.Forget(nid)
	}
	c := w.run.conn
	c.mu.Lock()
	c.nid, c.used = w.nid, w.now
	c.states = slices.DeleteFunc(slices.Clone(c.states), func(h heldState) bool { return h.serial != w.run.since.serial })
	c.states = append(c.states, w.state)
	c.mu.Unlock()
	w.holdSliding(c)
}

// touchSliding records that a connection is in use, so that it is not deleted although its state does not change. It
// writes at most once in slidingTouch.
func (s *Service) touchSliding(ctx context.Context, c *slidingConn) error {
	now := s.opts.Now().UnixMilli()
	c.mu.Lock()
	nid, due := c.nid, now-c.used > slidingTouch.Milliseconds()
	if due {
		c.used = now
	}
	c.mu.Unlock()
	if !due || nid == 0 {
		return nil
	}
	err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		_, err := tx.SlidingUsed(nid, now)
		return err
	})
	if errors.Is(err, storage.ErrFull) {
		return nil
	}
	return err
}

// sweepSliding deletes connections that have not been used for slidingLife.
func (s *Service) sweepSliding(ctx context.Context, now time.Time) {
	if now.Sub(s.sliding.swept) < slidingSweep {
		return
	}
	s.sliding.swept = now
	var old []int64
	before := now.Add(-slidingLife).UnixMilli()
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		old, err = tx.OldSliding(before, maxSlidingSweep)
		return err
	})
	if err == nil && len(old) > 0 {
		err = s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
			if old, err = tx.OldSliding(before, maxSlidingSweep); err != nil { // one may have been used since
				return err
			}
			return tx.DropSliding(old)
		})
	}
	if err != nil {
		s.opts.Log.WarnContext(ctx, "Cannot delete old connections of sliding sync", "error", err)
		return
	}
	for _, nid := range old {
		s.sliding.conns.Forget(nid)
	}
}
