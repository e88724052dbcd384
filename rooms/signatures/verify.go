// Package signatures checks the signatures and content hashes of events from other servers: checks 1 to 3 of those
// performed on receipt of a PDU. It also gets the signatures that other servers add to events of this one: those of
// policy servers and of servers that authorise a restricted join.
package signatures

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/rooms/pdu"
)

// verifyWorkers is the number of goroutines that check signatures: an event takes some 60 µs, and joining a large room
// means 20,000 of them.
const verifyWorkers = 4

// Keys returns the signing keys of servers. The result lacks the keys that cannot be fetched.
type Keys interface {
	Keys(ctx context.Context, wants []fedclient.KeyWant) map[fedclient.KeyWant]ed25519.PublicKey
}

// Verifier verifies events. It is safe for concurrent use.
type Verifier struct {
	server string
	signer pdu.SignerSource
	keys   Keys
}

// NewVerifier returns a Verifier for the server with the given name, whose own signing key signer returns. If keys is
// nil, events of other servers cannot be verified.
func NewVerifier(server string, signer pdu.SignerSource, keys Keys) *Verifier {
	return &Verifier{server: server, signer: signer, keys: keys}
}

// Verify performs the first three checks on events of a room with the given version. For an event that fails a check,
// the entry in events is nil and the entry in errs is the reason. The keys of all events are fetched together.
// Spec: server-server-api#checks-performed-on-receipt-of-a-pdu
func (v *Verifier) Verify(ctx context.Context, version *pdu.Version, raws []json.RawMessage) (events []*pdu.Event, errs []error) {
	events, errs = make([]*pdu.Event, len(raws)), make([]error, len(raws))
	for i, raw := range raws {
		events[i], errs[i] = pdu.Parse(version, raw) // 1. It is a valid event.
	}
	v.VerifyParsed(ctx, events, errs)
	return events, errs
}

// VerifyParsed is like Verify, but for events that are parsed already. It modifies both slices.
func (v *Verifier) VerifyParsed(ctx context.Context, events []*pdu.Event, errs []error) {
	keys := v.KeysOf(ctx, events)
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(verifyWorkers, len(events)) {
		workers.Go(func() {
			for i := range next {
				if errs[i] = Check(events[i], keys); errs[i] != nil { // 2. It passes signature checks.
					events[i] = nil
					continue
				}
				events[i], errs[i] = checkHash(events[i]) // 3. It passes hash checks, or is redacted.
			}
		})
	}
	for i, e := range events {
		if e != nil {
			next <- i
		}
	}
	close(next)
	workers.Wait()
}

// KeySet holds public keys. A KeyWant says which key of which server an entry is.
type KeySet map[fedclient.KeyWant]ed25519.PublicKey

// KeysOf returns the keys with which the required signatures of events can be verified, as far as they can be fetched.
func (v *Verifier) KeysOf(ctx context.Context, events []*pdu.Event) KeySet {
	wanted := map[fedclient.KeyWant]bool{}
	found := KeySet{}
	for _, e := range events {
		if e == nil {
			continue
		}
		for _, server := range pdu.RequiredSigners(e) {
			for _, want := range keyWants(e, server) {
				if server == v.server && want.KeyID == v.signer.Current().KeyID {
					found[want] = v.signer.Current().Key.Public().(ed25519.PublicKey)
					continue
				}
				wanted[want] = true
			}
		}
	}
	if len(wanted) == 0 || v.keys == nil {
		return found
	}
	list := make([]fedclient.KeyWant, 0, len(wanted))
	for want := range wanted {
		list = append(list, want)
	}
	for want, key := range v.keys.Keys(ctx, list) {
		found[want] = key
	}
	return found
}

// Check performs check 2: it returns an error unless the event has a valid signature of each server that must sign it.
func Check(e *pdu.Event, keys KeySet) error {
	var lacking error
	for _, server := range pdu.RequiredSigners(e) {
		err := checkSignature(e, server, keys)
		if err != nil && !errors.Is(err, ErrNoKey) {
			return err
		}
		if lacking == nil {
			lacking = err
		}
	}
	return lacking
}

// checkSignature checks that the given server signed the event. If one signature is wrong and the key of another cannot
// be fetched, the error is about the wrong one.
func checkSignature(e *pdu.Event, server string, keys KeySet) error {
	var wrong, lacking error
	for _, want := range keyWants(e, server) {
		key, ok := keys[want]
		if !ok {
			lacking = fmt.Errorf("%s: %w: %s of %s", e.ID(), ErrNoKey, want.KeyID, server)
			continue
		}
		err := e.VerifySignature(server, string(want.KeyID), key)
		if err == nil {
			return nil
		}
		wrong = err
	}
	if err := cmp.Or(wrong, lacking); err != nil {
		return err
	}
	return fmt.Errorf("%s has no signature of %s", e.ID(), server)
}

// ErrNoKey is wrapped by the error for an event that cannot be verified yet.
var ErrNoKey = errors.New("a key could not be fetched")

// checkHash performs check 3: it returns the event itself if its content hash is right, and otherwise its redacted
// form.
func checkHash(e *pdu.Event) (*pdu.Event, error) {
	if e.CheckContentHash() {
		return e, nil
	}
	return e.Redact()
}

// keyWants returns the keys that the signatures of the given server on an event name.
func keyWants(e *pdu.Event, server string) (wants []fedclient.KeyWant) {
	at := int64(0)
	if e.Version().EnforceKeyValidity {
		at = e.OriginServerTS()
	}
	for signer, keyID := range e.Signatures() {
		if signer == server && len(wants) < maxSignatureKeys {
			wants = append(wants, fedclient.KeyWant{Server: server, KeyID: id.KeyID(keyID), At: at})
		}
	}
	return wants
}

// maxSignatureKeys bounds the signatures of one server on an event that are checked; servers usually make one.
const maxSignatureKeys = 4

// Countersign returns an event of this server with the signature of another server added. It takes only the signature
// from that server's response, and verifies it.
func (v *Verifier) Countersign(ctx context.Context, own *pdu.Event, server string, answer json.RawMessage) (*pdu.Event, error) {
	signed, err := own.Countersigned(server, answer)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", fedclient.ErrBadAnswer, err)
	}
	if signed.ID() != own.ID() {
		return nil, fmt.Errorf("%w: another event came back", fedclient.ErrBadAnswer)
	}
	err = fmt.Errorf("%w: no key of %s fits its signature", fedclient.ErrBadAnswer, server)
	wants := keyWants(signed, server)
	keys := v.keys.Keys(ctx, wants)
	for _, want := range wants {
		if key, ok := keys[want]; ok {
			wrong := signed.VerifySignature(server, string(want.KeyID), key)
			if wrong == nil {
				return signed, nil
			}
			err = fmt.Errorf("%w: %w", fedclient.ErrBadAnswer, wrong)
		}
	}
	return nil, err
}
