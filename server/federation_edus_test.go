package server_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/config"
	"ebb/fedclient"
	"ebb/internal/testserver"
)

// The tests in this file check between two servers what clients depend on apart from events: keys, to-device messages,
// receipts, typing and presence.

// shared is two servers with one user each, who share a room.
type shared struct {
	*testserver.Network
	t          *testing.T
	alice, bob *device // registered on the first and on the second server
	room       string
}

func newShared(t *testing.T, change func(i int, cfg *config.Config)) *shared {
	t.Helper()
	s := &shared{Network: testserver.Federation(t, 2, change), t: t}
	s.alice, s.bob = signUp(t, s.Servers[0], "alice"), signUp(t, s.Servers[1], "bob")
	s.alice.sync()
	s.bob.sync()
	s.room = s.alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	s.bob.joins(s.room, s.Name(0))
	s.alice.until("the join of bob", func(a obj) bool {
		return slices.Contains(each(list(a, "rooms", "join", s.room, "timeline", "events"), "state_key"), any(s.bob.User))
	})
	return s
}

func (d *device) joins(room, via string) {
	d.t.Helper()
	d.Do("POST", "/v3/join/"+room+"?server_name="+via+"&via="+via, obj{})
}

// until syncs until good accepts the response.
func (d *device) until(what string, good func(answer obj) bool, params ...string) obj {
	d.t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if a := d.sync(append([]string{"timeout", "1000"}, params...)...); good(a) {
			return a
		}
	}
	d.t.Fatalf("%s: the news did not reach %s in time", what, d.User)
	return nil
}

// changed syncs until user is among the changed device lists.
func (d *device) changed(why, user string) {
	d.t.Helper()
	d.until(why, func(a obj) bool { return slices.Contains(list(a, "device_lists", "changed"), any(user)) })
}

func (d *device) uploadKeys(extra string) {
	d.t.Helper()
	d.Do("POST", "/v3/keys/upload", obj{"device_keys": obj{
		"user_id": d.User, "device_id": d.DeviceID, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
		"keys": obj{"ed25519:" + d.DeviceID: "A"}, "signatures": obj{}, "org.example.extra": extra,
	}})
}

// keysOf queries the devices of a user.
func (d *device) keysOf(user string) obj {
	d.t.Helper()
	return d.Do("POST", "/v3/keys/query", obj{"device_keys": obj{user: []string{}}})
}

// sees queries the keys of a user until good accepts them. One query is not enough: several changes may be announced
// together.
func (d *device) sees(user, what string, good func(keys obj) bool) {
	d.t.Helper()
	keys := d.keysOf(user)
	for end := time.Now().Add(20 * time.Second); !good(keys); keys = d.keysOf(user) {
		if time.Now().After(end) {
			d.t.Fatalf("%s of %s did not arrive in time: %v", what, user, keys)
		}
		d.sync("timeout", "500")
	}
}

func (d *device) login(s *testserver.Server) *device {
	d.t.Helper()
	return &device{Client: s.Login(d.User), t: d.t}
}

func TestKeysAcrossServers(t *testing.T) {
	s := newShared(t, nil)
	s.bob.uploadKeys("kept")
	s.alice.changed("keys of bob", s.bob.User)
	s.alice.sees(s.bob.User, "device", func(keys obj) bool {
		return get(keys, "device_keys", s.bob.User, s.bob.DeviceID, "org.example.extra") == "kept"
	})
	s.bob.Do("POST", "/v3/keys/upload", obj{"one_time_keys": obj{"signed_curve25519:A": obj{"key": "k", "signatures": obj{}}}})
	claim := obj{"one_time_keys": obj{s.bob.User: obj{s.bob.DeviceID: "signed_curve25519"}}}
	if got := s.alice.Do("POST", "/v3/keys/claim", claim); get(got, "one_time_keys", s.bob.User, s.bob.DeviceID, "signed_curve25519:A", "key") != "k" {
		t.Errorf("the claimed key is %v", got)
	}
	if got := s.alice.Do("POST", "/v3/keys/claim", claim); get(got, "one_time_keys", s.bob.User) != nil {
		t.Errorf("the same one-time key was claimed twice: %v", got)
	}
	s.bob.until("the count of keys", func(a obj) bool { return get(a, "device_one_time_keys_count", "signed_curve25519") == 0.0 })

	s.bob.Do("POST", "/v3/keys/device_signing/upload", crossSigningKeys(t, s.bob.User))
	s.alice.changed("cross-signing keys of bob", s.bob.User)
	s.alice.sees(s.bob.User, "cross-signing keys", func(keys obj) bool {
		return get(keys, "master_keys", s.bob.User) != nil && get(keys, "self_signing_keys", s.bob.User) != nil && get(keys, "user_signing_keys", s.bob.User) == nil
	})
	s.Cut(s.Name(0), s.Name(1))
	keys := s.alice.keysOf(s.bob.User)
	if get(keys, "device_keys", s.bob.User, s.bob.DeviceID) == nil || len(keys["failures"].(obj)) != 0 {
		t.Errorf("while the other server is unreachable, the cached keys are not returned: %v", keys)
	}
	if keys = s.alice.keysOf("@carol:" + s.Name(1)); get(keys, "failures", s.Name(1)) == nil {
		t.Errorf("a server that is unreachable is not among the failures: %v", keys)
	}
}

