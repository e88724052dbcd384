package fedclient

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms/pdu"
)

// ErrUnauthorized: a request is not signed as it must be.
var ErrUnauthorized = errors.New("the request is not signed by the server that it says it is from")

// ErrKeptOut: the configuration lets nobody speak with this server.
var ErrKeptOut = errors.New("the configuration keeps this server out")

// maxSignatures bounds the headers of one request, and the signatures of one object, that are looked at.
const maxSignatures = 3

// VerifyRequest checks who signed a request and gives that server's name. uri is the path and query as they were sent.
// Several headers are one signature each, by keys of the same server: one good one will do. Errors wrap ErrUnauthorized or
// ErrKeptOut.
// Spec: server-server-api#request-authentication
func (k *KeyRing) VerifyRequest(ctx context.Context, method, uri string, headers http.Header, body []byte) (origin string, err error) {
	err = fmt.Errorf("%w: no Authorization header", ErrUnauthorized)
	values := headers.Values("Authorization")
	for _, header := range values[:min(len(values), maxSignatures)] {
		var x XMatrix
		if x, err = ParseXMatrix(header); err != nil {
			err = fmt.Errorf("%w: %w", ErrUnauthorized, err)
			continue
		}
		if err = k.verify(ctx, x, method, uri, body); err == nil {
			return x.Origin, nil
		}
	}
	return "", err
}

func (k *KeyRing) verify(ctx context.Context, x XMatrix, method, uri string, body []byte) error {
	switch {
	case !pdu.ValidServerName(x.Origin) || x.Origin == k.client.Server:
		return fmt.Errorf("%w: %.100q is no other server", ErrUnauthorized, x.Origin)
	case x.Destination != "" && x.Destination != k.client.Server:
		return fmt.Errorf("%w: the request is for %.100q", ErrUnauthorized, x.Destination)
	case k.client.Allowed != nil && !k.client.Allowed(x.Origin):
		return fmt.Errorf("%w: %s", ErrKeptOut, x.Origin)
	}
	text, err := signedText(method, uri, x.Origin, k.client.Server, body)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	if x.Destination == "" { // an old server signs without it
		text = canonjson.Without(text, "destination")
	}
	signature, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(x.Signature, "="))
	if err != nil || len(signature) != ed25519.SignatureSize {
		return fmt.Errorf("%w: the signature of %s has no form", ErrUnauthorized, x.Origin)
	}
	want := KeyWant{Server: x.Origin, KeyID: id.KeyID(x.Key), At: k.now().UnixMilli()}
	key, ok := k.Keys(ctx, []KeyWant{want})[want]
	if !ok {
		return fmt.Errorf("%w: the key %.100q of %s is not to be had", ErrUnauthorized, x.Key, x.Origin)
	}
	if !ed25519.Verify(key, text, signature) {
		return fmt.Errorf("%w: wrong signature of %s", ErrUnauthorized, x.Origin)
	}
	return nil
}
