package signatures

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"ebb/canonjson"
	"ebb/fedclient"
	"ebb/mxerr"
	"ebb/rooms/pdu"
)

// PolicyServers requests signatures from the policy servers of rooms. It is implemented by fedclient.Client.
type PolicyServers interface {
	SignByPolicyServer(ctx context.Context, server string, event json.RawMessage) (signatures map[string]map[string]string, err error)
}

const (
	typePolicy  = "m.room.policy"
	policyKeyID = "ed25519:policy_server"
	policyTime  = 10 * time.Second // for one event
)

// PolicyServer is a server that must sign the events of a room.
type PolicyServer struct {
	Name string
	key  ed25519.PublicKey
}

// PolicyServerOf returns the policy server that the content of m.room.policy names, or nil if it is not valid.
// Spec: server-server-api#policy-servers
func PolicyServerOf(content []byte) *PolicyServer {
	via, _ := canonjson.Get(content, "via")
	keys, _ := canonjson.Get(content, "public_keys")
	encoded, _ := canonjson.Get(keys, "ed25519")
	name, key := canonjson.String(via), decodeKey(canonjson.String(encoded))
	if name == "" || key == nil {
		return nil
	}
	return &PolicyServer{name, key}
}

// decodeKey decodes a public key in either alphabet of base64. It returns nil if it is invalid.
func decodeKey(text string) ed25519.PublicKey {
	text = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(text, "="))
	if key, err := base64.RawStdEncoding.DecodeString(text); err == nil && len(key) == ed25519.PublicKeySize {
		return key
	}
	return nil
}

// Signed reports whether an event has a valid signature of the policy server. It also returns true for the event that
// chooses the policy server, since a room can always choose another one.
func (p *PolicyServer) Signed(e *pdu.Event) bool {
	if key, isState := e.StateKey(); isState && key == "" && e.Type() == typePolicy {
		return true
	}
	return e.VerifySignature(p.Name, policyKeyID, p.key) == nil
}

// Claims reports whether an event has a signature of the policy server, whether or not it is valid.
func (p *PolicyServer) Claims(e *pdu.Event) bool {
	for server, keyID := range e.Signatures() {
		if server == p.Name && keyID == policyKeyID {
			return true
		}
	}
	return false
}

// ErrPolicy is wrapped by the error for an event that the policy server did not sign.
var ErrPolicy = errors.New("the policy server did not sign the event")

// Ask requests the policy server's signature on an event.
//
// Errors: M_FORBIDDEN, M_LIMIT_EXCEEDED, 502 M_UNKNOWN.
// Spec: server-server-api#post_matrixpolicyv1sign
func (p *PolicyServer) Ask(ctx context.Context, client PolicyServers, e *pdu.Event) (*pdu.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, policyTime)
	defer cancel()
	signatures, err := client.SignByPolicyServer(ctx, p.Name, e.JSON())
	var remote *fedclient.RemoteError
	switch {
	case errors.As(err, &remote) && remote.Status == http.StatusTooManyRequests:
		return nil, mxerr.LimitExceeded(max(remote.RetryAfter, time.Second)).Because(errors.Join(ErrPolicy, err))
	case err != nil && (remote == nil || remote.Status >= 500):
		return nil, mxerr.New(http.StatusBadGateway, mxerr.CodeUnknown, "The room's policy server did not answer").Because(errors.Join(ErrPolicy, err))
	case err != nil:
		return nil, errRefusedByPolicy(err)
	}
	signature := signatures[p.Name][policyKeyID]
	if signature == "" {
		return nil, errRefusedByPolicy(nil)
	}
	signed, err := e.WithSignature(p.Name, policyKeyID, signature)
	if err != nil || !p.Signed(signed) {
		return nil, errRefusedByPolicy(errors.New("the signature is wrong"))
	}
	return signed, nil
}

func errRefusedByPolicy(cause error) error {
	return mxerr.Forbidden("The room's policy server refused this event").Because(errors.Join(ErrPolicy, cause))
}