func TestDeviceListsAcrossServers(t *testing.T) {
	s := newShared(t, nil)
	s.bob.until("each other's keys", func(a obj) bool { // bob's client needs its own user's keys for that user's other devices
		changed := list(a, "device_lists", "changed")
		return slices.Contains(changed, any(s.alice.User)) && slices.Contains(changed, any(s.bob.User))
	})
	s.bob.uploadKeys("first")
	s.alice.changed("keys", s.bob.User)
	devices := func(want ...*device) {
		t.Helper()
		s.alice.sees(s.bob.User, "devices", func(keys obj) bool {
			found, _ := get(keys, "device_keys", s.bob.User).(obj)
			for _, d := range want {
				if found[d.DeviceID] == nil {
					return false
				}
			}
			return len(found) == len(want)
		})
	}
	devices(s.bob)
	second := s.bob.login(s.Servers[1])
	s.alice.changed("a sign-in", s.bob.User)
	second.uploadKeys("second")
	s.alice.changed("keys of another device", s.bob.User)
	devices(s.bob, second)
	s.Cut(s.Name(0), s.Name(1))
	second.Do("POST", "/v3/logout", nil)
	third := s.bob.login(s.Servers[1])
	third.uploadKeys("third")
	s.Heal()
	s.Servers[0].Heard(s.Name(1))
	s.Servers[1].Heard(s.Name(0))
	s.alice.changed("what happened in an outage", s.bob.User)
	devices(s.bob, third)
	s.bob.Do("POST", "/v3/rooms/"+s.room+"/leave", obj{})
	s.alice.until("that no room is shared", func(a obj) bool { return slices.Contains(list(a, "device_lists", "left"), any(s.bob.User)) })
	s.bob.uploadKeys("changed while apart")
	s.bob.joins(s.room, s.Name(0))
	s.alice.changed("a room that is newly shared", s.bob.User)
	s.alice.sees(s.bob.User, "keys that changed while no room was shared", func(keys obj) bool {
		return get(keys, "device_keys", s.bob.User, s.bob.DeviceID, "org.example.extra") == "changed while apart"
	})
	s.bob.changed("the same for who joined", s.alice.User)
}

func TestDeviceMessagesAcrossServersArriveInOrderAlsoAfterAnOutage(t *testing.T) {
	s := newShared(t, nil)
	send := func(txn string, n int) {
		t.Helper()
		s.alice.Do("PUT", "/v3/sendToDevice/m.test/"+txn, obj{"messages": obj{s.bob.User: obj{"*": obj{"n": n}}, "@nobody:" + s.Name(1): obj{"*": obj{}}}})
	}
	send("1", 1)
	s.Cut(s.Name(0), s.Name(1))
	send("2", 2)
	send("2", 2) // a client that repeats a request
	send("3", 3)
	s.Heal()
	s.Servers[0].Heard(s.Name(1))
	s.Servers[1].Heard(s.Name(0))
	send("4", 4)
	var got []any
	s.bob.until("messages", func(a obj) bool {
		for _, m := range list(a, "to_device", "events") {
			if get(m, "type") != "m.test" || get(m, "sender") != s.alice.User {
				t.Errorf("the to-device message is %v", m)
			}
		}
		got = append(got, each(list(a, "to_device", "events"), "content", "n")...)
		return len(got) >= 4
	})
	if !slices.Equal(got, []any{1.0, 2.0, 3.0, 4.0}) {
		t.Errorf("the messages are %v, want 1 to 4 in order", got)
	}
}

