package server_test

import (
	"fmt"
	"testing"

	"ebb/internal/testserver"
)

// A request can name thousands of users that do not exist. A statement for each of them, in a write for which all
// others wait, would stop the server.
func TestRequestsThatNameThousandsOfUnknownUsersTakeFewStatements(t *testing.T) {
	s := testserver.New(t, nil)
	alice := s.Register("alice")
	messages, claims := obj{}, obj{}
	for i := range 5000 {
		user := fmt.Sprintf("@nobody%d:test", i)
		messages[user], claims[user] = obj{"A": obj{}}, obj{"A": "signed_curve25519"}
	}
	claims[alice.User] = obj{alice.DeviceID: "signed_curve25519"}
	delete(claims, "@nobody0:test")
	for _, request := range []func(){
		func() { alice.Do("PUT", "/v3/sendToDevice/m.test/1", obj{"messages": messages}) },
		func() { alice.Do("POST", "/v3/keys/claim", obj{"one_time_keys": claims}) },
	} {
		if n := len(s.Statements(request)); n > 300 {
			t.Errorf("a request takes %d statements", n)
		}
	}
}
