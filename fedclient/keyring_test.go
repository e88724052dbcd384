package fedclient

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
)

// keyServer is a server that serves its keys. A test can change the response.
type keyServer struct {
	l      *lab
	name   string
	signer pdu.Signer
	asked  atomic.Int64
	// mu guards answer.
	mu     sync.Mutex
	answer json.RawMessage
}

func public64(s pdu.Signer) string {
	return base64.RawStdEncoding.EncodeToString(s.Key.Public().(ed25519.PublicKey))
}

// said returns the key response of a server. It is valid for an hour and signed by the signers.
func (l *lab) said(server string, signers ...pdu.Signer) map[string]any {
	keys := map[string]any{}
	for _, s := range signers {
		keys[string(s.KeyID)] = map[string]any{"key": public64(s)}
	}
	return map[string]any{"server_name": server, "valid_until_ts": l.clock().Add(time.Hour).UnixMilli(), "verify_keys": keys, "old_verify_keys": map[string]any{}}
}

func signed(t *testing.T, v any, signers ...pdu.Signer) json.RawMessage {
	t.Helper()
	raw, err := json.Marshal(v)
	for _, s := range signers {
		if err == nil {
			raw, err = pdu.SignJSON(raw, s)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// keyServer starts a key server at its own address.
func (l *lab) keyServer(n int, name string) *keyServer {
	l.t.Helper()
	s := &keyServer{l: l, name: name, signer: signerOf(name, "1")}
	s.says(signed(l.t, l.said(name, s.signer), s.signer))
	ip := fmt.Sprintf("8.8.2.%d", n)
	l.ips[name] = []string{ip}
	l.serve(ip+":8448", name, func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		s.mu.Lock()
		defer s.mu.Unlock()
		answerJSON(w, s.answer)
	})
	return s
}

func (s *keyServer) says(answer json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *keyServer) want(at time.Duration) KeyWant {
	w := KeyWant{Server: s.name, KeyID: s.signer.KeyID}
	if at != 0 {
		w.At = s.l.clock().Add(at).UnixMilli()
	}
	return w
}

// has reports whether the ring finds a key.
func has(t *testing.T, k *KeyRing, want KeyWant) bool {
	t.Helper()
	return k.Keys(t.Context(), []KeyWant{want})[want] != nil
}

func TestKeysAreFetchedOnceAndStored(t *testing.T) {
	l := newLab(t)
	a, b := l.keyServer(1, "a.test"), l.keyServer(2, "b.test")
	k := l.ring(l.client("me.test", nil))
	wants := []KeyWant{a.want(time.Minute), b.want(0), b.want(time.Minute)}
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			if got := k.Keys(t.Context(), wants); len(got) != 3 || !got[wants[0]].Equal(a.signer.Key.Public()) || !got[wants[1]].Equal(b.signer.Key.Public()) {
				t.Errorf("%d of 3 keys", len(got))
			}
		})
	}
	all.Wait()
	if a.asked.Load() != 1 || b.asked.Load() != 1 {
		t.Errorf("asked %d and %d times", a.asked.Load(), b.asked.Load())
	}
	again := NewKeyRing(k.client, k.db, nil, nil) // as after a restart
	if !has(t, again, a.want(time.Minute)) || a.asked.Load() != 1 {
		t.Error("the key was not kept in the database")
	}
}

func TestKeysAreValidAsDeclaredButAtMostAWeek(t *testing.T) {
	l := newLab(t)
	a := l.keyServer(1, "a.test")
	k := l.ring(l.client("me.test", nil))
	if !has(t, k, a.want(59*time.Minute)) || has(t, k, a.want(61*time.Minute)) {
		t.Error("a key that is good for an hour")
	}
	long := l.said("a.test", a.signer)
	long["valid_until_ts"] = l.clock().Add(1000 * 24 * time.Hour).UnixMilli()
	a.says(signed(t, long, a.signer))
	l.advance(time.Minute)
	if !has(t, k, a.want(6*24*time.Hour)) || has(t, k, a.want(8*24*time.Hour)) {
		t.Error("a key that is said to be good for years")
	}
	if !has(t, k, a.want(0)) {
		t.Error("old room versions do not ask for a time")
	}
}

