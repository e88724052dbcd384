package server_test

import (
	"fmt"
	"net/url"
	"testing"
	"time"

	"ebb/internal/testserver"
)

// threads is a room with the members alice and bob in which threads are started.
type threads struct {
	*testing.T
	*testserver.Server
	alice, bob *testserver.Client
	room       string
	sent       int
}

func newThreads(t *testing.T) *threads {
	s := testserver.New(t, nil)
	h := &threads{T: t, Server: s, alice: s.Register("alice"), bob: s.Register("bob")}
	h.room = h.alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	h.bob.Do("POST", "/v3/join/"+url.PathEscape(h.room), nil)
	return h
}

// says sends a message, to a thread if root is not empty.
func (h *threads) says(c *testserver.Client, root, body string, more obj) string {
	h.Helper()
	h.sent++
	content := obj{"msgtype": "m.text", "body": body, "m.mentions": obj{}}
	if root != "" {
		content["m.relates_to"] = obj{"rel_type": "m.thread", "event_id": root}
	}
	for k, v := range more {
		content[k] = v
	}
	return c.Do("PUT", fmt.Sprintf("/v3/rooms/%s/send/m.room.message/t%d", url.PathEscape(h.room), h.sent), content)["event_id"].(string)
}

func (h *threads) path(root string) string {
	return "/unstable/io.element.msc4306/rooms/" + url.PathEscape(h.room) + "/thread/" + url.PathEscape(root) + "/subscription"
}

const changedThreads = "/unstable/io.element.msc4308/thread_subscriptions?dir=b"

