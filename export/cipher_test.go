package export

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

func TestSecretFileIsReadFromAnyPositionAndNotFromDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	f, err := createSecret(path, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	plain := bytes.Repeat([]byte("what is stored "), 4000)
	for rest := plain; len(rest) > 0; {
		n := min(len(rest), 1+rand.IntN(1000))
		if _, err := f.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	for range 200 {
		from := rand.IntN(len(plain))
		part := make([]byte, 1+rand.IntN(len(plain)-from))
		if n, err := f.ReadAt(part, int64(from)); err != nil || !bytes.Equal(part[:n], plain[from:from+len(part)]) {
			t.Fatalf("%d bytes from %d: %v", len(part), from, err)
		}
	}
	if _, err := f.ReadAt(make([]byte, 10), int64(len(plain))-5); !errors.Is(err, io.EOF) {
		t.Errorf("beyond the end: %v", err)
	}
	raw, err := os.ReadFile(path)
	if err != nil || bytes.Contains(raw, []byte("stored")) {
		t.Errorf("the file is not encrypted, %v", err)
	}
	if _, err := f.Write(make([]byte, 50_000)); !errors.Is(err, errTooLarge) {
		t.Errorf("beyond the limit: %v", err)
	}
}
