package fedclient

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"ebb/storage"
)

// verifyRequest verifies a request in the order in which the server does: the headers first, then the body.
func verifyRequest(ctx context.Context, k *KeyRing, method, uri string, headers http.Header, body []byte) (string, error) {
	claim, err := k.Claim(ctx, headers)
	if err != nil {
		return "", err
	}
	if err := claim.Verify(ctx, method, uri, body); err != nil {
		return "", err
	}
	return claim.Origin, nil
}

func TestRequestsAreVerifiedAsTheyWereSigned(t *testing.T) {
	l := newLab(t)
	a := l.keyServer(1, "a.test")
	me := l.client("me.test", func(o *Options) { o.Allowed = func(s string) bool { return s != "bad.test" } })
	bad := l.keyServer(2, "bad.test")
	k := l.ring(me)
	sender := l.client("a.test", func(o *Options) { o.Signer = a.signer })
	const uri = "/_matrix/federation/v1/send/1?x=%2F"
	sign := func(c *Client, uri, destination, body string) string {
		t.Helper()
		header, err := c.sign("PUT", uri, destination, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return header
	}
	good := sign(sender, uri, "me.test", `{"a":1.5,"b":[]}`)
	other := l.client("a.test", func(o *Options) { o.Signer = signerOf("a.test", "1") })
	badly := l.client("bad.test", func(o *Options) { o.Signer = bad.signer })
	own := l.client("me.test", func(o *Options) { o.Signer = me.opts.Signer })
	// The header need not name the destination, but the signature always covers it. Otherwise any server could replay a
	// request to this server.
	withoutName := strings.Replace(good, `destination="me.test",`, "", 1)
	text, _ := signedText("PUT", uri, "a.test", "me.test", []byte(`{"a":1}`), nil)
	text = []byte(strings.Replace(string(text), `"destination":"me.test",`, "", 1))
	unsigned := XMatrix{Origin: "a.test", Key: string(a.signer.KeyID), Signature: base64.RawStdEncoding.EncodeToString(ed25519.Sign(a.signer.Key, text))}.String()
	elsewhere := strings.Replace(sign(sender, uri, "you.test", `{}`), `destination="you.test",`, "", 1)
	for _, c := range []struct {
		name    string
		headers []string
		uri     string
		body    string
		err     error
	}{
		{"good, the body spelt differently", []string{good}, uri, `{ "b": [], "a": 1.5 }`, nil},
		{"a good one among others", []string{"Bearer x", sign(other, uri, "me.test", `{"a":1.5,"b":[]}`), good}, uri, `{"a":1.5,"b":[]}`, nil},
		{"no destination in the header", []string{withoutName}, uri, `{"a":1.5,"b":[]}`, nil},
		{"no destination in what is signed", []string{unsigned}, uri, `{"a":1}`, ErrUnauthorized},
		{"for another server, which the header does not say", []string{elsewhere}, uri, `{}`, ErrUnauthorized},
		{"another body", []string{good}, uri, `{"a":2.5,"b":[]}`, ErrUnauthorized},
		{"no body", []string{good}, uri, ``, ErrUnauthorized},
		{"a body that is no JSON", []string{good}, uri, `{"a":`, ErrUnauthorized},
		{"another path", []string{good}, "/_matrix/federation/v1/send/2?x=%2F", `{"a":1.5,"b":[]}`, ErrUnauthorized},
		{"a path that means the same", []string{good}, "/_matrix/federation/v1/send/1?x=/", `{"a":1.5,"b":[]}`, ErrUnauthorized},
		{"for another server", []string{sign(sender, uri, "you.test", `{}`)}, uri, `{}`, ErrUnauthorized},
		{"another key of the same name", []string{sign(other, uri, "me.test", `{}`)}, uri, `{}`, ErrUnauthorized},
		{"a server that is kept out", []string{sign(badly, uri, "me.test", `{}`)}, uri, `{}`, ErrKeptOut},
		{"from this server itself", []string{sign(own, uri, "me.test", `{}`)}, uri, `{}`, ErrUnauthorized},
		{"no header", nil, uri, `{}`, ErrUnauthorized},
		{"the good one behind too many", []string{"a", "b", "c", good}, uri, `{"a":1.5,"b":[]}`, ErrUnauthorized},
		{"no server name", []string{`X-Matrix origin="a/b",destination="me.test",key="ed25519:1",sig="aaaa"`}, uri, `{}`, ErrUnauthorized},
		{"a signature without form", []string{`X-Matrix origin="a.test",destination="me.test",key="ed25519:1",sig="!"`}, uri, `{}`, ErrUnauthorized},
	} {
		h := http.Header{}
		for _, v := range c.headers {
			h.Add("Authorization", v)
		}
		origin, err := verifyRequest(t.Context(), k, "PUT", c.uri, h, []byte(c.body))
		if !errors.Is(err, c.err) || (c.err == nil) != (origin == "a.test") {
			t.Errorf("%s: %q %v, want %v", c.name, origin, err, c.err)
		}
	}
	h := http.Header{"Authorization": {good}}
	if _, err := verifyRequest(t.Context(), k, "POST", uri, h, []byte(`{"a":1.5,"b":[]}`)); err == nil {
		t.Error("another method")
	}
	// The key is valid for one more hour. Then it must be fetched again.
	l.advance(59 * time.Minute)
	asked := a.asked.Load()
	if _, err := verifyRequest(t.Context(), k, "PUT", uri, h, []byte(`{"a":1.5,"b":[]}`)); err != nil || a.asked.Load() != asked {
		t.Errorf("before the key expires: %v, asked %d times", err, a.asked.Load()-asked)
	}
	l.advance(2 * time.Minute)
	if _, err := verifyRequest(t.Context(), k, "PUT", uri, h, []byte(`{"a":1.5,"b":[]}`)); err == nil || a.asked.Load() != asked+1 {
		t.Errorf("with an expired key that the server still says expired: %v, asked %d times", err, a.asked.Load()-asked)
	}
	a.says(signed(t, l.said("a.test", a.signer), a.signer))
	l.advance(keyAgain)
	if _, err := verifyRequest(t.Context(), k, "PUT", uri, h, []byte(`{"a":1.5,"b":[]}`)); err != nil {
		t.Errorf("once the key is good again: %v", err)
	}
}

// counting is a context that counts calls of Err.
type counting struct {
	context.Context
	asked atomic.Int32
}

func (c *counting) Err() error {
	c.asked.Add(1)
	return c.Context.Err()
}

func TestBodyIsCanonicalisedOnceWhateverTheNumberOfHeaders(t *testing.T) {
	l := newLab(t)
	a := l.keyServer(1, "a.test")
	k := l.ring(l.client("me.test", nil))
	body := []byte(`[` + strings.Repeat(`{},`, 1<<20) + `0]`)
	header := XMatrix{Origin: "a.test", Destination: "me.test", Key: string(a.signer.KeyID), Signature: base64.RawStdEncoding.EncodeToString(make([]byte, 64))}.String()
	verify := func(headers ...string) int32 {
		claim, err := k.Claim(t.Context(), http.Header{"Authorization": headers})
		if err != nil {
			t.Fatal(err)
		}
		ctx := &counting{Context: t.Context()}
		if err := claim.Verify(ctx, "PUT", "/", body); !errors.Is(err, ErrUnauthorized) {
			t.Fatal(err)
		}
		return ctx.asked.Load()
	}
	if one, three := verify(header), verify(header, header, header); one == 0 || three != one {
		t.Errorf("%d steps for one header, %d for three", one, three)
	}
}

func TestVerificationEndsWithItsContext(t *testing.T) {
	l := newLab(t)
	a := l.keyServer(1, "a.test")
	k := l.ring(l.client("me.test", nil))
	header := XMatrix{Origin: "a.test", Destination: "me.test", Key: string(a.signer.KeyID), Signature: base64.RawStdEncoding.EncodeToString(make([]byte, 64))}.String()
	claim, err := k.Claim(t.Context(), http.Header{"Authorization": {header}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = claim.Verify(ctx, "PUT", "/", []byte(`[`+strings.Repeat(`{},`, 1<<20)+`0]`))
	if !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnauthorized) {
		t.Errorf("error %v", err)
	}
	_ = k.verifying.Acquire(t.Context(), maxVerified)
	if err := claim.Verify(ctx, "PUT", "/", []byte(`{}`)); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for its turn: %v", err)
	}
}

func TestOnlySignaturesOfOneServerAreChecked(t *testing.T) {
	l := newLab(t)
	a, b := l.keyServer(1, "a.test"), l.keyServer(2, "b.test")
	k := l.ring(l.client("me.test", nil))
	header := func(origin, key string) string {
		return XMatrix{Origin: origin, Destination: "me.test", Key: key, Signature: base64.RawStdEncoding.EncodeToString(make([]byte, 64))}.String()
	}
	claim, err := k.Claim(t.Context(), http.Header{"Authorization": {header("a.test", string(a.signer.KeyID)), header("b.test", string(b.signer.KeyID))}})
	if err != nil || claim.Origin != "a.test" || len(claim.signatures) != 1 || b.asked.Load() != 0 {
		t.Errorf("%v, b.test was asked %d times", err, b.asked.Load())
	}
	if _, err := k.Claim(t.Context(), http.Header{"Authorization": {header("a.test", "ed25519:other")}}); !errors.Is(err, ErrNoKey) || !errors.Is(err, ErrUnauthorized) {
		t.Errorf("a key that nobody has: %v", err)
	}
}

// A request must not be refused for good because this server cannot use its database.
func TestSignaturesAreNotJudgedWhileTheDatabaseCannotBeUsed(t *testing.T) {
	l := newLab(t)
	a := l.keyServer(1, "a.test")
	k := l.ring(l.client("me.test", nil))
	header := XMatrix{Origin: "a.test", Destination: "me.test", Key: string(a.signer.KeyID), Signature: base64.RawStdEncoding.EncodeToString(make([]byte, 64))}
	claim := func() error {
		_, err := k.Claim(t.Context(), http.Header{"Authorization": {header.String()}})
		return err
	}
	if err := claim(); err != nil {
		t.Fatal(err)
	}
	l.advance(2 * KeyLife) // the key must be fetched and stored again
	if err := k.db.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time, the server is not asked
		if err := claim(); !storage.IsOutage(err) || errors.Is(err, ErrUnauthorized) {
			t.Errorf("the request is refused: %v", err)
		}
	}
	if n := a.asked.Load(); n != 2 {
		t.Errorf("the server was asked for its keys %d times", n)
	}
}

