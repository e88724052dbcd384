package server_test

import (
	"fmt"
	"net/url"
	"slices"
	"testing"

	"ebb/internal/testserver"
)

func TestMutualRoomsAreThoseThatBothUsersAreJoinedTo(t *testing.T) {
	s := testserver.New(t, nil)
	alice, bob := newSearcher(t, s, "alice"), newSearcher(t, s, "bob")
	path := "/v1/mutual_rooms?user_id=" + url.QueryEscape(bob.User)
	if got := alice.Do("GET", path, nil); len(list(got, "joined")) != 0 || got["count"] != 0.0 {
		t.Errorf("without a room in common the answer is %v", got)
	}
	var rooms []string
	for i := range 103 { // more than one page
		preset := obj{"preset": "public_chat"}
		if i == 0 {
			preset["invite"] = []string{bob.User} // bob is only invited
		}
		room := alice.createRoom(preset)
		if i > 0 {
			bob.join(room)
		}
		if i == 1 {
			bob.Do("POST", "/v3/rooms/"+url.PathEscape(room)+"/leave", nil)
		}
		if i > 1 {
			rooms = append(rooms, room)
		}
	}
	bob.createRoom(obj{})
	for _, form := range []struct{ path, from, next string }{
		{path, "from", "next_batch"},
		{"/unstable/uk.half-shot.msc2666/user/mutual_rooms?user_id=" + url.QueryEscape(bob.User), "batch_token", "next_batch_token"},
	} {
		first := alice.Do("GET", form.path, nil)
		next, _ := first[form.next].(string)
		second := alice.Do("GET", fmt.Sprintf("%s&%s=%s", form.path, form.from, url.QueryEscape(next)), nil)
		var got []string
		for _, id := range append(list(first, "joined"), list(second, "joined")...) {
			got = append(got, id.(string))
		}
		slices.Sort(got)
		want := slices.Sorted(slices.Values(rooms))
		if !slices.Equal(got, want) || len(list(first, "joined")) != 100 || first["count"] != 101.0 || second["count"] != 101.0 || second[form.next] != nil {
			t.Errorf("%s: %d rooms on two pages, with the counts %v and %v; want 101 and the first page with 100", form.path, len(got), first["count"], second["count"])
		}
	}
	for _, query := range []string{"", "?user_id=bob", "?user_id=" + url.QueryEscape(alice.User), "?user_id=" + url.QueryEscape(bob.User) + "&from=x", "?user_id=" + url.QueryEscape(bob.User) + "&from=-1"} {
		alice.Refused("GET", "/v1/mutual_rooms"+query, nil, 400, "M_INVALID_PARAM")
	}
	if got := alice.Do("GET", "/v1/mutual_rooms?user_id=%40nobody%3Aelsewhere", nil); len(list(got, "joined")) != 0 {
		t.Errorf("with an unknown user alice shares %v, want nothing", got)
	}
	versions := alice.Do("GET", "/versions", nil)
	for _, flag := range []string{"uk.half-shot.msc2666.query_mutual_rooms", "uk.half-shot.msc2666.query_mutual_rooms.stable"} {
		if get(versions, "unstable_features", flag) != true {
			t.Errorf("/versions does not claim %s", flag)
		}
	}
}
