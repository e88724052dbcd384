package e2ee

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

func (f *fixture) dehydrated(owner ident.Requester, deviceID string) Dehydrate {
	d := ident.Requester{UserID: owner.UserID, DeviceID: id.DeviceID(deviceID)}
	name := "Dehydrated device"
	return Dehydrate{
		DeviceID: d.DeviceID, Data: json.RawMessage(`{"algorithm":"m.dehydration.v2","pickle":"x"}`), DisplayName: &name,
		UploadKeys: UploadKeys{DeviceKeys: identity(d, `,"dehydrated":true`), OneTimeKeys: oneTime("1", "one"), FallbackKeys: oneTime("f", "fallback")},
	}
}

func (f *fixture) toDevice(from ident.Requester, txn string, to id.UserID, deviceID id.DeviceID) {
	f.t.Helper()
	content := map[id.UserID]map[id.DeviceID]json.RawMessage{to: {deviceID: json.RawMessage(fmt.Sprintf(`{"n":%q}`, txn))}}
	if err := f.SendToDevice(f.t.Context(), from, "p", txn, "m.room.encrypted", content); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) devicesOf(viewer ident.Requester, user id.UserID) []string {
	f.t.Helper()
	keys := must(f.Query(f.t.Context(), viewer, map[id.UserID][]id.DeviceID{user: nil}, 0))
	var out []string
	for deviceID, raw := range keys.DeviceKeys[user] {
		out = append(out, string(deviceID))
		if strings.HasPrefix(string(deviceID), "DRY") != strings.Contains(string(raw), `"dehydrated":true`) {
			f.t.Errorf("%s: %s", deviceID, raw)
		}
	}
	slices.Sort(out)
	return out
}

func TestReadingADehydratedDevicesMessagesDeletesNothing(t *testing.T) {
	f := newFixture(t)
	alice, bob := f.device("alice", "A"), f.device("bob", "B")
	_, err := f.Dehydrated(t.Context(), alice)
	wantCode(t, err, mxerr.CodeNotFound)
	_, err = f.DeleteDehydrated(t.Context(), alice)
	wantCode(t, err, mxerr.CodeNotFound)
	_, err = f.DehydratedEvents(t.Context(), alice, "DRY", "", MaxDehydratedPage)
	wantCode(t, err, mxerr.CodeForbidden)

	if err := f.Dehydrate(t.Context(), alice, f.dehydrated(alice, "DRY")); err != nil {
		t.Fatal(err)
	}
	if got := must(f.Dehydrated(t.Context(), alice)); got.DeviceID != "DRY" || string(got.Data) != `{"algorithm":"m.dehydration.v2","pickle":"x"}` {
		t.Fatalf("%+v", got)
	}
	if got := f.devicesOf(bob, alice.UserID); !slices.Equal(got, []string{"DRY"}) {
		t.Fatal(got)
	}
	for _, want := range []string{"one", "fallback"} {
		claims, _, err := f.Claim(t.Context(), map[id.UserID]map[id.DeviceID]string{alice.UserID: {"DRY": "signed_curve25519"}}, 0)
		if err != nil || !strings.Contains(fmt.Sprintf("%s", claims[alice.UserID]["DRY"]), `"key":"`+want) {
			t.Fatalf("%s, %v", claims, err)
		}
	}
	for i := range MaxDehydratedPage + 5 {
		f.toDevice(bob, fmt.Sprint(i), alice.UserID, "DRY")
	}
	var got []string
	batch := ""
	for range 2 { // an interrupted client starts again
		got, batch = nil, ""
		for range 2 {
			page := must(f.DehydratedEvents(t.Context(), alice, "DRY", batch, MaxDehydratedPage))
			for _, e := range page.Events {
				var m struct{ Content struct{ N string } }
				if err := json.Unmarshal(e, &m); err != nil {
					t.Fatal(err)
				}
				got = append(got, m.Content.N)
			}
			batch = page.Next
			if page.More != (len(got) < MaxDehydratedPage+5) {
				t.Fatalf("more after %d: %v", len(got), page.More)
			}
		}
		for i, n := range got {
			if n != fmt.Sprint(i) {
				t.Fatalf("message %d is %s", i, n)
			}
		}
		if len(got) != MaxDehydratedPage+5 {
			t.Fatal(len(got))
		}
	}
	f.toDevice(bob, "late", alice.UserID, "*")
	page := must(f.DehydratedEvents(t.Context(), alice, "DRY", batch, MaxDehydratedPage))
	if len(page.Events) != 1 || !strings.Contains(string(page.Events[0]), `"late"`) {
		t.Fatalf("%s", page.Events)
	}
	for range 2 {
		last := must(f.DehydratedEvents(t.Context(), alice, "DRY", page.Next, 1))
		if len(last.Events) != 0 || last.Events == nil || last.Next == "" || last.More {
			t.Fatalf("%+v", last)
		}
	}
	if got := must(f.DehydratedEvents(t.Context(), alice, "DRY", "", 1)); len(got.Events) != 1 || !got.More {
		t.Fatalf("%+v", got)
	}
	if got := f.devicesOf(bob, alice.UserID); !slices.Equal(got, []string{"DRY"}) {
		t.Fatal(got)
	}
}

