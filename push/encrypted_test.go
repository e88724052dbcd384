package push_test

import (
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

// sendEncrypted sends an encrypted event and returns its ID.
func sendEncrypted(c *testserver.Client, room, txn string) string {
	content := object{"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"}
	return c.Do("PUT", "/v3/rooms/"+room+"/send/m.room.encrypted/"+txn, content)["event_id"].(string)
}

func TestAllEncryptedEventsNotifyIfConfigured(t *testing.T) {
	for _, all := range []bool{true, false} {
		l := newLab(t, func(cfg *config.Config) { cfg.Push.AllEncrypted = all })
		g := newGateway(t, nil)
		alice, bob := l.Register("alice"), l.Register("bob")
		mentionsOnly, muted, marker := room(bob, nil, alice), room(bob, nil, alice), room(bob, nil, alice)
		alice.Do("PUT", "/v3/pushrules/global/room/"+mentionsOnly, object{"actions": []any{}})
		alice.Do("PUT", "/v3/pushrules/global/override/"+muted, object{
			"actions": []any{}, "conditions": []object{{"kind": "event_match", "key": "room_id", "pattern": muted}},
		})
		set(alice, g.pusher("key", nil))
		quiet := sendEncrypted(bob, mentionsOnly, "1")
		sendEncrypted(bob, muted, "2")
		last := say(bob, marker, "the end", nil)
		want := []string{last}
		if all {
			want = []string{quiet, last}
		}
		for _, id := range want {
			if n := g.event(); n.EventID != id {
				t.Errorf("all_encrypted %v: notified of %+v, want %s", all, n, id)
			}
		}
		if flag := testserver.Get(l.Anonymous().Do("GET", "/versions", nil), "unstable_features", "org.matrix.msc4028"); flag != all {
			t.Errorf("all_encrypted %v: the flag is %v", all, flag)
		}
		rule, _, _ := alice.Raw("GET", "/v3/pushrules/global/override/.org.matrix.msc4028.encrypted_event", nil)
		if (rule == 200) != all {
			t.Errorf("all_encrypted %v: the rule has status %d", all, rule)
		}
	}
}
