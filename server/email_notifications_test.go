package server_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

// emailPusher returns the body of a request that sets a pusher for e-mails about unread messages.
func emailPusher(address string) obj {
	return obj{
		"kind": "email", "app_id": "m.email", "pushkey": address, "app_display_name": "Email Notifications", "device_display_name": address, "lang": "en",
		"data": obj{"brand": "Element"},
	}
}

// message sends a message to a room and returns its event ID.
func message(c *testserver.Client, room, body string) string {
	path := fmt.Sprintf("/v3/rooms/%s/send/m.room.message/%d", room, time.Now().UnixNano())
	return c.Do("PUT", path, obj{"msgtype": "m.text", "body": body})["event_id"].(string)
}

func TestUnreadMessagesAreSentByEmailInOneDigest(t *testing.T) {
	p := newPostal(t, func(c *config.Config) { c.Push.Email = true })
	p.Notify()
	alice, bob := p.Register("alice"), p.Register("bob")
	open := func(body obj) string {
		body["invite"] = []string{alice.User}
		room := bob.Do("POST", "/v3/createRoom", body)["room_id"].(string)
		alice.Do("POST", "/v3/rooms/"+room+"/join", obj{})
		return room
	}
	named, read := open(obj{"name": "Tea & <b>cake</b>"}), open(obj{"name": "Read"})
	expiring := open(obj{"name": "Fleeting", "initial_state": []obj{{"type": "m.room.retention", "state_key": "", "content": obj{"max_lifetime": 60_000}}}})
	p.add(alice, "alice@example.org")
	alice.Do("POST", "/v3/pushers/set", emailPusher("alice@example.org"))

	message(bob, named, "Are you\r\ncoming?")
	message(bob, named, "There is <i>cake</i>")
	message(bob, expiring, "expired by then")
	seen := message(bob, read, "read by then")
	p.Advance(5 * time.Minute) // the time that users are given to read
	alice.Do("POST", "/v3/rooms/"+read+"/receipt/m.read/"+seen, obj{})
	p.Advance(6 * time.Minute)
	m := p.sink.Next()
	if m.To != "alice@example.org" || m.Subject != "2 unread messages in Tea & <b>cake</b>" {
		t.Errorf("to %s: %s", m.To, m.Subject)
	}
	for _, want := range []string{"bob: Are you coming?", "bob: There is <i>cake</i>", "turn off e-mail notifications"} {
		if !strings.Contains(m.Text, want) {
			t.Errorf("%q is not in the text\n%s", want, m.Text)
		}
	}
	for _, want := range []string{"Tea &amp; &lt;b&gt;cake&lt;/b&gt;", "There is &lt;i&gt;cake&lt;/i&gt;"} {
		if !strings.Contains(m.HTML, want) {
			t.Errorf("%q is not in the HTML\n%s", want, m.HTML)
		}
	}
	for _, hidden := range []string{"expired by then", "read by then", "Fleeting"} {
		if strings.Contains(m.Raw, hidden) {
			t.Errorf("%q is in the e-mail\n%s", hidden, m.Raw)
		}
	}

	message(bob, named, "a third")
	p.Advance(time.Hour) // the interval between two e-mails
	message(bob, named, "a fourth")
	p.Advance(12 * time.Hour)
	if m := p.sink.Next(); m.Subject != "2 unread messages in Tea & <b>cake</b>" || !strings.Contains(m.Text, "a third") || strings.Contains(m.Text, "Are you") {
		t.Errorf("the second e-mail: %s\n%s", m.Subject, m.Text)
	}
	if n := p.sink.Count(); n > 0 {
		t.Errorf("%d more e-mails", n)
	}
}

func TestEmailsOnlyCountMessagesIfGatewaysGetOnlyIDs(t *testing.T) {
	p := newPostal(t, func(c *config.Config) { c.Push.Email, c.Push.EventIDOnly = true, true })
	p.Notify()
	alice, bob, carol := p.Register("alice"), p.Register("bob"), p.Register("carol")
	bob.Do("PUT", "/v3/profile/"+bob.User+"/displayname", obj{"displayname": "Robert"})
	open := func(body obj, joining ...*testserver.Client) string {
		room := bob.Do("POST", "/v3/createRoom", body)["room_id"].(string)
		for _, c := range joining {
			bob.Do("POST", "/v3/rooms/"+room+"/invite", obj{"user_id": c.User})
			c.Do("POST", "/v3/rooms/"+room+"/join", obj{})
		}
		return room
	}
	team, nameless := open(obj{"name": "Tea <b>team</b>"}, alice, carol), open(obj{}, alice, carol)
	direct, named := open(obj{"is_direct": true}, alice), open(obj{"name": "Surgery"}, alice)
	p.add(alice, "alice@example.org")
	alice.Do("POST", "/v3/pushers/set", emailPusher("alice@example.org"))

	message(bob, team, "the text in the team")
	message(bob, team, "more text")
	message(bob, nameless, "another text")
	message(bob, direct, "a private text")
	message(bob, named, "an intimate text")
	p.Advance(11 * time.Minute)
	m := p.sink.Next()
	if m.Subject != "5 unread messages on "+p.Name() {
		t.Errorf("the subject is %q", m.Subject)
	}
	for _, want := range []string{"Tea <b>team</b>: 2 unread messages", "A room without a name: 1 unread message", "Direct conversations: 2 unread messages"} {
		if !strings.Contains(m.Text, want) {
			t.Errorf("%q is not in the text\n%s", want, m.Text)
		}
	}
	for _, hidden := range []string{"text in", "more text", "another text", "private", "intimate", "Robert", "bob", "Surgery"} {
		if strings.Contains(m.Subject+m.Text+m.HTML, hidden) {
			t.Errorf("%q is in the e-mail\n%s\n%s\n%s", hidden, m.Subject, m.Text, m.HTML)
		}
	}
}

func TestEmailsGoOnlyToAddressesOfTheAccount(t *testing.T) {
	p := newPostal(t, func(c *config.Config) { c.Push.Email = true })
	p.Notify()
	alice, bob := p.Register("alice"), p.Register("bob")
	room := bob.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	alice.Do("POST", "/v3/rooms/"+room+"/join", obj{})
	p.add(bob, "bob@example.org")
	for _, address := range []string{"bob@example.org", "nobody@example.org", "no address"} {
		alice.Refused("POST", "/v3/pushers/set", emailPusher(address), 400, "M_THREEPID_NOT_FOUND")
	}
	wrong := emailPusher("alice@example.org")
	wrong["app_id"] = "org.example.app"
	alice.Refused("POST", "/v3/pushers/set", wrong, 400, "M_INVALID_PARAM")
	p.add(alice, "alice@example.org")
	p.add(alice, "second@example.org")
	alice.Do("POST", "/v3/pushers/set", emailPusher("alice@example.org"))
	alice.Do("POST", "/v3/pushers/set", emailPusher("second@example.org"))
	alice.Do("POST", "/v3/account/3pid/delete", obj{"medium": "email", "address": "alice@example.org"})
	message(bob, room, "hello")
	p.Advance(time.Hour)
	if m := p.sink.Next(); m.To != "second@example.org" {
		t.Errorf("an e-mail to %s", m.To)
	}
}

func TestEmailPushersAreRefusedWithoutEmailNotifications(t *testing.T) {
	p := newPostal(t, nil)
	alice := p.Register("alice")
	p.add(alice, "alice@example.org")
	alice.Refused("POST", "/v3/pushers/set", emailPusher("alice@example.org"), 400, "M_INVALID_PARAM")
}