func TestFormerKeysAreValidForEarlierSignatures(t *testing.T) {
	l := newLab(t)
	a := l.keyServer(1, "a.test")
	former := signerOf("a.test", "0")
	answer := l.said("a.test", a.signer)
	expired := l.clock().Add(-time.Hour)
	answer["old_verify_keys"] = map[string]any{string(former.KeyID): map[string]any{"key": public64(former), "expired_ts": expired.UnixMilli()}}
	a.says(signed(t, answer, a.signer))
	k := l.ring(l.client("me.test", nil))
	for at, want := range map[time.Duration]bool{-2 * time.Hour: true, -30 * time.Minute: false, time.Minute: false} {
		if got := has(t, k, KeyWant{Server: "a.test", KeyID: former.KeyID, At: l.clock().Add(at).UnixMilli()}); got != want {
			t.Errorf("a key that expired an hour ago, for an event of %s: %v", at, got)
		}
	}
}

// Landscape 6, row 32, and other responses that a hostile server may give about its keys.
func TestUnprovenKeyAnswersAreIgnored(t *testing.T) {
	l := newLab(t)
	a, b := l.keyServer(1, "a.test"), l.keyServer(2, "b.test")
	k := l.ring(l.client("me.test", nil))
	other := signerOf("a.test", "1")
	many := l.said("a.test", a.signer)
	for i := range maxKeysPerServer {
		many["verify_keys"].(map[string]any)[fmt.Sprintf("ed25519:x%d", i)] = map[string]any{"key": public64(other)}
	}
	known := pdu.Signer{Server: "a.test", KeyID: "ed25519:1"}
	seed, _ := base64.RawStdEncoding.DecodeString("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	known.Key = ed25519.NewKeyFromSeed(seed)
	small := l.said("a.test")
	small["verify_keys"] = map[string]any{"ed25519:1": map[string]any{"key": base64.RawStdEncoding.EncodeToString(append([]byte{1}, make([]byte, 31)...))}}
	small["signatures"] = map[string]any{"a.test": map[string]any{"ed25519:1": base64.RawStdEncoding.EncodeToString(append([]byte{1}, make([]byte, 63)...))}}
	short := l.said("a.test")
	short["verify_keys"] = map[string]any{"ed25519:1": map[string]any{"key": "AAAA"}}
	huge := l.said("a.test", a.signer)
	huge["padding"] = strings.Repeat("x", maxKeyAnswer)
	for name, answer := range map[string]json.RawMessage{
		"the keys of another server":         signed(t, l.said("b.test", b.signer), b.signer),
		"own keys under another name":        signed(t, l.said("b.test", a.signer), a.signer),
		"no signature":                       signed(t, l.said("a.test", a.signer)),
		"the signature of another key":       signed(t, l.said("a.test", a.signer), other),
		"the signature of another server":    signed(t, l.said("a.test", a.signer), b.signer),
		"too many keys":                      signed(t, many, a.signer),
		"too much":                           signed(t, huge, a.signer),
		"a key whose private key is printed": signed(t, l.said("a.test", known), known),
		"a key by which anybody can sign":    signed(t, small),
		"a key that is too short":            signed(t, short),
		"something else":                     json.RawMessage(`[]`),
		"a time with a fraction":             json.RawMessage(`{"server_name":"a.test","valid_until_ts":1.5,"verify_keys":{}}`),
		"nothing":                            json.RawMessage(`{}`),
	} {
		a.says(answer)
		l.advance(time.Hour)
		before := a.asked.Load()
		for _, want := range []KeyWant{a.want(0), {Server: "b.test", KeyID: "ed25519:nowhere"}, {Server: "a.test", KeyID: "ed25519:x1"}} {
			if has(t, k, want) {
				t.Errorf("%s: the ring now has %s of %s", name, want.KeyID, want.Server)
			}
		}
		if a.asked.Load() == before {
			t.Errorf("%s: nobody was asked", name)
		}
	}
	// A key that b.test claims to be a.test's is not accepted as a.test's.
	b.says(signed(t, l.said("b.test", b.signer), b.signer))
	if !has(t, k, b.want(0)) || has(t, k, a.want(0)) {
		t.Error("what another server said has changed something")
	}
}

func TestRequestsForNonexistentKeysAreCheap(t *testing.T) {
	l := newLab(t)
	a := l.keyServer(1, "a.test")
	k := l.ring(l.client("me.test", nil))
	for i := range 50 {
		has(t, k, KeyWant{Server: "a.test", KeyID: id.KeyID(fmt.Sprintf("ed25519:%d", 100+i))})
		has(t, k, KeyWant{Server: "dead.test", KeyID: "ed25519:1"})
	}
	if n := a.asked.Load(); n != 1 {
		t.Errorf("the server was asked %d times for keys that it does not have", n)
	}
	l.advance(keyAgain)
	rotated := signerOf("a.test", "2")
	a.says(signed(t, l.said("a.test", rotated), rotated))
	if !has(t, k, KeyWant{Server: "a.test", KeyID: rotated.KeyID}) {
		t.Error("a new key is not asked for after a while")
	}
}

func TestNotariesAnswerForUnreachableServers(t *testing.T) {
	l := newLab(t)
	notary, a := l.keyServer(1, "notary.test"), signerOf("a.test", "1")
	b, evil := signerOf("b.test", "1"), signerOf("c.test", "1")
	var about []string
	l.serve("8.8.2.1:8448", "notary.test", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			answerJSON(w, notary.answer)
			return
		}
		var body struct {
			ServerKeys map[string]json.RawMessage `json:"server_keys"`
		}
		_ = json.NewDecoder(r.Body).Decode(&body)
		for server := range body.ServerKeys {
			about = append(about, server)
		}
		answerJSON(w, map[string]any{"server_keys": []json.RawMessage{
			signed(t, l.said("a.test", a), a, notary.signer),
			signed(t, l.said("b.test", b), b),                            // not signed by the notary
			signed(t, l.said("c.test", evil), notary.signer),             // not signed by c.test itself
			signed(t, l.said("unasked.test", evil), evil, notary.signer), // not asked for
		}})
	})
	k := l.ring(l.client("me.test", nil), "notary.test")
	var wants []KeyWant
	for _, server := range []string{"a.test", "b.test", "c.test"} {
		wants = append(wants, KeyWant{Server: server, KeyID: "ed25519:1", At: l.clock().UnixMilli()})
	}
	got := k.Keys(t.Context(), wants)
	if len(got) != 1 || !got[wants[0]].Equal(a.Key.Public()) {
		t.Errorf("%d keys by the notary", len(got))
	}
	if len(about) != 3 {
		t.Errorf("the notary was asked about %v, not once about all three", about)
	}
	unasked := KeyWant{Server: "unasked.test", KeyID: "ed25519:1"}
	if _, known, _ := k.known(t.Context(), unasked); known {
		t.Error("a notary tells of servers that nobody asked about")
	}
}

