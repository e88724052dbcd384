package feed

import (
	"testing"
	"time"

	"maunium.net/go/mautrix/event"

	"ebb/ident"
)

// presenceOf returns the presence that the client got last.
func presenceOf(p *presence, nid ident.UserNID) event.Presence {
	r, _ := p.of(nid)
	return r.state
}

func TestPresenceFollowsTheDevices(t *testing.T) {
	p := newPresence()
	now := noon
	step := func(what string, want event.Presence, do func()) {
		t.Helper()
		do()
		if got := presenceOf(p, 1); got != want {
			t.Fatalf("%s: %s, want %s", what, got, want)
		}
	}
	step("before anything", event.PresenceOffline, func() {})
	step("a device polls", event.PresenceOnline, func() { p.poll(1, "@a:x", 10, event.PresenceOnline, 1, now) })
	step("a long poll keeps it", event.PresenceOnline, func() { now = now.Add(2 * time.Minute); p.tick(now) })
	step("the poll ends", event.PresenceOnline, func() { p.poll(1, "@a:x", 10, event.PresenceOnline, -1, now) })
	step("nothing for the timeout", event.PresenceOffline, func() { now = now.Add(presenceTimeout + time.Second); p.tick(now) })
	step("an idle device", event.PresenceUnavailable, func() { p.poll(1, "@a:x", 10, event.PresenceUnavailable, 1, now) })
	step("and an active one", event.PresenceOnline, func() { p.poll(1, "@a:x", 11, event.PresenceOnline, 1, now) })
	step("no activity for long", event.PresenceUnavailable, func() { now = now.Add(idleTimeout + time.Second); p.tick(now) })
	step("a message is sent", event.PresenceOnline, func() { p.touch(1, now) })
	step("a device that polls as offline alone", event.PresenceOffline, func() {
		p.poll(1, "@a:x", 10, event.PresenceOnline, -1, now)
		p.poll(1, "@a:x", 11, event.PresenceOnline, -1, now)
		p.poll(1, "@a:x", 10, event.PresenceOffline, 1, now)
		p.poll(1, "@a:x", 11, event.PresenceOffline, 1, now)
	})
}

func TestWhoComesBackBySyncIsOnline(t *testing.T) {
	for name, back := range map[string]func(p *presence, now time.Time){
		"the device that was idle": func(p *presence, now time.Time) { p.poll(1, "@a:x", 10, event.PresenceOnline, 1, now) },
		"another device":           func(p *presence, now time.Time) { p.poll(1, "@a:x", 11, event.PresenceOnline, 1, now) },
	} {
		p, now := newPresence(), noon
		p.poll(1, "@a:x", 10, event.PresenceOnline, 1, now)
		p.poll(1, "@a:x", 10, event.PresenceOnline, -1, now)
		p.poll(1, "@a:x", 10, event.PresenceUnavailable, 1, now)
		now = now.Add(2 * idleTimeout)
		p.tick(now)
		if got := presenceOf(p, 1); got != event.PresenceUnavailable {
			t.Fatalf("%s: %s before", name, got)
		}
		if back(p, now); presenceOf(p, 1) != event.PresenceOnline {
			t.Errorf("%s: %s, want online", name, presenceOf(p, 1))
		}
		p.tick(now.Add(time.Second))
		if r, _ := p.of(1); r.state != event.PresenceOnline || !r.active {
			t.Errorf("%s: %+v a second later", name, r)
		}
	}
}

func TestPresenceIsToldOncePerChange(t *testing.T) {
	p := newPresence()
	p.set(1, "@a:x", 10, event.PresenceOnline, nil, noon)
	serial, users := p.since(0)
	if len(users) != 1 || presenceOf(p, 1) != event.PresenceOnline {
		t.Fatalf("changed: %v, state %s", users, presenceOf(p, 1))
	}
	p.poll(1, "@a:x", 10, event.PresenceOnline, 1, noon)
	if _, users := p.since(serial); len(users) != 0 {
		t.Fatalf("told again: %v", users)
	}
	status := "away"
	p.set(1, "@a:x", 10, event.PresenceOnline, &status, noon)
	p.set(2, "@b:x", 20, event.PresenceUnavailable, nil, noon)
	p.set(1, "@a:x", 10, event.PresenceUnavailable, &status, noon)
	_, users = p.since(serial)
	if r, _ := p.of(1); len(users) != 2 || users[0] != 2 || users[1] != 1 || *r.status != "away" {
		t.Fatalf("want each changed user once, newest last; got %v", users)
	}
	if got := p.flush(noon); len(got) != 2 {
		t.Fatalf("to be woken for: %v", got)
	}
}

func TestPresenceRecordsAreBounded(t *testing.T) {
	p := newPresence()
	for i := range ident.DeviceNID(10_000) {
		state := event.PresenceOnline
		if i%2 == 1 {
			state = event.PresenceUnavailable
		}
		p.set(1, "@a:x", i%200, state, nil, noon)
	}
	if len(p.recent) > 200 || len(p.users[1].devices) > maxPresenceDevices {
		t.Fatalf("%d changes, %d devices kept", len(p.recent), len(p.users[1].devices))
	}
	p.tick(noon.Add(2 * presenceMemory))
	p.tick(noon.Add(4 * presenceMemory))
	if len(p.users) != 0 || len(p.recent) != 0 {
		t.Fatalf("%d users and %d changes are kept forever", len(p.users), len(p.recent))
	}
}

func TestPresenceContent(t *testing.T) {
	status := `say "hi"`
	r := presenceRecord{id: "@a:x", state: event.PresenceOnline, status: &status, active: true, lastActive: noon}
	want := `{"content":{"currently_active":true,"last_active_ago":1500,"presence":"online","status_msg":"say \"hi\""},"sender":"@a:x","type":"m.presence"}`
	if got := string(r.appendEvent(nil, noon.Add(1500*time.Millisecond))); got != want {
		t.Fatalf("%s\nwant %s", got, want)
	}
}
