package push_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"ebb/internal/testserver"
)

func TestPusherIsSetListedChangedAndDeleted(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice := l.Register("alice")
	set(alice, g.pusher("key", object{"profile_tag": "tag", "append": true}))
	want := object{
		"kind": "http", "app_id": "org.example.app", "pushkey": "key", "app_display_name": "App", "device_display_name": "Phone", "lang": "en", "profile_tag": "tag",
		"data":                         object{"url": g.url, "custom": object{"a": 1.0}},
		"org.matrix.msc3881.enabled":   true,
		"org.matrix.msc3881.device_id": alice.DeviceID,
	}
	if got := alice.Do("GET", "/v3/pushers", nil); !reflect.DeepEqual(got, object{"pushers": []any{want}}) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	set(alice, g.pusher("key", object{"lang": "de", "data": object{"url": g.url, "format": "event_id_only"}}))
	delete(want, "profile_tag")
	want["lang"], want["data"] = "de", object{"url": g.url, "format": "event_id_only"}
	if got := alice.Do("GET", "/v3/pushers", nil); !reflect.DeepEqual(got, object{"pushers": []any{want}}) {
		t.Errorf("changed: got %v\nwant %v", got, want)
	}
	set(alice, g.pusher("second", nil))
	set(alice, object{"kind": nil, "app_id": "org.example.app", "pushkey": "key"})
	set(alice, object{"kind": nil, "app_id": "org.example.app", "pushkey": "unknown"})
	if got := pushkeys(alice); !slices.Equal(got, []string{"second"}) {
		t.Errorf("after the deletion: %v", got)
	}
	if got := pushkeys(l.Register("bob")); len(got) > 0 {
		t.Errorf("another user sees %v", got)
	}
}

func TestInvalidPushersAreRefused(t *testing.T) {
	l := newLab(t, nil)
	alice := l.Register("alice")
	good := (&gateway{url: "https://push.example.org/_matrix/push/v1/notify"}).pusher("key", nil)
	set(alice, good)
	with := func(key string, value any) object {
		p := maps.Clone(good)
		if p[key] = value; value == nil {
			delete(p, key)
		}
		return p
	}
	url := func(u any) object { return with("data", object{"url": u}) }
	long := strings.Repeat("x", 513)
	for name, c := range map[string]struct {
		body any
		code string
	}{
		"no JSON":                 {[]byte("{"), "M_NOT_JSON"},
		"an array":                {[]byte("[]"), "M_BAD_JSON"},
		"no kind":                 {with("kind", nil), "M_MISSING_PARAM"},
		"a kind that is a number": {with("kind", 1), "M_INVALID_PARAM"},
		"an unknown kind":         {with("kind", "carrier pigeon"), "M_INVALID_PARAM"},
		"no app_id":               {with("app_id", nil), "M_MISSING_PARAM"},
		"an app_id of 65":         {with("app_id", long[:65]), "M_INVALID_PARAM"},
		"an app_id of 1":          {with("app_id", 1), "M_BAD_JSON"},
		"no pushkey":              {with("pushkey", nil), "M_MISSING_PARAM"},
		"an empty pushkey":        {with("pushkey", ""), "M_INVALID_PARAM"},
		"a pushkey of 513":        {with("pushkey", long), "M_INVALID_PARAM"},
		"no lang":                 {with("lang", nil), "M_MISSING_PARAM"},
		"a long lang":             {with("lang", long), "M_INVALID_PARAM"},
		"no app_display_name":     {with("app_display_name", nil), "M_MISSING_PARAM"},
		"no device_display_name":  {with("device_display_name", nil), "M_MISSING_PARAM"},
		"no data":                 {with("data", nil), "M_MISSING_PARAM"},
		"data that is a string":   {with("data", "x"), "M_INVALID_PARAM"},
		"no url":                  {with("data", object{}), "M_MISSING_PARAM"},
		"a url that is a number":  {url(1), "M_INVALID_PARAM"},
		"another scheme":          {url("file:///_matrix/push/v1/notify"), "M_INVALID_PARAM"},
		"another path":            {url("https://push.example.org/notify"), "M_INVALID_PARAM"},
		"no host":                 {url("https:///_matrix/push/v1/notify"), "M_INVALID_PARAM"},
		"a user name":             {url("https://a:b@push.example.org/_matrix/push/v1/notify"), "M_INVALID_PARAM"},
		"another format":          {with("data", object{"url": "https://push.example.org/_matrix/push/v1/notify", "format": "x"}), "M_INVALID_PARAM"},
		"much data":               {with("data", object{"url": "https://push.example.org/_matrix/push/v1/notify", "x": strings.Repeat("x", 16<<10)}), "M_INVALID_PARAM"},
		"enabled as a string":     {with("org.matrix.msc3881.enabled", "yes"), "M_BAD_JSON"},
	} {
		t.Run(name, func(*testing.T) { alice.Refused("POST", "/v3/pushers/set", c.body, 400, c.code) })
	}
	if got := pushkeys(alice); !slices.Equal(got, []string{"key"}) {
		t.Errorf("pushers are %v", got)
	}
}

