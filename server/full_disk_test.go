package server_test

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
	"ebb/storage/storagetest"
)

// endings lists the operations that end the client's session or account if they succeed.
var endings = []string{"logout", "logout_all", "deactivateAccount", "changePassword"}

// Every operation is tried on a full disk. It must succeed or answer 507, since it is not the client's fault and may
// succeed later; no other error of the server is acceptable. Once there is space, what was acknowledged before is still
// there, and the server accepts writes again.
func TestEveryOperationOnAFullDiskSucceedsOrSaysSo(t *testing.T) {
	disk := storagetest.TinyDisk(t, 32<<20)
	s := testserver.New(t, func(c *config.Config) { c.DataDir = disk })
	h := newHostile(t, s, "alice")
	s.Register("eve")
	ballast := filepath.Join(disk, "ballast")
	storagetest.Fill(t, ballast)
	message := func(i int) int {
		path := fmt.Sprintf("/v3/rooms/%s/send/m.room.message/full%d", url.PathEscape(h.room), i)
		status, _, _ := h.Raw("PUT", path, map[string]any{"body": strings.Repeat("x", 60_000)})
		return status
	}
	n := 0
	for message(n) != http.StatusInsufficientStorage { // until the write-ahead log is full too
		if n++; n > 1000 {
			t.Fatal("the disk does not become full")
		}
	}
	statuses := map[int]int{}
	for _, op := range operations(t) {
		if slices.Contains(endings, op.name) {
			continue
		}
		h.n++
		var body any
		if op.method != "GET" {
			body = h.good(bodies[op.name])
		}
		path := h.address(op.path, "", "")
		if op.name == "getEvents" || op.name == "peekEvents" || op.name == "sync" {
			path += "?timeout=0"
		}
		status, _, raw := h.Raw(op.method, path, body)
		statuses[status]++
		if status >= 500 && status != http.StatusInsufficientStorage && status != http.StatusGatewayTimeout {
			t.Errorf("%s %s on a full disk: %d %.300s", op.method, op.path, status, raw)
		}
	}
	t.Log(statuses)
	if statuses[http.StatusInsufficientStorage] < 20 {
		t.Error("hardly any operation noticed the full disk: the test proves nothing")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if status := message(n + 1); status != 200 {
		t.Errorf("a message once there is space: %d", status)
	}
	found := 0
	for from := ""; ; {
		page := h.Do("GET", "/v3/rooms/"+url.PathEscape(h.room)+"/messages?dir=b&limit=100"+from, nil)
		for _, e := range list(page, "chunk") {
			if body, _ := get(e.(map[string]any), "content", "body").(string); len(body) == 60_000 {
				found++
			}
		}
		end, more := page["end"].(string)
		if !more {
			break
		}
		from = "&from=" + end
	}
	if found != n+1 {
		t.Errorf("%d of %d acknowledged messages are there", found, n+1)
	}
}
