package main

import (
	"bytes"
	"fmt"
	"net/url"
	"strconv"
)

// encryption measures the most frequent requests of encrypting clients: claiming one-time keys and sending to-device
// messages.
func (b *bench) encryption() error {
	p, err := b.startEbb("e2ee", 0)
	if err != nil {
		return err
	}
	defer p.stop()
	limit, err := b.startLimit(0)
	if err != nil {
		return err
	}
	defer limit.kill()
	people, err := p.register("e", 32)
	if err != nil {
		return err
	}
	var claims, toDevice, bare samples
	const claimed = 8000 // number of keys per round
	for round := range b.rounds {
		if err := bare.add(measureLimit(limit, "/stored/", len(people)/2, b.duration)); err != nil {
			return err
		}
		if err := uploadKeys(people, round, claimed); err != nil {
			return err
		}
		err := b.profiled(p, fmt.Sprint("claims-", round), func() error {
			return claims.add(p.measure(func() (int, error) { return claimKeys(people, claimed) }))
		})
		if err != nil {
			return err
		}
		err = b.profiled(p, fmt.Sprint("todevice-", round), func() error {
			return toDevice.add(p.measure(func() (int, error) {
				return concurrently(len(people)/2, b.duration, func(i, _ int) error { return people[i].sendToDevice(people[len(people)/2+i]) })
			}))
		})
		if err != nil {
			return err
		}
	}
	b.print(
		figure{"one-time key claims", "CPU s/1000", claims.of(spent.per1000), bare.of(spent.per1000), "< 0.1"},
		figure{"to-device messages, one a request", "CPU s/1000", toDevice.of(spent.per1000), bare.of(spent.per1000), "< 0.1"},
	)
	return nil
}

// uploadKeys uploads as many keys for the second half of the users as the first half will claim.
func uploadKeys(people []*account, round, claimed int) error {
	half := len(people) / 2
	const batch = 50
	return parallel(half, half, func(i int) error {
		a := people[half+i]
		for first := 0; first < claimed/half; first += batch {
			keys := map[string]any{}
			for k := range batch {
				keys[fmt.Sprintf("signed_curve25519:r%dk%d", round, first+k)] = map[string]any{
					"key":        "6VWLxuGBGkXEELgZyyGFBI1Z1bVkBVqwzLZO4mC1cUA",
					"signatures": map[string]any{a.user: map[string]any{"ed25519:" + a.device: "IQeCEPb9HFk217cU9kw9EOiusC6kMIkoIRnbnfOh5Oc63S1ghgyjShBGpu34blQomoalCyXWyhaaT3MrLZYQAA"}},
				}
			}
			if err := a.post("/_matrix/client/v3/keys/upload", map[string]any{"one_time_keys": keys}, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// claimKeys claims all keys that uploadKeys has uploaded, one per request.
func claimKeys(people []*account, claimed int) (int, error) {
	half := len(people) / 2
	err := parallel(half, half, func(i int) error {
		from := people[half+i]
		body := fmt.Appendf(nil, `{"one_time_keys":{"%s":{"%s":"signed_curve25519"}}}`, from.user, from.device)
		for range claimed / half {
			answer, err := people[i].do("POST", "/_matrix/client/v3/keys/claim", body)
			if err != nil {
				return err
			}
			if !bytes.Contains(answer, []byte("signed_curve25519:")) {
				return fmt.Errorf("no key was left: %s", answer)
			}
		}
		return nil
	})
	return claimed, err
}

func (a *account) sendToDevice(to *account) error {
	body := fmt.Appendf(nil, `{"messages":{"%s":{"%s":{"algorithm":"m.olm.v1.curve25519-aes-sha2","sender_key":"6VWLxuGBGkXEELgZyyGFBI1Z1bVkBVqwzLZO4mC1cUA","ciphertext":{"x":{"type":1,"body":"%s%s%s%s"}}}}}}`,
		to.user, to.device, text, text, text, text)
	_, err := a.do("PUT", "/_matrix/client/v3/sendToDevice/"+url.PathEscape("m.room.encrypted")+"/"+strconv.FormatInt(txns.Add(1), 10), body)
	return err
}
