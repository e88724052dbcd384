package server_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/internal/testserver"
)

// vanishing is a room of alice and bob in which messages destroy themselves.
type vanishing struct{ *redactedRoom }

func newVanishing(t *testing.T, also ...func(*config.Config)) vanishing {
	return vanishing{newRedactedRoom(t, 0, also...)}
}

// send sends a message of bob with more members of its content.
func (v vanishing) send(text string, more obj) string {
	v.Helper()
	v.n++
	content := obj{"msgtype": "m.text", "body": text}
	for key, value := range more {
		content[key] = value
	}
	return v.bob.Do("PUT", fmt.Sprintf("%s/send/m.room.message/%d", v.base, v.n), content)["event_id"].(string)
}

func (v vanishing) read(c *testserver.Client, event string) {
	v.Helper()
	c.Do("POST", v.base+"/receipt/m.read/"+url.PathEscape(event), obj{})
}

// step destroys what is due.
func (v vanishing) step() {
	v.Helper()
	if err := v.s.DestroyDue(v.Context()); err != nil {
		v.Fatal(err)
	}
}

// content returns the body of an event as alice gets it, "redacted", or "hidden".
func (v vanishing) content(event string) string {
	v.Helper()
	status, _, raw := v.alice.Raw("GET", v.path(event), nil)
	answer := decode(v.T, raw)
	switch body := get(answer, "content", "body"); {
	case status == http.StatusNotFound:
		return "hidden"
	case body != nil:
		return fmt.Sprint(body)
	case get(answer, "unsigned", "redacted_because", "sender") == v.bob.User:
		return "redacted"
	}
	return string(raw)
}

func (v vanishing) expect(event, want string) {
	v.Helper()
	if got := v.content(event); got != want {
		v.Errorf("the event is %s, want %s", got, want)
	}
}

func (v vanishing) at(d time.Duration) int64 { return v.s.Now().Add(d).UnixMilli() }

func TestAMessageDestroysItselfAtATime(t *testing.T) {
	v := newVanishing(t)
	for _, name := range []string{"m.self_destruct_after", "org.matrix.self_destruct_after", "org.matrix.msc2228.self_destruct_after"} {
		event := v.send("kelpword", obj{name: v.at(time.Minute)})
		edit := v.send("* kelpword", obj{"m.new_content": obj{"body": "kelpword"}, "m.relates_to": obj{"rel_type": "m.replace", "event_id": event}})
		plain := v.send("plain", nil)
		v.s.Advance(time.Minute - time.Millisecond)
		v.step()
		v.expect(event, "kelpword")
		v.s.Reopen()
		v.s.Advance(time.Millisecond)
		v.step()
		v.expect(event, "redacted")
		v.expect(edit, "redacted")
		v.expect(plain, "plain")
		v.gone("kelpword")
	}
}

func TestAMessageDestroysItselfAfterEverybodyHasReadIt(t *testing.T) {
	v := newVanishing(t)
	carol := v.s.Register("carol")
	carol.Do("POST", "/v3/join/"+url.PathEscape(v.id), obj{})
	first := v.send("first", obj{"m.self_destruct": 60_000})
	second := v.send("second", obj{"m.self_destruct": 0})
	root := v.send("root", nil)
	v.n++
	reply := v.alice.Do("PUT", fmt.Sprintf("%s/send/m.room.message/%d", v.base, v.n), obj{"body": "reply", "m.relates_to": obj{"rel_type": "m.thread", "event_id": root}})["event_id"].(string)
	v.read(v.alice, second)
	v.alice.Do("POST", v.base+"/receipt/m.read.private/"+url.PathEscape(second), obj{})
	v.read(v.bob, second)
	carol.Do("POST", v.base+"/receipt/m.read.private/"+url.PathEscape(second), obj{})
	carol.Do("POST", v.base+"/receipt/m.read/"+url.PathEscape(reply), obj{"thread_id": root})
	v.s.Advance(time.Hour)
	v.step()
	v.expect(first, "first")
	v.expect(second, "second") // carol has read it privately, and publicly only a thread
	v.read(carol, first)
	v.step()
	v.s.Advance(time.Minute - time.Millisecond)
	v.step()
	v.expect(first, "first")
	v.s.Advance(time.Millisecond)
	v.s.Reopen()
	v.step()
	v.expect(first, "redacted")
	v.expect(second, "second")
	carol.Do("POST", v.base+"/leave", obj{})
	v.step()
	v.step() // it is due at once
	v.expect(second, "redacted")
}

