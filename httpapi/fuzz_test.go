package httpapi

import (
	"encoding/json"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// FuzzRequest sends arbitrary requests to a route with a body. The response must always be JSON and never have a 5xx
// status.
func FuzzRequest(f *testing.F) {
	s := echoServer(Options{})
	f.Add("!r:x", "m.room.message", "1", "limit=1", `{"a":1}`)
	f.Add("\x00", "a/b", "%", "%zz", `{"a":"\u0000"}`)
	f.Add("\xff", "..", "?", "a;b", strings.Repeat(`{"a":[`, 60))
	f.Add("", "", "", "filter=\xff", "null")
	f.Fuzz(func(t *testing.T, room, typ, txn, query, body string) {
		target := &url.URL{RawQuery: query}
		target = target.JoinPath("_matrix/client/v3/rooms", url.PathEscape(room), "send", url.PathEscape(typ), url.PathEscape(txn))
		r := httptest.NewRequestWithContext(t.Context(), "PUT", "/", strings.NewReader(body))
		r.URL = target
		r.Header.Set("Authorization", "Bearer good")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code >= 500 || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: %d %q", target, w.Code, w.Body)
		}
	})
}