func TestThreadSubscriptionsAreManualOrAutomatic(t *testing.T) {
	h := newThreads(t)
	root := h.says(h.alice, "", "root", nil)
	other := h.says(h.alice, "", "another root", nil)
	reply, elsewhere := h.says(h.alice, root, "reply", nil), h.says(h.alice, other, "reply", nil)
	path := h.path(root)

	h.bob.Refused("GET", path, nil, 404, "M_NOT_FOUND")
	h.bob.Do("DELETE", path, nil)
	h.bob.Refused("PUT", path, obj{"automatic": root}, 400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD")
	h.bob.Refused("PUT", path, obj{"automatic": elsewhere}, 400, "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD")
	h.bob.Refused("PUT", path, obj{"automatic": 5}, 400, "M_BAD_JSON")
	h.bob.Do("PUT", path, obj{"automatic": reply})
	if got := h.bob.Do("GET", path, nil)["automatic"]; got != true {
		t.Errorf("automatic is %v, want true", got)
	}
	h.bob.Do("PUT", path, obj{})
	h.bob.Do("PUT", path, obj{"automatic": reply}) // an automatic subscription does not replace a manual one
	if got := h.bob.Do("GET", path, nil)["automatic"]; got != false {
		t.Errorf("automatic is %v after a manual subscription", got)
	}
	h.alice.Refused("GET", path, nil, 404, "M_NOT_FOUND") // the subscription is another user's

	h.bob.Do("DELETE", path, nil)
	h.bob.Refused("GET", path, nil, 404, "M_NOT_FOUND")
	h.bob.Refused("PUT", path, obj{"automatic": reply}, 409, "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION")
	h.bob.Do("PUT", path, obj{"automatic": h.says(h.alice, root, "later", nil)})

	for _, method := range []string{"GET", "PUT", "DELETE"} {
		var body any
		if method == "PUT" {
			body = obj{}
		}
		h.bob.Refused(method, h.path("$nosuch"), body, 404, "M_NOT_FOUND")
		h.Register("eve"+method).Refused(method, path, body, 404, "M_NOT_FOUND")
	}
}

func TestChangedThreadSubscriptionsAreListedNewestFirst(t *testing.T) {
	h := newThreads(t)
	var roots []string
	for i := range 5 {
		roots = append(roots, h.says(h.alice, "", fmt.Sprint("root ", i), nil))
	}
	since := h.bob.Do("GET", "/v3/sync", nil)["next_batch"].(string)
	for _, root := range roots {
		h.bob.Do("PUT", h.path(root), obj{})
	}
	h.bob.Do("DELETE", h.path(roots[0]), nil) // this becomes the newest change

	list := func(page map[string]any, kind string) map[string]any {
		found, _ := testserver.Get(page, kind, h.room).(map[string]any)
		return found
	}
	page := h.bob.Do("GET", changedThreads+"&limit=2", nil)
	if len(list(page, "subscribed")) != 1 || list(page, "subscribed")[roots[4]] == nil || list(page, "unsubscribed")[roots[0]] == nil {
		t.Fatalf("the first page is %v", page)
	}
	seen := 2
	for page["end"] != nil {
		page = h.bob.Do("GET", changedThreads+"&limit=2&to="+since+"&from="+page["end"].(string), nil)
		seen += len(list(page, "subscribed")) + len(list(page, "unsubscribed"))
	}
	if seen != 5 {
		t.Errorf("%d changes are listed, want 5", seen)
	}
	now := h.bob.Do("GET", "/v3/sync", nil)["next_batch"].(string)
	if page := h.bob.Do("GET", changedThreads+"&to="+now, nil); len(page) != 0 {
		t.Errorf("after the newest token the page has %v, want nothing", page)
	}
	if page := h.alice.Do("GET", changedThreads, nil); len(page) != 0 {
		t.Errorf("another user gets %v, want nothing", page)
	}
	for _, bad := range []string{"?dir=f", "", "?dir=b&limit=0", "?dir=b&limit=x", "?dir=b&from=th1_-1", "?dir=b&to=nonsense", "?dir=b&from=th1_99999999999999999999"} {
		h.bob.Refused("GET", "/unstable/io.element.msc4308/thread_subscriptions"+bad, nil, 400, "M_INVALID_PARAM")
	}
}

func TestThreadSubscriptionsDecideWhoIsNotified(t *testing.T) {
	h := newThreads(t)
	root, other := h.says(h.alice, "", "root", nil), h.says(h.alice, "", "other", nil)
	unread := func(c *testserver.Client, root string) int {
		filter := url.QueryEscape(`{"room":{"timeline":{"unread_thread_notifications":true}}}`)
		n, _ := testserver.Get(c.Do("GET", "/v3/sync?filter="+filter, nil), "rooms", "join", h.room, "unread_thread_notifications", root, "notification_count").(float64)
		return int(n)
	}
	carol := h.Register("carol")
	carol.Do("POST", "/v3/join/"+url.PathEscape(h.room), nil)

	h.says(h.alice, root, "before anybody subscribes", nil)
	if unread(h.bob, root) != 1 || unread(carol, root) != 1 {
		t.Fatal("a thread does not notify users who have never subscribed to one")
	}
	rule := "/v3/pushrules/global/postcontent/.io.element.msc4306.rule.unsubscribed_thread"
	if h.bob.Do("GET", rule, nil)["enabled"] != false {
		t.Error("the rule is enabled before a subscription")
	}
	since := h.bob.Do("GET", "/v3/sync", nil)["next_batch"].(string)
	h.bob.Do("PUT", h.path(root), obj{})
	if h.bob.Do("GET", rule, nil)["enabled"] != true {
		t.Error("the rule is not enabled after a subscription")
	}
	if got := h.bob.Do("GET", "/v3/sync?since="+since, nil)["account_data"]; got == nil {
		t.Error("the changed push rules are not in /sync")
	}
	// bob has muted the room, but the thread to which he is subscribed still notifies him.
	h.bob.Do("PUT", "/v3/pushrules/global/room/"+url.PathEscape(h.room), obj{"actions": []string{}})
	h.says(h.alice, root, "in the thread", nil)
	h.says(h.alice, other, "in another thread", nil)
	h.says(h.alice, other, "with a mention", obj{"m.mentions": obj{"user_ids": []string{h.bob.User}}})
	if got := unread(h.bob, root); got != 2 {
		t.Errorf("bob has %d unread messages in the thread to which he is subscribed, want 2", got)
	}
	if got := unread(h.bob, other); got != 1 {
		t.Errorf("bob has %d unread messages in the thread that mentions him once, want 1", got)
	}
	if unread(carol, root) != 2 || unread(carol, other) != 2 {
		t.Error("bob's subscription changes what carol is notified of")
	}
	h.bob.Do("DELETE", h.path(root), nil)
	h.says(h.alice, root, "after he unsubscribed", nil)
	if got := unread(h.bob, root); got != 2 {
		t.Errorf("after bob unsubscribed he has %d unread messages, want 2 as before", got)
	}
	h.bob.Refused("PUT", "/v3/pushrules/global/postcontent/own", obj{"actions": []string{}, "conditions": []obj{}}, 400, "M_INVALID_PARAM")
}

func TestSubscriptionsAreDeletedWithAnExpiredThread(t *testing.T) {
	h := newThreads(t)
	h.alice.Do("PUT", "/v3/rooms/"+url.PathEscape(h.room)+"/state/m.room.retention", obj{"max_lifetime": 60_000})
	root := h.says(h.alice, "", "root", nil)
	h.bob.Do("PUT", h.path(root), obj{})
	h.Advance(time.Minute + time.Second)
	h.bob.Refused("GET", h.path(root), nil, 404, "M_NOT_FOUND")
	h.says(h.alice, "", "a later message", nil) // makes the root expendable: it is no longer a forward extremity
	if _, err := h.Control(t.Context(), "purge now", nil); err != nil {
		t.Fatal(err)
	}
	if page := h.bob.Do("GET", changedThreads, nil); len(page) != 0 {
		t.Errorf("after the purge the changes are %v, want none", page)
	}
}
