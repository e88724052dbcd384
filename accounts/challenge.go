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
	challengeLifetime = 15 * time.Minute // longer than it takes to read terms; as long as a confirmation may wait
	maxChallenges     = 10_000           // of users, and as many of people who register; beyond it the oldest goes
	// maxChallengesEach bounds the challenges of one user, or of people who register from one network, so that nobody pushes
	// out those of others. 500: an office or a class that registers within a lifetime.
	maxChallengesEach = 500
)

// challenges are the sessions of user-interactive authentication: what was proved so far, for one request of one user.
// They hold no password and no request body; of one that made an account, they hold its answer, for a client that did not see it.
type challenges struct {
	now func() time.Time
	// mu guards all below; a leaf lock.
	mu      sync.Mutex
	byID    map[string]*list.Element
	oldest  *list.List       // of *challenge, in the order they were made
	pending map[string]int64 // registration token → challenges it was given in
	sources map[string]int   // user or network → challenges
}

type challenge struct {
	id        string
	bound     binding
	source    string
	completed []string
	token     string // the registration token that was given
	expires   time.Time
	made      *SignedIn         // the account that was registered with it
	request   [sha256.Size]byte // by which it was registered
}

// binding is the request that a challenge is for.
type binding struct {
	operation string
	user      ident.UserNID
	device    ident.DeviceNID
	body      [sha256.Size]byte // of the request without auth; of no request at all where the first one had no parameters
}

func newChallenges(now func() time.Time) *challenges {
	return &challenges{now: now, byID: map[string]*list.Element{}, oldest: list.New(), pending: map[string]int64{}, sources: map[string]int{}}
}

// find returns the challenge of an id if it is for this request, else a new one for the user or network that asks. A
// challenge that was started without parameters takes those of the next request.
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
			return ch.copy()
		}
	}
	ch := &challenge{id: secret("", 16), bound: b, source: source, expires: c.now().Add(challengeLifetime)}
	c.makeRoom(source)
	c.byID[ch.id] = c.oldest.PushBack(ch)
	c.sources[source]++
	return ch.copy()
}

// makeRoom drops the oldest challenge of a source that has too many, or of all where there are too many in sum.
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

// complete records a stage as done, with the registration token that it was done with, if accept agrees to how many other
// challenges hold that token.
func (c *challenges) complete(id, stage, token string, accept func(pending int64) bool) (challenge, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byID[id]
	if e == nil { // pushed out in the meantime
		return challenge{id: id}, false
	}
	ch := e.Value.(*challenge)
	if token != "" && ch.token != token {
		if !accept(c.pending[token]) {
			return ch.copy(), false
		}
		c.release(ch)
		ch.token = token
		c.pending[token]++
	}
	if !slices.Contains(ch.completed, stage) {
		ch.completed = append(ch.completed, stage)
	}
	return ch.copy(), true
}

// made returns the answer to the request that registered with a challenge, if this is the same one.
func (c *challenges) made(id string, request [sha256.Size]byte) *SignedIn {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expire()
	if e := c.byID[id]; e != nil && e.Value.(*challenge).request == request {
		return e.Value.(*challenge).made
	}
	return nil
}

// register notes that an account was registered with a challenge, which is of no other use from then on.
func (c *challenges) register(id string, request [sha256.Size]byte, made SignedIn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byID[id]; e != nil {
		ch := e.Value.(*challenge)
		c.release(ch)
		ch.made, ch.request, ch.completed = &made, request, nil
	}
}

// finish ends a challenge.
func (c *challenges) finish(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byID[id]; e != nil {
		c.drop(e)
	}
}

// pendingOf is how many challenges hold a registration token.
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

// bodyDigest is what tells a request from another: its parameters without the authentication.
func bodyDigest(body map[string]json.RawMessage) ([sha256.Size]byte, error) {
	rest := make(map[string]json.RawMessage, len(body))
	for name, v := range body {
		if name != "auth" {
			rest[name] = v
		}
	}
	text, err := json.Marshal(rest) // members sorted, white space gone
	return sha256.Sum256(text), err
}
