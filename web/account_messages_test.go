package web_test

import (
	"strings"
	"testing"
	"time"

	"ebb/internal/testserver"
)

func TestUsersHaveOldMessagesDeletedOnTheAccountPage(t *testing.T) {
	l := newLab(t)
	alice := l.Login("alice")
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	alice.Do("PUT", "/v3/rooms/"+room+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "an old message"})
	l.Advance(31 * 24 * time.Hour)
	b, page := l.own(accountPage + "/messages")
	page.has("Your messages are not deleted because of their age.")
	for _, days := range []string{"", "0", "-1", "3651", "many", "1.5"} {
		if r := b.submit(page, "step", "set", "days", days); r.status != 400 || !strings.Contains(r.body, "between 1 and 3650") {
			t.Errorf("%q days: %d %s", days, r.status, r.body)
		}
	}
	page = b.send(page, "step", "set", "days", "30")
	page.has("The setting is saved", "Your messages are deleted after 30 days.", `value="30"`)
	if err := l.Erase(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, history := alice.Raw("GET", "/v3/rooms/"+room+"/messages?dir=b", nil); strings.Contains(string(history), "an old message") {
		t.Errorf("the message is still there: %s", history)
	}
	page = b.get(accountPage + "/messages")
	page.has("Messages that were deleted on", ": 1.")

	alice.Do("PUT", "/_matrix/client/unstable/dev.ebb.message_lifetime/rooms/"+room, obj{"max_lifetime": 24 * time.Hour.Milliseconds(), "auth": obj{
		"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "alice"}, "password": testserver.Password()}})
	page = b.get(accountPage + "/messages")
	page.has("Rooms with another time", ": 1 day")
	page = b.send(page, "step", "drop", "room", room)
	if strings.Contains(page.body, room) {
		t.Errorf("the room is still listed: %s", page.body)
	}
	page = b.send(page, "step", "drop")
	page.has("The setting is removed", "Your messages are not deleted because of their age.")

	l.Advance(11 * time.Minute)
	if r := b.get(accountPage + "/messages"); !r.shows("password") {
		t.Errorf("the page needs no recent sign-in: %d %s", r.status, r.body)
	}
	if r := b.get(accountPage + "?action=dev.ebb.message_lifetime"); r.header.Get("Location") != accountPage+"/messages" {
		t.Errorf("the action leads to %q", r.header.Get("Location"))
	}
}
