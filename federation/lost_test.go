package federation_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A server that is itself catching up may be able to answer a request only a little later. Until then its event must
// not be forgotten, although no later event refers to it.
func TestEventWithUnavailablePredecessorsIsRetried(t *testing.T) {
	net, alice, bob := pair(t)
	room := made(alice, "tea", "public_chat", nil)
	bob.Do("POST", "/v3/join/"+url.PathEscape(room)+"?via=hs1.test", nil)
	bob.Do("GET", "/v3/rooms/"+url.PathEscape(room)+"/members", nil)
	say := func(text string) {
		alice.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/"+text, map[string]any{"msgtype": "m.text", "body": text})
	}
	var asked, lost atomic.Int32
	net.Intercept(func(w http.ResponseWriter, r *http.Request, to string, next http.Handler) {
		switch path := r.URL.Path; {
		case to == "hs2.test" && strings.Contains(path, "/send/") && lost.Add(1) == 1: // the sender does not notice
			_, _ = w.Write([]byte(`{"pdus":{}}`))
		case to == "hs1.test" && strings.Contains(path, "/get_missing_events/") && asked.Add(1) == 1:
			_, _ = w.Write([]byte(`{"events":[]}`))
		default:
			next.ServeHTTP(w, r)
		}
	})
	say("first")
	for end := time.Now().Add(10 * time.Second); lost.Load() == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	say("second")
	bob.Hears("second")
	bob.Hears("first")
	if asked.Load() < 2 {
		t.Errorf("what was missing was asked for %d times", asked.Load())
	}
}
