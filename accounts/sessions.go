package accounts

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Authenticate returns the owner and the device of an access token. Unless addr is empty, it records that the device
// was seen now, with the client's address addr and user agent. Tokens in use are cached. The caller decides what a
// locked or suspended account may do.
//
// Errors: M_UNKNOWN_TOKEN, with soft_logout if the token has merely expired, or if a restored backup may be too old to
// have it; M_USER_LOCKED if it has expired and the account is locked.
func (s *Service) Authenticate(ctx context.Context, token, addr, userAgent string) (ident.Requester, error) {
	key := keyOf(token)
	c := s.sessions.get(key)
	if c == nil {
		var err error
		if c, err = s.loadSession(ctx, key); err != nil {
			return ident.Requester{}, err
		}
	}
	now := s.opts.Now().UnixMilli()
	if c.expires != 0 && c.expires <= now {
		return ident.Requester{}, errExpired(c.Locked)
	}
	c.seen(now, addr, userAgent)
	return c.Requester, nil
}

// errExpired returns the error for an access token that has expired. That of a locked account cannot be refreshed, so
// its client is not asked to try.
func errExpired(locked bool) error {
	if locked {
		return mxerr.UserLocked()
	}
	return mxerr.UnknownToken(true)
}

// loadSession finds a token in the database. The first use of a token that came from a refresh invalidates the previous
// tokens.
func (s *Service) loadSession(ctx context.Context, key tokenKey) (*session, error) {
	epoch := s.sessions.currentEpoch()
	var row storage.TokenRow
	var found bool
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		row, found, err = tx.AccessToken(key.String())
		return err
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("read access token: %w", err)
	case !found:
		return nil, mxerr.UnknownToken(s.opts.DB.ForgotTokens())
	case row.ExpiresTS != 0 && row.ExpiresTS <= s.opts.Now().UnixMilli():
		return nil, errExpired(row.Locked)
	case row.Unused:
		if err := s.confirmToken(ctx, key, row.User, row.Device); err != nil {
			return nil, err
		}
	}
	c := &session{Requester: ident.Requester{UserNID: row.User, UserID: id.UserID(row.UserID), DeviceNID: row.Device,
		DeviceID: id.DeviceID(row.DeviceID), TokenID: row.NID, IsAdmin: row.Admin,
		Locked: row.Locked, Suspended: row.Suspended, Guest: row.Guest}, expires: row.ExpiresTS}
	if !row.Unused { // an unused token is not cached, because the confirming write changes what was read
		s.sessions.put(key, c, epoch)
	}
	return c, nil
}

// confirmToken makes a token from a refresh the only valid one of its device.
func (s *Service) confirmToken(ctx context.Context, key tokenKey, user ident.UserNID, device ident.DeviceNID) error {
	return s.write(ctx, func(w *write) error {
		_, found, err := w.AccessToken(key.String())
		if err != nil {
			return err
		}
		if !found {
			return mxerr.UnknownToken(false)
		}
		w.after(func() { s.sessions.dropDevice(user, device) })
		return w.RetireTokens(device)
	})
}

// session is a cached access token.
type session struct {
	ident.Requester
	key      tokenKey               // set by sessionCache.put
	expires  int64                  // in ms; 0 if the token never expires
	lastSeen atomic.Int64           // in ms
	client   atomic.Pointer[client] // the client of the last request
	stored   atomic.Int64           // the stored lastSeen
}

// client is the origin of a request.
type client struct{ addr, userAgent string }

// maxUserAgent is the number of bytes of a User-Agent header that are kept. Browsers send about 150.
const maxUserAgent = 255

func (c *session) seen(now int64, addr, userAgent string) {
	if addr == "" {
		return
	}
	userAgent = userAgent[:min(len(userAgent), maxUserAgent)]
	if old := c.client.Load(); old == nil || old.addr != addr || old.userAgent != userAgent {
		c.client.Store(&client{addr, strings.ToValidUTF8(strings.Clone(userAgent), "")})
	}
	c.lastSeen.Store(now) // stored last, because readers expect a client if there is a time
}

// maxSessions bounds the cached tokens, which take about 400 bytes each. Beyond it, an arbitrary token is dropped; it
// is read again when it is used.
const maxSessions = 100_000

