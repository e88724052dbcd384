package fedclient

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"maunium.net/go/mautrix/id"

	"ebb/keyed"
	"ebb/storage"
)

const (
	// KeyLife is how far in the future this server's own keys are declared to be valid. maxKeyLife bounds what other
	// servers declare.
	// Spec: server-server-api#get_matrixkeyv2server
	KeyLife    = 24 * time.Hour
	maxKeyLife = 7 * 24 * time.Hour
	// keyAgain is the time after which a server that has responded may be asked for its keys again. A server that does
	// not respond is asked again after 10 s, and then after twice as long each time, up to maxKeyRetry. Requests that
	// name nonexistent keys therefore cost no more than that.
	keyAgain    = 30 * time.Second
	maxKeyRetry = 10 * time.Minute
	// outagePause is the time after which a server is asked again whose keys could not be stored.
	outagePause = 5 * time.Second
	// keyTime is how long a server may take to respond.
	keyTime = 10 * time.Second
	// maxKeysPerServer bounds the keys in a response. maxStoredKeys bounds the stored keys of one server, the oldest of
	// which are deleted: a server that has a new key each month fills it in 16 years.
	maxKeysPerServer = 50
	maxStoredKeys    = 200
	// maxKeyBytes bounds the keys in memory. The usual server has one, which takes 400 bytes with the server's name.
	maxKeyBytes = 12 << 20
	// maxKeyServers bounds the servers for which it is known when they can be asked again.
	maxKeyServers = 20_000
	// maxKeyFetches bounds the servers that are asked for keys at the same time.
	maxKeyFetches = 200
	// maxKeyAnswer bounds the response of one server, in bytes. Fifty keys and their signatures have 10 KiB.
	maxKeyAnswer = 16 << 10
	// maxKeyAnswers bounds the responses that are stored in order to pass them on, one per server. After every
	// pruneKeysEvery stored responses the oldest are removed, because anybody with a domain can make this server ask
	// for the keys of any number of names below it.
	maxKeyAnswers  = 10_000
	pruneKeysEvery = 100
	// maxNotaryServers bounds the servers about which a notary is asked in one request.
	maxNotaryServers = 100
)

var keyBackoff = keyed.Backoff{First: 10 * time.Second, Max: maxKeyRetry}

// KeyRing holds the signing keys of this server and of other servers. It is safe for concurrent use.
//
// A key is looked up in memory, then in the database, then at the server that it belongs to, and finally at the
// notaries.
type KeyRing struct {
	client   *Client
	db       *storage.DB
	notaries []string
	old      func() []OldKey

	flight    singleflight.Group
	fetches   chan struct{}                                       // semaphore for maxKeyFetches
	verifying *semaphore.Weighted                                 // limits the bytes of bodies being verified
	slow      chan struct{}                                       // semaphore for bodies of slowBody and more that are being canonicalised
	keys      *keyed.Memo[string, map[id.KeyID]storage.ServerKey] // by server
	asked     *keyed.Map[string, refetch]                         // by server

	// mu guards stored; a leaf lock.
	mu     sync.Mutex
	stored int // number of responses stored since the start
}

// refetch says when a server may be asked for its keys again.
type refetch struct {
	keyed.Retry
	outage error // why the keys that were last fetched could not be stored, if the database could not be used
}

// NewKeyRing returns a KeyRing. It asks notaries for the keys of servers that do not respond. old returns the former
// keys of this server; it may be nil.
func NewKeyRing(c *Client, db *storage.DB, notaries []string, old func() []OldKey) *KeyRing {
	if old == nil {
		old = func() []OldKey { return nil }
	}
	return &KeyRing{
		client: c, db: db, notaries: notaries, old: old, asked: keyed.NewMap[string, refetch](c.opts.Cache.Entries(maxKeyServers)),
		keys:    keyed.NewMemo(keyed.Options[string, map[id.KeyID]storage.ServerKey]{Bytes: c.opts.Cache.Bytes(maxKeyBytes), Size: sizeOfKeys}),
		fetches: make(chan struct{}, maxKeyFetches), verifying: semaphore.NewWeighted(maxVerified), slow: make(chan struct{}, max(1, runtime.NumCPU()/2)),
	}
}

// sizeOfKeys estimates the memory that the keys of a server take.
func sizeOfKeys(server string, keys map[id.KeyID]storage.ServerKey) int64 {
	size := 160 + len(server)
	if len(keys) > 0 {
		size += 100 * max(len(keys), 8) // a map has room for eight at least
	}
	for keyID, key := range keys {
		size += 64 + 2*len(keyID) + len(key.Server) + len(key.PublicKey)
	}
	return int64(size)
}

func (k *KeyRing) log() *slog.Logger { return k.client.opts.Log }
func (k *KeyRing) now() time.Time    { return k.client.opts.Now() }

