package digest_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"ebb/digest"
)

// narrow accepts a number of bytes.
type narrow struct {
	strings.Builder
	room int
}

var errFull = errors.New("full")

func (n *narrow) Write(p []byte) (int, error) {
	fits := min(n.room, len(p))
	n.room -= fits
	_, _ = n.Builder.Write(p[:fits])
	if fits < len(p) {
		return fits, errFull
	}
	return fits, nil
}

func TestOnlyWhatWasWrittenIsCountedAndHashed(t *testing.T) {
	out := &narrow{room: 8}
	w := digest.NewWriter(out)
	for _, part := range []string{"abc", "", "defgh"} {
		if _, err := io.WriteString(w, part); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want string) {
		t.Helper()
		sum := sha256.Sum256([]byte(want))
		if w.Size() != int64(len(want)) || w.SHA256() != hex.EncodeToString(sum[:]) || out.String() != want {
			t.Errorf("%d bytes with the hash %s, written: %q; want %q", w.Size(), w.SHA256(), out.String(), want)
		}
	}
	check("abcdefgh")
	if n, err := io.WriteString(w, "ij"); n != 0 || !errors.Is(err, errFull) {
		t.Errorf("a full writer: %d, %v", n, err)
	}
	check("abcdefgh")
	out.room = 1
	if n, err := io.WriteString(w, "ij"); n != 1 || !errors.Is(err, errFull) {
		t.Errorf("a writer with room for one byte: %d, %v", n, err)
	}
	check("abcdefghi")
}
