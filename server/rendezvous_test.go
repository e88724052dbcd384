package server_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

const rendezvous2024 = "/_matrix/client/unstable/org.matrix.msc4108/rendezvous"

// rendezvousServer is a server on which devices can be signed in by QR codes.
func rendezvousServer(t *testing.T) *testserver.Server {
	t.Helper()
	return testserver.New(t, func(c *config.Config) { c.OAuth.Enabled = true })
}

// plain sends a request with a plain text.
func plain(t *testing.T, s *testserver.Server, method, path, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "text/plain")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(raw)
}

func TestDevicesExchangeMessagesAtARendezvous(t *testing.T) {
	s := rendezvousServer(t)
	status, h, body := plain(t, s, "POST", rendezvous2024, "first")
	_, path, found := strings.Cut(body, rendezvous2024)
	if path = rendezvous2024 + strings.TrimSuffix(path, `"}`); status != 201 || !found || h.Get("ETag") == "" || h.Get("Expires") == "" || h.Get("Last-Modified") == "" || h.Get("Cache-Control") != "no-store" {
		t.Fatalf("%d %v %s", status, h, body)
	}
	first := h.Get("ETag")
	if status, h, body := plain(t, s, "GET", path, ""); status != 200 || body != "first" || h.Get("ETag") != first || h.Get("Content-Type") != "text/plain" || !strings.Contains(h.Get("Access-Control-Expose-Headers"), "ETag") {
		t.Errorf("%d %v %s", status, h, body)
	}
	if status, h, body := plain(t, s, "GET", path, "", "If-None-Match", first); status != 304 || body != "" || h.Get("ETag") != first || h.Get("Expires") == "" {
		t.Errorf("nothing new: %d %v %s", status, h, body)
	}
	status, h, _ = plain(t, s, "PUT", path, "second", "If-Match", first)
	second := h.Get("ETag")
	if status != 202 || second == first || second == "" {
		t.Errorf("%d %v", status, h)
	}
	if status, h, body := plain(t, s, "PUT", path, "late", "If-Match", first); status != 412 || h.Get("ETag") != second || !strings.Contains(body, "M_CONCURRENT_WRITE") {
		t.Errorf("two at once: %d %v %s", status, h, body)
	}
	if status, _, body := plain(t, s, "GET", path, "", "If-None-Match", first); status != 200 || body != "second" {
		t.Errorf("%d %s", status, body)
	}
	if status, _, body := plain(t, s, "PUT", path, "x"); status != 400 || !strings.Contains(body, "M_MISSING_PARAM") {
		t.Errorf("without If-Match: %d %s", status, body)
	}
	if status, _, _ := plain(t, s, "GET", path, "", "Sec-Fetch-Mode", "navigate"); status != 403 {
		t.Errorf("a browser's window: %d", status)
	}
	if status, _, _ := plain(t, s, "DELETE", path, ""); status != 204 {
		t.Errorf("delete: %d", status)
	}
	if status, _, body := plain(t, s, "GET", path, ""); status != 404 || !strings.Contains(body, "M_NOT_FOUND") {
		t.Errorf("after that: %d %s", status, body)
	}
}

func TestRendezvousRefusesBadMessages(t *testing.T) {
	s := rendezvousServer(t)
	for body, want := range map[string]int{strings.Repeat("x", 4096): 201, strings.Repeat("x", 4097): 413} {
		if status, _, answer := plain(t, s, "POST", rendezvous2024, body); status != want {
			t.Errorf("%d bytes: %d %s", len(body), status, answer)
		}
	}
	if status, _, _ := plain(t, s, "POST", rendezvous2024, "<script>", "Content-Type", "text/html"); status != 400 {
		t.Errorf("a page: %d", status)
	}
	limited := 0
	for range 40 {
		if status, _, _ := plain(t, s, "POST", rendezvous2024, ""); status == 429 {
			limited++
		}
	}
	if limited == 0 {
		t.Error("one network may begin any number of sessions")
	}
	s.Advance(5 * time.Minute)
	if status, _, _ := plain(t, s, "POST", rendezvous2024, ""); status != 201 {
		t.Errorf("when they have expired: %d", status)
	}
}