func TestInvalidTimesOfSelfDestructionAreRefused(t *testing.T) {
	v := newVanishing(t)
	for _, bad := range []obj{{"m.self_destruct": -1}, {"m.self_destruct": 1 << 31}, {"m.self_destruct": true}, {"m.self_destruct_after": "1"}, {"org.matrix.self_destruct_after": -1}} {
		v.n++
		bad["body"] = "x"
		v.bob.Refused("PUT", fmt.Sprintf("%s/send/m.room.message/%d", v.base, v.n), bad, 400, "M_INVALID_PARAM")
	}
	past, never := v.send("past", obj{"m.self_destruct_after": 1}), v.send("never", obj{"m.self_destruct": nil, "m.self_destruct_after": int64(1)<<53 - 1})
	v.step()
	v.expect(past, "past")
	v.s.Advance(time.Second)
	v.step()
	v.expect(past, "redacted")
	v.expect(never, "never")
}

// Neither what happened to a message before it is due, nor that its sender cannot redact it any more, stops anything.
func TestSelfDestructionMeetsOtherWaysToGo(t *testing.T) {
	v := newVanishing(t)
	wish := obj{"m.self_destruct_after": v.at(time.Minute)}
	redacted, last := v.send("kelpword", wish), v.send("kelpword", wish)
	v.redact(v.bob, redacted)
	v.bob.Do("POST", v.base+"/leave", obj{})
	v.s.Advance(time.Minute)
	v.step()
	v.expect(redacted, "redacted")
	v.expect(last, "hidden")
	v.gone("kelpword")
}

func TestAHoldKeepsAMessageThatDestroysItself(t *testing.T) {
	v := newVanishing(t)
	first, second := admins(t, v.s)
	hold := first.Do("POST", holdsPath, obj{"room": v.id, "reason": "case 7", "review": inOneYear(v.s)})["id"]
	event := v.send("kelpword", obj{"m.self_destruct_after": v.at(time.Minute)})
	v.s.Advance(time.Minute)
	v.step()
	purge(t, v.s)
	v.expect(event, "redacted")
	if len(v.s.FilesWith("kelpword")) == 0 {
		t.Error("the message is gone although a hold covers it")
	}
	lift(first, second, hold)
	v.gone("kelpword")
}

// A message of another server is removed here, whatever that server does.
func TestAMessageOfAnotherServerDestroysItselfHere(t *testing.T) {
	n := testserver.Federation(t, 2, nil)
	alice, bob := n.Servers[0].Register("alice"), n.Servers[1].Register("bob")
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	bob.Do("POST", "/v3/join/"+url.PathEscape(room)+"?server_name=hs1.test", obj{})
	base := "/v3/rooms/" + url.PathEscape(room)
	due := n.Servers[0].Now().Add(time.Minute).UnixMilli()
	event := bob.Do("PUT", base+"/send/m.room.message/1", obj{"body": "kelpword", "m.self_destruct_after": due})["event_id"].(string)
	alice.Hears("kelpword")
	n.Cut("hs1.test", "hs2.test")
	n.Servers[0].Advance(time.Minute)
	if err := n.Servers[0].DestroyDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	alice.Refused("GET", base+"/event/"+url.PathEscape(event), nil, 404, "M_NOT_FOUND")
	purge(t, n.Servers[0])
	if files := n.Servers[0].FilesWith("kelpword"); len(files) > 0 {
		t.Errorf("the message is still in %v", files)
	}
	if _, _, raw := bob.Raw("GET", base+"/event/"+url.PathEscape(event), nil); !strings.Contains(string(raw), "kelpword") {
		t.Errorf("the other server has %s", raw)
	}
}
