package federation_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/internal/testserver"
	"ebb/rooms/pdu"
)

// police is the policy server of hs2.test, a separate program beside its homeserver.
type police struct {
	signer pdu.Signer
	down   bool
	wrong  bool // whether to sign with the wrong key

	mu    sync.Mutex
	asked []string // types of the events to be signed
	sent  []map[string]any
}

func newPolice(net *testserver.Network) *police {
	p := &police{signer: pdu.Signer{Server: "hs2.test", KeyID: "ed25519:policy_server", Key: ed25519.NewKeyFromSeed(make([]byte, 32))}}
	net.Intercept(func(w http.ResponseWriter, r *http.Request, to string, next http.Handler) {
		if to != "hs2.test" || r.URL.Path != "/_matrix/policy/v1/sign" {
			p.watch(r)
			next.ServeHTTP(w, r)
			return
		}
		p.sign(w, r)
	})
	return p
}

// watch records the events that are sent to hs2.test.
func (p *police) watch(r *http.Request) {
	if !strings.Contains(r.URL.Path, "/federation/v1/send/") {
		return
	}
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	pdus, _ := testserver.Get(decode(body), "pdus").([]any)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, event := range pdus {
		p.sent = append(p.sent, event.(map[string]any))
	}
}

// delivered reports whether a message was sent with the signature of the policy server.
func (p *police) delivered(body string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.sent, func(event map[string]any) bool {
		return testserver.Get(event, "content", "body") == body && testserver.Get(event, "signatures", "hs2.test", "ed25519:policy_server") != nil
	})
}

func (p *police) content() map[string]any {
	key := p.signer.Key.Public().(ed25519.PublicKey)
	return map[string]any{"via": "hs2.test", "public_keys": map[string]any{"ed25519": base64.RawURLEncoding.EncodeToString(key)}}
}

func (p *police) sign(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var event struct{ Type string }
	if json.Unmarshal(body, &event) != nil || p.down {
		http.Error(w, "down", http.StatusInternalServerError)
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, event.Type)
	p.mu.Unlock()
	v, _ := pdu.VersionOf(id.RoomV12)
	e, err := pdu.Parse(v, body)
	if err != nil || strings.Contains(string(body), "spam") {
		w.WriteHeader(400)
		io.WriteString(w, `{"errcode":"M_FORBIDDEN","error":"spam"}`)
		return
	}
	signer := p.signer
	if p.wrong {
		signer.Key = ed25519.NewKeyFromSeed([]byte(strings.Repeat("x", 32)))
	}
	signed, err := e.Sign(signer)
	if err != nil {
		w.WriteHeader(400)
		return
	}
	signatures := testserver.Get(decode(signed.JSON()), "signatures", "hs2.test", "ed25519:policy_server")
	_ = json.NewEncoder(w).Encode(map[string]any{"hs2.test": map[string]any{"ed25519:policy_server": signatures}})
}

func decode(raw []byte) (v any) {
	_ = json.Unmarshal(raw, &v)
	return v
}

func (p *police) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asked)
}

func TestEventsOfARoomAreSignedByItsPolicyServer(t *testing.T) {
	net, alice, bob := pair(t)
	p := newPolice(net)
	room := made(alice, "policed", "public_chat", map[string]any{"room_version": "12"})
	at := "/v3/rooms/" + url.PathEscape(room)
	setPolicy := func(content map[string]any) { alice.Do("PUT", at+"/state/m.room.policy/", content) }
	say := func(txn, body string) (string, map[string]any) {
		return at + "/send/m.room.message/" + txn, map[string]any{"msgtype": "m.text", "body": body}
	}
	setPolicy(p.content())
	path, message := say("1", "spam before there is a policy server in the room")
	alice.Do("PUT", path, message)
	bob.Do("POST", "/v3/join/"+url.PathEscape(room)+"?via=hs1.test", nil) // now it is in the room
	if n := p.count(); n != 0 {
		t.Fatalf("a policy server that is not in the room was asked %d times", n)
	}

	path, message = say("2", "a good word")
	sent := alice.Do("PUT", path, message)["event_id"]
	if again := alice.Do("PUT", path, message)["event_id"]; again != sent || p.count() != 1 {
		t.Errorf("a repeated request gives %v, not %v; asked %d times", again, sent, p.count())
	}
	bob.Hears("a good word")
	if !p.delivered("a good word") {
		t.Error("the event came without the signature")
	}
	path, message = say("3", "spam")
	alice.Refused("PUT", path, message, 403, "M_FORBIDDEN")
	alice.Refused("PUT", at+"/state/m.room.topic/", map[string]any{"topic": "spam"}, 403, "M_FORBIDDEN")
	alice.Do("PUT", at+"/state/m.room.topic/", map[string]any{"topic": "tea"})

	p.wrong = true
	path, message = say("4", "signed by somebody else")
	alice.Refused("PUT", path, message, 403, "M_FORBIDDEN")
	p.wrong, p.down = false, true
	alice.Refused("PUT", path, message, 502, "M_UNKNOWN")

	before := p.count()
	setPolicy(map[string]any{}) // a room can always stop using a policy server
	alice.Do("PUT", path, message)
	if p.count() != before {
		t.Error("a policy server was asked that is none any more")
	}
}

// Events sent at the same time are signed one after the other.
func TestManyEventsAreSignedByThePolicyServer(t *testing.T) {
	net, alice, bob := pair(t)
	p := newPolice(net)
	room := made(alice, "policed", "public_chat", map[string]any{"room_version": "12"})
	bob.Do("POST", "/v3/join/"+url.PathEscape(room)+"?via=hs1.test", nil)
	at := "/v3/rooms/" + url.PathEscape(room)
	alice.Do("PUT", at+"/state/m.room.policy/", p.content())
	var all sync.WaitGroup
	for i := range 10 {
		all.Go(func() {
			txn := string(rune('a' + i))
			alice.Do("PUT", at+"/send/m.room.message/"+txn, map[string]any{"msgtype": "m.text", "body": txn})
		})
	}
	all.Wait()
	messages := alice.Do("GET", at+"/messages?dir=b&limit=10", nil)
	if chunk, _ := messages["chunk"].([]any); len(chunk) != 10 {
		t.Errorf("%d events are there", len(chunk))
	}
}