// sessionCache holds the access tokens in use.
type sessionCache struct {
	most int // maximum number of tokens

	// mu guards the fields below; a leaf lock.
	mu     sync.RWMutex
	tokens map[tokenKey]*session
	users  map[ident.UserNID][]*session
	// epoch counts drops, so that a session read before a drop is not added after it.
	epoch int64
}

func newSessionCache(most int) *sessionCache {
	return &sessionCache{most: most, tokens: map[tokenKey]*session{}, users: map[ident.UserNID][]*session{}}
}

func (c *sessionCache) get(key tokenKey) *session {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.tokens[key]
}

func (c *sessionCache) currentEpoch() int64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.epoch
}

// put adds a token to the cache. epoch is the cache's epoch from before the session was read: if something has been
// dropped since then, the session may be out of date, and put does nothing.
func (c *sessionCache) put(key tokenKey, s *session, epoch int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != epoch {
		return
	}
	if old := c.tokens[key]; old != nil { // two requests have read it
		c.remove(old)
	}
	if len(c.tokens) >= c.most {
		for _, other := range c.tokens {
			c.remove(other)
			break
		}
	}
	s.key = key
	c.tokens[key] = s
	c.users[s.UserNID] = append(c.users[s.UserNID], s)
}

func (c *sessionCache) remove(s *session) {
	delete(c.tokens, s.key)
	rest := slices.DeleteFunc(c.users[s.UserNID], func(other *session) bool { return other == s })
	if c.users[s.UserNID] = rest; len(rest) == 0 {
		delete(c.users, s.UserNID)
	}
}

// dropUser drops a user's tokens.
func (c *sessionCache) dropUser(user ident.UserNID) {
	c.drop(user, func(*session) bool { return true })
}

// dropDevice drops the tokens of a user's device.
func (c *sessionCache) dropDevice(user ident.UserNID, device ident.DeviceNID) {
	c.drop(user, func(s *session) bool { return s.DeviceNID == device })
}

// drop drops those of a user's tokens that match.
func (c *sessionCache) drop(user ident.UserNID, match func(*session) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.epoch++
	for _, s := range slices.Clone(c.users[user]) {
		if match(s) {
			c.remove(s)
		}
	}
}

// ofUser lists a user's cached tokens.
func (c *sessionCache) ofUser(user ident.UserNID) []*session {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.users[user])
}

// all lists all cached tokens.
func (c *sessionCache) all() []*session {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]*session, 0, len(c.tokens))
	for _, s := range c.tokens {
		out = append(out, s)
	}
	return out
}

// seenBatch is the number of devices updated in one write, which keeps writes short.
const seenBatch = 500

// StoreSeen stores when devices were last seen. Only one goroutine may call it at a time.
func (s *Service) StoreSeen(ctx context.Context) error {
	var fresh []*session
	for _, c := range s.sessions.all() {
		if c.lastSeen.Load() > c.stored.Load() {
			fresh = append(fresh, c)
		}
	}
	for len(fresh) > 0 {
		batch := fresh[:min(seenBatch, len(fresh))]
		fresh = fresh[len(batch):]
		if err := s.storeSeen(ctx, batch); err != nil {
			return fmt.Errorf("store when devices were seen: %w", err)
		}
	}
	return nil
}

func (s *Service) storeSeen(ctx context.Context, batch []*session) error {
	at := make([]int64, len(batch))
	err := s.write(ctx, func(w *write) error {
		for i, c := range batch {
			at[i] = c.lastSeen.Load()
			from := c.client.Load()
			if err := w.DeviceSeen(c.DeviceNID, at[i], from.addr, from.userAgent); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, c := range batch {
		c.stored.Store(at[i])
	}
	return nil
}

// lastSeen sets the time, the address and the user agent of a device's last request, if the database does not have them
// yet.
func (s *Service) lastSeen(d *Device, sessions []*session) {
	for _, c := range sessions {
		if seen := c.lastSeen.Load(); c.DeviceNID == d.nid && seen >= d.LastSeen.UnixMilli() && seen > c.stored.Load() {
			d.LastSeen = time.UnixMilli(seen)
			if from := c.client.Load(); from != nil {
				d.Address, d.UserAgent = from.addr, from.userAgent
			}
		}
	}
}
