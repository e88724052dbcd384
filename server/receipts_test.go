package server_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"ebb/config"
	"ebb/deletions"
	"ebb/internal/testserver"
)

func TestAPurgeOfARoomMakesASignedReceipt(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	base := expiring(alice)
	message := sendImage(alice, base, "1", upload(alice, pngImage(t, 30)))
	s.Advance(2 * time.Minute)
	alice.Do("PUT", base+"/send/m.room.message/2", obj{"msgtype": "m.text", "body": "later"})
	purge(t, s)
	control(t, s, "keys rotate", obj{})
	s.Advance(2 * time.Minute)
	alice.Do("PUT", base+"/send/m.room.message/3", obj{"msgtype": "m.text", "body": "latest"})
	purge(t, s)
	purge(t, s) // deletes nothing, so it makes no receipt
	var list struct{ Items []struct{ Note string } }
	var keys struct{ Items []struct{ Key string } }
	decode := func(name string, v any) {
		raw, err := json.Marshal(control(t, s, name, obj{}))
		if err == nil {
			err = json.Unmarshal(raw, v)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	decode("receipts list", &list)
	decode("receipts keys", &keys)
	if len(list.Items) != 2 || len(keys.Items) != 2 {
		t.Fatalf("%d receipts and %d keys, want 2 of each", len(list.Items), len(keys.Items))
	}
	for _, want := range []string{"events: 1\n", "media: 1\n", "policy: min_lifetime none, max_lifetime 1m0s\n", "other servers: none known\n"} {
		if !strings.Contains(list.Items[0].Note, want) {
			t.Errorf("the receipt does not say %q: %s", want, list.Items[0].Note)
		}
	}
	if strings.Contains(fmt.Sprint(list), message) {
		t.Error("a receipt names an event")
	}
	var file bytes.Buffer
	for _, r := range list.Items {
		if err := json.NewEncoder(&file).Encode(deletions.Line{Note: r.Note}); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := deletions.Verify(&file, []string{keys.Items[0].Key, keys.Items[1].Key}); err != nil || v.Receipts != 2 || v.Media != 1 {
		t.Errorf("verified: %+v, %v", v, err)
	}
}

func TestReceiptsCanBeSwitchedOff(t *testing.T) {
	s := testserver.New(t, func(cfg *config.Config) { cfg.Retention.ReceiptsKeep = 0 })
	alice := s.Register("alice")
	base := expiring(alice)
	alice.Do("PUT", base+"/send/m.room.message/1", obj{"msgtype": "m.text", "body": "x"})
	s.Advance(2 * time.Minute)
	alice.Do("PUT", base+"/send/m.room.message/2", obj{"msgtype": "m.text", "body": "later"})
	purge(t, s)
	control(t, s, "keys rotate", obj{})
	if got := fmt.Sprint(control(t, s, "receipts list", obj{})); strings.Contains(got, "ebb deletion receipt") {
		t.Errorf("the receipts are %s", got)
	}
}

// Redactions and deletions of media get receipts too, once the files have been overwritten.
func TestRedactionsAndDeletedMediaHaveReceipts(t *testing.T) {
	s := testserver.New(t, nil)
	first, second := admins(t, s)
	alice := s.Register("alice")
	room := alice.Do("POST", "/v3/createRoom", obj{})["room_id"].(string)
	base := "/v3/rooms/" + url.PathEscape(room)
	redact := func(txn string, event any) {
		alice.Do("PUT", base+"/redact/"+url.PathEscape(event.(string))+"/"+txn, obj{})
	}
	say := func(txn string) any {
		return alice.Do("PUT", base+"/send/m.room.message/"+txn, obj{"msgtype": "m.text", "body": "x"})["event_id"]
	}
	redact("r1", say("1"))
	redact("r2", sendImage(alice, base, "2", upload(alice, pngImage(t, 30))))
	control(t, s, "media delete", obj{"uri": upload(alice, pngImage(t, 40))})
	hold := first.Do("POST", holdsPath, obj{"room": room, "reason": "x", "review": inOneYear(s)})["id"]
	held := say("3")
	redact("r3", held)
	notes := func() (list []string) {
		t.Helper()
		raw, err := json.Marshal(control(t, s, "receipts list", obj{}))
		if err != nil {
			t.Fatal(err)
		}
		var page struct{ Items []struct{ Note string } }
		if err := json.Unmarshal(raw, &page); err != nil {
			t.Fatal(err)
		}
		for _, i := range page.Items {
			list = append(list, i.Note)
		}
		return list
	}
	if got := notes(); len(got) != 0 {
		t.Errorf("before the files are overwritten there are receipts: %v", got)
	}
	purge(t, s)
	purge(t, s)
	got := notes()
	has := func(wants ...string) bool {
		return slices.ContainsFunc(got, func(note string) bool {
			return !slices.ContainsFunc(wants, func(want string) bool { return !strings.Contains(note, want) })
		})
	}
	if len(got) != 2 || !has("room: "+room+"\n", "deleted: redacted messages\n", "events: 2\n", "media: 1\n") ||
		!has("room: none\n", "deleted: media\n", "events: 0\n", "media: 1\n", "other servers: not known\n") {
		t.Errorf("the receipts are %v", got)
	}
	lift(first, second, hold)
	purge(t, s)
	if got = notes(); len(got) != 3 || !has("deleted: redacted messages\n", "events: 1\n") {
		t.Errorf("after the hold was lifted the receipts are %v", got)
	}
}