// Keys returns those of the wanted keys that can be found and are valid at the wanted times. Servers are asked in
// parallel, each once.
func (k *KeyRing) Keys(ctx context.Context, wants []KeyWant) map[KeyWant]ed25519.PublicKey {
	found, _ := k.find(ctx, wants)
	return found
}

// find is like Keys. It returns an error if keys are missing because the database cannot be used.
func (k *KeyRing) find(ctx context.Context, wants []KeyWant) (found map[KeyWant]ed25519.PublicKey, err error) {
	found = make(map[KeyWant]ed25519.PublicKey, len(wants))
	lacking, err := k.fill(ctx, found, wants)
	if err != nil || len(lacking) == 0 {
		return found, err
	}
	asked, err := k.askServers(ctx, slices.Collect(maps.Keys(lacking)))
	lacking, fillErr := k.fill(ctx, found, wants)
	if len(lacking) == 0 {
		return found, fillErr
	}
	maps.DeleteFunc(lacking, func(server string, _ []KeyWant) bool { return !asked[server] })
	if len(lacking) > 0 && len(k.notaries) > 0 {
		k.askNotaries(ctx, slices.Collect(maps.Keys(lacking)))
		_, fillErr = k.fill(ctx, found, wants)
	}
	return found, errors.Join(err, fillErr)
}

// fill adds the known keys to found, and returns the missing ones by server. It returns an error if the database cannot
// be used.
func (k *KeyRing) fill(ctx context.Context, found map[KeyWant]ed25519.PublicKey, wants []KeyWant) (lacking map[string][]KeyWant, outage error) {
	lacking = map[string][]KeyWant{}
	for _, want := range wants {
		if found[want] != nil {
			continue
		}
		key, ok, err := k.known(ctx, want)
		switch {
		case ok:
			found[want] = key
		case storage.IsOutage(err):
			outage = err
		case want.Server != k.client.opts.Server:
			lacking[want.Server] = append(lacking[want.Server], want)
		}
	}
	return lacking, outage
}

// known looks up a key in memory and in the database.
func (k *KeyRing) known(ctx context.Context, want KeyWant) (key ed25519.PublicKey, found bool, err error) {
	if want.Server == k.client.opts.Server {
		key, found = k.own(want)
		return key, found, nil
	}
	keys, err := k.keysOf(ctx, want.Server)
	if err != nil {
		k.cannotRead(ctx, want.Server, err)
		return nil, false, err
	}
	stored, found := keys[want.KeyID]
	if !found || want.At > stored.GoodUntil && want.At != 0 {
		return nil, false, nil
	}
	key, found = decodeKey(stored.PublicKey)
	return key, found, nil
}

// cannotRead logs a database error, unless ctx has ended.
func (k *KeyRing) cannotRead(ctx context.Context, server string, err error) {
	if ctx.Err() == nil {
		k.log().ErrorContext(ctx, "cannot read the stored keys of a server", "server", server, "err", err)
	}
}

func (k *KeyRing) own(want KeyWant) (ed25519.PublicKey, bool) {
	if signer := k.client.opts.Signer.Current(); want.KeyID == signer.KeyID {
		return signer.Key.Public().(ed25519.PublicKey), true
	}
	for _, old := range k.old() {
		if old.KeyID == want.KeyID && want.At <= old.Expired {
			return old.Key, true
		}
	}
	return nil, false
}

// keysOf returns the stored keys of a server, which must not be modified. They are read from the database on first use.
func (k *KeyRing) keysOf(ctx context.Context, server string) (map[id.KeyID]storage.ServerKey, error) {
	return k.keys.Get(ctx, server, func(ctx context.Context) (map[id.KeyID]storage.ServerKey, error) {
		var rows []storage.ServerKey
		err := k.db.ReadInner(ctx, func(tx *storage.Tx) (err error) {
			rows, err = tx.ServerKeys(server)
			return err
		})
		keys := make(map[id.KeyID]storage.ServerKey, len(rows))
		for _, row := range rows {
			keys[id.KeyID(row.KeyID)] = row
		}
		return keys, err
	})
}

// askServers asks servers for their keys in parallel and returns the servers that it asked. It does not ask a server
// that was asked recently. It returns an error if keys could not be stored because the database cannot be used.
func (k *KeyRing) askServers(ctx context.Context, servers []string) (asked map[string]bool, outage error) {
	asked = map[string]bool{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, server := range servers {
		select { // acquired before the goroutine starts, to bound their number
		case k.fetches <- struct{}{}:
		case <-ctx.Done():
			all.Wait()
			return asked, outage
		}
		all.Go(func() {
			defer func() { <-k.fetches }()
			done, err := k.refresh(ctx, server)
			mu.Lock()
			defer mu.Unlock()
			if done {
				asked[server] = true
			}
			if err != nil {
				outage = err
			}
		})
	}
	all.Wait()
	return asked, outage
}

// refresh asks a server for its keys unless the server was asked recently. Concurrent calls share one request. It
// returns an error if the keys could not be stored because the database cannot be used.
func (k *KeyRing) refresh(ctx context.Context, server string) (asked bool, outage error) {
	flight := k.flight.DoChan(server, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyTime)
		defer cancel()
		return k.ask(ctx, server)
	})
	select {
	case result := <-flight:
		return result.Val.(bool), result.Err
	case <-ctx.Done():
		return false, nil
	}
}

