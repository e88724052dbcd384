package media

import (
	"io"
	"sync"
)

// A large file is served by two goroutines: one decrypts the next chunks while the other writes. If a processor is
// free, decryption then costs a download hardly any time. When the peer reads slowly, both goroutines wait with their
// buffers, so the number of such downloads is bounded.
const (
	// aheadChunks is how many chunks one goroutine hands to the other at a time. With single chunks, the goroutines
	// spend much of the time waking each other.
	aheadChunks = 4
	// aheadFrom is the size from which a download is worth a second goroutine.
	aheadFrom = 2 * aheadChunks * chunkSize
	// maxAhead bounds the downloads with a second goroutine. Each has at most three groups of chunks: one being
	// written, one that waits and one being decrypted, which are 768 KiB.
	maxAhead = 16
)

// aheadSlots counts the downloads that are decrypted ahead. If it is nil, none is.
type aheadSlots chan struct{}

// take reports whether one more download may be decrypted ahead. The caller then calls give.
func (s aheadSlots) take() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s aheadSlots) give() { <-s }

// group is some chunks in a row that wait to be written.
type group struct {
	buffers [aheadChunks]*chunkBuffer
	plain   [aheadChunks][]byte
	n       int   // the number of decrypted chunks
	err     error // why there are no more
}

// decryptGroup decrypts chunks from first to last, as many as fit.
func (u *unsealer) decryptGroup(first, last int64) *group {
	g := &group{}
	for ; g.n < aheadChunks && first+int64(g.n) <= last; g.n++ {
		g.buffers[g.n] = chunkBuffers.Get().(*chunkBuffer)
		if g.plain[g.n], g.err = u.decrypt(g.buffers[g.n], first+int64(g.n)); g.err != nil {
			break
		}
	}
	return g
}

// release returns the buffers.
func (g *group) release() {
	for _, b := range g.buffers {
		if b != nil {
			chunkBuffers.Put(b)
		}
	}
}

// writeAhead is writeEach with chunks that another goroutine decrypts. That goroutine has ended when it returns.
func (u *unsealer) writeAhead(w io.Writer, limit int64) (written int64, err error) {
	ready, stop := make(chan *group, 1), make(chan struct{})
	first, last := u.at/chunkSize, (u.at+limit-1)/chunkSize
	var decrypting sync.WaitGroup
	decrypting.Go(func() {
		defer close(ready)
		u.decryptAll(first, last, ready, stop)
	})
	defer func() {
		close(stop)
		for g := range ready {
			g.release()
		}
		decrypting.Wait()
	}()
	for g := range ready {
		n, err := u.writeGroup(w, g, limit-written)
		g.release()
		if written += n; err != nil {
			return written, err
		}
	}
	return written, nil
}

// decryptAll decrypts chunks until one is damaged or stop is closed.
func (u *unsealer) decryptAll(first, last int64, ready chan<- *group, stop <-chan struct{}) {
	for ; first <= last; first += aheadChunks {
		g := u.decryptGroup(first, last)
		select {
		case ready <- g:
		case <-stop:
			g.release()
			return
		}
		if g.err != nil {
			return
		}
	}
}

// writeGroup writes at most limit bytes of a group, from the current position.
func (u *unsealer) writeGroup(w io.Writer, g *group, limit int64) (written int64, err error) {
	for _, plain := range g.plain[:g.n] {
		n, err := u.writePart(w, plain, limit-written)
		if written += int64(n); err != nil {
			return written, err
		}
	}
	return written, g.err
}
