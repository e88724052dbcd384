package rooms

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
	"ebb/telemetry"
)

// police is a policy server that signs everything except spam.
type police struct {
	signer pdu.Signer
	down   bool
	asked  int
}

func newPolice() *police {
	return &police{signer: pdu.Signer{Server: "police", KeyID: "ed25519:policy_server", Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}}
}

func (p *police) content() string {
	key := base64.RawStdEncoding.EncodeToString(p.signer.Key.Public().(ed25519.PublicKey))
	return `{"via":"police","public_keys":{"ed25519":"` + key + `"}}`
}

func (p *police) SignByPolicyServer(_ context.Context, server string, event json.RawMessage) (map[string]map[string]string, error) {
	p.asked++
	switch {
	case server != "police" || p.down:
		return nil, fedclient.ErrUnreachable
	case strings.Contains(string(event), "spam"):
		return nil, &fedclient.RemoteError{Server: server, Status: 400, Code: mxerr.CodeForbidden}
	}
	e, err := pdu.Parse(mustVersion(id.RoomV11), event)
	if err != nil {
		return nil, err
	}
	if e, err = e.Sign(p.signer); err != nil {
		return nil, err
	}
	var signed struct {
		Signatures map[string]map[string]string `json:"signatures"`
	}
	err = json.Unmarshal(e.JSON(), &signed)
	return map[string]map[string]string{server: {"ed25519:policy_server": signed.Signatures[server]["ed25519:policy_server"]}}, err
}

func mustVersion(v id.RoomVersion) *pdu.Version {
	version, _ := pdu.VersionOf(v)
	return version
}

// guarded returns a siege whose room has a policy server, and the newest events from before it had one.
func guarded(t *testing.T) (s *siege, p *police, before, auth []id.EventID) {
	n := newNetwork(t)
	p = newPolice()
	s = &siege{n: n, peer: n.add("here", func(o *Options) { o.PolicyServers = p })}
	s.evil = n.stranger("evil", s.peer)
	s.alice, s.mallory = s.user("alice"), s.evil.user("mallory")
	s.room = s.create(s.alice, CreateRoom{Preset: "public_chat", RoomVersion: id.RoomV11})
	officer := n.stranger("police", s.peer)
	officer.join(s.room, officer.user("officer"))
	s.evil.join(s.room, s.mallory)
	before, auth = s.ends(), s.authBefore("")
	s.set(s.alice, s.room, typePolicy, "", p.content())
	if p.asked != 0 {
		t.Fatalf("the policy server was asked %d times about events that need no signature", p.asked)
	}
	return s, p, before, auth
}

func TestEventsWithoutTheSignatureOfThePolicyServerAreSoftFailed(t *testing.T) {
	s, p, before, auth := guarded(t)
	message := func(body string, prev ...id.EventID) *pdu.Event {
		return s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, Content: json.RawMessage(`{"body":"` + body + `"}`), PrevEvents: prev})
	}
	soft := func(e *pdu.Event) bool {
		t.Helper()
		s.ok(s.send1(e))
		return s.stored(s.room, e.ID()).Flags&storage.SoftFailedEvent != 0
	}
	good := message("a good word")
	if soft(good) || p.asked != 1 {
		t.Errorf("an event that the policy server signed is soft-failed, or the policy server was asked %d times instead of once", p.asked)
	}
	if e := s.stored(s.room, good.ID()); e.VerifySignature("police", "ed25519:policy_server", p.signer.Key.Public().(ed25519.PublicKey)) != nil {
		t.Errorf("the signature is not kept: %s", e.JSON())
	}
	counted := receivedCount(t, "soft_failed")
	if !soft(message("spam")) {
		t.Error("an event that the policy server refuses is accepted")
	}
	if n := receivedCount(t, "soft_failed") - counted; n != 1 {
		t.Errorf("the metric counts %d more soft-failed events, want 1", n)
	}
	asked := p.asked
	signed, err := message("signed before it came").Sign(p.signer)
	s.ok(err)
	if soft(signed) || p.asked != asked {
		t.Error("an event that arrived with the signature is soft-failed, or the policy server was asked")
	}
	forger := p.signer
	forger.Key = ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", ed25519.SeedSize)))
	forged, err := message("signed by somebody else").Sign(forger)
	s.ok(err)
	if !soft(forged) || p.asked != asked {
		t.Error("an event with a forged signature is accepted, or the policy server was asked")
	}
	p.down = true
	if !soft(message("nobody has looked")) {
		t.Error("an event that the policy server has not signed is accepted")
	}
	old := s.evil.make(s.room, pdu.Proto{Type: "m.room.message", Sender: s.mallory, Content: json.RawMessage(`{"body":"from before"}`), PrevEvents: before, AuthEvents: auth})
	if soft(old) {
		t.Error("an event from before the room had a policy server is soft-failed")
	}
	p.down = false
	s.whole()
}

// receivedCount returns the number of received events that the metric counts for a result.
func receivedCount(t *testing.T, result string) (n int) {
	t.Helper()
	w := httptest.NewRecorder()
	telemetry.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	for line := range strings.Lines(w.Body.String()) {
		if value, ok := strings.CutPrefix(line, `ebb_rooms_received_events_total{result="`+result+`"} `); ok {
			var err error
			if n, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}

func TestInvalidPolicyServersAreIgnored(t *testing.T) {
	p := newPolice()
	for name, content := range map[string]string{
		"not in the room": strings.Replace(p.content(), "police", "elsewhere", 1), "no name": `{"public_keys":{"ed25519":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}}`,
		"no key": `{"via":"police"}`, "short key": `{"via":"police","public_keys":{"ed25519":"AAAA"}}`, "other types": `{"via":7,"public_keys":[]}`,
	} {
		s, p, _, _ := guarded(t)
		s.set(s.alice, s.room, typePolicy, "", content)
		if s.say(s.alice, s.room, "free"); p.asked != 0 {
			t.Errorf("%s: the policy server was asked %d times, want 0", name, p.asked)
		}
	}
}
