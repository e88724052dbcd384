package clientapi

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"ebb/config"
)

func TestTURNCredentialsMatchThoseOfTheRelay(t *testing.T) {
	uris := []string{"turn:turn.example.org?transport=udp", "turns:turn.example.org"}
	h := newHome(t, func(c *config.Config) {
		c.TURN.URIs, c.TURN.SharedSecret, c.TURN.Lifetime = uris, "n0t-s3cret", config.Duration(2*time.Hour)
	})
	got := h.must(h.register("alice"), "GET", "/v3/voip/turnServer", "")
	username := fmt.Sprint(h.now().Unix()+7200) + ":@alice:here"
	mac := hmac.New(sha1.New, []byte("n0t-s3cret")) // computed as coturn does
	mac.Write([]byte(username))
	if got["username"] != username || got["password"] != base64.StdEncoding.EncodeToString(mac.Sum(nil)) || got["ttl"] != 7200.0 || fmt.Sprint(got["uris"]) != fmt.Sprint(uris) {
		t.Errorf("%v", got)
	}
	h.refused("", "GET", "/v3/voip/turnServer", "", 401, "M_MISSING_TOKEN")

	h = newHome(t, nil)
	h.refused(h.register("alice"), "GET", "/v3/voip/turnServer", "", 404, "M_NOT_FOUND")
	h.refused("", "GET", "/v3/voip/turnServer", "", 401, "M_MISSING_TOKEN")

	h = newHome(t, func(c *config.Config) {
		c.TURN.URIs, c.TURN.Username, c.TURN.Password = uris, "everybody", "knows"
	})
	if got := h.must(h.register("alice"), "GET", "/v3/voip/turnServer", ""); got["username"] != "everybody" || got["password"] != "knows" || got["ttl"] != 3600.0 {
		t.Errorf("%v", got)
	}
}
