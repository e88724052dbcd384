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

const unredacted = "?fi.mau.msc2815.include_unredacted_content=true"

// redactedRoom is a room of alice, a moderator and bob in which bob's messages are redacted.
type redactedRoom struct {
	*testing.T
	s          *testserver.Server
	alice, bob *testserver.Client
	id, base   string
	n          int
}

func newRedactedRoom(t *testing.T, keep time.Duration, also ...func(*config.Config)) *redactedRoom {
	s := testserver.New(t, func(c *config.Config) {
		c.Retention.Redacted = config.Duration(keep)
		for _, f := range also {
			f(c)
		}
	})
	w := &redactedRoom{T: t, s: s, alice: s.Register("alice"), bob: s.Register("bob")}
	w.id = w.alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	w.base = "/v3/rooms/" + url.PathEscape(w.id)
	w.bob.Do("POST", "/v3/join/"+url.PathEscape(w.id), obj{})
	return w
}

// say sends a message of bob and returns its event ID.
func (w *redactedRoom) say(text string) string {
	w.Helper()
	w.n++
	return w.bob.Do("PUT", fmt.Sprintf("%s/send/m.room.message/%d", w.base, w.n), obj{"msgtype": "m.text", "body": text})["event_id"].(string)
}

func (w *redactedRoom) redact(by *testserver.Client, event string) {
	w.Helper()
	w.n++
	by.Do("PUT", fmt.Sprintf("%s/redact/%s/%d", w.base, url.PathEscape(event), w.n), obj{})
}

func (w *redactedRoom) path(event string) string { return w.base + "/event/" + url.PathEscape(event) }

// body returns the body of an event as a moderator gets it, or the error code.
func (w *redactedRoom) body(event string) string {
	w.Helper()
	_, _, raw := w.alice.Raw("GET", w.path(event)+unredacted, nil)
	answer := decode(w.T, raw)
	if code, failed := answer["errcode"].(string); failed {
		return code
	}
	content, _ := answer["content"].(map[string]any)
	return fmt.Sprint(content["body"])
}

// gone fails the test if a word is in a file of the server after a purge.
func (w *redactedRoom) gone(word string) {
	w.Helper()
	purge(w.T, w.s)
	if files := w.s.FilesWith(word); len(files) > 0 {
		w.Errorf("%q is still in %v", word, files)
	}
}

const contentDeleted = "FI.MAU.MSC2815_UNREDACTED_CONTENT_DELETED"

func TestModeratorsReadRedactedEventsUntilTheirTimeIsOver(t *testing.T) {
	w := newRedactedRoom(t, time.Hour)
	features := w.alice.Do("GET", "/versions", nil)["unstable_features"].(map[string]any)
	if features["fi.mau.msc2815"] != true {
		t.Error("MSC2815 is not announced")
	}
	event, plain := w.say("kelpword"), w.say("plain")
	uri := upload(w.bob, pngImage(t, 30))
	picture := sendImage(w.bob, w.base, "picture", uri)
	w.redact(w.bob, event)
	w.redact(w.alice, picture)
	purge(t, w.s)
	if got := w.body(event); got != "kelpword" {
		t.Errorf("a moderator reads %q", got)
	}
	answer := w.alice.Do("GET", w.path(event)+unredacted, nil)
	if because, _ := answer["unsigned"].(map[string]any)["redacted_because"].(map[string]any); because["sender"] != w.bob.User {
		t.Errorf("the original does not say who redacted it: %v", answer)
	}
	if got := w.body(plain); got != "plain" {
		t.Errorf("an event that was not redacted has the body %q", got)
	}
	for _, c := range []*testserver.Client{w.alice, w.bob} {
		for _, query := range []string{"", "?fi.mau.msc2815.include_unredacted_content=false"} {
			if got := c.Do("GET", w.path(event)+query, nil); len(got["content"].(map[string]any)) > 0 {
				t.Errorf("without asking for it, %s gets the content: %v", c.User, got)
			}
		}
		if served(c, uri) {
			t.Errorf("%s gets the file of a redacted message", c.User)
		}
	}
	if mediaFiles(t, w.s) == 0 {
		t.Error("the file of a redacted message is gone before its time")
	}
	w.alice.Refused("GET", w.path(event)+"?fi.mau.msc2815.include_unredacted_content=maybe", nil, 400, "M_INVALID_PARAM")
	w.bob.Refused("GET", w.path(event)+unredacted, nil, 403, "M_FORBIDDEN")
	stranger := w.s.Register("stranger")
	w.alice.Do("PUT", w.base+"/state/m.room.history_visibility", obj{"history_visibility": "joined"})
	stranger.Refused("GET", w.path(event)+unredacted, nil, 404, "M_NOT_FOUND")
	stranger.Refused("GET", w.path(plain+"x")+unredacted, nil, 404, "M_NOT_FOUND")

	w.s.Advance(time.Hour)
	w.alice.Refused("GET", w.path(event)+unredacted, nil, 404, contentDeleted)
	_, _, raw := w.alice.Raw("GET", w.path(event)+unredacted, nil)
	if keep := decode(t, raw)["fi.mau.msc2815.content_keep_ms"]; keep != float64(time.Hour.Milliseconds()) {
		t.Errorf("the error says that content is kept for %v ms", keep)
	}
	w.gone("kelpword")
	if n := mediaFiles(t, w.s); n != 0 {
		t.Errorf("%d files are left after the time of the message", n)
	}
	w.alice.Refused("GET", w.path(event)+unredacted, nil, 404, contentDeleted)
}

