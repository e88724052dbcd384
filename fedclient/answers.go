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

// Responses of other servers are held in memory while they are processed. Their total size is bounded, and they are
// counted as they are read. The first freeAnswer bytes of each are not counted, so that small responses can always be
// read. Beyond that, at most maxAnswers bytes are held in total, and maxAnswersServer per server. Only a join may need
// more, for one room at a time; see HoldAnswers.
const (
	freeAnswer       = 64 << 10
	maxAnswers       = 96 << 20
	maxAnswersServer = 32 << 20
	maxLargeAnswers  = 192 << 20
	// heldItem is the overhead counted for each event or ID in a list, in addition to its length.
	heldItem = 64
	// maxItem bounds each event, ID or other member of a response that is read piece by piece.
	maxItem = 1<<20 + 64<<10
	// maxLists bounds the events and IDs in such a response, and maxSkipped its unknown members.
	maxLists   = 600_000
	maxSkipped = 32
)

// ErrBusy means that a response was not read because this server already holds too many responses of other servers.
var ErrBusy = errors.New("too many responses of other servers are in memory")

// answers counts the bytes of other servers' responses that are in memory, in total and by server.
type answers struct {
	large chan struct{} // semaphore for the one large response
	// mu guards the fields below; a leaf lock.
	mu      sync.Mutex
	bytes   int64
	servers map[string]int64
}

func newAnswers() *answers {
	return &answers{large: make(chan struct{}, 1), servers: map[string]int64{}}
}

// hold records how many bytes of responses one piece of work, such as a join, has in memory. mu allows several
// goroutines to use it.
type hold struct {
	mayBeLarge bool

	mu      sync.Mutex // taken before answers.mu
	of      *answers   // nil means that nothing is held
	servers map[string]int64
	isLarge bool  // whether it has the slot in answers.large; servers is empty then
	bytes   int64 // bytes counted while isLarge is set
}

type holdKey struct{}

// HoldAnswers returns a context for requests whose responses stay in memory after they have been read: they count
// towards the bounds until release is called. Without it, a response counts only while it is being read. If large is
// set, as for a join, the responses may exceed maxAnswersServer as soon as no other large responses are held.
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

// hold counts n more bytes of a server's response for the work of h. If the bounds leave no room for them, and h may be
// large, it waits for its turn to hold a large response. Its error wraps ErrBusy or errTooLarge, or is the error of
// ctx.
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

// count counts n bytes if there is room for them, and reports whether there was.
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

// counted is the body of a response. It counts the bytes as they are read.
type counted struct {
	io.Reader
	free int64 // number of bytes that need not be counted
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

// doneReading returns the error for a response that could not be read completely. The error counts as a failure of the
// other server, unless the reason is that this server holds too many responses.
func (c *Client) doneReading(ctx context.Context, server string, began time.Time, err error) error {
	err = fmt.Errorf("read the response of %s: %w", server, err)
	if errors.Is(err, ErrBusy) {
		return err
	}
	return c.failed(ctx, server, began, err)
}

// pieces describes how to decode the fields of a response, by name. The elements of the fields in lists are passed to
// functions one by one. The fields in other are decoded into the given values.
type pieces struct {
	lists map[string]func(element json.RawMessage) error
	other map[string]any
}

// doPieces sends a request and decodes the response as a stream. It passes the elements of each list to the function
// for that list in p.lists. Nothing stays in memory except what this function keeps. Fields that p does not name are
// skipped.
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

// pieceReader limits how far a decoder reads ahead of the data that it has decoded. The limit is maxItem bytes.
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

// list calls the function each for every element of a list. It treats null as an empty list.
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
