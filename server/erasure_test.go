package server_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// Words in what an erased user has sent, and in what stays.
const (
	ownWord   = "-bluebell9137"  // in messages
	nameWord  = "Foxglove4482"   // in the display name
	otherWord = "snapdragon6001" // in what others have sent
)

// erasing is a server with a user who is erased, in rooms of every kind.
type erasing struct {
	*testing.T
	s            *testserver.Server
	alice, bob   *testserver.Client
	n            int
	open, closed string            // rooms in which both are
	muted        string            // in which alice may not send anything any more
	left, banned string            // in which alice was
	ids          map[string]string // events of alice that have content, by what they are
	files        map[string]string // of alice, by what refers to them
}

func base(room string) string { return "/v3/rooms/" + url.PathEscape(room) }

func (w *erasing) send(c *testserver.Client, room, typ string, content obj) string {
	w.Helper()
	w.n++
	return c.Do("PUT", fmt.Sprintf("%s/send/%s/e%d", base(room), typ, w.n), content)["event_id"].(string)
}

func (w *erasing) say(c *testserver.Client, room, text string) string {
	w.Helper()
	return w.send(c, room, "m.room.message", obj{"msgtype": "m.text", "body": text})
}

// room creates a room of bob, to which he invites alice, and in which both have sent a message.
func (w *erasing) room(body obj) string {
	w.Helper()
	body["invite"] = []string{w.alice.User}
	room := w.bob.Do("POST", "/v3/createRoom", body)["room_id"].(string)
	w.alice.Do("POST", "/v3/join/"+url.PathEscape(room), obj{"reason": "I come" + ownWord})
	w.ids["text in "+room] = w.say(w.alice, room, "some text"+ownWord)
	w.say(w.bob, room, otherWord)
	return room
}

