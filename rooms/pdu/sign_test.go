package pdu

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"ebb/canonjson"
)

func TestSignJSONKeepsOtherSignaturesAndUnsigned(t *testing.T) {
	s := specKey(t)
	other := Signer{Server: "@u:domain", KeyID: "ed25519:DEVICE", Key: ed25519.NewKeyFromSeed(make([]byte, 32))}
	second := s
	second.KeyID = "ed25519:2"
	obj := []byte(`{"b":1,"a":[{"d":1,"c":2}],"unsigned":{"x":1}}`)
	for _, signer := range []Signer{s, other, second, s} {
		var err error
		if obj, err = SignJSON(obj, signer); err != nil {
			t.Fatal(err)
		}
	}
	for _, signer := range []Signer{s, other, second} {
		if err := VerifyJSON(obj, signer.Server, string(signer.KeyID), publicKey(signer)); err != nil {
			t.Error(err)
		}
	}
	if rest := string(canonjson.Without(obj, "signatures")); rest != `{"a":[{"c":2,"d":1}],"b":1,"unsigned":{"x":1}}` {
		t.Errorf("the rest became %s", rest)
	}
	changed := with(t, obj, "unsigned", `{"x":2}`)
	if err := VerifyJSON(changed, s.Server, string(s.KeyID), publicKey(s)); err != nil {
		t.Errorf("unsigned changed: %v", err)
	}
}

