package fedclient

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/rooms/pdu"
	"ebb/storage"
)

const (
	// keyLife is how far ahead this server vouches for its own keys, and maxKeyLife for how long others are believed.
	keyLife    = 24 * time.Hour
	maxKeyLife = 7 * 24 * time.Hour
	// keyRetry is how long a server whose keys could not be had is not asked again.
	keyRetry = 10 * time.Second
	// maxKeysPerServer bounds what one server may make us remember.
	maxKeysPerServer = 50
	// maxKeyServers bounds the servers whose keys are in memory.
	maxKeyServers = 20_000
	// maxKeyFetches is how many servers are asked at the same time.
	maxKeyFetches = 50
	maxKeyAnswer  = 256 << 10 // bytes
)

// OldKey is a signing key that this server has used before.
type OldKey struct {
	KeyID   id.KeyID
	Key     ed25519.PublicKey
	Expired int64 // ms; when it ceased to be used
}

// KeyRing keeps the signing keys of this server and of others. It is safe for concurrent use.
type KeyRing struct {
	Client   *Client
	DB       *storage.DB
	Notaries []string // servers that are asked for the keys of those that do not answer
	Old      []OldKey

	flight singleflight.Group
	// mu guards what follows; a leaf.
	mu      sync.Mutex
	servers map[string]*serverKeys
}

// serverKeys is what is known of one server.
type serverKeys struct {
	keys  map[id.KeyID]storage.ServerKey
	tried time.Time // when asking it last failed
}

// NewKeyRing makes a KeyRing.
func NewKeyRing(c *Client, db *storage.DB, notaries []string, old []OldKey) *KeyRing {
	return &KeyRing{Client: c, DB: db, Notaries: notaries, Old: old, servers: map[string]*serverKeys{}}
}

func (k *KeyRing) log() *slog.Logger { return k.Client.Log }
func (k *KeyRing) now() time.Time    { return k.Client.Now() }

// Keys gives the keys that are good at the wanted times; those that cannot be had are missing. Servers are asked at the
// same time, once each.
func (k *KeyRing) Keys(ctx context.Context, wants []KeyWant) map[KeyWant]ed25519.PublicKey {
	found := make(map[KeyWant]ed25519.PublicKey, len(wants))
	lacking := map[string][]KeyWant{}
	for _, want := range wants {
		if key, ok := k.known(ctx, want); ok {
			found[want] = key
		} else {
			lacking[want.Server] = append(lacking[want.Server], want)
		}
	}
	var mu sync.Mutex
	var all sync.WaitGroup
	slots := make(chan struct{}, maxKeyFetches)
	for server, wants := range lacking {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if !k.refresh(ctx, server) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, want := range wants {
				if key, ok := k.known(ctx, want); ok {
					found[want] = key
				}
			}
		})
	}
	all.Wait()
	return found
}

// known looks a key up in memory and in the database.
func (k *KeyRing) known(ctx context.Context, want KeyWant) (ed25519.PublicKey, bool) {
	if want.Server == k.Client.Server {
		return k.own(want)
	}
	s, err := k.server(ctx, want.Server)
	if err != nil {
		k.log().ErrorContext(ctx, "read the keys of a server", "server", want.Server, "err", err)
		return nil, false
	}
	k.mu.Lock()
	key, ok := s.keys[want.KeyID]
	k.mu.Unlock()
	if !ok || want.At > key.GoodUntil && want.At != 0 {
		return nil, false
	}
	return decodeKey(key.PublicKey)
}

func (k *KeyRing) own(want KeyWant) (ed25519.PublicKey, bool) {
	if want.KeyID == k.Client.Signer.KeyID {
		return k.Client.Signer.Key.Public().(ed25519.PublicKey), true
	}
	for _, old := range k.Old {
		if old.KeyID == want.KeyID && want.At <= old.Expired {
			return old.Key, true
		}
	}
	return nil, false
}

// server is what is known of a server, read from the database at its first use.
func (k *KeyRing) server(ctx context.Context, name string) (*serverKeys, error) {
	k.mu.Lock()
	s := k.servers[name]
	k.mu.Unlock()
	if s != nil {
		return s, nil
	}
	var rows []storage.ServerKey
	err := k.DB.ReadInner(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.ServerKeys(name)
		return err
	})
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if s = k.servers[name]; s != nil {
		return s, nil
	}
	if len(k.servers) >= maxKeyServers {
		clear(k.servers)
	}
	s = &serverKeys{keys: make(map[id.KeyID]storage.ServerKey, len(rows))}
	for _, row := range rows {
		s.keys[id.KeyID(row.KeyID)] = row
	}
	k.servers[name] = s
	return s, nil
}

