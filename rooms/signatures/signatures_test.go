package signatures_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/rooms/signatures"
)

// signer returns the signing key of a server, which depends on nothing but its name and the key ID.
func signer(server string, keyID id.KeyID) pdu.Signer {
	seed := bytes.Repeat([]byte(server+string(keyID)), ed25519.SeedSize)[:ed25519.SeedSize]
	return pdu.Signer{Server: server, KeyID: keyID, Key: ed25519.NewKeyFromSeed(seed)}
}

func public(s pdu.Signer) ed25519.PublicKey { return s.Key.Public().(ed25519.PublicKey) }

// ring is a key ring that has the keys of some signers. It records what it is asked for.
type ring struct {
	has   []pdu.Signer
	asked [][]fedclient.KeyWant
}

func (r *ring) Keys(_ context.Context, wants []fedclient.KeyWant) map[fedclient.KeyWant]ed25519.PublicKey {
	r.asked = append(r.asked, wants)
	found := map[fedclient.KeyWant]ed25519.PublicKey{}
	for _, want := range wants {
		for _, s := range r.has {
			if s.Server == want.Server && s.KeyID == want.KeyID {
				found[want] = public(s)
			}
		}
	}
	return found
}

func message(t *testing.T, s pdu.Signer, body string) *pdu.Event {
	t.Helper()
	return build(t, s, pdu.Proto{Type: "m.room.message", Content: json.RawMessage(fmt.Sprintf(`{"body":%q}`, body))})
}

