package fedclient

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/processors"
	"ebb/rooms/pdu"
)

// ErrUnauthorized means that a request has no valid signature.
var ErrUnauthorized = errors.New("the request is not signed by the server that it claims to come from")

// ErrNoKey means that the key with which a request was signed could not be fetched. Errors that wrap it wrap
// ErrUnauthorized too.
var ErrNoKey = errors.New("the key could not be fetched")

// ErrKeptOut means that the configuration forbids all communication with the server.
var ErrKeptOut = errors.New("the configuration forbids communication with this server")

// maxSignatures bounds the headers of one request, and the signatures of one object, that are verified.
const maxSignatures = 3

// maxVerified bounds the total size of the bodies that are canonicalised at the same time. Canonicalising takes a few
// times their size.
const maxVerified = 32 << 20

// slowBody is the size from which on canonicalising a body occupies a processor for longer than the scheduler lets
// others wait, which is 10 ms. Only half of the processors canonicalise such bodies.
const slowBody = 1 << 20

// Claim holds the Authorization headers of a request, checked as far as possible without its body. It names the server
// that claims to have signed the request, and has only signatures whose keys are known.
type Claim struct {
	Origin     string
	ring       *KeyRing
	signatures []claimed
}

type claimed struct {
	XMatrix
	signature []byte
	key       ed25519.PublicKey
}

// Claim checks everything about the signatures of a request for which the body is not needed, so that an invalid header
// cannot make this server read and canonicalise a body. Each header has one signature. If headers name several servers,
// all but those of the first server are ignored. Errors wrap ErrUnauthorized or ErrKeptOut, unless the database cannot
// be used.
// Spec: server-server-api#request-authentication
func (k *KeyRing) Claim(ctx context.Context, headers http.Header) (*Claim, error) {
	err := fmt.Errorf("%w: no Authorization header", ErrUnauthorized)
	c := &Claim{ring: k}
	values := headers.Values("Authorization")
	for _, header := range values[:min(len(values), maxSignatures)] {
		s, serr := k.parseSignature(header)
		switch {
		case serr != nil:
			err = serr
		case c.Origin == "" || c.Origin == s.Origin:
			c.Origin = s.Origin
			c.signatures = append(c.signatures, s)
		}
	}
	if len(c.signatures) == 0 {
		return nil, err
	}
	return c, c.findKeys(ctx)
}

// parseSignature parses a header. It checks everything for which neither key nor body is needed.
func (k *KeyRing) parseSignature(header string) (s claimed, err error) {
	if s.XMatrix, err = ParseXMatrix(header); err != nil {
		return s, fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	switch {
	case !pdu.ValidServerName(s.Origin) || s.Origin == k.client.opts.Server:
		return s, fmt.Errorf("%w: %.100q is not the name of another server", ErrUnauthorized, s.Origin)
	case s.Destination != "" && s.Destination != k.client.opts.Server:
		return s, fmt.Errorf("%w: the request is for %.100q", ErrUnauthorized, s.Destination)
	case k.client.opts.Allowed != nil && !k.client.opts.Allowed(s.Origin):
		return s, fmt.Errorf("%w: %s", ErrKeptOut, s.Origin)
	}
	s.signature, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(s.Signature, "="))
	if err != nil || len(s.signature) != ed25519.SignatureSize {
		return s, fmt.Errorf("%w: the signature of %s is malformed", ErrUnauthorized, s.Origin)
	}
	return s, nil
}

// findKeys looks up the keys of the signatures, and drops signatures whose keys cannot be found. If the database cannot
// be used, its error does not wrap ErrUnauthorized.
func (c *Claim) findKeys(ctx context.Context) error {
	now := c.ring.now().UnixMilli()
	want := func(s claimed) KeyWant { return KeyWant{Server: s.Origin, KeyID: id.KeyID(s.Key), At: now} }
	var wants []KeyWant
	for _, s := range c.signatures {
		wants = append(wants, want(s))
	}
	keys, err := c.ring.find(ctx, wants)
	c.signatures = slices.DeleteFunc(c.signatures, func(s claimed) bool { return keys[want(s)] == nil })
	if len(c.signatures) == 0 && err != nil {
		return err
	}
	if len(c.signatures) == 0 {
		return fmt.Errorf("%w: %w: %.100q of %s", ErrUnauthorized, ErrNoKey, wants[0].KeyID, c.Origin)
	}
	for i, s := range c.signatures {
		c.signatures[i].key = keys[want(s)]
	}
	return nil
}

// Verify returns an error unless one of the signatures is valid for the request. uri is the path and query as they were
// sent. The body is canonicalised only once; this stops when ctx ends. Errors wrap ErrUnauthorized unless ctx has
// ended.
func (c *Claim) Verify(ctx context.Context, method, uri string, body []byte) error {
	weight := int64(min(len(body), maxVerified))
	if err := c.ring.verifying.Acquire(ctx, weight); err != nil {
		return err
	}
	defer c.ring.verifying.Release(weight)
	if len(body) >= slowBody {
		select {
		case c.ring.slow <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		defer func() { <-c.ring.slow }()
		defer processors.Raise(cap(c.ring.slow) + 1)() // one for each such body, and one for a commit
	}
	text, err := signedText(method, uri, c.Origin, c.ring.client.opts.Server, body, ctx.Err)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	for _, s := range c.signatures {
		if ed25519.Verify(s.key, text, s.signature) {
			return nil
		}
	}
	return fmt.Errorf("%w: invalid signature of %s", ErrUnauthorized, c.Origin)
}
