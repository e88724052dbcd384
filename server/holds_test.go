package server_test

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"ebb/adminapi"
	"ebb/config"
	"ebb/internal/testserver"
)

const holdsPath = "/_ebb/admin/v1/holds"

// admins registers two administrators.
func admins(t *testing.T, s *testserver.Server) (first, second *testserver.Client) {
	t.Helper()
	first, second = s.Register("root1"), s.Register("root2")
	for _, c := range []*testserver.Client{first, second} {
		control(t, s, "user admin", obj{"user": c.User, "admin": true})
	}
	return first, second
}

// inOneYear is a review date.
func inOneYear(s *testserver.Server) string { return s.Now().AddDate(1, 0, 0).Format(time.DateOnly) }

// lift has both administrators lift a hold.
func lift(first, second *testserver.Client, hold any) {
	path := holdsPath + "/" + fmt.Sprintf("%.0f", hold) + "/lift"
	first.Do("POST", path, obj{})
	second.Do("POST", path, obj{})
}

func TestNothingThatAHoldCoversIsDeleted(t *testing.T) {
	for _, on := range []string{"room", "user"} {
		t.Run(on, func(t *testing.T) {
			s := testserver.New(t, nil)
			first, second := admins(t, s)
			alice, bob := s.Register("alice"), s.Register("bob")
			room := alice.Do("POST", "/v3/createRoom", obj{"invite": []string{bob.User}})["room_id"].(string)
			base := "/v3/rooms/" + url.PathEscape(room)
			bob.Do("POST", base+"/join", obj{})
			uri, later := upload(alice, pngImage(t, 30)), upload(alice, pngImage(t, 40))
			say := func(txn, body string) string {
				return alice.Do("PUT", base+"/send/m.room.message/"+txn, obj{"msgtype": "m.text", "body": body})["event_id"].(string)
			}
			say("1", "expires-marker")
			hold := first.Do("POST", holdsPath, obj{on: map[string]string{"room": room, "user": alice.User}[on], "reason": "case 7", "review": inOneYear(s)})
			redacted, edited := say("2", "redacted-marker"), say("3", "edited-marker")
			image := sendImage(alice, base, "4", uri)
			sendImage(alice, base, "5", later)
			alice.Do("PUT", base+"/send/m.room.message/6", obj{
				"msgtype": "m.text", "body": "* edit-marker", "m.new_content": obj{"msgtype": "m.text", "body": "edit-marker"},
				"m.relates_to": obj{"rel_type": "m.replace", "event_id": edited},
			})
			for i, e := range []string{redacted, image} {
				alice.Do("PUT", base+"/redact/"+url.PathEscape(e)+"/r"+fmt.Sprint(i), obj{})
			}
			if status, _, body := bob.Raw("GET", base+"/event/"+url.PathEscape(redacted), nil); status != 200 || strings.Contains(string(body), "redacted-marker") {
				t.Errorf("the redacted message is shown: %d %s", status, body)
			}
			if served(bob, uri) {
				t.Error("the file of the redacted message is served")
			}
			for _, held := range []string{uri, later} {
				if _, err := s.Control(t.Context(), "media delete", fmt.Appendf(nil, `{"uri":%q}`, held)); err == nil || !strings.Contains(err.Error(), "legal hold") {
					t.Errorf("media delete of a held file: %v", err)
				}
			}
			bob.Do("PUT", base+"/send/m.room.message/b1", obj{"msgtype": "m.text", "body": "bob-marker"})
			alice.Do("PUT", base+"/state/m.room.retention", obj{"max_lifetime": 60_000})
			alice.Do("PUT", "/v3/user/"+url.PathEscape(alice.User)+"/account_data/org.x", obj{"x": "data-marker"})
			s.Advance(2 * time.Minute)
			control(t, s, "purge now", obj{"all": true})
			bob.Do("PUT", base+"/send/m.room.message/b2", obj{"msgtype": "m.text", "body": "still here"})
			control(t, s, "purge now", obj{"all": true})
			control(t, s, "user deactivate", obj{"user": alice.User, "erase": true})
			if _, _, body := bob.Raw("GET", base+"/messages?dir=b&limit=100", nil); strings.Contains(string(body), "-marker") {
				t.Errorf("held messages are shown after they have expired: %s", body)
			}
			if served(bob, later) {
				t.Error("the file of a held message is served after the message has expired")
			}
			markers := []string{"expires-marker", "redacted-marker", "edited-marker", "edit-marker"}
			for _, m := range markers {
				if len(s.FilesWith(m)) == 0 {
					t.Errorf("%s is not on disk although a hold covers it", m)
				}
			}
			if n := mediaFiles(t, s); n != 2 {
				t.Errorf("%d files are left, want both that a hold covers", n)
			}
			if kept, want := len(s.FilesWith("bob-marker")) > 0, on == "room"; kept != want {
				t.Errorf("a message of another user is kept: %v, want %v", kept, want)
			}
			if kept, want := len(s.FilesWith("data-marker")) > 0, on == "user"; on == "user" && kept != want {
				t.Error("the data of the erased user are gone although a hold is on the user")
			}
			s.Reopen()
			control(t, s, "purge now", obj{"all": true})
			if len(s.FilesWith("expires-marker")) == 0 {
				t.Error("after a restart the purge removes what a hold covers")
			}
			lift(first, second, hold["id"])
			control(t, s, "purge now", obj{})
			for _, m := range append(markers, "bob-marker", "data-marker") {
				if files := s.FilesWith(m); len(files) > 0 {
					t.Errorf("after the hold was lifted and a purge %s is in %v", m, files)
				}
			}
			if n := mediaFiles(t, s); n != 0 {
				t.Errorf("after the hold was lifted %d files are left", n)
			}
		})
	}
}

