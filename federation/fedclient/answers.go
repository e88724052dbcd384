package fedclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// What other servers answer is held in memory while it is worked on. All of it together is bounded, measured as it is read: the
// first freeAnswer bytes of each answer are not counted, so that small ones are always read; beyond that maxAnswers bytes are
// held, of one server maxAnswersServer. Only who joins a room may need more, for one room at a time: see HoldAnswers.
const (
	freeAnswer       = 64 << 10
	maxAnswers       = 96 << 20
	maxAnswersServer = 32 << 20
	maxLargeAnswers  = 192 << 20
	// heldItem is what an event or ID of a list counts besides its own bytes.
	heldItem = 64
	// maxItem bounds one event, ID or other member of an answer that is read piece by piece.
	maxItem = 1<<20 + 64<<10
	// maxLists bounds the events or IDs of one such answer, maxSkipped the members that it has besides.
	maxLists   = 600_000
	maxSkipped = 32
)

// ErrBusy: the answer was not read, since this server holds as much of the answers of others as it may.
var ErrBusy = errors.New("too many answers of other servers are in memory")

// answers counts the bytes of answers that are held.
type answers struct {
	large chan struct{} // a slot of one
	// mu guards the rest; a leaf.
	mu      sync.Mutex
	bytes   int64
	servers map[string]int64
}

func newAnswers() *answers {
	return &answers{large: make(chan struct{}, 1), servers: map[string]int64{}}
}

// hold is the answers that one piece of work holds. It is used by one goroutine at a time, or by several under mu.
type hold struct {
	mayBeLarge bool

	mu      sync.Mutex // before answers.mu
	of      *answers   // nil: nothing is held
	servers map[string]int64
	isLarge bool  // it has the slot, and nothing in servers
	bytes   int64 // then
}

type holdKey struct{}

// HoldAnswers makes the answers to requests under the returned context count as held until release is called; otherwise they
// count while they are read only. With large set, as for a join, they may be larger than maxAnswersServer, once no others are.
func HoldAnswers(ctx context.Context, large bool) (holding context.Context, release func()) {
	if _, held := ctx.Value(holdKey{}).(*hold); held {
		return ctx, func() {}
	}
	h := &hold{mayBeLarge: large}
	return context.WithValue(ctx, holdKey{}, h), h.release
}

func holdOf(ctx context.Context) (h *hold, release func()) {
	if h, held := ctx.Value(holdKey{}).(*hold); held {
		return h, func() {}
	}
	h = &hold{}
	return h, h.release
}

func (h *hold) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == nil {
		return
	}
	h.of.release(h.servers)
	if h.isLarge {
		<-h.of.large
	}
	h.of, h.servers, h.isLarge, h.bytes = nil, nil, false, 0
}

func (a *answers) release(servers map[string]int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for server, n := range servers {
		a.bytes -= n
		if a.servers[server] -= n; a.servers[server] == 0 {
			delete(a.servers, server)
		}
	}
}

// hold counts n bytes more of a server's answer for h. Where that is too much, it waits for the turn of a large answer if h may
// be one. Errors wrap ErrBusy, errTooLarge or are those of ctx.
func (a *answers) hold(ctx context.Context, h *hold, server string, n int64) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of = a
	if !h.isLarge {
		if a.count(server, n) {
			if h.servers == nil {
				h.servers = map[string]int64{}
			}
			h.servers[server] += n
			return nil
		}
		if !h.mayBeLarge {
			return ErrBusy
		}
		select {
		case a.large <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, held := range h.servers {
			h.bytes += held
		}
		a.release(h.servers)
		h.isLarge, h.servers = true, nil
	}
	if h.bytes+n > maxLargeAnswers {
		return errTooLarge
	}
	h.bytes += n
	return nil
}

// count counts bytes, if there is room.
func (a *answers) count(server string, n int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bytes+n > maxAnswers || a.servers[server]+n > maxAnswersServer {
		return false
	}
	a.bytes += n
	a.servers[server] += n
	return true
}

