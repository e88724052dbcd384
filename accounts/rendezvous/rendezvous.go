// Package rendezvous holds the short, encrypted messages that two devices exchange when one of them signs the other in
// by a QR code (MSC4108 and MSC4388). A session is a place for one message, which either device replaces; whoever knows
// its random ID may do so. Sessions live for minutes and are only kept in memory: after a restart, the user scans a new
// code.
package rendezvous

import (
	"crypto/rand"
	"net/http"
	"sync"
	"time"

	"ebb/mxerr"
)

// Bounds of sessions.
const (
	MaxData      = 4096            // bytes of a message, as in the MSCs
	maxSessions  = 2000            // 4 KiB each
	maxOfNetwork = 30              // sessions of one network, such as an office
	lifetime     = 5 * time.Minute // the longest that MSC4388 suggests, since a user may have to find a second factor
)

// Session is a copy of a session as it was at one moment.
type Session struct {
	ID       string
	Token    string // changes with every write
	Data     string
	Modified time.Time
	Expires  time.Time

	network string
}

// Service holds the sessions. It is safe for concurrent use.
type Service struct {
	now func() time.Time

	// mu guards the fields below; a leaf lock.
	mu       sync.Mutex
	sessions map[string]*Session
	networks map[string]int // number of sessions by network
	queue    []*Session     // in the order in which they expire; it may have deleted ones
}

// New returns a Service.
func New(now func() time.Time) *Service {
	return &Service{now: now, sessions: map[string]*Session{}, networks: map[string]int{}}
}

// Create begins a session with a first message.
//
// Errors: M_LIMIT_EXCEEDED, M_TOO_LARGE.
func (s *Service) Create(network, data string) (Session, error) {
	if err := checkData(data); err != nil {
		return Session{}, err
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(now)
	if len(s.sessions) >= maxSessions || s.networks[network] >= maxOfNetwork {
		return Session{}, mxerr.LimitExceeded(time.Minute)
	}
	c := &Session{ID: rand.Text(), Token: rand.Text(), Data: data, Modified: now, Expires: now.Add(lifetime), network: network}
	s.sessions[c.ID], s.queue = c, append(s.queue, c)
	s.networks[network]++
	return *c, nil
}

func checkData(data string) error {
	if len(data) > MaxData {
		return mxerr.New(http.StatusRequestEntityTooLarge, mxerr.CodeTooLarge, "The message must not be longer than %d bytes", MaxData)
	}
	return nil
}

// expire removes the sessions that have expired.
func (s *Service) expire(now time.Time) {
	for len(s.queue) > 0 && !now.Before(s.queue[0].Expires) {
		s.remove(s.queue[0])
		s.queue[0] = nil
		s.queue = s.queue[1:]
	}
}

// remove deletes a session, unless it was deleted already.
func (s *Service) remove(c *Session) {
	if s.sessions[c.ID] == nil {
		return
	}
	delete(s.sessions, c.ID)
	c.Data = "" // it may still be in the queue
	if s.networks[c.network]--; s.networks[c.network] == 0 {
		delete(s.networks, c.network)
	}
}

// find returns a session that has not expired.
func (s *Service) find(id string) (*Session, error) {
	c := s.sessions[id]
	if c == nil || !s.now().Before(c.Expires) {
		return nil, mxerr.NotFound("There is no such session, or it has expired: scan a new code")
	}
	return c, nil
}

// Get returns a session.
//
// Errors: M_NOT_FOUND.
func (s *Service) Get(id string) (Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.find(id)
	if err != nil {
		return Session{}, err
	}
	return *c, nil
}

// Put replaces the message of a session. The token, which changes with every message, proves that the caller has seen
// the current one. If it is out of date, ok is false, and Put returns the session unchanged.
//
// Errors: M_NOT_FOUND, M_TOO_LARGE.
func (s *Service) Put(id, token, data string) (c Session, ok bool, err error) {
	if err := checkData(data); err != nil {
		return c, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known, err := s.find(id)
	if err != nil {
		return c, false, err
	}
	if known.Token != token {
		return *known, false, nil
	}
	known.Token, known.Data, known.Modified = rand.Text(), data, s.now()
	return *known, true, nil
}

// Delete ends a session.
//
// Errors: M_NOT_FOUND.
func (s *Service) Delete(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, err := s.find(id)
	if err != nil {
		return err
	}
	s.remove(c)
	return nil
}