func TestTwoAdministratorsLiftAHold(t *testing.T) {
	s := testserver.New(t, nil)
	first, second := admins(t, s)
	alice := s.Register("alice")
	room := alice.Do("POST", "/v3/createRoom", obj{})["room_id"].(string)
	review := inOneYear(s)
	for _, bad := range []obj{
		{"user": alice.User, "review": review},
		{"user": alice.User, "reason": "x"},
		{"user": alice.User, "reason": "x", "review": "tomorrow"},
		{"user": alice.User, "reason": "x", "review": "2001-01-01"},
		{"reason": "x", "review": review},
		{"user": alice.User, "room": room, "reason": "x", "review": review},
		{"user": alice.User, "reason": strings.Repeat("x", 1001), "review": review},
	} {
		if status, _, body := first.Raw("POST", holdsPath, bad); status != 400 {
			t.Errorf("%v: %d %s", bad, status, body)
		}
	}
	first.Refused("POST", holdsPath, obj{"user": "@nobody:test", "reason": "x", "review": review}, 404, "M_NOT_FOUND")
	alice.Refused("POST", holdsPath, obj{"user": alice.User, "reason": "x", "review": review}, 403, "M_FORBIDDEN")
	hold := first.Do("POST", holdsPath, obj{"room": room, "reason": "x", "review": review})
	path := holdsPath + "/" + fmt.Sprintf("%.0f", hold["id"])
	first.Do("POST", path+"/lift", obj{})
	first.Refused("POST", path+"/lift", obj{}, 403, "M_FORBIDDEN")
	alice.Refused("POST", path+"/lift", obj{}, 403, "M_FORBIDDEN")
	s.Advance(8 * 24 * time.Hour) // too late to confirm: this asks anew
	if got := second.Do("POST", path+"/lift", obj{}); got["lifted"] != nil || got["asked_by"] != second.User {
		t.Fatalf("a request that is too old was confirmed: %v", got)
	}
	if got := first.Do("GET", holdsPath, nil); len(got["items"].([]any)) != 1 {
		t.Fatalf("the holds are %v", got)
	}
	// On the command line, the token says who the administrator is.
	if _, err := s.Control(t.Context(), "hold lift", fmt.Appendf(nil, `{"id":%.0f}`, hold["id"])); err == nil {
		t.Error("a hold is lifted without a token")
	}
	if _, err := s.Control(t.Context(), "hold lift", fmt.Appendf(nil, `{"id":%.0f,"token":%q}`, hold["id"], alice.Token)); err == nil {
		t.Error("a user lifts a hold")
	}
	if _, err := s.Control(t.Context(), "hold lift", fmt.Appendf(nil, `{"id":%.0f,"token":%q}`, hold["id"], first.Token)); err != nil {
		t.Fatal(err)
	}
	first.Refused("POST", path+"/lift", obj{}, 400, "M_INVALID_PARAM")
	if got := first.Do("GET", holdsPath, nil); len(got["items"].([]any)) != 0 {
		t.Errorf("after the hold was lifted the holds are %v", got)
	}
	if got := first.Do("GET", holdsPath+"?lifted=true", nil); len(got["items"].([]any)) != 1 {
		t.Errorf("the lifted holds are %v", got)
	}
}

