package fedclient

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// keyAnswer is the response of a server with its keys.
// Spec: server-server-api#get_matrixkeyv2server
type keyAnswer struct {
	ServerName    string               `json:"server_name"`
	ValidUntil    int64                `json:"valid_until_ts"` // milliseconds
	VerifyKeys    map[id.KeyID]saidKey `json:"verify_keys"`
	OldVerifyKeys map[id.KeyID]saidKey `json:"old_verify_keys"`
}

type saidKey struct {
	Key     string `json:"key"`
	Expired int64  `json:"expired_ts,omitempty"` // milliseconds; only for old keys
}

// maxKeyID bounds a key ID, in bytes.
const maxKeyID = 255

// keep verifies a response with keys and stores the keys. It refuses a response that is about a different server, or is
// not signed with the keys in it. direct says that the server itself sent the response.
func (k *KeyRing) keep(ctx context.Context, server string, raw json.RawMessage, direct bool) error {
	var a keyAnswer
	if err := json.Unmarshal(raw, &a); err != nil {
		return fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	switch {
	case a.ServerName != server:
		return fmt.Errorf("%w: keys of %.100q instead of %s", ErrBadAnswer, a.ServerName, server)
	case len(a.VerifyKeys)+len(a.OldVerifyKeys) > maxKeysPerServer || len(raw) > maxKeyAnswer:
		return fmt.Errorf("%w: too many keys", ErrBadAnswer)
	}
	until := min(a.ValidUntil, k.now().Add(maxKeyLife).UnixMilli())
	found := map[id.KeyID]storage.ServerKey{}
	for keyID, said := range a.VerifyKeys {
		key, ok := usableKey(keyID, said)
		if ok && pdu.VerifyJSON(raw, server, string(keyID), key) == nil {
			found[keyID] = storage.ServerKey{Server: server, KeyID: string(keyID), PublicKey: said.Key, GoodUntil: until}
		}
	}
	if len(found) == 0 {
		return fmt.Errorf("%w: %s signed none of its keys", ErrBadAnswer, server)
	}
	for keyID, said := range a.OldVerifyKeys {
		if _, ok := usableKey(keyID, said); ok && found[keyID].KeyID == "" {
			found[keyID] = storage.ServerKey{Server: server, KeyID: string(keyID), PublicKey: said.Key, GoodUntil: said.Expired, Expired: true}
		}
	}
	return k.store(ctx, server, found, storage.ServerKeyAnswer{JSON: string(raw), GoodUntil: until, FetchedTS: k.now().UnixMilli()}, direct)
}

// usableKey decodes a key of another server and reports whether it is usable. A key with which anybody can sign is not.
func usableKey(keyID id.KeyID, said saidKey) (ed25519.PublicKey, bool) {
	if !strings.HasPrefix(string(keyID), "ed25519:") || len(keyID) > maxKeyID {
		return nil, false
	}
	key, ok := decodeKey(said.Key)
	return key, ok && !weak(key)
}

// decodeKey decodes an ed25519 public key.
func decodeKey(text string) (ed25519.PublicKey, bool) {
	key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	return key, err == nil && len(key) == ed25519.PublicKeySize
}

// signedBy returns an error unless the JSON object has a valid signature of the given server, whose keys it looks up.
func (k *KeyRing) signedBy(ctx context.Context, server string, raw json.RawMessage) error {
	err := fmt.Errorf("no signature of %s", server)
	canonical, cerr := canonjson.Canonical(raw, false)
	if cerr != nil {
		return cerr
	}
	signatures, _ := canonjson.Get(canonical, "signatures")
	keys, _ := canonjson.Get(signatures, server)
	tried := 0
	_ = canonjson.Each(keys, func(keyID string, _ []byte) error {
		if tried++; err == nil || tried > maxSignatures {
			return nil
		}
		want := KeyWant{Server: server, KeyID: id.KeyID(keyID), At: k.now().UnixMilli()}
		if key, ok := k.Keys(ctx, []KeyWant{want})[want]; ok {
			err = pdu.VerifyJSON(raw, server, keyID, key)
		}
		return nil
	})
	return err
}

// Own returns the signed response with this server's keys.
// Spec: server-server-api#get_matrixkeyv2server
func (k *KeyRing) Own() (json.RawMessage, error) {
	signer := k.client.opts.Signer.Current()
	encode := func(key ed25519.PublicKey) string { return base64.RawStdEncoding.EncodeToString(key) }
	a := keyAnswer{
		ServerName: signer.Server, ValidUntil: k.now().Add(KeyLife).UnixMilli(), OldVerifyKeys: map[id.KeyID]saidKey{},
		VerifyKeys: map[id.KeyID]saidKey{signer.KeyID: {Key: encode(signer.Key.Public().(ed25519.PublicKey))}},
	}
	for _, o := range k.old() {
		a.OldVerifyKeys[o.KeyID] = saidKey{encode(o.Key), o.Expired}
	}
	raw, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	return pdu.SignJSON(raw, signer)
}

// Vouch returns the key responses of servers with this server's signature added. Each should be valid at the given time
// (in milliseconds; 0 means now). If no such response can be fetched, an older one is returned. Servers without any
// response are left out.
// Spec: server-server-api#querying-keys-through-another-server
func (k *KeyRing) Vouch(ctx context.Context, wanted map[string]int64) ([]json.RawMessage, error) {
	answers := []json.RawMessage{}
	var stale []string
	for server, until := range wanted {
		if server == k.client.opts.Server || k.client.mayAsk(server) != nil {
			continue
		}
		a, known, err := k.answer(ctx, server)
		if err != nil {
			return nil, err
		}
		if !known || a.GoodUntil < max(until, k.now().UnixMilli()) {
			stale = append(stale, server)
		}
	}
	_, _ = k.askServers(ctx, stale) // what cannot be had is missing below
	for server := range wanted {
		raw, err := k.vouch(ctx, server)
		if err != nil {
			return nil, err
		}
		if raw != nil {
			answers = append(answers, raw)
		}
	}
	return answers, nil
}

// vouch signs the stored key response of a server. It returns nil if there is none.
func (k *KeyRing) vouch(ctx context.Context, server string) (json.RawMessage, error) {
	if server == k.client.opts.Server {
		return k.Own()
	}
	a, known, err := k.answer(ctx, server)
	if err != nil || !known {
		return nil, err
	}
	signed, err := pdu.SignJSON([]byte(a.JSON), k.client.opts.Signer.Current())
	if err != nil {
		k.log().DebugContext(ctx, "could not sign the key answer of a server", "server", server, "err", err)
		return nil, nil // treated as missing, because it may contain a fraction, for example
	}
	return signed, nil
}

func (k *KeyRing) answer(ctx context.Context, server string) (a storage.ServerKeyAnswer, found bool, err error) {
	err = k.db.Read(ctx, func(tx *storage.Tx) (err error) {
		a, found, err = tx.ServerKeyAnswerOf(server)
		return err
	})
	return a, found, err
}
