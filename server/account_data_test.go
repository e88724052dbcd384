package server_test

import (
	"strings"
	"testing"

	"ebb/internal/testserver"
)

// A first /sync sends all account data of the user, so the total size must be bounded.
func TestAccountDataOfAUserIsBoundedInSum(t *testing.T) {
	s := testserver.New(t, nil)
	alice := signUp(t, s, "alice")
	room := alice.Do("POST", "/v3/createRoom", obj{})["room_id"].(string)
	global, inRoom := "/v3/user/"+alice.User+"/account_data/", "/v3/user/"+alice.User+"/rooms/"+room+"/account_data/"
	large := obj{"x": strings.Repeat("x", 255<<10)}
	put := func(path string, content obj) int {
		status, _, _ := alice.Raw("PUT", path, content)
		return status
	}
	kept := 0
	for i := range 100 {
		path := global
		if i%2 == 0 {
			path = inRoom
		}
		if put(path+"org.example."+strings.Repeat("a", i+1), large) == 200 {
			kept++
		}
	}
	if kept < 60 || kept > 64 {
		t.Errorf("%d contents of 255 KiB are kept, want 60 to 64", kept)
	}
	alice.Refused("PUT", global+"org.example.other", large, 413, "M_TOO_LARGE")
	if got := put(global+"org.example.other", obj{"small": true}); got != 200 {
		t.Errorf("a small content beyond the bound gets status %d, want 200", got)
	}
	if got := put(inRoom+"org.example.a", large); got != 200 {
		t.Errorf("the same content again gets status %d, want 200", got)
	}
	if got := put(inRoom+"org.example.a", obj{"x": strings.Repeat("x", 1000)}); got != 200 {
		t.Errorf("a smaller content in place of a large one gets status %d, want 200", got)
	}
	if got := put(global+"org.example.other", obj{"x": strings.Repeat("x", 200<<10)}); got != 200 {
		t.Errorf("once there is room again, another content gets status %d, want 200", got)
	}
}