func TestHoldsAreReviewed(t *testing.T) {
	s := testserver.New(t, nil)
	first, _ := admins(t, s)
	hold := first.Do("POST", holdsPath, obj{"user": first.User, "reason": "x", "review": s.Now().AddDate(0, 0, 2).Format(time.DateOnly)})
	s.Advance(3 * 24 * time.Hour)
	overdue := func() any { return get(first.Do("GET", holdsPath, nil), "items", 0, "overdue") }
	if overdue() != true {
		t.Error("a hold past its review date is not overdue")
	}
	path := holdsPath + "/" + fmt.Sprintf("%.0f", hold["id"])
	first.Refused("POST", path+"/review", obj{"review": "2001-01-01"}, 400, "M_INVALID_PARAM")
	first.Do("POST", path+"/review", obj{"review": inOneYear(s)})
	if overdue() != false {
		t.Error("a hold that was reviewed is overdue")
	}
	first.Refused("POST", holdsPath+"/x/review", obj{"review": inOneYear(s)}, 404, "M_NOT_FOUND")
}

// upgraded replaces a room and returns the new room's ID.
func upgraded(c *testserver.Client, room string) string {
	return c.Do("POST", "/v3/rooms/"+url.PathEscape(room)+"/upgrade", obj{"new_version": "11"})["replacement_room"].(string)
}

// alsoCovers returns the rooms that a hold covers because of upgrades.
func alsoCovers(t *testing.T, s *testserver.Server, hold any) (rooms []string) {
	t.Helper()
	raw, err := json.Marshal(control(t, s, "hold show", obj{"id": hold}))
	if err != nil {
		t.Fatal(err)
	}
	var h adminapi.Hold
	if err := json.Unmarshal(raw, &h); err != nil {
		t.Fatal(err)
	}
	for _, c := range h.Also {
		rooms = append(rooms, string(c.Room))
	}
	return rooms
}