// counted is the body of an answer that is counted as it is read.
type counted struct {
	io.Reader
	free int64 // bytes that are not counted
	hold func(n int64) error
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	more := int64(n) - c.free
	if c.free = max(0, -more); more > 0 {
		if full := c.hold(more); full != nil {
			return n, full
		}
	}
	return n, err
}

// doneReading is the error with which an answer was not read to its end: the other server's fault, unless this one holds too much.
func (c *Client) doneReading(ctx context.Context, server string, began time.Time, err error) error {
	err = fmt.Errorf("read the answer of %s: %w", server, err)
	if errors.Is(err, ErrBusy) {
		return err
	}
	return c.failed(ctx, server, began, err)
}

// pieces are the members of an answer: of lists the elements are handed over one by one, other members are decoded.
type pieces struct {
	lists map[string]func(element json.RawMessage) error
	other map[string]any
}

// doPieces makes a request and reads its answer piece by piece, so that of a large one no more is in memory than what the
// functions of lists keep. What is in neither map is skipped.
func (c *Client) doPieces(ctx context.Context, r request, p pieces) error {
	ctx, cancel := context.WithTimeout(ctx, r.time)
	defer cancel()
	began := time.Now()
	resp, err := c.open(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	err = p.read(io.LimitReader(resp.Body, r.size))
	var syntax *json.SyntaxError
	var shape *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &syntax), errors.As(err, &shape), errors.Is(err, ErrBadAnswer):
		return fmt.Errorf("%w: %s answered %s: %w", ErrBadAnswer, r.server, r.path, err)
	}
	return c.doneReading(ctx, r.server, began, err)
}

// pieceReader lets a decoder read on to maxItem behind what it has decoded.
type pieceReader struct {
	io.Reader
	read, allowed int64
}

func (r *pieceReader) Read(p []byte) (int, error) {
	if r.read >= r.allowed {
		return 0, errTooLarge
	}
	n, err := r.Reader.Read(p[:min(int64(len(p)), r.allowed-r.read)])
	r.read += int64(n)
	return n, err
}

// pieceDecoder decodes values of bounded size.
type pieceDecoder struct {
	*json.Decoder
	from *pieceReader
}

func (d *pieceDecoder) next() { d.from.allowed = d.InputOffset() + maxItem }

func (d *pieceDecoder) token() (json.Token, error) {
	d.next()
	return d.Token()
}

func (d *pieceDecoder) delim(want json.Delim) error {
	t, err := d.token()
	if err == nil && t != want {
		err = fmt.Errorf("%w: %v where %v is expected", ErrBadAnswer, t, want)
	}
	return err
}

func (p *pieces) read(body io.Reader) error {
	from := &pieceReader{Reader: body}
	d := &pieceDecoder{json.NewDecoder(from), from}
	if err := d.delim('{'); err != nil {
		return err
	}
	left := maxLists
	for skipped := 0; skipped <= maxSkipped; {
		key, err := d.token()
		if err != nil {
			return err
		}
		if key == json.Delim('}') {
			return nil
		}
		name, _ := key.(string)
		switch each, other := p.lists[name], p.other[name]; {
		case each != nil:
			err = d.list(each, &left)
		case other != nil:
			d.next()
			err = d.Decode(other)
		default:
			skipped++
			var unread json.RawMessage
			d.next()
			err = d.Decode(&unread)
		}
		if err != nil {
			return err
		}
	}
	return errTooLarge
}

// list hands over the elements of a list; null is an empty one.
func (d *pieceDecoder) list(each func(json.RawMessage) error, left *int) error {
	t, err := d.token()
	if err != nil || t == nil {
		return err
	}
	if t != json.Delim('[') {
		return fmt.Errorf("%w: %v where a list is expected", ErrBadAnswer, t)
	}
	for d.next(); d.More(); d.next() {
		if *left--; *left < 0 {
			return errTooLarge
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return err
		}
		if err := each(raw); err != nil {
			return err
		}
	}
	return d.delim(']')
}
