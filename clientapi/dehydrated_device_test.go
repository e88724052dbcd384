package clientapi

import (
	"fmt"
	"net/http"
	"testing"
)

func TestDehydratedDeviceFromUploadToRehydration(t *testing.T) {
	h := newHome(t, nil)
	alice, bob := h.register("alice"), h.register("bob")
	const path = "/unstable/org.matrix.msc3814.v1/dehydrated_device"
	h.refused(alice, "GET", path, obj{}, http.StatusNotFound, "M_NOT_FOUND")
	h.refused(alice, "DELETE", path, obj{}, http.StatusNotFound, "M_NOT_FOUND")
	h.refused(alice, "POST", path+"/DRY/events", obj{}, http.StatusForbidden, "M_FORBIDDEN")
	h.refused(alice, "GET", path+"/DRY/events", "", http.StatusForbidden, "M_FORBIDDEN")
	h.refused(alice, "PUT", path, obj{"device_id": "DRY"}, http.StatusBadRequest, "M_MISSING_PARAM")
	h.refused("", "GET", path, obj{}, http.StatusUnauthorized, "M_MISSING_TOKEN")

	upload := obj{
		"device_id": "DRY", "initial_device_display_name": "Dehydrated device", "device_data": obj{"algorithm": "m.dehydration.v2", "nonce": "x"},
		"device_keys": obj{
			"user_id": "@alice:here", "device_id": "DRY", "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"}, "dehydrated": true,
			"keys": obj{"curve25519:DRY": "AAAA"}, "signatures": obj{},
		},
		"one_time_keys": obj{}, "fallback_keys": obj{"signed_curve25519:AAA": obj{"key": "BBBB", "fallback": true}},
	}
	if out := h.must(alice, "PUT", path, upload); out["device_id"] != "DRY" {
		t.Fatal(out)
	}
	got := h.must(alice, "GET", path, obj{})
	if data, _ := got["device_data"].(obj); got["device_id"] != "DRY" || data["nonce"] != "x" {
		t.Fatal(got)
	}
	keys, _ := h.must(bob, "POST", "/v3/keys/query", obj{"device_keys": obj{"@alice:here": []string{}}})["device_keys"].(obj)
	if devices, _ := keys["@alice:here"].(obj); devices["DRY"] == nil {
		t.Fatal(keys)
	}
	h.must(bob, "PUT", "/v3/sendToDevice/m.room.encrypted/1", obj{"messages": obj{"@alice:here": obj{"DRY": obj{"ciphertext": "c"}}}})
	h.must(bob, "PUT", "/v3/sendToDevice/m.room.encrypted/2", obj{"messages": obj{"@alice:here": obj{"DRY": obj{"ciphertext": "d"}}}})
	h.refused(alice, "GET", path+"/DRY/events?from=x", "", http.StatusBadRequest, "M_INVALID_PARAM")
	for isGet, way := range []func(batch any) obj{
		func(batch any) obj {
			return h.must(alice, "POST", path+"/DRY/events?limit=1", obj{"next_batch": batch})
		},
		func(batch any) obj {
			return h.must(alice, "GET", path+fmt.Sprint("/DRY/events?limit=1&from=", batch), "")
		},
	} {
		first := way("")
		second := way(first["next_batch"])
		for i, page := range []obj{first, second} {
			if events, _ := page["events"].([]any); len(events) != 1 || events[0].(obj)["content"].(obj)["ciphertext"] != []string{"c", "d"}[i] {
				t.Fatal(i, page)
			}
		}
		if isGet == 1 {
			if second["next_batch"] != nil {
				t.Fatal(second)
			}
			continue
		}
		last := way(second["next_batch"])
		if events, isList := last["events"].([]any); !isList || len(events) != 0 || last["next_batch"] == nil {
			t.Fatal(last)
		}
	}
	if page := h.must(alice, "GET", path+"/DRY/events", ""); page["next_batch"] != nil || len(page["events"].([]any)) != 2 {
		t.Fatal(page)
	}
	h.must(alice, "GET", path, obj{})

	h.must(alice, "PUT", path, upload)
	if out := h.must(alice, "DELETE", path, ""); out["device_id"] != "DRY" {
		t.Fatal(out)
	}
	h.refused(alice, "GET", path, obj{}, http.StatusNotFound, "M_NOT_FOUND")
	h.must(alice, "PUT", path, upload)
	h.must(alice, "POST", "/v3/logout/all", obj{})
	h.refused(h.again("alice"), "GET", path, obj{}, http.StatusNotFound, "M_NOT_FOUND")
}

// again logs an existing user in and returns the access token.
func (h *home) again(name string) string {
	token, _ := h.login(name)
	return token
}