func TestAHoldOnARoomFollowsUpgrades(t *testing.T) {
	s := testserver.New(t, nil)
	first, second := admins(t, s)
	alice := s.Register("alice")
	oldest := alice.Do("POST", "/v3/createRoom", obj{})["room_id"].(string)
	old := upgraded(alice, oldest)
	hold := first.Do("POST", holdsPath, obj{"room": old, "reason": "x", "review": inOneYear(s)})
	if got := get(hold, "also_covers", 0, "room"); got != oldest {
		t.Errorf("the hold also covers %v, want the room's predecessor %s", got, oldest)
	}
	room := upgraded(alice, old)
	newest := upgraded(alice, room)
	if got := alsoCovers(t, s, hold["id"]); !slices.Equal(got, []string{oldest, room, newest}) {
		t.Errorf("after two upgrades the hold also covers %v, want %v", got, []string{oldest, room, newest})
	}
	// The rooms of others that only claim to belong to these are not covered.
	claims := alice.Do("POST", "/v3/createRoom", obj{"creation_content": obj{"predecessor": obj{"room_id": newest, "event_id": "$x"}}})["room_id"].(string)
	for _, r := range []string{newest, claims} {
		base := "/v3/rooms/" + url.PathEscape(r)
		e := alice.Do("PUT", base+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "marker of " + r})["event_id"].(string)
		alice.Do("PUT", base+"/redact/"+url.PathEscape(e)+"/2", obj{})
	}
	if n := len(s.FilesWith("marker of " + newest)); n == 0 {
		t.Error("a redacted message of the newest room is gone although the hold covers it")
	}
	s.Reopen()
	if got := alsoCovers(t, s, hold["id"]); len(got) != 3 {
		t.Errorf("after a restart the hold also covers %v", got)
	}
	if n := len(first.Do("GET", holdsPath, nil)["items"].([]any)); n != 1 {
		t.Errorf("%d holds are listed, want the one that was added", n)
	}
	lift(first, second, hold["id"])
	control(t, s, "purge now", obj{})
	for _, r := range []string{newest, claims} {
		if files := s.FilesWith("marker of " + r); len(files) > 0 {
			t.Errorf("after the hold was lifted, the redacted message of %s is in %v", r, files)
		}
	}
	// A room that replaces a formerly held one is not held.
	after := upgraded(alice, newest)
	base := "/v3/rooms/" + url.PathEscape(after)
	e := alice.Do("PUT", base+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "later-marker"})["event_id"].(string)
	alice.Do("PUT", base+"/redact/"+url.PathEscape(e)+"/2", obj{})
	control(t, s, "purge now", obj{})
	if files := s.FilesWith("later-marker"); len(files) > 0 {
		t.Errorf("after the hold was lifted, it follows an upgrade: %v", files)
	}
}

// The room is upgraded on another server, and this one joins the new room later.
func TestAHoldOnARoomFollowsAnUpgradeOnAnotherServer(t *testing.T) {
	net := testserver.Federation(t, 2, nil)
	s := net.Servers[0]
	first, _ := admins(t, s)
	alice, bob := s.Register("alice"), net.Servers[1].Register("bob")
	old := bob.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	alice.Do("POST", "/v3/join/"+url.PathEscape(old)+"?via=hs2.test", obj{})
	hold := first.Do("POST", holdsPath, obj{"room": old, "reason": "x", "review": inOneYear(s)})
	room := upgraded(bob, old)
	alice.Hears("This room has been replaced")
	alice.Do("POST", "/v3/join/"+url.PathEscape(room)+"?via=hs2.test", obj{})
	if got := alsoCovers(t, s, hold["id"]); !slices.Equal(got, []string{room}) {
		t.Errorf("the hold also covers %v, want %s", got, room)
	}
}

// eraseAccount closes a client's account with erasure and returns the answer.
func eraseAccount(c *testserver.Client) obj {
	return c.Do("POST", "/v3/account/deactivate", obj{"erase": true, "auth": obj{"type": "m.login.password", "identifier": obj{"type": "m.id.user", "user": c.User}, "password": testserver.Password()}})
}