func TestNotaryCannotRevokeOrReplaceKeysFromTheServer(t *testing.T) {
	l := newLab(t)
	a := l.keyServer(1, "a.test")
	k := l.ring(l.client("me.test", nil))
	former := signerOf("a.test", "0")
	answer := l.said("a.test", a.signer)
	answer["old_verify_keys"] = map[string]any{"ed25519:0": map[string]any{"key": public64(former), "expired_ts": l.clock().Add(-time.Hour).UnixMilli()}}
	a.says(signed(t, answer, a.signer))
	has(t, k, a.want(0))
	if err := k.keep(t.Context(), "a.test", signed(t, l.said("a.test", former), former), false); err != nil {
		t.Fatal(err)
	}
	if _, known, _ := k.known(t.Context(), KeyWant{Server: "a.test", KeyID: "ed25519:0", At: l.clock().UnixMilli()}); known {
		t.Error("a former key is good again because of an old answer")
	}
	if !has(t, k, a.want(time.Minute)) {
		t.Error("the present key is gone")
	}
}

func TestOwnKeyAnswerIsSignedAndListsFormerKeys(t *testing.T) {
	l := newLab(t)
	file := l.t.TempDir() + "/signing.key"
	if err := CreateKey(file); err != nil {
		t.Fatal(err)
	}
	keys, err := LoadSigningKeys(file, "me.test")
	if err != nil {
		t.Fatal(err)
	}
	first := keys.Current()
	c := l.client("me.test", func(o *Options) { o.Signer = keys })
	k := l.ring(c)
	k.old = keys.Old
	if err := keys.Rotate(l.clock()); err != nil {
		t.Fatal(err)
	}
	l.advance(time.Hour)
	if err := keys.Rotate(l.clock()); err != nil {
		t.Fatal(err)
	}
	reread, err := LoadSigningKeys(file, "me.test")
	if err != nil || reread.Current().KeyID != keys.Current().KeyID || len(reread.Old()) != 2 {
		t.Fatalf("after a restart: %+v %v", reread, err)
	}
	raw, err := k.Own()
	if err != nil {
		t.Fatal(err)
	}
	now := keys.Current()
	if err := pdu.VerifyJSON(raw, "me.test", string(now.KeyID), now.Key.Public().(ed25519.PublicKey)); err != nil {
		t.Error(err)
	}
	var a keyAnswer
	if err := json.Unmarshal(raw, &a); err != nil || a.ServerName != "me.test" || a.VerifyKeys[now.KeyID].Key != public64(now) || len(a.VerifyKeys) != 1 ||
		len(a.OldVerifyKeys) != 2 || a.OldVerifyKeys[first.KeyID].Key != public64(first) || a.OldVerifyKeys[first.KeyID].Expired >= l.clock().UnixMilli() {
		t.Errorf("%s %v", raw, err)
	}
	if ahead := time.UnixMilli(a.ValidUntil).Sub(l.clock()); ahead < 24*time.Hour || ahead > 7*24*time.Hour {
		t.Errorf("good for %s", ahead)
	}
	// Signatures that the first key made before the rotation are still accepted; later ones are not.
	if !has(t, k, KeyWant{"me.test", first.KeyID, l.clock().Add(-2 * time.Hour).UnixMilli()}) || has(t, k, KeyWant{"me.test", first.KeyID, l.clock().UnixMilli()}) {
		t.Error("a former key of this server")
	}
}

