package rooms

import (
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

// verify makes the first three of the checks performed on receipt of a PDU. The result is nil for an event that fails,
// with the reason in errs. Keys are fetched once for all events.
// Spec: server-server-api#checks-performed-on-receipt-of-a-pdu
func (s *Service) verify(ctx context.Context, v *pdu.Version, raws []json.RawMessage) (events []*pdu.Event, errs []error) {
	events, errs = make([]*pdu.Event, len(raws)), make([]error, len(raws))
	for i, raw := range raws {
		events[i], errs[i] = pdu.Parse(v, raw) // 1. It is a valid event.
	}
	s.verifyEvents(ctx, events, errs)
	return events, errs
}

// verifyEvents is verify for parsed events.
func (s *Service) verifyEvents(ctx context.Context, events []*pdu.Event, errs []error) {
	keys := s.keysOf(ctx, events)
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(verifyWorkers, len(events)) {
		workers.Go(func() {
			for i := range next {
				if errs[i] = checkSignatures(events[i], keys); errs[i] != nil { // 2. It passes signature checks.
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

type keySet map[fedclient.KeyWant]ed25519.PublicKey

// keysOf returns the keys of the signatures that events must have, as far as they can be fetched.
func (s *Service) keysOf(ctx context.Context, events []*pdu.Event) keySet {
	wanted := map[fedclient.KeyWant]bool{}
	found := keySet{}
	for _, e := range events {
		if e == nil {
			continue
		}
		for _, server := range pdu.RequiredSigners(e) {
			for _, want := range keyWants(e, server) {
				if server == s.opts.Server && want.KeyID == s.opts.Signer.Current().KeyID {
					found[want] = s.opts.Signer.Current().Key.Public().(ed25519.PublicKey)
					continue
				}
				wanted[want] = true
			}
		}
	}
	if len(wanted) == 0 || s.opts.Keys == nil {
		return found
	}
	list := make([]fedclient.KeyWant, 0, len(wanted))
	for want := range wanted {
		list = append(list, want)
	}
	for want, key := range s.opts.Keys.Keys(ctx, list) {
		found[want] = key
	}
	return found
}

// checkSignatures is check 2: the event has a valid signature of each server that must sign it.
func checkSignatures(e *pdu.Event, keys keySet) error {
	var lacking error
	for _, server := range pdu.RequiredSigners(e) {
		err := checkSignature(e, server, keys)
		if err != nil && !errors.Is(err, errNoKey) {
			return err
		}
		if lacking == nil {
			lacking = err
		}
	}
	return lacking
}

// checkSignature checks that one server signed the event. A wrong signature takes precedence over a key that could not
// be fetched.
func checkSignature(e *pdu.Event, server string, keys keySet) error {
	var wrong, lacking error
	for _, want := range keyWants(e, server) {
		key, ok := keys[want]
		if !ok {
			lacking = fmt.Errorf("%s: %w: %s of %s", e.ID(), errNoKey, want.KeyID, server)
			continue
		}
		err := e.VerifySignature(server, string(want.KeyID), key)
		if err == nil {
			return nil
		}
		wrong = err
	}
	if err := firstError(wrong, lacking); err != nil {
		return err
	}
	return fmt.Errorf("%s has no signature of %s", e.ID(), server)
}

var errNoKey = errors.New("a key could not be fetched")

// checkHash is check 3: it returns the event itself if its content hash is right, else its redacted form.
func checkHash(e *pdu.Event) (*pdu.Event, error) {
	if e.CheckContentHash() {
		return e, nil
	}
	return e.Redact()
}

// idOf returns the ID of a PDU, which need not be valid, or "" if it has none.
func idOf(v *pdu.Version, raw json.RawMessage) id.EventID {
	if len(raw) > maxPDU {
		return ""
	}
	eventID, err := pdu.EventIDOf(v, raw)
	if err != nil {
		return ""
	}
	return eventID
}

// maxPDU bounds the JSON that is parsed for an event ID. Events have at most 64 KiB in canonical form, but may be sent
// with more whitespace.
const maxPDU = 1 << 20

var errUnknownRoomEvent = errors.New("the event belongs to another room")