// newErasing fills rooms.
func newErasing(t *testing.T, s *testserver.Server, alice, bob *testserver.Client) *erasing {
	w := &erasing{T: t, s: s, alice: alice, bob: bob, ids: map[string]string{}, files: map[string]string{}}
	profile := "/v3/profile/" + url.PathEscape(alice.User)
	w.files["profile"] = upload(alice, pngImage(t, 20))
	alice.Do("PUT", profile+"/displayname", obj{"displayname": nameWord})
	alice.Do("PUT", profile+"/avatar_url", obj{"avatar_url": w.files["profile"]})
	encrypted := []obj{{"type": "m.room.encryption", "state_key": "", "content": obj{"algorithm": "m.megolm.v1.aes-sha2"}}}
	w.open, w.closed = w.room(obj{"preset": "public_chat"}), w.room(obj{"preset": "private_chat", "initial_state": encrypted})
	w.left, w.banned, w.muted = w.room(obj{"preset": "public_chat"}), w.room(obj{"preset": "public_chat"}), w.room(obj{"preset": "public_chat"})

	w.files["message"], w.files["encrypted message"], w.files["nothing"] = upload(alice, pngImage(t, 21)), upload(alice, pngImage(t, 22)), upload(alice, pngImage(t, 23))
	w.files["forwarded"], w.files["room"] = upload(alice, pngImage(t, 24)), upload(alice, pngImage(t, 25))
	w.ids["image"] = w.send(alice, w.open, "m.room.message", obj{"msgtype": "m.image", "body": "image" + ownWord, "url": w.files["message"]})
	w.ids["forwarded image"] = w.send(alice, w.open, "m.room.message", obj{"msgtype": "m.image", "body": "image" + ownWord, "url": w.files["forwarded"]})
	w.send(bob, w.open, "m.room.message", obj{"msgtype": "m.image", "body": "forwarded", "url": w.files["forwarded"]})
	w.ids["encrypted"] = w.send(alice, w.closed, "m.room.encrypted", obj{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": ownWord, "session_id": "s"})
	w.ids["reaction"] = w.send(alice, w.open, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": w.ids["image"], "key": "nice" + ownWord}})
	w.ids["edit"] = w.send(alice, w.open, "m.room.message", obj{"msgtype": "m.text", "body": "* edit" + ownWord,
		"m.new_content": obj{"msgtype": "m.text", "body": "edit" + ownWord}, "m.relates_to": obj{"rel_type": "m.replace", "event_id": w.ids["text in "+w.open]}})
	levels := bob.Do("GET", base(w.open)+"/state/m.room.power_levels", nil)
	levels["users"].(obj)[alice.User] = 50
	bob.Do("PUT", base(w.open)+"/state/m.room.power_levels", levels)
	alice.Do("PUT", base(w.open)+"/state/m.room.avatar", obj{"url": w.files["room"]})
	alice.Do("PUT", base(w.open)+"/state/m.room.topic", obj{"topic": "the topic stays"})
	alice.Do("PUT", base(w.open)+"/state/org.example.status/"+url.PathEscape(alice.User), obj{"status": "at home" + ownWord})
	alice.Do("PUT", profile+"/displayname", obj{"displayname": nameWord + " the second"})

	alice.Do("POST", base(w.left)+"/leave", obj{"reason": "off" + ownWord})
	bob.Do("POST", base(w.banned)+"/ban", obj{"user_id": alice.User, "reason": otherWord})
	muted := bob.Do("GET", base(w.muted)+"/state/m.room.power_levels", nil)
	muted["events_default"] = 50
	bob.Do("PUT", base(w.muted)+"/state/m.room.power_levels", muted)
	bob.Do("POST", "/v3/createRoom", obj{"preset": "private_chat", "invite": []string{alice.User}})
	alice.Do("PUT", "/v3/user/"+url.PathEscape(alice.User)+"/account_data/org.x", obj{"x": "data" + ownWord})
	alice.Do("POST", base(w.open)+"/receipt/m.read/"+url.PathEscape(w.ids["image"]), obj{})
	return w
}

// result returns the result of a command.
func result(t *testing.T, s *testserver.Server, name string, args obj) obj {
	t.Helper()
	raw, err := json.Marshal(control(t, s, name, args))
	if err != nil {
		t.Fatal(err)
	}
	return decode(t, raw)
}

func (w *erasing) erase() {
	w.Helper()
	if err := w.s.Erase(w.Context()); err != nil {
		w.Fatal(err)
	}
}

// gone fails the test if something of alice is left, or something of bob is not.
func (w *erasing) gone() {
	w.Helper()
	control(w.T, w.s, "purge now", obj{"all": true})
	for _, word := range []string{ownWord, nameWord} {
		if files := w.s.FilesWith(word); len(files) > 0 {
			w.Errorf("%s is in %v", word, files)
		}
	}
	for of, uri := range w.files {
		if got, want := served(w.bob, uri), of == "room" || of == "forwarded"; got != want {
			w.Errorf("the file of the %s is served: %v, want %v", of, got, want)
		}
	}
	for _, room := range []string{w.open, w.closed, w.left, w.banned, w.muted} {
		_, _, page := w.bob.Raw("GET", base(room)+"/messages?dir=b&limit=100", nil)
		if text := string(page); !strings.Contains(text, otherWord) || strings.Contains(text, ownWord) || strings.Contains(text, nameWord) {
			w.Errorf("%s shows %s", room, page)
		}
		member := w.bob.Do("GET", base(room)+"/state/m.room.member/"+url.PathEscape(w.alice.User), nil)
		want := "leave"
		if room == w.banned {
			if want = "ban"; member["reason"] != otherWord {
				w.Errorf("the reason of the ban is %v", member["reason"])
			}
		}
		if member["membership"] != want || member["displayname"] != nil || member["avatar_url"] != nil {
			w.Errorf("in %s alice is %v", room, member)
		}
	}
	if topic := w.bob.Do("GET", base(w.open)+"/state/m.room.topic", nil)["topic"]; topic != "the topic stays" {
		w.Errorf("the topic is %v", topic)
	}
}

// redactedBefore fails the test if a redaction of alice in a room comes after she has left it.
func (w *erasing) redactedBefore(c *testserver.Client, room string, targets ...string) {
	w.Helper()
	redacted, left := map[string]bool{}, false
	for _, e := range list(c.Do("GET", base(room)+"/messages?dir=f&limit=100", nil), "chunk") {
		switch {
		case get(e, "sender") != w.alice.User:
		case get(e, "type") == "m.room.redaction" && left:
			w.Errorf("a redaction comes after alice has left: %v", e)
		case get(e, "type") == "m.room.redaction":
			redacted[fmt.Sprint(get(e, "content", "redacts"))] = true
		case get(e, "content", "membership") == "leave":
			left = true
		}
	}
	if !left {
		w.Errorf("alice has not left %s", room)
	}
	for _, target := range targets {
		if !redacted[target] {
			w.Errorf("%s has no redaction in %s: %v", target, room, redacted)
		}
	}
}

func TestErasingEverythingLeavesNothingOfTheUserAndEverythingOfOthers(t *testing.T) {
	s := testserver.New(t, nil)
	w := newErasing(t, s, s.Register("alice"), s.Register("bob"))
	for _, word := range []string{ownWord, nameWord} {
		if len(s.FilesWith(word)) == 0 {
			t.Fatalf("%s is nowhere in the first place", word)
		}
	}
	w.alice.Do("POST", "/v3/account/deactivate", obj{"dev.ebb.erase_everything": true, "auth": obj{"type": "m.login.password",
		"identifier": obj{"type": "m.id.user", "user": "alice"}, "password": testserver.Password()}})
	if status, _, _ := w.alice.Raw("GET", "/v3/account/whoami", nil); status != 401 {
		t.Errorf("the session still works: %d", status)
	}
	if e := control(t, s, "user erasure", obj{"user": "alice"}); !strings.Contains(fmt.Sprint(e), "begins") {
		t.Errorf("at the beginning: %+v", e)
	}
	s.Reopen()
	w.erase()
	w.gone()
	w.redactedBefore(w.bob, w.open, w.ids["image"], w.ids["reaction"], w.ids["edit"], w.ids["text in "+w.open])
	w.redactedBefore(w.bob, w.closed, w.ids["encrypted"])
	e := result(t, s, "user erasure", obj{"user": "alice"})
	if e["stage"] != "finished" || e["redacted"].(float64) < 10 || e["removed"].(float64) < 3 || e["media"].(float64) < 2 {
		t.Errorf("at the end: %v", e)
	}
	w.receipt("account data 1", "devices 1", "profile fields 2", "read receipts 1")
	if _, err := s.Control(t.Context(), "user erasure", []byte(`{"user":"bob"}`)); err == nil {
		t.Error("bob has an erasure too")
	}
}

// receipt fails the test unless the newest receipt is one of an erasure, and says that the given data went.
func (w *erasing) receipt(data ...string) {
	w.Helper()
	var note string
	for _, r := range list(result(w.T, w.s, "receipts list", obj{}), "items") {
		if text := get(r, "note").(string); strings.Contains(text, "deleted: everything about an account") {
			note = text
		}
	}
	for _, want := range append(data, "redactions sent: ", "media: ") {
		if !strings.Contains(note, want) {
			w.Errorf("the receipt of the erasure lacks %s: %s", want, note)
		}
	}
	if strings.Contains(note, "alice") {
		w.Errorf("the receipt names the user: %s", note)
	}
}

// A user whose account was closed long ago has left all rooms, so only this server's copies can be removed.
func TestAClosedAccountCanBeErasedLater(t *testing.T) {
	s := testserver.New(t, nil)
	w := newErasing(t, s, s.Register("alice"), s.Register("bob"))
	control(t, s, "user deactivate", obj{"user": "alice"})
	w.erase()
	if len(s.FilesWith(ownWord)) == 0 {
		t.Fatal("closing the account has removed the messages")
	}
	control(t, s, "user erase", obj{"user": "alice", "everything": true})
	w.erase()
	w.gone()
	control(t, s, "user erase", obj{"user": "alice", "everything": true})
	if e := result(t, s, "user erasure", obj{"user": "alice"}); e["redacted"] != 0.0 || e["finished"] == nil {
		t.Errorf("the erasure is %v", e)
	}
}

// In a room that the user has left, nothing is redacted, but this server's copies are removed.
func TestErasingEverythingWaitsForMinLifetime(t *testing.T) {
	s := testserver.New(t, nil)
	w := newErasing(t, s, s.Register("alice"), s.Register("bob"))
	w.bob.Do("PUT", base(w.left)+"/state/m.room.retention", obj{"min_lifetime": (10 * 24 * time.Hour).Milliseconds()})
	control(t, s, "user erase", obj{"user": "alice", "everything": true})
	w.erase()
	control(t, s, "purge now", obj{"all": true})
	if len(s.FilesWith("some text"+ownWord)) == 0 {
		t.Error("a message is gone before its min_lifetime is over")
	}
	if _, _, page := w.bob.Raw("GET", base(w.left)+"/messages?dir=b&limit=100", nil); strings.Contains(string(page), ownWord) {
		t.Errorf("what is only kept is shown: %s", page)
	}
	s.Advance(11 * 24 * time.Hour)
	w.gone()
}

func TestErasingEverythingWaitsForALegalHold(t *testing.T) {
	s := testserver.New(t, nil)
	first, second := admins(t, s)
	w := newErasing(t, s, s.Register("alice"), s.Register("bob"))
	hold := first.Do("POST", holdsPath, obj{"user": w.alice.User, "reason": "case 7", "review": inOneYear(s)})
	files := mediaFiles(t, s)
	control(t, s, "user erase", obj{"user": "alice", "everything": true})
	w.erase()
	control(t, s, "purge now", obj{"all": true})
	for _, word := range []string{ownWord, nameWord} {
		if len(s.FilesWith(word)) == 0 {
			t.Errorf("%s is gone although a hold covers it", word)
		}
	}
	if n := mediaFiles(t, s); n != files {
		t.Errorf("%d files of %d are left although a hold covers them", n, files)
	}
	for _, room := range []string{w.open, w.closed, w.left, w.banned, w.muted} {
		if _, _, page := w.bob.Raw("GET", base(room)+"/messages?dir=b&limit=100", nil); strings.Contains(string(page), ownWord) || strings.Contains(string(page), nameWord) {
			t.Errorf("what is held is shown in %s: %s", room, page)
		}
	}
	if e := result(t, s, "user erasure", obj{"user": "alice"}); e["held"] != true {
		t.Errorf("while it waits: %v", e)
	}
	lift(first, second, hold["id"])
	w.erase()
	w.gone()
}

func TestOtherServersGetTheRedactionsOfAnErasedUser(t *testing.T) {
	net := testserver.Federation(t, 2, nil)
	s := net.Servers[0]
	alice, bob, carol := s.Register("alice"), s.Register("bob"), net.Servers[1].Register("carol")
	alice.Do("PUT", "/v3/profile/"+url.PathEscape(alice.User)+"/displayname", obj{"displayname": nameWord})
	room := bob.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	for _, c := range []*testserver.Client{alice, carol} {
		c.Do("POST", "/v3/join/"+url.PathEscape(room)+"?server_name=hs1.test", obj{})
	}
	w := &erasing{T: t, s: s, alice: alice, bob: bob}
	var sent []string
	for i := range 60 {
		sent = append(sent, w.say(alice, room, fmt.Sprint(i, ownWord)))
	}
	last := fmt.Sprint(59, ownWord)
	carol.Hears(last)
	control(t, s, "user erase", obj{"user": "alice", "everything": true})
	w.erase()
	eventually(t, 30*time.Second, "the other server learns that alice has left", func() bool {
		member := carol.Do("GET", base(room)+"/state/m.room.member/"+url.PathEscape(alice.User), nil)
		return member["membership"] == "leave"
	})
	_, _, page := carol.Raw("GET", base(room)+"/messages?dir=b&limit=1000", nil)
	if strings.Contains(string(page), ownWord) || strings.Contains(string(page), nameWord) || !strings.Contains(string(page), sent[0]) {
		t.Errorf("the other server shows %s", page)
	}
	control(t, net.Servers[1], "purge now", obj{"all": true})
	if files := net.Servers[1].FilesWith(ownWord); len(files) > 0 {
		t.Errorf("the messages are in %v of the other server", files)
	}
}
