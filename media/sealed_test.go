package media

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"
)

// sealedBytes returns the encrypted form of content.
func sealedBytes(t testing.TB, key, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	to, err := newSealer(&out, key)
	if err != nil {
		t.Fatal(err)
	}
	for rest := content; len(rest) > 0; { // in parts that do not agree with the chunks
		n := min(len(rest), 10_007)
		if _, err := to.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func contentOf(size int) []byte {
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(i * 7 >> 3)
	}
	return content
}

var sealedSizes = []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, 3 * chunkSize, 3*chunkSize + 5}

func TestEncryptedFilesAreReadFromAnyPosition(t *testing.T) {
	for _, size := range sealedSizes {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			key, content := newFileKey(), contentOf(size)
			sealed := sealedBytes(t, key, content)
			if int64(len(sealed)) != sealedSize(int64(size)) || contentSize(int64(len(sealed))) != int64(size) {
				t.Fatalf("%d bytes on disk, expected %d, for a content of %d, computed as %d", len(sealed), sealedSize(int64(size)), size, contentSize(int64(len(sealed))))
			}
			u, err := newUnsealer(bytes.NewReader(sealed), key, int64(size))
			if err != nil {
				t.Fatal(err)
			}
			defer u.release()
			if got, err := io.ReadAll(u); err != nil || !bytes.Equal(got, content) {
				t.Fatalf("read %d bytes (%v)", len(got), err)
			}
			var whole bytes.Buffer
			if _, err := u.Seek(0, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(&whole, u); err != nil || n != int64(size) || !bytes.Equal(whole.Bytes(), content) {
				t.Fatalf("copied %d bytes (%v)", n, err)
			}
			random := rand.New(rand.NewPCG(1, uint64(size)))
			for range 50 {
				from := random.IntN(size + 1)
				part := make([]byte, random.IntN(size-from+1))
				if _, err := u.Seek(int64(from), io.SeekStart); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(u, part); err != nil || !bytes.Equal(part, content[from:from+len(part)]) {
					t.Fatalf("%d bytes from %d differ (%v)", len(part), from, err)
				}
			}
			if size > 20 && bytes.Contains(sealed, content[:20]) {
				t.Error("the content is on disk")
			}
		})
	}
}

func TestChangesOfEncryptedFilesAreDetected(t *testing.T) {
	key, size := newFileKey(), 3*chunkSize+100
	sealed := sealedBytes(t, key, contentOf(size))
	chunk := func(b []byte, n int) []byte { return b[saltSize+n*(chunkSize+tagSize):][:chunkSize+tagSize] }
	for name, change := range map[string]func(b []byte) ([]byte, int){
		"salt altered":         func(b []byte) ([]byte, int) { b[0]++; return b, size },
		"content altered":      func(b []byte) ([]byte, int) { b[len(b)-20]++; return b, size },
		"tag altered":          func(b []byte) ([]byte, int) { b[len(b)-1]++; return b, size },
		"chunks exchanged":     func(b []byte) ([]byte, int) { copy(chunk(b, 0), chunk(slices.Clone(b), 1)); return b, size },
		"last chunk cut off":   func(b []byte) ([]byte, int) { return b[:saltSize+3*(chunkSize+tagSize)], 3 * chunkSize },
		"cut off within":       func(b []byte) ([]byte, int) { return b[:len(b)-30], size },
		"empty":                func(b []byte) ([]byte, int) { return nil, size },
		"shorter by a chunk":   func(b []byte) ([]byte, int) { return b, 2 * chunkSize },
		"under another key":    func(b []byte) ([]byte, int) { return sealedBytes(t, newFileKey(), contentOf(size)), size },
		"the end of a chunk 0": func(b []byte) ([]byte, int) { return b[:saltSize+tagSize], 0 },
	} {
		t.Run(name, func(t *testing.T) {
			changed, size := change(slices.Clone(sealed))
			u, err := newUnsealer(bytes.NewReader(changed), key, int64(size))
			if err == nil {
				err = u.verify()
				u.release()
			}
			if !errors.Is(err, errDamaged) {
				t.Errorf("err = %v", err)
			}
		})
	}
}

func TestTheSameContentIsEncryptedDifferentlyEachTime(t *testing.T) {
	key, content := newFileKey(), contentOf(100)
	if bytes.Equal(sealedBytes(t, key, content), sealedBytes(t, key, content)) {
		t.Error("the salt does not change the bytes")
	}
}

func TestPartsOfEncryptedFilesAreServed(t *testing.T) {
	f := newFixture(t)
	f.opts.MaxUploadSize, f.opts.QuotaPerUser = 1<<20, 0
	content := contentOf(3*chunkSize + 5)
	id := f.upload(t, 1, string(content))
	for header, want := range map[string][]byte{
		"": content, "bytes=0-0": content[:1], "bytes=65530-65545": content[65530:65546], "bytes=65536-": content[65536:], "bytes=-7": content[len(content)-7:],
	} {
		file, err := f.Open(t.Context(), id, 0)
		if err != nil {
			t.Fatal(err)
		}
		r, w := httptest.NewRequest(http.MethodGet, "/", nil), httptest.NewRecorder()
		if header != "" {
			r.Header.Set("Range", header)
		}
		http.ServeContent(Writer(w), r, "", time.Time{}, file.Content)
		if err := file.Close(); err != nil || !bytes.Equal(w.Body.Bytes(), want) {
			t.Errorf("%q: %d bytes, want %d (%v)", header, w.Body.Len(), len(want), err)
		}
	}
}
