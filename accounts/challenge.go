package accounts

import (
	"container/list"
	"crypto/sha256"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"ebb/ident"
)

// Bounds of user-interactive authentication.
const (
	challengeLifetime = 15 * time.Minute // since the challenge was last used; longer than it takes to read terms or to find an e-mail
	maxChallenges     = 10_000           // for users, and as many for registrations; beyond it the oldest is dropped
	// maxChallengesEach bounds the challenges of one user, and those of registrations from one network, so that nobody
	// can displace the challenges of others. 500 is enough for an office or a class that registers within the lifetime
	// of a challenge.
	maxChallengesEach = 500
)

// challenges holds the sessions of user-interactive authentication. Each records the completed stages for one request.
// It contains no passwords and no request bodies. After a registration it holds the response, for a client that did not
// receive it.
type challenges struct {
	now func() time.Time
	// mu guards the fields below; a leaf lock.
	mu      sync.Mutex
	byID    map[string]*list.Element
	oldest  *list.List       // elements of type *challenge, least recently used first
	pending map[string]int64 // number of open challenges by registration token
	sources map[string]int   // number of challenges by user or network
}

type challenge struct {
	id        string
	bound     binding
	source    string
	completed []string
	token     string    // the registration token used for a stage
	email     *Verified // the address verified for a stage
	expires   time.Time
	made      *SignedIn         // the account registered with this challenge
	request   [sha256.Size]byte // digest of the request that registered the account
}

// binding identifies the request that a challenge is for.
type binding struct {
	operation string
	user      ident.UserNID
	device    ident.DeviceNID
	body      [sha256.Size]byte // digest of the request without auth; that of {} as long as the client has sent only auth
}

func newChallenges(now func() time.Time) *challenges {
	return &challenges{now: now, byID: map[string]*list.Element{}, oldest: list.New(), pending: map[string]int64{}, sources: map[string]int{}}
}

// find returns the challenge with the given ID, if it is for this request. Otherwise it creates one, which counts for
// source, a user or a network. A challenge that was started without parameters is bound to the parameters of the next
// request.
func (c *challenges) find(id string, b binding, source string) challenge {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire()
	if e := c.byID[id]; e != nil {
		ch := e.Value.(*challenge)
		if ch.bound.body == emptyBody && len(ch.completed) == 0 {
			ch.bound.body = b.body
		}
		if ch.bound == b {
			ch.expires = c.now().Add(challengeLifetime)
			c.oldest.MoveToBack(e)
			return ch.copy()
		}
	}
	ch := &challenge{id: secret("", 16), bound: b, source: source, expires: c.now().Add(challengeLifetime)}
	c.makeRoom(source)
	c.byID[ch.id] = c.oldest.PushBack(ch)
	c.sources[source]++
	return ch.copy()
}

// makeRoom drops the oldest challenge of a source that has too many, or the oldest one overall if there are too many in
// total.
func (c *challenges) makeRoom(source string) {
	switch {
	case c.sources[source] >= maxChallengesEach:
		for e := c.oldest.Front(); e != nil; e = e.Next() {
			if e.Value.(*challenge).source == source {
				c.drop(e)
				return
			}
		}
	case c.oldest.Len() >= maxChallenges:
		c.drop(c.oldest.Front())
	}
}

func (ch *challenge) copy() challenge {
	out := *ch
	out.completed = slices.Clone(ch.completed)
	return out
}

// complete records that a stage is completed. A stage with a registration token is completed only if p.usable, called
// with the number of other challenges that use the token, returns true.
func (c *challenges) complete(id, stage string, p proof) (challenge, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byID[id]
	if e == nil { // dropped in the meantime
		return challenge{id: id}, false
	}
	ch := e.Value.(*challenge)
	if p.token != "" && ch.token != p.token {
		if !p.usable(c.pending[p.token]) {
			return ch.copy(), false
		}
		c.release(ch)
		ch.token = p.token
		c.pending[p.token]++
	}
	if p.email != nil {
		ch.email = p.email
	}
	if !slices.Contains(ch.completed, stage) {
		ch.completed = append(ch.completed, stage)
	}
	return ch.copy(), true
}

// made returns the stored response to a registration, if the challenge with the given ID was used to register an
// account and this request is a repetition of that one. Otherwise it returns nil.
func (c *challenges) made(id string, request [sha256.Size]byte) *SignedIn {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire()
	if e := c.byID[id]; e != nil && e.Value.(*challenge).request == request {
		return e.Value.(*challenge).made
	}
	return nil
}

// register records the account that was registered with a challenge. The challenge cannot be used for anything else
// then.
func (c *challenges) register(id string, request [sha256.Size]byte, made SignedIn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byID[id]; e != nil {
		ch := e.Value.(*challenge)
		c.release(ch)
		ch.made, ch.request, ch.completed = &made, request, nil
	}
}

// finish removes a challenge.
func (c *challenges) finish(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byID[id]; e != nil {
		c.drop(e)
	}
}

// pendingOf returns how many challenges use the given registration token.
func (c *challenges) pendingOf(token string) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire()
	return c.pending[token]
}

func (c *challenges) expire() {
	now := c.now()
	for e := c.oldest.Front(); e != nil && !e.Value.(*challenge).expires.After(now); e = c.oldest.Front() {
		c.drop(e)
	}
}

func (c *challenges) drop(e *list.Element) {
	ch := c.oldest.Remove(e).(*challenge)
	delete(c.byID, ch.id)
	if c.sources[ch.source]--; c.sources[ch.source] == 0 {
		delete(c.sources, ch.source)
	}
	c.release(ch)
}

func (c *challenges) release(ch *challenge) {
	if ch.token == "" {
		return
	}
	if c.pending[ch.token]--; c.pending[ch.token] == 0 {
		delete(c.pending, ch.token)
	}
	ch.token = ""
}

// emptyBody is the digest of a request without parameters.
var emptyBody = sha256.Sum256([]byte("{}"))

// bodyDigest returns a digest that identifies a request. It covers all fields of the body except auth.
func bodyDigest(body map[string]json.RawMessage) ([sha256.Size]byte, error) {
	rest := make(map[string]json.RawMessage, len(body))
	for name, v := range body {
		if name != "auth" {
			rest[name] = v
		}
	}
	text, err := json.Marshal(rest) // members are sorted, and there is no white space
	return sha256.Sum256(text), err
}
