package appservice_test

import (
	"os"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

// reloaded returns a configuration with the registrations that the given changes add.
func reloaded(changes ...func(*config.Config)) *config.Config {
	c := config.Default()
	for _, change := range changes {
		change(c)
	}
	return c
}

func TestRegistrationsAreReadAgainWhileTheServerRuns(t *testing.T) {
	first, second := newBridge(t), newBridge(t)
	one, two := first.registered(""), second.registeredAs("two", "two-token", "_two_", "")
	n := testserver.Federation(t, 1, func(_ int, c *config.Config) { one(c) })
	s := n.Servers[0]
	alice, app, other := s.Register("alice"), callerOf(s), callerOf(s)
	other.Token = "two-token"
	other.Refused("GET", "/v3/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
	room := createRoom(alice, nil)
	app.Do("POST", "/v3/join/"+room, map[string]any{})
	say(alice, room, "one")
	first.hears("one")

	both := reloaded(one, two)
	if err := s.Reload(both); err != nil {
		t.Fatal(err)
	}
	other.Do("POST", "/v3/join/"+room, map[string]any{})
	say(alice, room, "two")
	first.hears("one", "two")
	second.hears("two")

	if err := os.WriteFile(both.Appservices[0], []byte("id: ["), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(both); err == nil {
		t.Error("a broken registration was accepted")
	}
	say(alice, room, "three") // nothing has changed
	first.hears("one", "two", "three")

	if err := s.Reload(reloaded(two)); err != nil {
		t.Fatal(err)
	}
	app.Refused("GET", "/v3/account/whoami", nil, 401, "M_UNKNOWN_TOKEN")
	say(alice, room, "four")
	second.hears("two", "three", "four")
	if got := first.texts(); len(got) != 3 {
		t.Errorf("a bridge that is not registered any more got %q", got)
	}
}

func TestJoinedMembersAreShownToABridgeWithAnyOfItsUsersInTheRoom(t *testing.T) {
	s := testserver.New(t, newBridge(t).registered(""))
	app, alice := callerOf(s), s.Register("alice")
	room := createRoom(alice, nil)
	app.Refused("GET", "/v3/rooms/"+room+"/joined_members", nil, 403, "M_FORBIDDEN")
	ghost := app.registers("_bridge_ghost")
	app.Do("POST", as("/v3/join/"+room, ghost, ""), map[string]any{})
	if joined := app.Do("GET", "/v3/rooms/"+room+"/joined_members", nil); testserver.Get(joined, "joined", ghost) == nil {
		t.Errorf("the members are %v", joined)
	}
}