func TestInterruptedKeyChangeLosesNoKey(t *testing.T) {
	file := t.TempDir() + "/signing.key"
	if err := CreateKey(file); err != nil {
		t.Fatal(err)
	}
	keys, err := LoadSigningKeys(file, "me.test")
	if err != nil {
		t.Fatal(err)
	}
	// Only the first of the two files has been written.
	line := fmt.Sprintf("ed25519 %s %s %d\n", strings.TrimPrefix(string(keys.Current().KeyID), "ed25519:"), public64(keys.Current()), 1)
	if err := replaceFile(file+".old", line); err != nil {
		t.Fatal(err)
	}
	keys, err = LoadSigningKeys(file, "me.test")
	if err != nil || len(keys.Old()) != 0 {
		t.Errorf("%v, former keys %v", err, keys.Old())
	}
	for _, bad := range []string{"", "ed25519 a", "ed25519 a b c", "ed25519 a/b AAAA", "rsa a " + strings.Repeat("A", 43), "ed25519 a " + strings.Repeat("A", 43)} {
		if err := replaceFile(file, bad); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadSigningKeys(file, "me.test"); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
}

func TestEveryServerHasItsOwnKey(t *testing.T) {
	seen := map[string]bool{}
	for range 20 {
		if line := newKeyLine(); seen[line] {
			t.Fatal("the same key twice")
		} else {
			seen[line] = true
		}
	}
}

func TestVouchedAnswersCarryBothSignatures(t *testing.T) {
	l := newLab(t)
	a := l.keyServer(1, "a.test")
	c := l.client("me.test", nil)
	k := l.ring(c)
	ask := func(until time.Duration) []json.RawMessage {
		t.Helper()
		answers, err := k.Vouch(t.Context(), map[string]int64{"a.test": l.clock().Add(until).UnixMilli(), "dead.test": 0, "me.test": 0})
		if err != nil {
			t.Fatal(err)
		}
		return answers
	}
	answers := ask(0)
	if len(answers) != 2 { // a.test and this server
		t.Fatalf("%d answers", len(answers))
	}
	for _, raw := range answers {
		server := serverNameOf(raw)
		if server == "a.test" {
			if err := pdu.VerifyJSON(raw, "a.test", "ed25519:1", a.signer.Key.Public().(ed25519.PublicKey)); err != nil {
				t.Error(err)
			}
		}
		mine := c.opts.Signer.Current()
		if err := pdu.VerifyJSON(raw, "me.test", string(mine.KeyID), mine.Key.Public().(ed25519.PublicKey)); err != nil {
			t.Error(err)
		}
	}
	ask(time.Minute)
	if a.asked.Load() != 1 {
		t.Errorf("asked %d times for what was known", a.asked.Load())
	}
	l.advance(2 * time.Hour)
	ask(0)
	if a.asked.Load() != 2 {
		t.Errorf("asked %d times, once after the answer ceased to be good", a.asked.Load())
	}
}
