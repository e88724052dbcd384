package server_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"ebb/accounts/gate"
	"ebb/config"
	"ebb/internal/testserver"
)

const lifetimePath = "/_matrix/client/unstable/dev.ebb.message_lifetime"

const oneDay = 24 * time.Hour

func roomLifetimePath(room string) string { return lifetimePath + "/rooms/" + url.PathEscape(room) }

// lifetimeBody returns the body of a request that sets a lifetime, with the password of a user.
func lifetimeBody(user string, d time.Duration) obj {
	return obj{"max_lifetime": d.Milliseconds(), "auth": obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": user}, "password": testserver.Password()}}
}

func TestUsersChooseAfterWhatTimeTheirMessagesAreDeleted(t *testing.T) {
	var cfg *config.Config
	s := testserver.New(t, func(c *config.Config) { cfg = c })
	alice, bob := s.Register("alice"), s.Register("bob")
	w := &erasing{T: t, s: s, alice: alice, bob: bob, ids: map[string]string{}, files: map[string]string{}}
	var rooms [2]string
	for i := range rooms {
		rooms[i] = share(bob, alice)
		w.say(alice, rooms[i], "some text"+ownWord)
		w.say(bob, rooms[i], otherWord)
	}
	room, left := rooms[0], rooms[1]
	file := upload(alice, pngImage(t, 20))
	w.send(alice, room, "m.room.message", obj{"msgtype": "m.image", "body": "image" + ownWord, "url": file})
	alice.Do("PUT", base(room)+"/state/m.room.member/"+url.PathEscape(alice.User), obj{"membership": "join", "displayname": nameWord})
	alice.Do("POST", base(left)+"/leave", obj{})
	s.Advance(2 * oneDay)
	young := w.say(alice, room, "young "+ownWord)

	alice.Do("PUT", lifetimePath, lifetimeBody("alice", oneDay))
	if got := alice.Do("GET", lifetimePath, nil)["max_lifetime"]; got != float64(oneDay.Milliseconds()) {
		t.Errorf("the lifetime is %v", got)
	}
	w.erase()
	s.Reopen()
	control(t, s, "purge now", obj{"all": true})
	messages := func() string {
		_, _, page := bob.Raw("GET", base(room)+"/messages?dir=b&limit=100", nil)
		_, _, other := bob.Raw("GET", base(left)+"/messages?dir=b&limit=100", nil)
		return string(page) + string(other)
	}
	if page := messages(); strings.Count(page, ownWord) != 1 || !strings.Contains(page, young) || strings.Count(page, otherWord) != 2 || !strings.Contains(page, nameWord) {
		t.Errorf("after the first day: %s", page)
	}
	if served(bob, file) {
		t.Error("the file of a deleted message is served")
	}
	s.Advance(oneDay + time.Millisecond)
	w.erase()
	control(t, s, "purge now", obj{"all": true})
	if files := s.FilesWith(ownWord); len(files) > 0 || !strings.Contains(messages(), otherWord) {
		t.Errorf("%s is in %v", ownWord, files)
	}
	alice.Do("DELETE", lifetimePath, nil)
	alice.Do("DELETE", lifetimePath, nil) // repeated
	kept := w.say(alice, room, "kept")
	s.Advance(3 * oneDay)
	w.erase()
	if page := messages(); !strings.Contains(page, kept) || !strings.Contains(page, `"body":"kept"`) {
		t.Errorf("after it was switched off: %s", page)
	}
	all := strings.Join(auditLog(t, cfg.DSN()), "\n")
	for _, want := range []string{`message lifetime set {"lifetime":"24h0m0s","networks_hash`, "message lifetime removed"} {
		if !strings.Contains(all, want) {
			t.Errorf("the audit log lacks %s: %s", want, all)
		}
	}
}

func TestLifetimesOfMessagesAreChosenByRoom(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	room := share(alice, bob)
	alice.Refused("GET", roomLifetimePath(room), nil, 404, "M_NOT_FOUND")
	alice.Do("PUT", roomLifetimePath(room), lifetimeBody("alice", 7*oneDay))
	if got := alice.Do("GET", roomLifetimePath(room), nil)["max_lifetime"]; got != float64((7 * oneDay).Milliseconds()) {
		t.Errorf("the lifetime is %v", got)
	}
	all := alice.Do("GET", lifetimePath, nil)
	if get(all, "rooms", room, "max_lifetime") != float64((7*oneDay).Milliseconds()) || all["max_lifetime"] != nil || get(all, "limits", "max_lifetime", "min") != float64(oneDay.Milliseconds()) {
		t.Errorf("the lifetimes are %v", all)
	}
	if others := bob.Do("GET", lifetimePath, nil); len(others["rooms"].(obj)) != 0 {
		t.Errorf("another user has %v", others)
	}
	alice.Do("DELETE", roomLifetimePath(room), nil)
	alice.Refused("GET", roomLifetimePath(room), nil, 404, "M_NOT_FOUND")
	private := bob.Do("POST", "/v3/createRoom", obj{"preset": "private_chat"})["room_id"].(string)
	for _, foreign := range []string{private, "!none:test", "nonsense"} {
		alice.Refused("PUT", roomLifetimePath(foreign), lifetimeBody("alice", oneDay), 403, "M_FORBIDDEN")
		alice.Refused("GET", roomLifetimePath(foreign), nil, 404, "M_NOT_FOUND")
		alice.Do("DELETE", roomLifetimePath(foreign), nil)
	}
}

func TestInvalidLifetimesOfMessagesAreRefused(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	for _, c := range []struct{ body, code string }{
		{`{}`, "M_MISSING_PARAM"}, {`{"max_lifetime":null}`, "M_MISSING_PARAM"}, {`{"max_lifetime":"1d"}`, "M_BAD_JSON"}, {`{"max_lifetime":1.5}`, "M_BAD_JSON"},
		{`{"max_lifetime":0}`, "M_INVALID_PARAM"}, {`{"max_lifetime":-1}`, "M_INVALID_PARAM"}, {`{"max_lifetime":2592000}`, "M_INVALID_PARAM"},
		{`{"max_lifetime":9223372036854775807}`, "M_INVALID_PARAM"}, {`{"max_lifetime":1e30}`, "M_BAD_JSON"}, {`[]`, "M_BAD_JSON"}, {`{`, "M_NOT_JSON"},
	} {
		if status, _, answer := alice.Raw("PUT", lifetimePath, []byte(c.body)); status != 400 || !strings.Contains(string(answer), c.code) {
			t.Errorf("%s: %d %s, want %s", c.body, status, answer, c.code)
		}
	}
	s.Anonymous().Refused("GET", lifetimePath, nil, 401, "M_MISSING_TOKEN")
	wrong := lifetimeBody("alice", oneDay)
	wrong["auth"].(obj)["password"] = "wrong"
	alice.Refused("PUT", lifetimePath, wrong, 401, "M_FORBIDDEN")
	if got := alice.Do("GET", lifetimePath, nil)["max_lifetime"]; got != nil {
		t.Errorf("the lifetime is %v", got)
	}
}

// Whoever only has an access token cannot have messages deleted, and what was confirmed for one room does not hold for
// another.
func TestALifetimeOfMessagesMustBeConfirmed(t *testing.T) {
	l := newPageLab(t, gate.Policy{})
	client, bob := l.Login("alice"), l.Register("bob")
	room, other := share(client, bob), share(client, bob)
	body := obj{"max_lifetime": oneDay.Milliseconds()}
	session, _, stages := l.ask(client, "PUT", roomLifetimePath(room), body)
	if len(stages) != 1 || stages[0] != "m.login.password" {
		t.Errorf("the stages are %v", stages)
	}
	confirmed := lifetimeBody("alice", oneDay)
	confirmed["auth"].(obj)["session"] = session
	client.Do("PUT", roomLifetimePath(room), confirmed)
	if again, _, _ := l.ask(client, "PUT", roomLifetimePath(other), withSession(body, session)); again == session {
		t.Error("the session of one room is used for another")
	}
	web := l.web("alice", "PHONE") // signed in by OAuth 2.0
	status, _, answer := web.Raw("PUT", lifetimePath, body)
	if status != 403 || !strings.Contains(string(answer), "action=dev.ebb.message_lifetime") {
		t.Errorf("by OAuth 2.0: %d %s", status, answer)
	}
}

func TestAdministratorsSetALifetimeOfMessages(t *testing.T) {
	s := testserver.New(t, nil)
	admin, alice := administrator(t, s, "admin"), s.Register("alice")
	w := &erasing{T: t, s: s, alice: alice}
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	w.say(alice, room, ownWord)
	s.Advance(2 * oneDay)
	if out := fmt.Sprint(result(t, s, "user redact", obj{"user": "alice", "daily": true, "age_ms": oneDay.Milliseconds()})); !strings.Contains(out, "lifetimes") {
		t.Errorf("the answer is %s", out)
	}
	w.erase()
	path := usersPath + url.PathEscape(alice.User) + "/redactions"
	answer := admin.Do("GET", path, nil)
	if r, l := list(answer, "requests"), list(answer, "lifetimes"); len(r) != 1 || get(r[0], "daily") != true || get(r[0], "redacted") != 1.0 || get(r[0], "before") != nil || len(l) != 1 || get(l[0], "age_ms") != float64(oneDay.Milliseconds()) {
		t.Errorf("the requests are %v", answer)
	}
	admin.Refused("POST", path, obj{"daily": true, "age_ms": 1000}, 400, "M_INVALID_PARAM")
	admin.Do("POST", path, obj{"daily": true, "age_ms": oneDay.Milliseconds(), "room": room})
	if n := len(list(admin.Do("DELETE", path+"?daily=true&room="+url.QueryEscape(room), nil), "lifetimes")); n != 1 {
		t.Errorf("%d lifetimes are left", n)
	}
	if n := len(list(result(t, s, "user redact", obj{"user": "alice", "daily": true, "cancel": true}), "lifetimes")); n != 0 {
		t.Errorf("%d lifetimes are left", n)
	}
}

func TestOtherServersGetTheRedactionsOfMessagesThatReachTheirLifetime(t *testing.T) {
	net := testserver.Federation(t, 2, nil)
	s := net.Servers[0]
	alice, carol := s.Register("alice"), net.Servers[1].Register("carol")
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	carol.Do("POST", "/v3/join/"+url.PathEscape(room)+"?server_name=hs1.test", obj{})
	w := &erasing{T: t, s: s, alice: alice, bob: carol}
	for i := range 3 {
		w.say(alice, room, fmt.Sprint(i, ownWord))
	}
	carol.Hears(fmt.Sprint(2, ownWord))
	for _, each := range net.Servers {
		each.Advance(oneDay + time.Minute)
	}
	alice.Do("PUT", lifetimePath, lifetimeBody("alice", oneDay))
	w.erase()
	eventually(t, 30*time.Second, "the other server has redacted the messages", func() bool {
		_, _, page := carol.Raw("GET", base(room)+"/messages?dir=b&limit=100", nil)
		return !strings.Contains(string(page), ownWord) && strings.Contains(string(page), "m.room.redaction")
	})
}