func TestWhoAsksForErasureIsToldOfAHoldOnlyIfThatIsConfigured(t *testing.T) {
	for _, notify := range []string{"never", "on_request"} {
		t.Run(notify, func(t *testing.T) {
			s := testserver.New(t, func(cfg *config.Config) { cfg.Holds.Notify = notify })
			first, second := admins(t, s)
			held, member, other := s.Register("held"), s.Register("member"), s.Register("other")
			room := member.Do("POST", "/v3/createRoom", obj{})["room_id"]
			hold := first.Do("POST", holdsPath, obj{"user": held.User, "reason": "secret-reason", "review": inOneYear(s)})["id"]
			first.Do("POST", holdsPath, obj{"room": room, "reason": "secret-reason", "review": inOneYear(s)})
			held.Do("PUT", "/v3/user/"+url.PathEscape(held.User)+"/account_data/org.x", obj{"x": "data-marker"})
			for _, c := range []*testserver.Client{held, member, other} {
				answer := eraseAccount(c)
				text, told := answer["dev.ebb.legal_hold"].(string)
				if want := notify == "on_request" && c != other; told != want || strings.Contains(text, "secret-reason") {
					t.Errorf("%s is told: %v, want %v", c.User, answer, want)
				}
			}
			// The erasure that has waited is carried out when the hold is lifted, without anybody's doing.
			if len(s.FilesWith("data-marker")) == 0 {
				t.Error("the data of the held user are gone")
			}
			lift(first, second, hold)
			s.Reopen()
			control(t, s, "purge now", obj{})
			if files := s.FilesWith("data-marker"); len(files) > 0 {
				t.Errorf("after the hold was lifted the data are in %v", files)
			}
		})
	}
}

// A file of a held user stays even if the message that refers to it is by somebody whom no hold covers. A hold that was
// lifted and added again keeps what is left.
func TestFilesOfAHeldUserStayWhoeverSendsThem(t *testing.T) {
	s := testserver.New(t, nil)
	first, second := admins(t, s)
	alice, bob := s.Register("alice"), s.Register("bob")
	add := func() any {
		return first.Do("POST", holdsPath, obj{"user": alice.User, "reason": "x", "review": inOneYear(s)})["id"]
	}
	hold := add()
	base := expiring(bob)
	sendImage(bob, base, "1", upload(alice, pngImage(t, 30)))
	s.Advance(2 * time.Minute)
	bob.Do("PUT", base+"/send/m.room.message/2", obj{"msgtype": "m.text", "body": "later"})
	control(t, s, "purge now", obj{})
	if n := mediaFiles(t, s); n != 1 {
		t.Errorf("%d files are left, want that of the held user", n)
	}
	other := expiring(alice)
	alice.Do("PUT", other+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "held-marker"})
	s.Advance(2 * time.Minute)
	alice.Do("PUT", other+"/send/m.room.message/2", obj{"msgtype": "m.text", "body": "later"})
	control(t, s, "purge now", obj{})
	lift(first, second, hold)
	hold = add()
	control(t, s, "purge now", obj{})
	if len(s.FilesWith("held-marker")) == 0 {
		t.Error("a message is gone although the hold was added again before a purge")
	}
	lift(first, second, hold)
	control(t, s, "purge now", obj{})
	if files := s.FilesWith("held-marker"); len(files) > 0 {
		t.Errorf("after the hold was lifted again the message is in %v", files)
	}
}