// refresh asks a server for its keys, then the notaries; it tells whether anything was learnt.
func (k *KeyRing) refresh(ctx context.Context, server string) bool {
	learnt, _, _ := k.flight.Do(server, func() (any, error) {
		s, err := k.server(ctx, server)
		if err != nil {
			return false, nil
		}
		k.mu.Lock()
		soon := k.now().Sub(s.tried) < keyRetry
		k.mu.Unlock()
		if soon {
			return false, nil
		}
		err = k.ask(context.WithoutCancel(ctx), server)
		if err == nil {
			return true, nil
		}
		k.log().DebugContext(ctx, "the keys of a server are not to be had", "server", server, "err", err)
		k.mu.Lock()
		s.tried = k.now()
		k.mu.Unlock()
		return false, nil
	})
	return learnt.(bool)
}

func (k *KeyRing) ask(ctx context.Context, server string) error {
	raw, err := k.Client.ServerKeys(ctx, server)
	if err == nil {
		err = k.keep(ctx, server, raw)
	}
	if err == nil {
		return nil
	}
	for _, notary := range k.Notaries {
		if notary == server || notary == k.Client.Server {
			continue
		}
		if nerr := k.askNotary(ctx, notary, server); nerr == nil {
			return nil
		} else {
			err = errors.Join(err, nerr)
		}
	}
	return err
}

// askNotary takes a notary's word only with its signature on it.
// Spec: server-server-api#querying-keys-through-another-server
func (k *KeyRing) askNotary(ctx context.Context, notary, server string) error {
	answers, err := k.Client.QueryKeys(ctx, notary, server)
	if err != nil {
		return err
	}
	for _, raw := range answers {
		if err = k.signedBy(ctx, notary, raw); err != nil {
			continue
		}
		if err = k.keep(ctx, server, raw); err == nil {
			return nil
		}
	}
	return fmt.Errorf("notary %s: no good answer for %s: %w", notary, server, err)
}

func (k *KeyRing) signedBy(ctx context.Context, server string, raw json.RawMessage) error {
	err := fmt.Errorf("no signature of %s", server)
	signatures, _ := canonjson.Get(raw, "signatures")
	keys, _ := canonjson.Get(signatures, server)
	_ = canonjson.Each(keys, func(keyID string, _ []byte) error {
		want := KeyWant{Server: server, KeyID: id.KeyID(keyID), At: k.now().UnixMilli()}
		if key, ok := k.Keys(ctx, []KeyWant{want})[want]; ok && err != nil {
			err = pdu.VerifyJSON(raw, server, keyID, key)
		}
		return nil
	})
	return err
}

// keyAnswer is what a server says of its keys.
// Spec: server-server-api#get_matrixkeyv2server
type keyAnswer struct {
	ServerName string `json:"server_name"`
	ValidUntil int64  `json:"valid_until_ts"`
	VerifyKeys map[id.KeyID]struct {
		Key string `json:"key"`
	} `json:"verify_keys"`
	OldVerifyKeys map[id.KeyID]struct {
		Key     string `json:"key"`
		Expired int64  `json:"expired_ts"`
	} `json:"old_verify_keys"`
}