func TestGatewayMustUseTLSUnlessPrivateAddressesAreAllowed(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	g := &gateway{url: "http://push.example.org/_matrix/push/v1/notify"}
	alice.Refused("POST", "/v3/pushers/set", g.pusher("key", nil), 400, "M_INVALID_PARAM")
}

func TestPushersPerUserAreBounded(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice := l.Register("alice")
	for i := range 50 {
		set(alice, g.pusher(fmt.Sprint("key", i), nil))
	}
	alice.Refused("POST", "/v3/pushers/set", g.pusher("one too many", nil), 413, "M_TOO_LARGE")
	set(alice, g.pusher("key7", object{"lang": "de"})) // changing a pusher does not add one
	if got := pushkeys(alice); len(got) != 50 {
		t.Errorf("%d pushers", len(got))
	}
}

func TestPushersAreDeletedWithTheirDevice(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice := l.Register("alice")
	phone, tablet := l.Login(alice.User), l.Login(alice.User)
	bob := l.Register("bob")
	room := room(bob, nil, alice)
	set(alice, g.pusher("laptop", nil))
	set(phone, g.pusher("phone", nil))
	set(tablet, g.pusher("tablet", nil))
	phone.Do("POST", "/v3/logout", object{})
	if got := pushkeys(alice); !slices.Equal(got, []string{"laptop", "tablet"}) {
		t.Errorf("after the sign-out of the phone: %v", got)
	}
	id := say(bob, room, "hello", nil)
	keys := map[string]bool{}
	for range 2 {
		n := g.event()
		if keys[n.Devices[0].Pushkey] = true; n.EventID != id {
			t.Errorf("notified of %s, want %s", n.EventID, id)
		}
	}
	if !keys["laptop"] || !keys["tablet"] {
		t.Errorf("notified %v", keys)
	}
	auth := object{"type": "m.login.password", "identifier": object{"type": "m.id.user", "user": alice.User}, "password": testserver.Password()}
	alice.Do("POST", "/v3/account/password", object{"auth": auth, "new_password": "another long password"})
	if got := pushkeys(alice); !slices.Equal(got, []string{"laptop"}) {
		t.Errorf("after the change of the password: %v", got)
	}
	say(bob, room, "again", nil)
	if n := g.event(); n.Devices[0].Pushkey != "laptop" {
		t.Errorf("a deleted pusher was notified: %+v", n)
	}
}

func TestPushkeyBelongsToOneUserUnlessItIsAppended(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	set(alice, g.pusher("key", nil))
	set(alice, g.pusher("other", nil))
	set(alice, g.pusher("key", object{"app_id": "org.example.other"}))
	set(bob, g.pusher("key", object{"append": true}))
	if a, b := pushkeys(alice), pushkeys(bob); !slices.Equal(a, []string{"key", "key", "other"}) || !slices.Equal(b, []string{"key"}) {
		t.Errorf("appended: %v and %v", a, b)
	}
	set(bob, g.pusher("key", nil))
	if a, b := pushkeys(alice), pushkeys(bob); !slices.Equal(a, []string{"key", "other"}) || !slices.Equal(b, []string{"key"}) {
		t.Errorf("set: %v and %v", a, b)
	}
}

func TestPusherOfAnotherDeviceCanBeDisabledAndKeepsItsDevice(t *testing.T) {
	l := newLab(t, nil)
	g := newGateway(t, nil)
	alice, bob := l.Register("alice"), l.Register("bob")
	phone := l.Login(alice.User)
	room := room(bob, nil, alice)
	set(phone, g.pusher("phone", nil))
	own := alice.Do("GET", "/v3/pushers", nil)["pushers"].([]any)[0].(object)
	own["org.matrix.msc3881.enabled"] = false
	set(alice, own)
	say(bob, room, "silent", nil)
	got := alice.Do("GET", "/v3/pushers", nil)["pushers"].([]any)[0].(object)
	if got["org.matrix.msc3881.enabled"] != false || got["org.matrix.msc3881.device_id"] != phone.DeviceID {
		t.Errorf("disabled: %v", got)
	}
	delete(own, "org.matrix.msc3881.device_id")
	own["org.matrix.msc3881.enabled"] = true
	set(alice, own)
	loud := say(bob, room, "loud", nil)
	if n := g.event(); n.EventID != loud {
		t.Errorf("notified of %v, want %s", n, loud)
	}
	phone.Do("POST", "/v3/logout", object{})
	if got := pushkeys(alice); len(got) > 0 {
		t.Errorf("after the sign-out of the phone: %v", got)
	}
}
