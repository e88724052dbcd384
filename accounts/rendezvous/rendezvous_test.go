package rendezvous

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"ebb/mxerr"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newService() (*Service, *clock) {
	c := &clock{time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)}
	return New(c.now), c
}

func create(t *testing.T, s *Service, network string) Session {
	t.Helper()
	c, err := s.Create(network, "hello")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestOnlyTheNewestTokenReplacesTheMessage(t *testing.T) {
	s, _ := newService()
	first := create(t, s, "home")
	second, ok, err := s.Put(first.ID, first.Token, "hello")
	if err != nil || !ok || second.Token == first.Token {
		t.Fatalf("%+v, %v, %v", second, ok, err)
	}
	if c, ok, err := s.Put(first.ID, first.Token, "late"); err != nil || ok || c.Token != second.Token || c.Data != "hello" {
		t.Errorf("an old token: %+v, %v, %v", c, ok, err)
	}
	if c, err := s.Get(first.ID); err != nil || c.Data != "hello" || c.Token != second.Token {
		t.Errorf("%+v, %v", c, err)
	}
	if _, _, err := s.Put(first.ID, second.Token, strings.Repeat("x", MaxData+1)); mxerr.Code(err) != mxerr.CodeTooLarge {
		t.Errorf("a long message: %v", err)
	}
}

func TestSessionsEndAfterTheirLifetimeOrWhenDeleted(t *testing.T) {
	s, c := newService()
	old, deleted := create(t, s, "home"), create(t, s, "home")
	if err := s.Delete(deleted.ID); err != nil {
		t.Fatal(err)
	}
	c.t = c.t.Add(lifetime - time.Second)
	if _, err := s.Get(old.ID); err != nil {
		t.Error(err)
	}
	c.t = c.t.Add(time.Second)
	for _, id := range []string{old.ID, deleted.ID, "", "nothing"} {
		_, err := s.Get(id)
		_, _, put := s.Put(id, old.Token, "x")
		for _, err := range []error{err, put, s.Delete(id)} {
			if mxerr.Code(err) != mxerr.CodeNotFound {
				t.Errorf("%q: %v", id, err)
			}
		}
	}
	create(t, s, "home")
	if len(s.sessions) != 1 || len(s.queue) != 1 || s.networks["home"] != 1 {
		t.Errorf("%d sessions, %d in the queue, %v", len(s.sessions), len(s.queue), s.networks)
	}
}

func TestSessionsAreBoundedForANetworkAndInSum(t *testing.T) {
	s, c := newService()
	refused := func(network string) bool {
		_, err := s.Create(network, "")
		return mxerr.Code(err) == mxerr.CodeLimitExceeded
	}
	var last Session
	for range maxOfNetwork {
		last = create(t, s, "home")
	}
	if !refused("home") || refused("office") {
		t.Error("the bound of a network is not its own")
	}
	if err := s.Delete(last.ID); err != nil || refused("home") {
		t.Errorf("after a session has ended: %v", err)
	}
	for i := 0; len(s.sessions) < maxSessions; i++ {
		create(t, s, strconv.Itoa(i))
	}
	if !refused("elsewhere") {
		t.Error("the number of sessions has no bound")
	}
	c.t = c.t.Add(lifetime)
	if refused("elsewhere") || len(s.sessions) != 1 {
		t.Errorf("expired sessions count: %d", len(s.sessions))
	}
}
