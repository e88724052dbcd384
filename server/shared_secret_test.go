package server_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
)

// Scripts create hundreds of accounts; only clients that guess the secret are slowed down.
func TestSharedSecretMakesAnyNumberOfAccounts(t *testing.T) {
	s := testserver.New(t, func(c *config.Config) {
		c.RateLimits, c.Registration.SharedSecret = config.Default().RateLimits, "a secret of the administrator"
	})
	c := s.Anonymous()
	const path = "/_synapse/admin/v1/register"
	register := func(secret, name string) int {
		t.Helper()
		status, _, raw := c.Raw("GET", path, nil)
		if status != 200 {
			return status
		}
		nonce := decode(t, raw)["nonce"].(string)
		mac := hmac.New(sha1.New, []byte(secret))
		mac.Write([]byte(nonce + "\x00" + name + "\x00pass word\x00notadmin"))
		status, _, _ = c.Raw("POST", path, obj{"nonce": nonce, "username": name, "password": "pass word", "admin": false, "mac": hex.EncodeToString(mac.Sum(nil))})
		return status
	}
	for i := range 2 * config.Default().RateLimits.Logins.Burst {
		if status := register("a secret of the administrator", fmt.Sprintf("user%d", i)); status != 200 {
			t.Fatalf("account %d: %d", i, status)
		}
	}
	refused := 0
	for range config.Default().RateLimits.Logins.Burst {
		if status := register("a guess", "eve"); status != 403 {
			t.Errorf("a guess: %d", status)
		}
		refused++
	}
	if status := register("a guess", "eve"); status != 429 {
		t.Errorf("guess %d: %d", refused+1, status)
	}
}