func build(t *testing.T, s pdu.Signer, p pdu.Proto) *pdu.Event {
	t.Helper()
	v, _ := pdu.VersionOf("10")
	p.RoomID, p.Sender, p.Depth, p.OriginServerTS = "!r:a", id.UserID("@user:"+s.Server), 1, 1000
	p.PrevEvents, p.AuthEvents = []id.EventID{"$prev"}, []id.EventID{"$auth"}
	e, err := pdu.Build(v, p, s)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestVerify(t *testing.T) {
	a, b, own := signer("a", "ed25519:1"), signer("b", "ed25519:1"), signer("own", "ed25519:1")
	lost := signer("a", "ed25519:lost")
	good := message(t, a, "good")
	text := func(e *pdu.Event, from, to string) json.RawMessage {
		if out := strings.Replace(string(e.JSON()), from, to, 1); from == "" || out != string(e.JSON()) {
			return json.RawMessage(out)
		}
		t.Fatalf("%s has no %s", e.JSON(), from)
		return nil
	}
	twice, err := message(t, a, "twice").Sign(lost)
	if err != nil {
		t.Fatal(err)
	}
	forged := message(t, pdu.Signer{Server: "a", KeyID: "ed25519:1", Key: b.Key}, "forged")
	for _, c := range []struct {
		why   string
		raw   json.RawMessage
		event string // the body of the event, "redacted", or ""
		noKey bool
	}{
		{"a good event", good.JSON(), "good", false},
		{"an event of this server", message(t, own, "own").JSON(), "own", false},
		{"not JSON", json.RawMessage(`{"type":`), "", false},
		{"other content than was hashed", text(good, `"good"`, `"evil"`), "redacted", false},
		{"another sender", text(good, "@user:a", "@other:a"), "", false},
		{"the key of another server", forged.JSON(), "", false},
		{"no signature", text(good, `"signatures":{"a":`, `"signatures":{"c":`), "", false},
		{"a key that cannot be fetched", message(t, lost, "lost").JSON(), "", true},
		{"one of two keys is enough", twice.JSON(), "twice", false},
		{"a wrong signature beside a key that cannot be fetched", text(twice, `"ed25519:1":"`, `"ed25519:1":"AAAA`), "", false},
	} {
		v, _ := pdu.VersionOf("10")
		events, errs := signatures.NewVerifier("own", own, &ring{has: []pdu.Signer{a, b}}).Verify(t.Context(), v, []json.RawMessage{c.raw})
		got := ""
		if e := events[0]; e != nil {
			var content struct{ Body string }
			if err := json.Unmarshal(e.Content(), &content); err != nil {
				t.Fatal(err)
			}
			if got = content.Body; got == "" {
				got = "redacted"
			}
		}
		if got != c.event || (errs[0] == nil) != (got != "") || errors.Is(errs[0], signatures.ErrNoKey) != c.noKey {
			t.Errorf("%s: %q, %v", c.why, got, errs[0])
		}
	}
}

func TestKeysAreFetchedOnceForAllEvents(t *testing.T) {
	a, b, own := signer("a", "ed25519:1"), signer("b", "ed25519:1"), signer("own", "ed25519:1")
	keys := &ring{has: []pdu.Signer{a, b}}
	v, _ := pdu.VersionOf("10")
	var raws []json.RawMessage
	for i := range 20 {
		raws = append(raws, message(t, []pdu.Signer{a, b, own}[i%3], fmt.Sprint(i)).JSON())
	}
	events, errs := signatures.NewVerifier("own", own, keys).Verify(t.Context(), v, raws)
	for i, e := range events {
		if e == nil || !strings.Contains(string(e.Content()), fmt.Sprintf(`"%d"`, i)) {
			t.Errorf("event %d is %v, %v", i, e, errs[i])
		}
	}
	if len(keys.asked) != 1 || len(keys.asked[0]) != 2 {
		t.Errorf("the keys that were asked for: %v", keys.asked)
	}
	if events, _ := signatures.NewVerifier("own", own, nil).Verify(t.Context(), v, raws[:3]); events[0] != nil || events[2] == nil {
		t.Error("without keys of others, only own events are verified")
	}
}

func TestTheServerThatAuthorisesAJoinMustSignIt(t *testing.T) {
	a, b, own := signer("a", "ed25519:1"), signer("b", "ed25519:1"), signer("own", "ed25519:1")
	key := "@user:a"
	join := build(t, a, pdu.Proto{Type: "m.room.member", StateKey: &key, Content: json.RawMessage(`{"membership":"join","join_authorised_via_users_server":"@u:b"}`)})
	verifier := signatures.NewVerifier("own", own, &ring{has: []pdu.Signer{a, b}})
	check := func(e *pdu.Event) error {
		events, errs := []*pdu.Event{e}, make([]error, 1)
		verifier.VerifyParsed(t.Context(), events, errs)
		return errs[0]
	}
	if check(join) == nil {
		t.Error("a join that b did not sign is valid")
	}
	signed, err := join.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := check(signed); err != nil {
		t.Error(err)
	}
}

func TestCountersign(t *testing.T) {
	b, own := signer("b", "ed25519:1"), signer("own", "ed25519:1")
	e := message(t, own, "mine")
	signed, err := e.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	verifier := signatures.NewVerifier("own", own, &ring{has: []pdu.Signer{b}})
	got, err := verifier.Countersign(t.Context(), e, "b", signed.JSON())
	if err != nil || got.ID() != e.ID() || !bytes.Contains(got.JSON(), []byte(`"b":{"ed25519:1"`)) {
		t.Errorf("%s, %v", got.JSON(), err)
	}
	changed := json.RawMessage(strings.Replace(string(signed.JSON()), `"mine"`, `"yours"`, 1))
	if got, err := verifier.Countersign(t.Context(), e, "b", changed); err != nil || !bytes.Equal(got.Content(), e.Content()) {
		t.Errorf("more than the signature was taken over: %v", err)
	}
	wrong, err := e.Sign(pdu.Signer{Server: "b", KeyID: "ed25519:1", Key: own.Key})
	if err != nil {
		t.Fatal(err)
	}
	unknown, err := e.Sign(signer("b", "ed25519:2"))
	if err != nil {
		t.Fatal(err)
	}
	for why, answer := range map[string]json.RawMessage{
		"a wrong signature": wrong.JSON(), "an unknown key": unknown.JSON(), "no signature": e.JSON(), "not an object": json.RawMessage(`[]`), "nothing": nil,
	} {
		if _, err := verifier.Countersign(t.Context(), e, "b", answer); !errors.Is(err, fedclient.ErrBadAnswer) {
			t.Errorf("%s: %v", why, err)
		}
	}
}

func TestPolicyServerOf(t *testing.T) {
	key := public(signer("policy", "ed25519:policy_server"))
	std, url := base64.StdEncoding.EncodeToString(key), base64.RawURLEncoding.EncodeToString(key)
	for _, c := range []struct {
		content string
		valid   bool
	}{
		{fmt.Sprintf(`{"via":"policy","public_keys":{"ed25519":%q}}`, strings.TrimRight(std, "=")), true},
		{fmt.Sprintf(`{"via":"policy","public_keys":{"ed25519":%q}}`, std), true},
		{fmt.Sprintf(`{"via":"policy","public_keys":{"ed25519":%q}}`, url), true},
		{fmt.Sprintf(`{"VIA":"policy","public_keys":{"ed25519":%q}}`, std), false}, // other servers read exactly spelled names
		{fmt.Sprintf(`{"via":"policy","Public_Keys":{"ed25519":%q}}`, std), false},
		{fmt.Sprintf(`{"via":7,"public_keys":{"ed25519":%q}}`, std), false},
		{fmt.Sprintf(`{"public_keys":{"ed25519":%q}}`, std), false},
		{`{"via":"policy","public_keys":{"ed25519":"AAAA"}}`, false},
		{`{"via":"policy","public_keys":{"ed25519":7}}`, false},
		{`{"via":"policy","public_keys":[]}`, false},
		{`{"via":"policy"}`, false}, {`{}`, false}, {`[]`, false}, {`null`, false},
	} {
		if p := signatures.PolicyServerOf([]byte(c.content)); (p != nil) != c.valid || p != nil && p.Name != "policy" {
			t.Errorf("%s: %+v", c.content, p)
		}
	}
}

// policy answers requests for signatures.
type policy func(event json.RawMessage) (map[string]map[string]string, error)

func (p policy) SignByPolicyServer(_ context.Context, _ string, event json.RawMessage) (map[string]map[string]string, error) {
	return p(event)
}

func TestAskAPolicyServer(t *testing.T) {
	a, own := signer("a", "ed25519:1"), signer("policy", "ed25519:policy_server")
	p := signatures.PolicyServerOf([]byte(fmt.Sprintf(`{"via":"policy","public_keys":{"ed25519":%q}}`, base64.RawStdEncoding.EncodeToString(public(own)))))
	e := message(t, a, "hello")
	signed, err := e.Sign(own)
	if err != nil {
		t.Fatal(err)
	}
	if p.Signed(e) || p.Claims(e) || !p.Signed(signed) || !p.Claims(signed) {
		t.Error("it is not seen whether the policy server has signed")
	}
	empty := ""
	for key, want := range map[*string]bool{&empty: true, &[]string{"x"}[0]: false, nil: false} {
		if got := p.Signed(build(t, a, pdu.Proto{Type: "m.room.policy", StateKey: key, Content: json.RawMessage(`{}`)})); got != want {
			t.Errorf("m.room.policy with the state key %v needs no signature: %v", key, got)
		}
	}
	var sigs struct {
		Signatures map[string]map[string]string
	}
	if err := json.Unmarshal(signed.JSON(), &sigs); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		why    string
		answer map[string]map[string]string
		err    error
		code   string
		status int
	}{
		{"a signature", sigs.Signatures, nil, "", 0},
		{"no signature", map[string]map[string]string{}, nil, mxerr.CodeForbidden, http.StatusForbidden},
		{"of another server", map[string]map[string]string{"evil": sigs.Signatures["policy"]}, nil, mxerr.CodeForbidden, http.StatusForbidden},
		{"a wrong one", map[string]map[string]string{"policy": {"ed25519:policy_server": sigs.Signatures["a"]["ed25519:1"]}}, nil, mxerr.CodeForbidden, http.StatusForbidden},
		{"not base64", map[string]map[string]string{"policy": {"ed25519:policy_server": "%"}}, nil, mxerr.CodeForbidden, http.StatusForbidden},
		{"a refusal", nil, &fedclient.RemoteError{Status: 400}, mxerr.CodeForbidden, http.StatusForbidden},
		{"too many requests", nil, &fedclient.RemoteError{Status: 429}, mxerr.CodeLimitExceeded, http.StatusTooManyRequests},
		{"a fault", nil, &fedclient.RemoteError{Status: 500}, mxerr.CodeUnknown, http.StatusBadGateway},
		{"no answer", nil, errors.New("unreachable"), mxerr.CodeUnknown, http.StatusBadGateway},
	} {
		got, err := p.Ask(t.Context(), policy(func(json.RawMessage) (map[string]map[string]string, error) { return c.answer, c.err }), e)
		if c.code == "" {
			if err != nil || !p.Signed(got) || got.ID() != e.ID() || !slices.Contains(signersOf(got), "a") {
				t.Errorf("%s: %v, %v", c.why, got, err)
			}
			continue
		}
		var answer *mxerr.Error
		if !errors.As(err, &answer) || answer.Status != c.status || mxerr.Code(err) != c.code || !errors.Is(err, signatures.ErrPolicy) {
			t.Errorf("%s: %v", c.why, err)
		}
	}
}

func signersOf(e *pdu.Event) (servers []string) {
	for server := range e.Signatures() {
		servers = append(servers, server)
	}
	return servers
}