func TestEachReadingOfARedactedEventIsInTheAuditLog(t *testing.T) {
	w := newRedactedRoom(t, time.Hour)
	event := w.say("kelpword")
	w.alice.Do("GET", w.path(event)+unredacted, nil)
	w.redact(w.bob, event)
	w.alice.Do("GET", w.path(event)+unredacted, nil)
	w.bob.Refused("GET", w.path(event)+unredacted, nil, 403, "M_FORBIDDEN")
	cfg := w.s.Config()
	var found []string
	for _, line := range auditLog(t, cfg.DSN()) {
		if strings.HasPrefix(line, "redacted event read") {
			found = append(found, line)
		}
	}
	if len(found) != 1 || !strings.Contains(found[0], w.alice.User) || !strings.Contains(found[0], event) || strings.Contains(found[0], "kelpword") {
		t.Errorf("the audit log has %q", found)
	}
}

// By default nothing is kept, and nobody is told that something could be.
func TestRedactedEventsAreNotKeptByDefault(t *testing.T) {
	w := newRedactedRoom(t, 0)
	if w.alice.Do("GET", "/versions", nil)["unstable_features"].(map[string]any)["fi.mau.msc2815"] != false {
		t.Error("MSC2815 is announced")
	}
	event := w.say("kelpword")
	w.redact(w.alice, event)
	if got := w.body(event); got != "<nil>" {
		t.Errorf("a moderator reads %q", got)
	}
	w.gone("kelpword")
}

// Each of these ends the time of an original.
func TestTheOriginalOfARedactedEventGoesEarly(t *testing.T) {
	const word = "kelpword"
	for name, end := range map[string]func(*redactedRoom){
		"its sender is erased": func(w *redactedRoom) {
			w.bob.Do("POST", "/v3/account/deactivate", obj{"erase": true, "auth": obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": "bob"}, "password": testserver.Password()}})
		},
		"it expires": func(w *redactedRoom) {
			w.alice.Do("PUT", w.base+"/state/m.room.retention", obj{"max_lifetime": 60_000})
			w.s.Advance(2 * time.Minute)
			w.n++
			w.alice.Do("PUT", fmt.Sprintf("%s/send/m.room.message/%d", w.base, w.n), obj{"msgtype": "m.text", "body": "later"})
			control(w.T, w.s, "purge now", obj{"all": true})
		},
		"the setting is shortened": func(w *redactedRoom) {
			w.s.Config().Retention.Redacted = config.Duration(time.Second)
			w.s.Reopen()
			w.s.Advance(time.Second)
		},
		"the setting is removed": func(w *redactedRoom) {
			w.s.Config().Retention.Redacted = 0
			w.s.Reopen()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newRedactedRoom(t, 30*24*time.Hour)
			event := w.say(word)
			w.redact(w.bob, event)
			purge(t, w.s)
			if len(w.s.FilesWith(word)) == 0 {
				t.Fatal("the original is not kept")
			}
			end(w)
			if got := w.body(event); got == word {
				t.Error("a moderator still reads it")
			}
			w.gone(word)
		})
	}
}

// min_lifetime keeps what was redacted, but nobody reads it.
func TestMinLifetimeKeepsARedactedMessage(t *testing.T) {
	w := newRedactedRoom(t, time.Second)
	w.alice.Do("PUT", w.base+"/state/m.room.retention", obj{"min_lifetime": 3_600_000})
	event := w.say("kelpword")
	w.redact(w.bob, event)
	w.s.Advance(time.Minute)
	purge(t, w.s)
	if len(w.s.FilesWith("kelpword")) == 0 {
		t.Error("the message is gone although its min_lifetime is not over")
	}
	if got := w.body(event); got != contentDeleted {
		t.Errorf("a moderator reads %q", got)
	}
	w.s.Advance(time.Hour)
	w.gone("kelpword")
}

// What only a legal hold keeps is shown to nobody, and goes when the hold is lifted.
func TestAHoldDoesNotShowRedactedEventsToModerators(t *testing.T) {
	w := newRedactedRoom(t, time.Hour)
	first, second := admins(t, w.s)
	hold := first.Do("POST", holdsPath, obj{"room": w.id, "reason": "case 7", "review": inOneYear(w.s)})["id"]
	event := w.say("kelpword")
	w.redact(w.bob, event)
	if got := w.body(event); got != "kelpword" {
		t.Errorf("within its time a moderator reads %q", got)
	}
	w.s.Advance(time.Hour)
	purge(t, w.s)
	if got := w.body(event); got != contentDeleted || len(w.s.FilesWith("kelpword")) == 0 {
		t.Errorf("after its time a moderator reads %q; it is in %v", got, w.s.FilesWith("kelpword"))
	}
	if kept := fmt.Sprintf("%+v", control(t, w.s, "purge status", obj{})); !strings.Contains(kept, "Kept:1 ") {
		t.Errorf("the status of the purge is %s", kept)
	}
	lift(first, second, hold)
	w.gone("kelpword")
}

// State can be redacted too. It does not expire, so only the time after the redaction counts.
func TestTheOriginalOfARedactedStateEventIsKeptForItsTime(t *testing.T) {
	w := newRedactedRoom(t, time.Hour)
	event := w.alice.Do("PUT", w.base+"/state/m.room.topic", obj{"topic": "kelpword"})["event_id"].(string)
	w.redact(w.alice, event)
	answer := w.alice.Do("GET", w.path(event)+unredacted, nil)
	if topic := answer["content"].(map[string]any)["topic"]; topic != "kelpword" {
		t.Errorf("a moderator reads %v", answer)
	}
	w.s.Advance(time.Hour)
	w.gone("kelpword")
}
