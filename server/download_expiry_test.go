package server_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// A download that has begun when the message expires is completed or ends with an error. In both cases the file and its
// key are gone after the purge, and nobody gets the file again.
func TestADownloadDuringWhichTheMessageExpires(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	base := expiring(alice)
	content := make([]byte, 8<<20) // more than the connection buffers
	random := rand.NewChaCha8([32]byte{7})
	_, _ = random.Read(content)
	uri := upload(alice, content)
	sendImage(alice, base, "1", uri)
	path := "/v1/media/download/" + strings.TrimPrefix(uri, "mxc://")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/_matrix/client"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+alice.Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	first := make([]byte, 1000)
	if _, err := io.ReadFull(resp.Body, first); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("the download begins with %d, %v", resp.StatusCode, err)
	}
	s.Advance(61 * time.Second)
	purge(t, s)
	if n := mediaFiles(t, s); n != 0 {
		t.Errorf("%d files are left during the download", n)
	}
	h := hangings{T: t, s: s}
	if n := h.count(`SELECT (SELECT count(*) FROM media) + (SELECT count(*) FROM media_files) + (SELECT count(*) FROM media_unlinks)`); n != 0 {
		t.Errorf("%d rows about the file are left during the download", n)
	}
	alice.Refused("GET", path, nil, 404, "M_NOT_FOUND")
	rest, err := io.ReadAll(resp.Body)
	if got := slices.Concat(first, rest); err == nil && !bytes.Equal(got, content) {
		t.Errorf("the download ends without an error after %d of %d bytes, or with other content", len(got), len(content))
	}
	if n := mediaFiles(t, s); n != 0 {
		t.Errorf("%d files are left after the download", n)
	}
	alice.Refused("GET", path, nil, 404, "M_NOT_FOUND")
}