func TestNewDehydratedDeviceReplacesTheOldOne(t *testing.T) {
	f := newFixture(t)
	alice, bob := f.device("alice", "A"), f.device("bob", "B")
	for _, deviceID := range []string{"DRY1", "DRY2", "DRY2"} {
		if err := f.Dehydrate(t.Context(), alice, f.dehydrated(alice, deviceID)); err != nil {
			t.Fatal(err)
		}
		f.toDevice(bob, "to"+deviceID, alice.UserID, id.DeviceID(deviceID))
	}
	if got := f.devicesOf(bob, alice.UserID); !slices.Equal(got, []string{"DRY2"}) {
		t.Fatal(got)
	}
	_, err := f.DehydratedEvents(t.Context(), alice, "DRY1", "", MaxDehydratedPage)
	wantCode(t, err, mxerr.CodeForbidden)
	_, err = f.DehydratedEvents(t.Context(), bob, "DRY2", "", MaxDehydratedPage)
	wantCode(t, err, mxerr.CodeForbidden)
	f.read(func(tx *storage.Tx) error {
		devices, err := tx.DeviceRefs(alice.UserNID)
		if err == nil && len(devices) != 2 { // A and DRY2
			t.Errorf("%v", devices)
		}
		return err
	})
	if got := must(f.DeleteDehydrated(t.Context(), alice)); got != "DRY2" {
		t.Fatal(got)
	}
	f.read(func(tx *storage.Tx) error {
		devices, err := tx.DeviceRefs(alice.UserNID)
		if err == nil && (len(devices) != 1 || devices[0].ID != "A") {
			t.Errorf("%v", devices)
		}
		return err
	})
}

func TestDehydratedDeviceThatSignedInIsKept(t *testing.T) {
	f := newFixture(t)
	alice := f.device("alice", "A")
	if err := f.Dehydrate(t.Context(), alice, f.dehydrated(alice, "DRY1")); err != nil {
		t.Fatal(err)
	}
	f.write(func(tx *storage.Tx) error {
		d, _, err := tx.Dehydrated(alice.UserNID)
		if err != nil {
			return err
		}
		return tx.AddAccessToken("h", alice.UserNID, d.Device, 0, false)
	})
	wantCode(t, f.Dehydrate(t.Context(), alice, f.dehydrated(alice, "DRY1")), mxerr.CodeInvalidParam)
	if err := f.Dehydrate(t.Context(), alice, f.dehydrated(alice, "DRY2")); err != nil {
		t.Fatal(err)
	}
	f.read(func(tx *storage.Tx) error {
		devices, err := tx.DeviceRefs(alice.UserNID)
		if err == nil && len(devices) != 3 {
			t.Errorf("%v", devices)
		}
		return err
	})
}

func TestDeletedDeviceIsNoLongerDehydrated(t *testing.T) {
	f := newFixture(t)
	alice := f.device("alice", "A")
	if err := f.Dehydrate(t.Context(), alice, f.dehydrated(alice, "DRY")); err != nil {
		t.Fatal(err)
	}
	f.write(func(tx *storage.Tx) error { // as package accounts deletes a device
		d, _, err := tx.Dehydrated(alice.UserNID)
		if err != nil {
			return err
		}
		if err := f.DeviceGone(tx, d.Device, alice.UserNID, d.DeviceID); err != nil {
			return err
		}
		return tx.DeleteDevice(d.Device)
	})
	_, err := f.Dehydrated(t.Context(), alice)
	wantCode(t, err, mxerr.CodeNotFound)
}

func TestMalformedDehydratedDeviceIsRefused(t *testing.T) {
	f := newFixture(t)
	alice := f.device("alice", "A")
	long := strings.Repeat("x", maxKeyID+1)
	for name, tc := range map[string]struct {
		code   string
		change func(*Dehydrate)
	}{
		"no device id":      {mxerr.CodeMissingParam, func(d *Dehydrate) { d.DeviceID = "" }},
		"a long device id":  {mxerr.CodeInvalidParam, func(d *Dehydrate) { d.DeviceID = id.DeviceID(long) }},
		"a long name":       {mxerr.CodeInvalidParam, func(d *Dehydrate) { d.DisplayName = &long }},
		"no data":           {mxerr.CodeMissingParam, func(d *Dehydrate) { d.Data = json.RawMessage("null") }},
		"data of no object": {mxerr.CodeBadJSON, func(d *Dehydrate) { d.Data = json.RawMessage(`"x"`) }},
		"much data":         {mxerr.CodeTooLarge, func(d *Dehydrate) { d.Data = json.RawMessage(`{"x":"` + strings.Repeat("x", maxKeyJSON) + `"}`) }},
		"no keys":           {mxerr.CodeMissingParam, func(d *Dehydrate) { d.DeviceKeys = nil }},
		"another's keys":    {mxerr.CodeInvalidParam, func(d *Dehydrate) { d.DeviceKeys = identity(alice, "") }},
		"own device":        {mxerr.CodeInvalidParam, func(d *Dehydrate) { d.DeviceID = "A"; d.DeviceKeys = identity(alice, "") }},
		"a bad key id":      {mxerr.CodeInvalidParam, func(d *Dehydrate) { d.OneTimeKeys = map[string]json.RawMessage{"x": json.RawMessage(`"y"`)} }},
		"a bad fallback":    {mxerr.CodeBadJSON, func(d *Dehydrate) { d.FallbackKeys = map[string]json.RawMessage{"a:x": json.RawMessage(`1`)} }},
	} {
		d := f.dehydrated(alice, "DRY")
		tc.change(&d)
		if err := f.Dehydrate(t.Context(), alice, d); mxerr.Code(err) != tc.code {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
	}
	if err := f.Dehydrate(t.Context(), alice, f.dehydrated(alice, "DRY")); err != nil {
		t.Fatal(err)
	}
	for _, batch := range []string{"x", "1", "d", "d-1", "d99999999999999999999"} {
		_, err := f.DehydratedEvents(t.Context(), alice, "DRY", batch, MaxDehydratedPage)
		wantCode(t, err, mxerr.CodeInvalidParam)
	}
}