// Many networks together may begin a number of sessions. Beyond it, nobody can begin one until some have ended, and the
// sessions that exist go on.
func TestRendezvousIsBoundedForAllNetworksTogether(t *testing.T) {
	const most, path = 2000, "/_matrix/client/unstable/io.element.msc4388/rendezvous"
	s := testserver.New(t, func(c *config.Config) { c.OAuth.Enabled, c.TrustedProxies = true, []string{"127.0.0.1"} })
	network := func(i int) string { return fmt.Sprintf("10.%d.%d.1", i/200, i%200) }
	first, made := "", 0
	for ; made <= most; made++ {
		status, _, body := plain(t, s, "POST", rendezvous2024, "message", "X-Forwarded-For", network(made/20))
		if status == 429 {
			break
		}
		if _, id, found := strings.Cut(body, rendezvous2024); status != 201 || !found {
			t.Fatalf("session %d: %d %s", made, status, body)
		} else if first == "" {
			first = rendezvous2024 + strings.TrimSuffix(id, `"}`)
		}
	}
	if made != most {
		t.Fatalf("%d sessions", made)
	}
	refused := func(when string) {
		t.Helper()
		for name, create := range map[string]func() (int, http.Header, string){
			"2024": func() (int, http.Header, string) {
				return plain(t, s, "POST", rendezvous2024, "", "X-Forwarded-For", network(900))
			},
			"MSC4388": func() (int, http.Header, string) {
				return plain(t, s, "POST", path, `{"data":""}`, "X-Forwarded-For", network(900), "Content-Type", "application/json")
			},
		} {
			if status, h, body := create(); status != 429 || !strings.Contains(body, "M_LIMIT_EXCEEDED") || h.Get("Retry-After") == "" {
				t.Errorf("%s, %s: %d %v %s", when, name, status, h, body)
			}
		}
	}
	refused("all are in use")
	status, h, body := plain(t, s, "GET", first, "")
	if status != 200 || body != "message" {
		t.Errorf("a session that exists: %d %s", status, body)
	}
	if status, _, _ := plain(t, s, "PUT", first, "answer", "If-Match", h.Get("ETag")); status != 202 {
		t.Errorf("its answer: %d", status)
	}
	if status, _, _ := plain(t, s, "DELETE", first, ""); status != 204 {
		t.Errorf("its end: %d", status)
	}
	if status, _, _ := plain(t, s, "POST", rendezvous2024, "", "X-Forwarded-For", network(900)); status != 201 {
		t.Errorf("in its place: %d", status)
	}
	refused("all are in use again")
	s.Advance(5 * time.Minute)
	if status, _, _ := plain(t, s, "POST", rendezvous2024, "", "X-Forwarded-For", network(900)); status != 201 {
		t.Errorf("when they have expired: %d", status)
	}
}

func TestRendezvousOfMSC4388(t *testing.T) {
	const path = "/unstable/io.element.msc4388/rendezvous"
	c := rendezvousServer(t).Anonymous()
	if c.Do("GET", path, nil)["create_available"] != true {
		t.Error("nobody may begin a session")
	}
	made := c.Do("POST", path, obj{"data": "first"})
	id, token := path+"/"+made["id"].(string), made["sequence_token"]
	if _, h, _ := c.Raw("GET", id, nil); h.Get("Cache-Control") != "no-store" {
		t.Errorf("a proxy may keep a message: %v", h)
	}
	if got := c.Do("GET", id, nil); got["data"] != "first" || got["sequence_token"] != token || got["expires_in_ms"] != 300000.0 {
		t.Errorf("%v", got)
	}
	second := c.Do("PUT", id, obj{"data": "second", "sequence_token": token})["sequence_token"]
	if again := c.Do("PUT", id, obj{"data": "second", "sequence_token": token})["sequence_token"]; again != second || second == token {
		t.Errorf("a repeated request: %v, %v", again, second)
	}
	c.Refused("PUT", id, obj{"data": "third", "sequence_token": token}, 409, "IO_ELEMENT_MSC4388_CONCURRENT_WRITE")
	c.Refused("PUT", id, obj{"data": "third"}, 400, "M_MISSING_PARAM")
	c.Refused("POST", path, obj{}, 400, "M_MISSING_PARAM")
	c.Refused("POST", path, obj{"data": strings.Repeat("x", 4097)}, 413, "M_TOO_LARGE")
	c.Do("DELETE", id, nil)
	c.Refused("DELETE", id, nil, 404, "M_NOT_FOUND")
}

func TestQRCodesAreOfferedOnlyWithTheDeviceGrant(t *testing.T) {
	for name, s := range map[string]*testserver.Server{
		"with it":  rendezvousServer(t),
		"without":  testserver.New(t, func(c *config.Config) { c.OAuth.Enabled, c.OAuth.DeviceGrant = true, "off" }),
		"no OAuth": testserver.New(t, func(c *config.Config) { c.OAuth.Enabled = false }),
	} {
		offered := s.Anonymous().Do("GET", "/versions", nil)["unstable_features"].(obj)["org.matrix.msc4108"]
		status, _, _ := plain(t, s, "POST", rendezvous2024, "")
		if want := name == "with it"; offered != want || (status == 201) != want || !want && status != 404 {
			t.Errorf("%s: %v, %d", name, offered, status)
		}
	}
}
