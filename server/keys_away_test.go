package server_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

// A server must not confirm events of other servers that it cannot store.
func TestEventsThatArriveWhileTheKeysAreAwayAreSentAgain(t *testing.T) {
	var keys string
	net := testserver.Federation(t, 2, func(i int, cfg *config.Config) {
		if i == 1 {
			testserver.OnPostgres(t, cfg)
			keys = cfg.BodyKeys()
		}
	})
	alice, bob := net.Servers[0].Register("alice"), net.Servers[1].Register("bob")
	room, _ := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	bob.Do("POST", "/v3/join/"+room+"?via=hs1.test", obj{})
	say := func(txn, body string) {
		t.Helper()
		alice.Do("PUT", "/v3/rooms/"+room+"/send/m.room.message/"+txn, obj{"msgtype": "m.text", "body": body})
	}
	heard := listen(t, bob, room)
	say("1", "before")
	heard.until("the first message", func() bool { return slices.Contains(heard.bodies(), "before") })

	statuses := make(chan int, 100)
	net.Intercept(func(w http.ResponseWriter, r *http.Request, to string, next http.Handler) {
		if to != "hs2.test" || !strings.Contains(r.URL.Path, "/federation/v1/send/") {
			next.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
		statuses <- answer.Code
	})
	ok(t, os.Rename(keys, keys+".away"))
	for _, s := range net.Servers {
		s.Advance(25 * time.Hour) // the messages of another day need another key
	}
	say("2", "meanwhile")
	if status := <-statuses; status != http.StatusServiceUnavailable {
		t.Errorf("the transaction gets %d, want 503", status)
	}
	ok(t, os.Rename(keys+".away", keys))
	if _, err := net.Servers[0].Control(t.Context(), "federation retry", []byte(`{"server":"hs2.test"}`)); err != nil {
		t.Fatal(err)
	}
	heard.until("the message that could not be stored", func() bool { return slices.Contains(heard.bodies(), "meanwhile") })
}
