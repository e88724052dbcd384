package media

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// manyChunks is the size of a file that is decrypted ahead, with more chunks than there are buffers.
const manyChunks = 30*chunkSize + 5

// countingSource counts the chunks that are read.
type countingSource struct {
	io.ReaderAt
	reads atomic.Int64
}

func (s *countingSource) ReadAt(p []byte, offset int64) (int, error) {
	s.reads.Add(1)
	return s.ReaderAt.ReadAt(p, offset)
}

// aheadOf returns an unsealer of content that is decrypted ahead, and its source.
func aheadOf(t *testing.T, content []byte, slots aheadSlots, damage func(sealed []byte)) (*unsealer, *countingSource) {
	t.Helper()
	key := newFileKey()
	sealed := sealedBytes(t, key, content)
	if damage != nil {
		damage(sealed)
	}
	src := &countingSource{ReaderAt: bytes.NewReader(sealed)}
	u, err := newUnsealer(src, key, int64(len(content)))
	if err != nil {
		t.Fatal(err)
	}
	src.reads.Store(0) // the salt
	u.ahead = slots
	return u, src
}

func TestPartsOfLargeFilesAreServed(t *testing.T) {
	f := newFixture(t)
	f.opts.MaxUploadSize, f.opts.QuotaPerUser = 2*manyChunks, 0
	content := contentOf(manyChunks)
	id := f.upload(t, 1, string(content))
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, err := f.Open(r.Context(), id, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = file.Close() }()
		http.ServeContent(Writer(w), r, "", time.Time{}, file.Content)
	}))
	defer s.Close()
	for header, want := range map[string][]byte{
		"":                       content,
		"bytes=0-":               content,
		"bytes=65535-":           content[chunkSize-1:],
		"bytes=65536-589824":     content[chunkSize : 9*chunkSize+1],
		"bytes=100000-900000":    content[100000:900001],
		"bytes=-900000":          content[manyChunks-900000:],
		"bytes=100000-100000":    content[100000:100001],
		"bytes=0-9, 70000-70009": nil, // more than one part has a form of its own
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			req.Header.Set("Range", header)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			t.Errorf("%q: %v", header, err)
		}
		if want == nil {
			if !bytes.Contains(got, content[:10]) || !bytes.Contains(got, content[70000:70010]) {
				t.Errorf("%q: a part is missing in %d bytes", header, len(got))
			}
		} else if !bytes.Equal(got, want) {
			t.Errorf("%q: %d bytes, want %d", header, len(got), len(want))
		}
	}
	if n := len(f.files.ahead); n != 0 {
		t.Errorf("%d downloads are still counted", n)
	}
}

// stalled is a client that reads nothing until release is closed, and then hangs up.
type stalled struct{ release chan struct{} }

var errHungUp = errors.New("the client hung up")

func (s stalled) Write([]byte) (int, error) {
	<-s.release
	return 0, errHungUp
}

func TestSlowReaderStopsDecryptionAndLeavesNothingWhenItHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
		slots := make(aheadSlots, 1)
		u, src := aheadOf(t, contentOf(manyChunks), slots, nil)
		client := stalled{make(chan struct{})}
		result := make(chan error)
		go func() {
			_, err := u.WriteTo(client)
			result <- err
		}()
		synctest.Wait()
		if n := src.reads.Load(); n != 3*aheadChunks {
			t.Errorf("%d chunks were decrypted for a client that read none", n)
		}
		other, _ := aheadOf(t, contentOf(manyChunks), slots, nil)
		if n, err := other.WriteTo(io.Discard); err != nil || n != manyChunks {
			t.Errorf("while all slots are taken: %d bytes, %v", n, err)
		}
		close(client.release)
		if err := <-result; !errors.Is(err, errHungUp) {
			t.Errorf("err = %v", err)
		}
		if len(slots) != 0 {
			t.Error("the download is still counted")
		}
	})
}

func TestDamagedLargeFileIsServedUpToTheDamage(t *testing.T) {
	content := contentOf(manyChunks)
	u, _ := aheadOf(t, content, make(aheadSlots, 1), func(sealed []byte) { sealed[saltSize+6*(chunkSize+tagSize)+100]++ })
	var got bytes.Buffer
	if n, err := u.WriteTo(&got); !errors.Is(err, errDamaged) || n != 6*chunkSize || !bytes.Equal(got.Bytes(), content[:n]) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestSmallFilesNeedNoSecondGoroutine(t *testing.T) {
	u, _ := aheadOf(t, contentOf(aheadFrom-1), make(aheadSlots, 1), nil)
	w := writerFunc(func(p []byte) (int, error) {
		if len(u.ahead) != 0 {
			t.Error("a small file is decrypted ahead")
		}
		return len(p), nil
	})
	if n, err := u.WriteTo(w); err != nil || n != aheadFrom-1 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestFileThatIsTruncatedWhileItIsServedEndsTheConnection uses a file that was intact when it was opened.
func TestFileThatIsTruncatedWhileItIsServedEndsTheConnection(t *testing.T) {
	f := newFixture(t)
	f.opts.MaxUploadSize, f.opts.QuotaPerUser = 4<<20, 0
	id := f.upload(t, 1, strings.Repeat("x", 4<<20))
	var path string
	f.eachFile(t, false, func(p string) error { path = p; return nil })
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, err := f.Open(r.Context(), id, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = file.Close() }()
		if err := cutOff(path, -1<<20); err != nil {
			t.Error(err)
		}
		http.ServeContent(Writer(w), r, "", time.Time{}, file.Content)
	}))
	defer s.Close()
	resp, err := http.Get(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); !errors.Is(err, io.ErrUnexpectedEOF) || n > 3<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
}
