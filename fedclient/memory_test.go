package fedclient

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/internal/heaptest"
	"ebb/keyed"
	"ebb/storage"
)

// names returns server names that are as short, or as long, as possible.
var names = map[string]func(i int) string{
	"short names": func(i int) string { return fmt.Sprintf("%d.x", i) },
	"long names":  func(i int) string { return fmt.Sprintf("%d.%s.x", i, strings.Repeat("a", 220)) },
}

func TestKeysOfServersInMemoryAreBoundedInBytes(t *testing.T) {
	for name, of := range names {
		for _, keys := range []int{0, 1, maxStoredKeys} {
			t.Run(fmt.Sprintf("%s, %d keys", name, keys), func(t *testing.T) {
				const bound = 1 << 20
				memo := keyed.NewMemo(keyed.Options[string, map[id.KeyID]storage.ServerKey]{Bytes: bound, Size: sizeOfKeys})
				heaptest.Bounded(t, bound, 30_000/(1+keys), func(i int) {
					_, err := memo.Get(t.Context(), of(i), func(context.Context) (map[id.KeyID]storage.ServerKey, error) {
						own := map[id.KeyID]storage.ServerKey{}
						for n := range keys {
							keyID := id.KeyID(fmt.Sprintf("ed25519:%d", n))
							own[keyID] = storage.ServerKey{Server: of(i), KeyID: string(keyID), PublicKey: fmt.Sprintf("%043d", n)}
						}
						return own, nil
					})
					if err != nil {
						t.Fatal(err)
					}
				})
			})
		}
	}
}

func TestAddressesOfServersInMemoryAreBoundedInBytes(t *testing.T) {
	for name, of := range names {
		t.Run(name, func(t *testing.T) {
			r := newResolver(Options{Cache: 32 << 20, Now: time.Now}, nil)
			heaptest.Bounded(t, keyed.Budget(32<<20).Bytes(maxTargets), 30_000, func(i int) {
				_, err := r.targets.Get(t.Context(), of(i), func(context.Context) (target, error) {
					return target{host: of(i), tlsName: of(i), addresses: []string{fmt.Sprintf("[2001:db8::%d]:8448", i), fmt.Sprintf("192.0.2.%d:8448", i)}}, nil
				})
				if err != nil {
					t.Fatal(err)
				}
			})
			heaptest.Bounded(t, keyed.Budget(32<<20).Bytes(maxDelegations), 30_000, func(i int) { r.wellKnown.Put(of(i), delegation{server: of(i)}) })
		})
	}
}