// ask is refresh without sharing the request.
func (k *KeyRing) ask(ctx context.Context, server string) (asked bool, outage error) {
	_, err := k.keysOf(ctx, server)
	if storage.IsOutage(err) {
		return false, err
	}
	if err != nil {
		k.cannotRead(ctx, server, err)
		return false, nil
	}
	was, _ := k.asked.Get(server)
	if !was.Due(k.now()) {
		return false, was.outage
	}
	raw, err := k.client.ServerKeys(ctx, server)
	if err == nil {
		err = k.keep(ctx, server, raw, true)
	}
	now := refetch{Retry: was.Retry}
	switch {
	case storage.IsOutage(err):
		now.outage = err
		now.Succeeded(k.now(), outagePause)
	case err == nil:
		now.Succeeded(k.now(), keyAgain)
	default:
		k.log().DebugContext(ctx, "could not fetch the keys of a server", "server", server, "err", err)
		now.Failed(k.now(), keyBackoff)
	}
	k.asked.Put(server, now)
	return now.outage == nil, now.outage
}

// askNotaries asks every notary about all the servers.
// Spec: server-server-api#querying-keys-through-another-server
func (k *KeyRing) askNotaries(ctx context.Context, servers []string) {
	var all sync.WaitGroup
	for _, notary := range k.notaries {
		if notary == k.client.opts.Server {
			continue
		}
		all.Go(func() {
			for about := range slices.Chunk(servers, maxNotaryServers) {
				if err := k.askNotary(ctx, notary, about); err != nil {
					k.log().DebugContext(ctx, "a notary did not answer", "notary", notary, "err", err)
				}
			}
		})
	}
	all.Wait()
}

// askNotary asks a notary about servers. It accepts only responses that are signed by the notary and concern those
// servers.
func (k *KeyRing) askNotary(ctx context.Context, notary string, about []string) error {
	about = slices.DeleteFunc(slices.Clone(about), func(server string) bool { return server == notary })
	if len(about) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, keyTime)
	defer cancel()
	wanted := map[string]map[id.KeyID]int64{}
	for _, server := range about {
		wanted[server] = nil // means all keys of the server
	}
	answers, err := k.client.QueryKeys(ctx, notary, wanted)
	if err != nil {
		return err
	}
	for _, raw := range answers {
		server := serverNameOf(raw)
		if !slices.Contains(about, server) {
			continue
		}
		err := k.signedBy(ctx, notary, raw)
		if err == nil {
			err = k.keep(ctx, server, raw, false)
		}
		if err != nil {
			k.log().DebugContext(ctx, "ignored an invalid answer of a notary", "notary", notary, "server", server, "err", err)
		}
	}
	return nil
}

func serverNameOf(raw json.RawMessage) string {
	var answer struct {
		ServerName string `json:"server_name"`
	}
	_ = json.Unmarshal(raw, &answer) // on failure, ServerName stays empty and matches no server
	return answer.ServerName
}

// store stores keys of a server. Keys from the server itself replace stored ones with the same ID. Keys from a notary
// are only added, because they may be long out of date.
func (k *KeyRing) store(ctx context.Context, server string, found map[id.KeyID]storage.ServerKey, answer storage.ServerKeyAnswer, direct bool) error {
	keys, err := k.keysOf(ctx, server)
	if err != nil {
		return err
	}
	if !direct {
		maps.DeleteFunc(found, func(keyID id.KeyID, new storage.ServerKey) bool {
			was, known := keys[keyID]
			return known && (was.Expired || was.GoodUntil >= new.GoodUntil || was.PublicKey != new.PublicKey)
		})
	}
	k.mu.Lock()
	prune := k.stored%pruneKeysEvery == 0
	k.stored++
	k.mu.Unlock()
	err = k.db.Write(ctx, func(tx *storage.Tx) error {
		if prune {
			if err := tx.PruneServerKeys(maxKeyAnswers); err != nil {
				return err
			}
		}
		for _, key := range found {
			if err := tx.PutServerKey(key); err != nil {
				return err
			}
		}
		if err := tx.TrimServerKeys(server, maxStoredKeys); err != nil {
			return err
		}
		if was, known, err := tx.ServerKeyAnswerOf(server); err != nil || known && !direct && was.GoodUntil >= answer.GoodUntil {
			return err
		}
		return tx.PutServerKeyAnswer(server, answer)
	})
	k.keys.Forget(server)
	return err
}