// A server with a wrong clock declares its keys long expired, or valid for ever. Both have an effect only until the
// clock is corrected.
func TestServerIsAcceptedOnceItsClockIsCorrected(t *testing.T) {
	l := newLab(t)
	a := l.keyServer(1, "a.test")
	k := l.ring(l.client("me.test", nil))
	past := l.said("a.test", a.signer)
	past["valid_until_ts"] = l.clock().Add(-24 * time.Hour).UnixMilli()
	a.says(signed(t, past, a.signer))
	if has(t, k, a.want(time.Millisecond)) {
		t.Error("a key that has expired is good")
	}
	a.says(signed(t, l.said("a.test", a.signer), a.signer))
	l.advance(keyAgain)
	if !has(t, k, a.want(time.Millisecond)) {
		t.Error("after its clock was mended")
	}
}

func FuzzVerifyRequest(f *testing.F) {
	f.Add("PUT", "/x", `X-Matrix origin="a.test",destination="me.test",key="ed25519:1",sig="aaaa"`, []byte(`{}`))
	f.Fuzz(func(t *testing.T, method, uri, header string, body []byte) {
		c := New(Options{Server: "me.test", Signer: signerOf("me.test", "1"), Allowed: func(string) bool { return false }})
		k := NewKeyRing(c, nil, nil, nil) // no server is contacted, because all are kept out
		if origin, err := verifyRequest(t.Context(), k, method, uri, http.Header{"Authorization": {header}}, body); err == nil {
			t.Errorf("%q is let in", origin)
		}
	})
}

func TestSignedTextIsCanonical(t *testing.T) {
	text, err := signedText("GET", "/é", `a"b`, "c", json.RawMessage(`{"b":1,"a":"\u00e9"}`), nil)
	if want := `{"content":{"a":"é","b":1},"destination":"c","method":"GET","origin":"a\"b","uri":"/é"}`; err != nil || string(text) != want {
		t.Errorf("%s %v", text, err)
	}
}