func TestVerifyJSONRefusesWrongSignatures(t *testing.T) {
	s := specKey(t)
	signed, err := SignJSON([]byte(`{"a":1}`), s)
	if err != nil {
		t.Fatal(err)
	}
	key := publicKey(s)
	for name, c := range map[string]struct {
		obj           string
		entity, keyID string
		key           ed25519.PublicKey
		kind          Kind
	}{
		"changed":           {strings.Replace(string(signed), `"a":1`, `"a":2`, 1), "domain", "ed25519:1", key, BadSignature},
		"added":             {strings.Replace(string(signed), `"a":1`, `"a":1,"b":1`, 1), "domain", "ed25519:1", key, BadSignature},
		"other entity":      {string(signed), "domain2", "ed25519:1", key, BadSignature},
		"other key id":      {string(signed), "domain", "ed25519:2", key, BadSignature},
		"other algorithm":   {string(signed), "domain", "curve25519:1", key, BadSignature},
		"other key":         {string(signed), "domain", "ed25519:1", ed25519.NewKeyFromSeed(make([]byte, 32)).Public().(ed25519.PublicKey), BadSignature},
		"short key":         {string(signed), "domain", "ed25519:1", key[:31], BadSignature},
		"no key":            {string(signed), "domain", "ed25519:1", nil, BadSignature},
		"no signatures":     {`{"a":1}`, "domain", "ed25519:1", key, BadSignature},
		"signatures a list": {`{"a":1,"signatures":[]}`, "domain", "ed25519:1", key, BadSignature},
		"bad base64":        {`{"signatures":{"domain":{"ed25519:1":"!"}}}`, "domain", "ed25519:1", key, BadSignature},
		"short signature":   {`{"signatures":{"domain":{"ed25519:1":"AAAA"}}}`, "domain", "ed25519:1", key, BadSignature},
		"signature number":  {`{"signatures":{"domain":{"ed25519:1":1}}}`, "domain", "ed25519:1", key, BadSignature},
		"no JSON":           {`{`, "domain", "ed25519:1", key, BadJSON},
	} {
		var bad *Error
		if err := VerifyJSON([]byte(c.obj), c.entity, c.keyID, c.key); !errors.As(err, &bad) || bad.Kind != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSignJSONRefusesWhatCannotBeSigned(t *testing.T) {
	for in, kind := range map[string]Kind{
		`[]`: BadShape, `1`: BadShape, `{`: BadJSON, `{"a":1.5}`: BadJSON, `{"signatures":[]}`: BadShape, `{"signatures":{"domain":1}}`: BadShape,
	} {
		var bad *Error
		if out, err := SignJSON([]byte(in), specKey(t)); !errors.As(err, &bad) || bad.Kind != kind {
			t.Errorf("SignJSON(%s) = %s, %v", in, out, err)
		}
	}
}

func TestSignaturesAreAddedToEvents(t *testing.T) {
	s := specKey(t)
	other := Signer{Server: "other", KeyID: "ed25519:o", Key: ed25519.NewKeyFromSeed(make([]byte, 32))}
	kindOf := func(_ *Event, err error) (kind Kind) {
		if bad := (*Error)(nil); errors.As(err, &bad) {
			kind = bad.Kind
		}
		return kind
	}
	eachVersion(t, func(t *testing.T, v *Version) {
		e := mustBuild(t, v, message(v), s)
		signed, err := e.Sign(other)
		if err != nil {
			t.Fatal(err)
		}
		added, err := e.Countersigned("other", with(t, signed.JSON(), "type", `"another"`))
		if err != nil || !slices.Equal(added.JSON(), signed.JSON()) {
			t.Fatalf("Countersigned = %s, %v; want %s", added.JSON(), err, signed.JSON())
		}
		for _, signer := range []Signer{s, other} {
			if err := added.VerifySignature(signer.Server, string(signer.KeyID), publicKey(signer)); err != nil || added.ID() != e.ID() {
				t.Errorf("event %s: %v", added.ID(), err)
			}
		}
		for copied, want := range map[string]Kind{
			`{}`: BadSignature, `{"signatures":{"domain":{}}}`: BadSignature, `{"signatures":{"other":[]}}`: BadSignature,
			`{"signatures":{"other":{"ed25519:o":5}}}`: BadShape, `{"signatures":{"other":{"ed25519:o":"\ud800"}}}`: BadJSON,
		} {
			if got := kindOf(e.Countersigned("other", []byte(copied))); got != want {
				t.Errorf("Countersigned by %s: error of kind %d, want %d", copied, got, want)
			}
		}
		damaged, err := ParseStored(v, e.ID(), with(t, e.JSON(), "signatures", `5`))
		if err != nil {
			t.Fatal(err)
		}
		if got := kindOf(damaged.Sign(other)); got != BadShape {
			t.Errorf("an event without a signatures object: error of kind %d", got)
		}
	})
}

func TestSignaturesListsServersAndKeys(t *testing.T) {
	v := versionOf(t, "12")
	raw := with(t, mustBuild(t, v, message(v), specKey(t)).JSON(), "signatures", `{"a":{"ed25519:1":"x","ed25519:2":"y"},"b":{},"c":{"ed25519:policy_server":"z"}}`)
	e, err := Parse(v, raw)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for server, keyID := range e.Signatures() {
		got = append(got, server+" "+keyID)
	}
	if want := []string{"a ed25519:1", "a ed25519:2", "c ed25519:policy_server"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for server := range e.Signatures() {
		if server != "a" {
			t.Errorf("the walk went on to %s", server)
		}
		break
	}
}

// Spec: server-server-api#validating-hashes-and-signatures-on-received-events
func TestRequiredSigners(t *testing.T) {
	s := specKey(t)
	s.Server = "id.example"
	eachVersion(t, func(t *testing.T, v *Version) {
		own := []string{}
		if v.EventIDFormat == EventIDFromServer {
			own = []string{"id.example"}
		}
		voucher := []string{}
		if v.Restricted {
			voucher = []string{"voucher.example:8448"}
		}
		for name, c := range map[string]struct {
			typ, content string
			want         []string
		}{
			"message":            {"m.room.message", `{"membership":"invite","third_party_invite":{}}`, slices.Concat([]string{"domain"}, own)},
			"invite":             {typeMember, `{"membership":"invite"}`, slices.Concat([]string{"domain"}, own)},
			"third-party invite": {typeMember, `{"membership":"invite","third_party_invite":{"signed":{}}}`, own},
			"restricted join": {
				typeMember, `{"membership":"join","join_authorised_via_users_server":"@v:voucher.example:8448"}`, slices.Concat([]string{"domain"}, own, voucher),
			},
			"not a join":    {typeMember, `{"membership":"leave","join_authorised_via_users_server":"@v:voucher.example"}`, slices.Concat([]string{"domain"}, own)},
			"same server":   {typeMember, `{"membership":"join","join_authorised_via_users_server":"@v:domain"}`, slices.Concat([]string{"domain"}, own)},
			"odd authority": {typeMember, `{"membership":"join","join_authorised_via_users_server":[1]}`, slices.Concat([]string{"domain"}, own)},
		} {
			p := message(v)
			p.Type, p.Content = c.typ, json.RawMessage(c.content)
			if got := RequiredSigners(mustBuild(t, v, p, s)); !slices.Equal(got, c.want) {
				t.Errorf("%s: %q, want %q", name, got, c.want)
			}
		}
	})
}

func TestPaddedHashesAndSignaturesAreRead(t *testing.T) {
	s, v := specKey(t), versionOf(t, "12")
	e := mustBuild(t, v, message(v), s)
	hashes, _ := canonjson.Get(e.JSON(), "hashes")
	padded, err := Parse(v, with(t, e.JSON(), "hashes", strings.Replace(string(hashes), `"}`, `="}`, 1)))
	if err != nil || !padded.CheckContentHash() {
		t.Errorf("padded hash %s: %v", hashes, err)
	}
	for _, bad := range []string{`{}`, `{"sha256":1}`, `{"sha256":""}`, `{"sha256":"!"}`, `{"sha512":"abcd"}`} {
		e, err := Parse(v, with(t, e.JSON(), "hashes", bad))
		if err != nil || e.CheckContentHash() {
			t.Errorf("hashes %s are taken: %v", bad, err)
		}
	}
}
