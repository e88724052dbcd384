package feed

import (
	"testing"
	"time"

	"ebb/ident"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

const testEpoch = 7

func names(typists []typist) (s string) {
	for _, w := range typists {
		s += string(w.user) + " "
	}
	return s
}

func TestTypingIsToldUntilItStopsOrTimesOut(t *testing.T) {
	ty := newTyping()
	since := Token{Epoch: testEpoch}
	see := func(want string, told bool) {
		t.Helper()
		v := ty.view(since, testEpoch, false)
		list, isTold := v.rooms[1]
		if isTold != told || names(list) != want {
			t.Fatalf("told %v %q, want %v %q", isTold, names(list), told, want)
		}
		since = Token{Epoch: testEpoch, Typing: v.serial, Active: len(v.active) > 0}
	}
	see("", false)
	ty.set(1, typist{nid: 10, user: "@a:x", until: noon.Add(30 * time.Second)}, noon)
	see("@a:x ", true)
	if changed, _ := ty.set(1, typist{nid: 10, user: "@a:x", until: noon.Add(40 * time.Second)}, noon); changed {
		t.Error("a repetition changed the list")
	}
	see("", false)
	ty.set(1, typist{nid: 11, user: "@b:x", until: noon.Add(20 * time.Second)}, noon)
	see("@a:x @b:x ", true)
	ty.expire(noon.Add(20 * time.Second))
	see("@a:x ", true)
	ty.set(1, typist{nid: 10, user: "@a:x", until: time.Time{}}, noon)
	see("", true)
	see("", false)
}

func TestTypingAfterARestartClearsOnlyWhatTheClientWasShown(t *testing.T) {
	ty := newTyping()
	ty.set(2, typist{nid: 10, user: "@a:x", until: noon.Add(time.Minute)}, noon)
	v := ty.view(Token{Epoch: testEpoch - 1, Typing: 99, Active: true}, testEpoch, false)
	if !v.rest || names(v.rooms[2]) != "@a:x " {
		t.Fatalf("want the current list and the rest cleared, got %+v", v)
	}
	if v := ty.view(Token{Epoch: testEpoch - 1, Typing: 99}, testEpoch, false); v.rest {
		t.Fatal("a client that saw nobody typing has nothing to clear")
	}
}

func TestForgottenEmptyListsReachLateClients(t *testing.T) {
	ty := newTyping()
	ty.set(1, typist{nid: 10, user: "@a:x", until: noon.Add(time.Second)}, noon)
	since := Token{Epoch: testEpoch, Typing: ty.view(Token{}, testEpoch, true).serial, Active: true}
	ty.expire(noon.Add(time.Second))
	ty.expire(noon.Add(2 * typingMemory))
	if len(ty.rooms) != 0 {
		t.Fatal("the empty list is kept forever")
	}
	if v := ty.view(since, testEpoch, false); !v.rest {
		t.Fatalf("the client still believes that @a:x types: %+v", v)
	}
}

func TestTypingListIsBounded(t *testing.T) {
	ty := newTyping()
	for nid := range ident.UserNID(2 * maxTypists) {
		ty.set(1, typist{nid: nid, user: "@u:x", until: noon.Add(time.Minute)}, noon)
	}
	if n := len(ty.current(1)); n != maxTypists {
		t.Fatalf("%d typists", n)
	}
}
