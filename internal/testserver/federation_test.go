package testserver_test

import (
	"net/http"
	"net/url"
	"testing"

	"ebb/internal/testserver"
)

// joined creates a public room as alice, and joins it as bob, who is on another server.
func joined(alice, bob *testserver.Client) (room string) {
	room = alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "public_chat"})["room_id"].(string)
	bob.Do("POST", "/v3/join/"+url.PathEscape(room)+"?via="+alice.Server().Name(), nil)
	return room
}

func say(c *testserver.Client, room, txn, body string) {
	c.Do("PUT", "/v3/rooms/"+url.PathEscape(room)+"/send/m.room.message/"+txn, map[string]any{"msgtype": "m.text", "body": body})
}

func TestServersOfANetworkShareARoom(t *testing.T) {
	w := testserver.Federation(t, 2, nil)
	alice, bob := w.Servers[0].Register("alice"), w.Servers[1].Register("bob")
	room := joined(alice, bob)
	say(alice, room, "1", "over there")
	bob.Hears("over there")
	say(bob, room, "1", "over here")
	alice.Hears("over here")
}

func TestCutServersReconnectAfterHeal(t *testing.T) {
	w := testserver.Federation(t, 2, nil)
	a, b := w.Servers[0], w.Servers[1]
	alice, bob := a.Register("alice"), b.Register("bob")
	room := joined(alice, bob)
	w.Cut(a.Name(), b.Name())
	if _, _, err := a.Remote().Version(t.Context(), b.Name()); err == nil {
		t.Fatal("a server that is cut off answers")
	}
	say(alice, room, "1", "meanwhile")
	w.Heal()
	a.Heard(b.Name())
	bob.Hears("meanwhile")
}

func TestStoppedServerReceivesMissedEvents(t *testing.T) {
	w := testserver.Federation(t, 2, nil)
	a, b := w.Servers[0], w.Servers[1]
	alice, bob := a.Register("alice"), b.Register("bob")
	room := joined(alice, bob)
	w.Stop(1)
	say(alice, room, "1", "while bob was away")
	w.Start(1)
	a.Heard(b.Name())
	bob.Hears("while bob was away")
}

func TestInterceptedRequestsDoNotReachTheServer(t *testing.T) {
	w := testserver.Federation(t, 2, nil)
	a, b := w.Servers[0], w.Servers[1]
	w.Intercept(func(_ http.ResponseWriter, _ *http.Request, to string, _ http.Handler) {
		if to != b.Name() {
			t.Errorf("a request to %s", to)
		}
		panic(http.ErrAbortHandler)
	})
	if _, _, err := a.Remote().Version(t.Context(), b.Name()); err == nil {
		t.Error("a dropped request is answered")
	}
	w.Intercept(nil)
	if name, version, err := b.Remote().Version(t.Context(), a.Name()); err != nil || name != "Ebb" || version != "test" {
		t.Errorf("%s %s %v", name, version, err)
	}
}
