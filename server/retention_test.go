package server_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

// reads returns the paths of all requests that return events of a room.
func reads(room, event, root string) []string {
	r, e := url.PathEscape(room), url.PathEscape(event)
	base := "/v3/rooms/" + r
	return []string{
		"/v3/sync", "/v3/sync?full_state=true", base + "/messages?dir=b&limit=100", base + "/messages?dir=f&limit=100", base + "/context/" + e, base + "/event/" + e,
		"/v1/rooms/" + r + "/relations/" + url.PathEscape(root), "/v1/rooms/" + r + "/relations/" + e, "/v1/rooms/" + r + "/threads",
		"/v1/rooms/" + r + "/timestamp_to_event?dir=f&ts=0", base + "/state", base + "/members", base + "/context/" + url.PathEscape(root),
	}
}

func TestExpiredMessagesAreGoneFromEveryAnswerAndFromDisk(t *testing.T) {
	const marker = "tidewater-7713"
	s := testserver.New(t, nil)
	alice, bob := s.Register("alice"), s.Register("bob")
	room := alice.Do("POST", "/v3/createRoom", map[string]any{"preset": "private_chat", "invite": []string{bob.User}})["room_id"].(string)
	base := "/v3/rooms/" + url.PathEscape(room)
	bob.Do("POST", base+"/join", nil)
	alice.Do("PUT", base+"/state/m.room.retention", map[string]any{"max_lifetime": 60_000})

	n := 0
	send := func(content map[string]any) string {
		n++
		return alice.Do("PUT", fmt.Sprint(base, "/send/m.room.message/", n), content)["event_id"].(string)
	}
	root := send(map[string]any{"msgtype": "m.text", "body": marker + " root"})
	reply := send(map[string]any{"msgtype": "m.text", "body": marker + " reply", "m.mentions": map[string]any{"user_ids": []string{bob.User}},
		"m.relates_to": map[string]any{"rel_type": "m.thread", "event_id": root}})
	unread := func() (notify, highlight float64) {
		counts := testserver.Get(bob.Do("GET", "/v3/sync", nil), "rooms", "join", room, "unread_notifications")
		notify, _ = testserver.Get(counts, "notification_count").(float64)
		highlight, _ = testserver.Get(counts, "highlight_count").(float64)
		return notify, highlight
	}
	if notify, highlight := unread(); notify != 2 || highlight != 1 {
		t.Fatalf("unread counts before expiry: %v, %v", notify, highlight)
	}
	seen := 0
	for _, path := range reads(room, reply, root) {
		if _, _, raw := bob.Raw("GET", path, nil); strings.Contains(string(raw), marker) {
			seen++
		}
	}
	if seen < 7 || len(s.FilesWith(marker)) == 0 {
		t.Fatalf("before expiry %d answers show the marker, files %v: the search proves nothing", seen, s.FilesWith(marker))
	}

	s.Advance(time.Minute + time.Second)
	for _, path := range reads(room, reply, root) {
		for _, c := range []*testserver.Client{alice, bob} {
			status, _, raw := c.Raw("GET", path, nil)
			if text := string(raw); status >= 500 || strings.Contains(text, marker) || strings.Contains(text, root) || strings.Contains(text, reply) {
				t.Errorf("after expiry %s gives %d %s", path, status, raw)
			}
		}
	}
	if notify, highlight := unread(); notify != 0 || highlight != 0 {
		t.Errorf("unread counts after expiry: %v, %v", notify, highlight)
	}

	if _, err := s.Control(t.Context(), "purge now", nil); err != nil {
		t.Fatal(err)
	}
	if files := s.FilesWith(marker); len(files) != 0 {
		t.Errorf("after the purge %v hold the marker", files)
	}
	for _, path := range reads(room, reply, root) {
		if status, _, raw := bob.Raw("GET", path, nil); status >= 500 || strings.Contains(string(raw), reply) {
			t.Errorf("after the purge %s gives %d %s", path, status, raw)
		}
	}
	send(map[string]any{"msgtype": "m.text", "body": "the room goes on"})
	if notify, _ := unread(); notify != 1 {
		t.Errorf("unread count of a new message: %v", notify)
	}
}

func TestRetentionConfigurationIsReturned(t *testing.T) {
	day, hour := config.Duration(24*time.Hour), config.Duration(time.Hour)
	s := testserver.New(t, func(c *config.Config) {
		c.Retention.Default.MaxLifetime = &day
		c.Retention.Limits.MaxLifetime.Min = &hour
	})
	alice := s.Register("alice")
	room := alice.Do("POST", "/v3/createRoom", nil)["room_id"].(string)
	if _, err := s.Control(t.Context(), "room retention set", fmt.Appendf(nil, `{"room":%q,"max_lifetime_ms":7200000}`, room)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v3/retention/configuration", "/unstable/org.matrix.msc1763/retention/configuration"} {
		answer := alice.Do("GET", path, nil)
		if got := testserver.Get(answer, "policies", "*", "max_lifetime"); got != 86_400_000.0 {
			t.Errorf("%s: default %v", path, got)
		}
		if got := testserver.Get(answer, "policies", room, "max_lifetime"); got != 7_200_000.0 {
			t.Errorf("%s: override %v", path, got)
		}
		if got := testserver.Get(answer, "limits", "max_lifetime", "min"); got != 3_600_000.0 {
			t.Errorf("%s: limit %v", path, got)
		}
	}
	alice.Refused("PUT", "/v3/rooms/"+url.PathEscape(room)+"/state/m.room.retention", map[string]any{"max_lifetime": "soon"}, 400, "M_BAD_JSON")
}