func toJSON(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// ephemeral returns the ephemeral event of a type in the room.
func (s *shared) ephemeral(a obj, typ string) obj {
	for _, e := range list(a, "rooms", "join", s.room, "ephemeral", "events") {
		if get(e, "type") == typ {
			content, _ := get(e, "content").(obj)
			return content
		}
	}
	return nil
}

func TestPrivateReceiptsAreNotSentToOtherServers(t *testing.T) {
	s := newShared(t, nil)
	put := func(txn string) string {
		t.Helper()
		event, _ := s.alice.Do("PUT", "/v3/rooms/"+s.room+"/send/m.room.message/"+txn, obj{"body": txn, "msgtype": "m.text"})["event_id"].(string)
		s.bob.until("the message", func(a obj) bool {
			return slices.Contains(each(list(a, "rooms", "join", s.room, "timeline", "events"), "event_id"), any(event))
		})
		return event
	}
	first, second := put("1"), put("2")
	s.bob.Do("POST", "/v3/rooms/"+s.room+"/receipt/m.read.private/"+second, obj{})
	s.bob.Do("POST", "/v3/rooms/"+s.room+"/receipt/m.read/"+first, obj{"thread_id": "main"})
	s.alice.until("a receipt", func(a obj) bool {
		content := s.ephemeral(a, "m.receipt")
		if strings.Contains(toJSON(t, content), "m.read.private") || content[second] != nil {
			t.Errorf("a private receipt was sent to another server: %v", content)
		}
		return get(content, first, "m.read", s.bob.User, "thread_id") == "main"
	})
}

func TestTypingAcrossServersTimesOut(t *testing.T) {
	s := newShared(t, nil)
	typing := func(want ...any) {
		t.Helper()
		s.alice.until("typing", func(a obj) bool {
			content := s.ephemeral(a, "m.typing")
			return content != nil && slices.Equal(list(content, "user_ids"), want)
		})
	}
	path := "/v3/rooms/" + s.room + "/typing/" + s.bob.User
	s.bob.Do("PUT", path, obj{"typing": true, "timeout": 30000})
	typing(any(s.bob.User))
	s.bob.Do("PUT", path, obj{"typing": false})
	typing()
	s.bob.Do("PUT", path, obj{"typing": true, "timeout": 30000})
	typing(any(s.bob.User))
	s.Servers[1].Advance(31 * time.Second) // as if the client had gone away
	typing()
	s.bob.Do("PUT", path, obj{"typing": true, "timeout": 30000})
	typing(any(s.bob.User))
	s.Cut(s.Name(0), s.Name(1))
	s.Servers[0].Advance(2 * time.Minute) // as if the server had gone away
	typing()
}

func TestPresenceAcrossServers(t *testing.T) {
	s := newShared(t, nil)
	told := func(state, status string) {
		t.Helper()
		s.alice.until("presence", func(a obj) bool {
			for _, e := range list(a, "presence", "events") {
				if get(e, "sender") == s.bob.User && get(e, "content", "presence") == state && (status == "" || get(e, "content", "status_msg") == status) {
					return true
				}
			}
			return false
		})
	}
	path := "/v3/presence/" + s.bob.User + "/status"
	s.bob.Do("PUT", path, obj{"presence": "online", "status_msg": "hello"})
	told("online", "hello")
	if got := s.alice.Do("GET", path, nil); got["presence"] != "online" || got["status_msg"] != "hello" {
		t.Errorf("alice gets bob's presence as %v, want online with his status", got)
	}
	if first := s.alice.again(); !strings.Contains(toJSON(t, first["presence"]), s.bob.User) {
		t.Errorf("a first sync has the presence %v, want bob's", first["presence"])
	}
	s.bob.Do("PUT", path, obj{"presence": "unavailable"})
	told("unavailable", "")
	s.Cut(s.Name(0), s.Name(1))
	s.Servers[0].Advance(31 * time.Minute)
	told("offline", "")
	stranger := signUp(t, s.Servers[0], "stranger")
	stranger.Refused("GET", path, nil, 403, "M_FORBIDDEN")
}

// A server sends presence when it changes and every 25 minutes. In a room that was just joined, it must be visible
// before that.
func TestPresenceIsShownInARoomThatWasJustJoined(t *testing.T) {
	for _, early := range []bool{false, true} { // whether the presence arrives before the join
		s := &shared{Network: testserver.Federation(t, 2, nil), t: t}
		s.alice, s.bob = signUp(t, s.Servers[0], "alice"), signUp(t, s.Servers[1], "bob")
		for _, d := range []*device{s.alice, s.bob} {
			d.Do("PUT", "/v3/presence/"+d.User+"/status", obj{"presence": "online", "status_msg": "since long ago"})
			d.sync()
		}
		s.room = s.alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
		if early {
			push := obj{"user_id": s.alice.User, "presence": "online", "status_msg": "since long ago", "last_active_ago": 5}
			raw := json.RawMessage(toJSON(t, obj{"edu_type": "m.presence", "content": obj{"push": []any{push}}}))
			if _, err := s.Servers[0].Remote().SendTransaction(t.Context(), s.Name(1), "early", nil, []json.RawMessage{raw}); err != nil {
				t.Fatal(err)
			}
			s.alice.Do("PUT", "/v3/presence/"+s.alice.User+"/status", obj{"presence": "offline"})
			s.Servers[0].Advance(time.Second)
		}
		s.bob.joins(s.room, s.Name(0))
		shown := func(to, of *device) {
			t.Helper()
			to.until("presence", func(a obj) bool {
				return slices.ContainsFunc(list(a, "presence", "events"), func(e any) bool {
					return get(e, "sender") == of.User && get(e, "content", "status_msg") == "since long ago"
				})
			})
		}
		shown(s.bob, s.alice)
		shown(s.alice, s.bob)
	}
}

func TestPresenceIsNotSentToOtherServersIfSwitchedOff(t *testing.T) {
	s := newShared(t, func(i int, cfg *config.Config) { cfg.Federation.Presence = i == 0 })
	s.bob.Do("PUT", "/v3/presence/"+s.bob.User+"/status", obj{"presence": "online", "status_msg": "at home"})
	s.alice.Do("PUT", "/v3/presence/"+s.alice.User+"/status", obj{"presence": "online", "status_msg": "to all"})
	event, _ := s.bob.Do("PUT", "/v3/rooms/"+s.room+"/send/m.room.message/1", obj{"body": "x", "msgtype": "m.text"})["event_id"].(string)
	s.Servers[1].Advance(time.Second)
	s.alice.until("the message", func(a obj) bool {
		if strings.Contains(toJSON(t, a["presence"]), "at home") {
			t.Errorf("alice gets the presence %v, although bob's server sends none", a["presence"])
		}
		return slices.Contains(each(list(a, "rooms", "join", s.room, "timeline", "events"), "event_id"), any(event))
	})
	if got := s.bob.Do("GET", "/v3/presence/"+s.alice.User+"/status", nil); got["presence"] != "offline" {
		t.Errorf("bob gets the presence %v, want offline: his server ignores that of others", got)
	}
}

func TestForgedEphemeralDataIsIgnored(t *testing.T) {
	s := &shared{Network: testserver.Federation(t, 3, nil), t: t}
	s.alice, s.bob = signUp(t, s.Servers[0], "alice"), signUp(t, s.Servers[1], "bob")
	eve, outside := signUp(t, s.Servers[2], "eve"), signUp(t, s.Servers[1], "outside")
	s.room = s.alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	s.bob.joins(s.room, s.Name(0))
	event, _ := s.alice.Do("PUT", "/v3/rooms/"+s.room+"/send/m.room.message/1", obj{"body": "x", "msgtype": "m.text"})["event_id"].(string)
	s.alice.sync()

	txn := 0
	send := func(from int, typ string, content any) {
		t.Helper()
		txn++
		raw := json.RawMessage(toJSON(t, obj{"edu_type": typ, "content": content}))
		if _, err := s.Servers[from].Remote().SendTransaction(t.Context(), s.Name(0), fmt.Sprint("forged", txn), nil, []json.RawMessage{raw}); err != nil {
			t.Fatalf("%s: %v", raw, err)
		}
	}
	typing := func(from int, user string) {
		send(from, "m.typing", obj{"room_id": s.room, "user_id": user, "typing": true})
	}
	receipt := func(from int, user, event string, data obj) {
		send(from, "m.receipt", obj{s.room: obj{"m.read": obj{user: obj{"event_ids": []string{event}, "data": data}}}})
	}
	presence := func(from int, user string) {
		send(from, "m.presence", obj{"push": []obj{{"user_id": user, "presence": "online", "last_active_ago": 1, "status_msg": "forged"}}})
	}
	for _, forged := range []struct {
		from int
		user string
	}{{1, s.alice.User}, {1, eve.User}, {2, s.bob.User}, {2, eve.User}, {1, outside.User}, {1, "@nobody:" + s.Name(1)}, {1, "no user"}} {
		typing(forged.from, forged.user)
		receipt(forged.from, forged.user, event, obj{"ts": 1})
		presence(forged.from, forged.user)
	}
	receipt(1, s.bob.User, "$unknown", obj{"ts": 1})
	receipt(1, s.bob.User, event, obj{"ts": 1, "thread_id": "$unknown"})
	receipt(1, s.bob.User, event, obj{"ts": "soon"})
	send(1, "m.receipt", obj{s.room: obj{"m.read.private": obj{s.bob.User: obj{"event_ids": []string{event}, "data": obj{"ts": 1}}}}})
	for _, typ := range []string{"m.typing", "m.receipt", "m.presence", "m.device_list_update", "m.signing_key_update", "m.direct_to_device", "org.example"} {
		for _, content := range []any{obj{}, obj{"room_id": 5, "user_id": obj{}}, obj{"push": 5}, obj{s.room: 5}, obj{s.room: obj{"m.read": []int{1}}}, obj{"sender": s.bob.User, "messages": 5}, []int{}, 5, nil, obj{"push": []any{5, nil, obj{"user_id": 7}}}} {
			send(1, typ, content)
		}
	}
	a := s.alice.sync()
	if found := toJSON(t, a["presence"]) + toJSON(t, get(a, "rooms", "join", s.room)); strings.Contains(found, "forged") || strings.Contains(found, "m.typing") || strings.Contains(found, "m.receipt") {
		t.Errorf("alice gets forged data: %s", found)
	}
	s.alice.Do("PUT", "/v3/rooms/"+s.room+"/state/m.room.server_acl/", obj{"allow": []string{"*"}, "deny": []string{s.Name(1)}})
	typing(1, s.bob.User)
	receipt(1, s.bob.User, event, obj{"ts": 1})
	if a := s.alice.sync(); s.ephemeral(a, "m.typing") != nil || s.ephemeral(a, "m.receipt") != nil {
		t.Errorf("data of a server that the room's ACL denies is accepted: %v", a)
	}
	s.alice.Do("PUT", "/v3/rooms/"+s.room+"/state/m.room.server_acl/", obj{"allow": []string{"*"}})
	typing(1, s.bob.User)
	receipt(1, s.bob.User, event, obj{"ts": 1})
	if a := s.alice.sync(); s.ephemeral(a, "m.typing") == nil || s.ephemeral(a, "m.receipt") == nil {
		t.Errorf("valid data does not arrive either, so the test proves nothing: %v", a)
	}
}

func TestClaimsOfOneTimeKeysByOneServerAreLimited(t *testing.T) {
	s := testserver.Federation(t, 2, func(_ int, cfg *config.Config) {
		cfg.RateLimits.Enabled, cfg.RateLimits.Claims = true, config.Bucket{PerSecond: 1, Burst: 3}
	})
	alice := signUp(t, s.Servers[0], "alice")
	claim := func() error {
		_, err := s.Servers[1].Remote().ClaimKeys(t.Context(), s.Name(0), map[id.UserID]map[id.DeviceID]string{id.UserID(alice.User): {id.DeviceID(alice.DeviceID): "signed_curve25519"}})
		return err
	}
	for range 3 {
		if err := claim(); err != nil {
			t.Fatal(err)
		}
	}
	var refused *fedclient.RemoteError
	if err := claim(); !errors.As(err, &refused) || refused.Code != "M_LIMIT_EXCEEDED" {
		t.Errorf("a claim beyond the limit gets %v, want M_LIMIT_EXCEEDED", err)
	}
}

func TestInvitesAreLimitedSeparatelyForEachUserAndServer(t *testing.T) {
	s := testserver.Federation(t, 3, func(i int, cfg *config.Config) {
		cfg.RateLimits.Enabled, cfg.RateLimits.Invites = i == 0, config.Bucket{PerSecond: 1, Burst: 3}
	})
	alice, mallory, carol := signUp(t, s.Servers[0], "alice"), signUp(t, s.Servers[1], "mallory"), signUp(t, s.Servers[2], "carol")
	invite := func(d *device, user string) int {
		room := d.Do("POST", "/v3/createRoom", obj{"preset": "private_chat"})["room_id"].(string)
		status, _, _ := d.Raw("POST", "/v3/rooms/"+room+"/invite", obj{"user_id": user})
		return status
	}
	for range 3 {
		if status := invite(mallory, alice.User); status != 200 {
			t.Fatalf("an invite gets status %d, want 200", status)
		}
	}
	if status := invite(mallory, alice.User); status != 429 {
		t.Errorf("an invite beyond the limit gets status %d, want 429", status)
	}
	if status := invite(carol, alice.User); status != 200 {
		t.Errorf("an invite from another server gets status %d, want 200", status)
	}
	friend := signUp(t, s.Servers[1], "friend")
	if status := invite(friend, signUp(t, s.Servers[0], "bob").User); status != 200 {
		t.Errorf("an invite of another user by another user gets status %d, want 200", status)
	}
}

// Numbers from other servers end up in responses to clients, whose parsers reject a complete /sync response because of
// one number that they cannot represent.
func TestNumbersInEphemeralDataAreValidForClients(t *testing.T) {
	s := newShared(t, nil)
	event, _ := s.alice.Do("PUT", "/v3/rooms/"+s.room+"/send/m.room.message/1", obj{"body": "x", "msgtype": "m.text"})["event_id"].(string)
	s.bob.sync()
	for i, number := range []string{"-1", "-9223372036854775808", "9007199254740993", "1e18", "1e300", "1.5", "99999999999999999999", `"1"`, "null", "[]"} {
		edus := []json.RawMessage{
			json.RawMessage(`{"edu_type":"m.receipt","content":{"` + s.room + `":{"m.read":{"` + s.bob.User + `":{"event_ids":["` + event + `"],"data":{"ts":` + number + `}}}}}}`),
			json.RawMessage(`{"edu_type":"m.presence","content":{"push":[{"user_id":"` + s.bob.User + `","presence":"online","last_active_ago":` + number + `,"status_msg":"` + strconv.Itoa(i) + `"}]}}`),
			json.RawMessage(`{"edu_type":"m.typing","content":{"room_id":"` + s.room + `","user_id":"` + s.bob.User + `","typing":true,"timeout":` + number + `}}`),
			json.RawMessage(`{"edu_type":"m.device_list_update","content":{"user_id":"` + s.bob.User + `","device_id":"D","stream_id":` + number + `,"prev_id":[` + number + `]}}`),
			json.RawMessage(`{"edu_type":"m.direct_to_device","content":{"sender":"` + s.bob.User + `","type":"x","message_id":"m` + strconv.Itoa(i) + `","messages":{"` + s.alice.User + `":{"*":{"n":1}}}}}`),
		}
		if _, err := s.Servers[1].Remote().SendTransaction(t.Context(), s.Name(0), "numbers"+strconv.Itoa(i), nil, edus); err != nil {
			t.Fatalf("%s: %v", number, err)
		}
		_, _, raw := s.alice.Raw("GET", "/v3/sync?timeout=0", nil)
		decoder := json.NewDecoder(bytes.NewReader(raw))
		for decoder.UseNumber(); ; {
			token, err := decoder.Token()
			if err != nil {
				break
			}
			n, isNumber := token.(json.Number)
			if !isNumber {
				continue
			}
			if value, err := n.Int64(); err != nil || value < -(1<<53) || value > 1<<53 {
				t.Errorf("after %s clients get the number %s", number, n)
			}
		}
	}
	if got := list(s.alice.sync(), "to_device", "events"); len(got) == 0 {
		t.Error("the message that was sent with the numbers did not arrive")
	}
}