// TestWhatHangsOnHeldMessagesIsHiddenAndStays has messages with thumbnails, sticky events and delayed events expire
// under a hold.
func TestWhatHangsOnHeldMessagesIsHiddenAndStays(t *testing.T) {
	s := testserver.New(t, nil)
	first, second := admins(t, s)
	alice := s.Register("alice")
	room := alice.Do("POST", "/v3/createRoom", obj{"preset": "public_chat"})["room_id"].(string)
	base := "/v3/rooms/" + url.PathEscape(room)
	hold := first.Do("POST", holdsPath, obj{"room": room, "reason": "case 7", "review": inOneYear(s)})
	uri, small := upload(alice, pngImage(t, 60)), upload(alice, pngImage(t, 20))
	alice.Do("PUT", base+"/send/m.room.message/1", obj{"msgtype": "m.image", "body": "image-marker", "url": uri, "info": obj{"thumbnail_url": small}})
	alice.Do("PUT", base+"/send/m.room.message/2"+stickyParam+"3000000", obj{"msgtype": "m.text", "body": "sticky-marker"})
	alice.Do("PUT", base+"/send/m.room.message/3?org.matrix.msc4140.delay=1000", obj{"msgtype": "m.text", "body": "delayed-marker"})
	s.Advance(2 * time.Second)
	if err := s.SendDelayed(t.Context()); err != nil {
		t.Fatal(err)
	}
	thumbnail := "/v1/media/thumbnail/" + strings.TrimPrefix(uri, "mxc://") + "?width=32&height=32&method=crop"
	seen := func() (text string) {
		for _, path := range []string{base + "/messages?dir=b&limit=100", "/v3/sync", base + "/initialSync"} {
			text += fmt.Sprint(alice.Do("GET", path, nil))
		}
		return text
	}
	markers := []string{"image-marker", "sticky-marker", "delayed-marker"}
	for _, m := range markers {
		if !strings.Contains(seen(), m) {
			t.Errorf("%s is not shown before it expires: the test proves nothing", m)
		}
	}
	if status, _, _ := alice.Raw("GET", thumbnail, nil); status != 200 || !served(alice, small) {
		t.Errorf("before they expire, the thumbnails are not served: %d", status)
	}
	files := mediaFiles(t, s)
	alice.Do("PUT", base+"/state/m.room.retention", obj{"max_lifetime": 600_000})
	s.Advance(time.Hour / 2)
	for _, when := range []string{"after they have expired", "after a purge", "after a restart and a purge"} {
		if when != "after they have expired" {
			control(t, s, "purge now", obj{"all": true})
		}
		if text := seen(); strings.Contains(text, "-marker") {
			t.Errorf("%s, what is held is shown: %s", when, text)
		}
		for _, m := range markers {
			if len(s.FilesWith(m)) == 0 {
				t.Errorf("%s, %s is not on disk", when, m)
			}
		}
		if status, _, _ := alice.Raw("GET", thumbnail, nil); status != 404 || served(alice, uri) || served(alice, small) {
			t.Errorf("%s, the files are served, the thumbnail with %d", when, status)
		}
		if n := mediaFiles(t, s); n != files {
			t.Errorf("%s, %d files are on disk, want %d", when, n, files)
		}
		if when == "after a purge" {
			s.Reopen()
		}
	}
	if got := exportedHold(t, s, first, hold["id"]); !anyContains(got, "sticky-marker") || !anyContains(got, "delayed-marker") || !anyContains(got, string(pngImage(t, 20))) {
		t.Error("the export of the hold lacks something that the hold keeps")
	}
	lift(first, second, hold["id"])
	control(t, s, "purge now", obj{})
	for _, m := range markers {
		if found := s.FilesWith(m); len(found) > 0 {
			t.Errorf("after the hold was lifted, %s is in %v", m, found)
		}
	}
	if n := mediaFiles(t, s); n != 0 {
		t.Errorf("after the hold was lifted, %d files are left", n)
	}
}

// A user can have 16 MiB of account data with a million references to media. All writes wait while one runs.
func TestLiftingAHoldErasesAUserWithMuchDataInSmallWrites(t *testing.T) {
	s := testserver.New(t, nil)
	first, second := admins(t, s)
	alice := s.Register("alice")
	hold := first.Do("POST", holdsPath, obj{"user": alice.User, "reason": "x", "review": inOneYear(s)})["id"]
	for i := range 450 {
		alice.Do("PUT", fmt.Sprintf("/v3/user/%s/account_data/org.x.%d", url.PathEscape(alice.User), i), obj{"x": "data-marker"})
	}
	control(t, s, "user deactivate", obj{"user": alice.User, "erase": true})
	parts, all := 0, 0
	for _, query := range s.Statements(func() { lift(first, second, hold) }) {
		switch {
		case strings.Contains(query, "DELETE FROM account_data") && strings.Contains(query, "LIMIT"):
			parts++
		case strings.Contains(query, "DELETE FROM account_data"):
			all++
		}
	}
	if parts != 3 || all != 1 {
		t.Errorf("450 rows were deleted in %d parts and then %d rests, want 3 and 1", parts, all)
	}
	control(t, s, "purge now", obj{})
	if files := s.FilesWith("data-marker"); len(files) > 0 {
		t.Errorf("after the hold was lifted the data are in %v", files)
	}
}
