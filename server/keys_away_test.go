package server_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
	"ebb/storage/storagetest"
)

// A server must not confirm what other servers send and it cannot store: events, and messages between devices.
func TestWhatArrivesWhileTheDatabaseIsAwayIsSentAgain(t *testing.T) {
	t.Run("the keys of messages are away", func(t *testing.T) {
		var keys string
		w := newOutage(t, func(cfg *config.Config) {
			testserver.OnPostgres(t, cfg)
			keys = cfg.BodyKeys()
		})
		w.confirmsNothing(func() { ok(t, os.Rename(keys, keys+".away")) }, func() { ok(t, os.Rename(keys+".away", keys)) })
	})
	t.Run("PostgreSQL is away", func(t *testing.T) {
		dsn, line := storagetest.PostgresByLine(t)
		w := newOutage(t, func(cfg *config.Config) { cfg.Database = dsn })
		w.confirmsNothing(line.Cut, line.Mend)
	})
}

// outage is a network whose second server cannot use its database for a while.
type outage struct {
	*testing.T
	net               *testserver.Network
	alice, bob, carol *testserver.Client
	room              string
	statuses          chan int // of the transactions that the second server gets
}

func newOutage(t *testing.T, second func(cfg *config.Config)) *outage {
	t.Helper()
	w := &outage{T: t, statuses: make(chan int, 100)}
	w.net = testserver.Federation(t, 2, func(i int, cfg *config.Config) {
		if i == 1 {
			second(cfg)
		}
	})
	w.alice, w.bob, w.carol = w.net.Servers[0].Register("alice"), w.net.Servers[1].Register("bob"), w.net.Servers[1].Register("carol")
	w.room, _ = w.alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	w.bob.Do("POST", "/v3/join/"+w.room+"?via=hs1.test", obj{})
	return w
}

func (w *outage) say(txn, body string) {
	w.Helper()
	w.alice.Do("PUT", "/v3/rooms/"+w.room+"/send/m.room.message/"+txn, obj{"msgtype": "m.text", "body": body})
}

// record passes the statuses of transactions to statuses from now on.
func (w *outage) record() {
	w.net.Intercept(func(rw http.ResponseWriter, r *http.Request, to string, next http.Handler) {
		if to != "hs2.test" || !strings.Contains(r.URL.Path, "/federation/v1/send/") {
			next.ServeHTTP(rw, r)
			return
		}
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		rw.WriteHeader(answer.Code)
		_, _ = rw.Write(answer.Body.Bytes())
		w.statuses <- answer.Code
	})
}

// retry lets the first server send again at once.
func (w *outage) retry() {
	w.Helper()
	if _, err := w.net.Servers[0].Control(w.Context(), "federation retry", []byte(`{"server":"hs2.test"}`)); err != nil {
		w.Fatal(err)
	}
}

// confirmsNothing begins the outage, sends a message between devices and one to the room, and ends the outage. It fails
// the test if the second server confirms one of them meanwhile, or if one does not arrive in the end.
func (w *outage) confirmsNothing(begin, end func()) {
	w.Helper()
	heard := listen(w.T, w.bob, w.room)
	w.say("1", "before")
	heard.until("the first message", func() bool { return slices.Contains(heard.bodies(), "before") })
	w.record()
	begin()
	for _, s := range w.net.Servers {
		s.Advance(25 * time.Hour) // the messages of another day need another key
	}
	w.say("2", "meanwhile")
	w.alice.Do("PUT", "/v3/sendToDevice/m.test/1", obj{"messages": obj{w.carol.User: obj{w.carol.DeviceID: obj{"word": "meanwhile"}}}})
	if status := <-w.statuses; status != http.StatusServiceUnavailable {
		w.Errorf("the transaction gets %d, want 503", status)
	}
	end()
	eventually(w.T, time.Minute, "the second server can use its database again", func() bool {
		status, _, _ := w.carol.Raw("PUT", "/v3/user/"+url.PathEscape(w.carol.User)+"/account_data/org.x", obj{})
		return status == http.StatusOK
	})
	for _, s := range w.net.Servers {
		s.Advance(time.Minute) // the second server asks for the keys of the first one again
	}
	w.retry()
	heard.until("the message that could not be stored", func() bool { return slices.Contains(heard.bodies(), "meanwhile") })
	eventually(w.T, time.Minute, "the message to carol's device", func() bool {
		return len(list(w.carol.Do("GET", "/v3/sync", nil), "to_device", "events")) == 1
	})
}