// keep checks an answer and remembers its keys, under the name that was asked about: an answer for another name counts for
// nothing, and neither does one that its own keys have not signed.
func (k *KeyRing) keep(ctx context.Context, server string, raw json.RawMessage) error {
	var a keyAnswer
	if err := json.Unmarshal(raw, &a); err != nil {
		return fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	if a.ServerName != server {
		return fmt.Errorf("%w: keys of %.100q instead of %s", ErrBadAnswer, a.ServerName, server)
	}
	if len(a.VerifyKeys)+len(a.OldVerifyKeys) > maxKeysPerServer {
		return fmt.Errorf("%w: too many keys", ErrBadAnswer)
	}
	until := min(a.ValidUntil, k.now().Add(maxKeyLife).UnixMilli())
	found := map[id.KeyID]storage.ServerKey{}
	for keyID, v := range a.VerifyKeys {
		key, ok := decodeKey(v.Key)
		if !ok || pdu.VerifyJSON(raw, server, string(keyID), key) != nil {
			continue
		}
		found[keyID] = storage.ServerKey{Server: server, KeyID: string(keyID), PublicKey: v.Key, GoodUntil: until}
	}
	if len(found) == 0 {
		return fmt.Errorf("%w: %s signed none of its keys", ErrBadAnswer, server)
	}
	for keyID, v := range a.OldVerifyKeys {
		if _, ok := decodeKey(v.Key); ok && found[keyID].KeyID == "" {
			found[keyID] = storage.ServerKey{Server: server, KeyID: string(keyID), PublicKey: v.Key, GoodUntil: v.Expired, Expired: true}
		}
	}
	return k.store(ctx, server, found, storage.ServerKeyAnswer{JSON: string(raw), GoodUntil: until, FetchedTS: k.now().UnixMilli()})
}

func (k *KeyRing) store(ctx context.Context, server string, found map[id.KeyID]storage.ServerKey, answer storage.ServerKeyAnswer) error {
	s, err := k.server(ctx, server)
	if err != nil {
		return err
	}
	err = k.DB.Write(ctx, func(tx *storage.Tx) error {
		for _, key := range found {
			if err := tx.PutServerKey(key); err != nil {
				return err
			}
		}
		return tx.PutServerKeyAnswer(server, answer)
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for keyID, key := range found {
		s.keys[keyID] = key
	}
	s.tried = time.Time{}
	return nil
}

// decodeKey reads an ed25519 key.
func decodeKey(text string) (ed25519.PublicKey, bool) {
	key, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
	return key, err == nil && len(key) == ed25519.PublicKeySize
}

// Own is this server's answer to who asks for its keys, signed.
// Spec: server-server-api#get_matrixkeyv2server
func (k *KeyRing) Own() (json.RawMessage, error) {
	type verifyKey struct {
		Key     string `json:"key"`
		Expired int64  `json:"expired_ts,omitempty"`
	}
	encode := func(key ed25519.PublicKey) string { return base64.RawStdEncoding.EncodeToString(key) }
	old := map[id.KeyID]verifyKey{}
	for _, o := range k.Old {
		old[o.KeyID] = verifyKey{encode(o.Key), o.Expired}
	}
	signer := k.Client.Signer
	raw, err := json.Marshal(map[string]any{
		"server_name": signer.Server, "valid_until_ts": k.now().Add(keyLife).UnixMilli(), "old_verify_keys": old,
		"verify_keys": map[id.KeyID]verifyKey{signer.KeyID: {Key: encode(signer.Key.Public().(ed25519.PublicKey))}},
	})
	if err != nil {
		return nil, err
	}
	return pdu.SignJSON(raw, signer)
}

// Vouch gives what a server says of its keys, good until a time (ms) if that can be had, with this server's signature
// added; nil where nothing is known.
// Spec: server-server-api#querying-keys-through-another-server
func (k *KeyRing) Vouch(ctx context.Context, server string, until int64) (json.RawMessage, error) {
	if server == k.Client.Server {
		return k.Own()
	}
	if until == 0 {
		until = k.now().UnixMilli()
	}
	answer, found, err := k.answer(ctx, server)
	if err != nil {
		return nil, err
	}
	if !found || answer.GoodUntil < until {
		if k.refresh(ctx, server) {
			if answer, found, err = k.answer(ctx, server); err != nil {
				return nil, err
			}
		}
	}
	if !found {
		return nil, nil
	}
	return pdu.SignJSON([]byte(answer.JSON), k.Client.Signer)
}

func (k *KeyRing) answer(ctx context.Context, server string) (a storage.ServerKeyAnswer, found bool, err error) {
	err = k.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		a, found, err = tx.ServerKeyAnswerOf(server)
		return err
	})
	return a, found, err
}

// ErrUnauthorized: a request is not signed as it must be.
var ErrUnauthorized = errors.New("the request is not signed by the server that it says it is from")

// VerifyRequest checks who signed a request and gives that server's name. Servers that are kept out are refused too.
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

// maxSignatures bounds the headers of one request that are looked at.
const maxSignatures = 3

func (k *KeyRing) verify(ctx context.Context, x XMatrix, method, uri string, body []byte) error {
	switch {
	case !pdu.ValidServerName(x.Origin):
		return fmt.Errorf("%w: %.100q is no server name", ErrUnauthorized, x.Origin)
	case x.Destination != "" && x.Destination != k.Client.Server:
		return fmt.Errorf("%w: the request is for %.100q", ErrUnauthorized, x.Destination)
	case k.Client.Allowed != nil && !k.Client.Allowed(x.Origin):
		return fmt.Errorf("%w: the configuration keeps %s out", ErrUnauthorized, x.Origin)
	}
	want := KeyWant{Server: x.Origin, KeyID: id.KeyID(x.Key), At: k.now().UnixMilli()}
	key, ok := k.Keys(ctx, []KeyWant{want})[want]
	if !ok {
		return fmt.Errorf("%w: the key %.100q of %s is not to be had", ErrUnauthorized, x.Key, x.Origin)
	}
	text, err := signedText(method, uri, x.Origin, k.Client.Server, body)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	}
	if x.Destination == "" { // an old server signs without it
		text = canonjson.Without(text, "destination")
	}
	signature, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(x.Signature, "="))
	if err != nil || !ed25519.Verify(key, text, signature) {
		return fmt.Errorf("%w: wrong signature of %s", ErrUnauthorized, x.Origin)
	}
	return nil
}
