package pdu

import (
	"testing"

	"ebb/canonjson"
)

// Spec: appendices#json-signing
func TestSignJSONGivesTheValuesOfTheSpecification(t *testing.T) {
	s := specKey(t)
	for _, c := range []struct{ in, want string }{
		{`{}`, `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`},
		{`{"one": 1, "two": "Two"}`, `{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`},
	} {
		got, err := SignJSON([]byte(c.in), s)
		if err != nil || string(got) != c.want {
			t.Errorf("SignJSON(%s) = %s, %v; want %s", c.in, got, err, c.want)
		}
		if err := VerifyJSON(got, "domain", "ed25519:1", publicKey(s)); err != nil {
			t.Errorf("VerifyJSON(%s): %v", got, err)
		}
	}
}

// Spec: appendices#event-signing
func TestEventsAreHashedAndSignedAsInTheSpecification(t *testing.T) {
	s := specKey(t)
	for name, c := range map[string]struct{ typ, in, hash, signature string }{
		"minimal": {
			"X",
			`{"room_id":"!x:domain","sender":"@a:domain","origin":"domain","origin_server_ts":1000000,"signatures":{},"hashes":{},
			  "type":"X","content":{},"prev_events":[],"auth_events":[],"depth":3,"unsigned":{"age_ts":1000000}}`,
			"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
			"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
		},
		"redactable content": {
			"m.room.message",
			`{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain","origin_server_ts":1000000,
			  "type":"m.room.message","room_id":"!r:domain","sender":"@u:domain","signatures":{},"unsigned":{"age_ts":1000000}}`,
			"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
			"Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
		},
	} {
		t.Run(name, func(t *testing.T) {
			canonical, err := canonjson.Canonical([]byte(c.in), true)
			if err != nil {
				t.Fatal(err)
			}
			unsealed := canonjson.Without(canonical, "hashes", "signatures", "unsigned")
			v := versionOf(t, "1")
			sealed, _ := seal(v, c.typ, unsealed, s)
			want := with(t, unsealed, "hashes", `{"sha256":"`+c.hash+`"}`)
			want = with(t, want, "signatures", `{"domain":{"ed25519:1":"`+c.signature+`"}}`)
			if string(sealed) != string(want) {
				t.Errorf("got  %s\nwant %s", sealed, want)
			}
			e, err := ParseStored(v, "$0:domain", sealed)
			if err != nil {
				t.Fatal(err)
			}
			if !e.CheckContentHash() {
				t.Error("the content hash is not accepted")
			}
			if err := e.VerifySignature("domain", "ed25519:1", publicKey(s)); err != nil {
				t.Error(err)
			}
		})
	}
}
