package feed

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"maunium.net/go/mautrix/event"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
	"ebb/wake"
)

const (
	// maxTimeout bounds a long poll. Proxies would break off longer ones anyway.
	maxTimeout = 5 * time.Minute
	// If at least crowd requests wait, and one of them is woken less than hasty after it began, it sleeps for coalesce
	// before it builds its answer. When events arrive so fast that requests are woken as soon as they wait, one answer
	// then has the events of that time together. In all other cases the answer is built at once.
	crowd    = 32
	hasty    = 20 * time.Millisecond
	coalesce = 5 * time.Millisecond
)

// SyncRequest is a request for /sync.
type SyncRequest struct {
	ident.Requester
	Filter             string // a filter's id, its JSON, or nothing
	Since              string // a token, or nothing
	FullState          bool
	SetPresence        string
	Timeout            time.Duration
	StateAfter         bool // use_state_after
	UnstableStateAfter bool // org.matrix.msc4222.use_state_after
}

// request is a parsed SyncRequest.
type request struct {
	SyncRequest
	filter  *cachedFilter
	online  event.Presence // the presence that the request sets
	since   Token
	initial bool
	session *session
}

// Sync returns the news of a client, and waits for some until the timeout. The answer is a JSON object that the caller
// may keep.
// Spec: client-server-api#get_matrixclientv3sync
func (s *Service) Sync(ctx context.Context, q *SyncRequest) (json.RawMessage, error) {
	r, err := s.request(ctx, q)
	if err != nil {
		return nil, err
	}
	s.polls(&r.Requester, r.online, 1)
	defer s.polls(&r.Requester, r.online, -1)
	if err := s.acknowledge(ctx, r); err != nil {
		return nil, err
	}
	if r.filter.Profiles.Fields != nil {
		defer s.profiles.watch(r.UserNID)()
	}
	sub := s.opts.Hub.Park(r.UserNID, r.DeviceNID)
	defer sub.Close()
	return s.poll(ctx, r, sub)
}

// polls counts a request of a device that waits: change is 1 when the request begins and -1 when it ends. online is the
// presence that the request sets.
func (s *Service) polls(who *ident.Requester, online event.Presence, change int) {
	s.presence.poll(who.UserNID, who.UserID, who.DeviceNID, online, change, s.opts.Now())
}

// poll builds an answer, and waits while there is nothing new.
func (s *Service) poll(ctx context.Context, r *request, sub *wake.Sub) (json.RawMessage, error) {
	timeout := min(max(0, r.Timeout), maxTimeout)
	final := timeout == 0 || r.initial || r.FullState
	var expired <-chan time.Time
	if !final {
		c, stop := s.opts.Timer(timeout)
		defer stop()
		expired = c
	}
	begun := time.Now() // real time: this is about load
	syncWaiting.Inc()
	defer syncWaiting.Dec()
	for {
		answer, err := s.timedBuild(ctx, r, final)
		if err != nil || answer != nil {
			return answer, err
		}
		if final, err = s.awaitNews(ctx, &r.Requester, sub, expired, begun); err != nil {
			return nil, err
		}
	}
}

// awaitNews waits until sub may have news. It reports whether the request must be answered even without news, because
// its timeout has expired or the server stops. begun is the time when the request began to wait. It returns an error if
// the request's device was deleted or its account was locked in the meantime.
func (s *Service) awaitNews(ctx context.Context, who *ident.Requester, sub *wake.Sub, expired <-chan time.Time, begun time.Time) (final bool, err error) {
	select {
	case <-sub.C():
		syncWakeups.Inc()
		if time.Since(begun) < hasty {
			s.rest()
		}
	case <-expired:
		final = true
	case <-s.stopped:
		final = true
	case <-ctx.Done():
		return false, ctx.Err()
	}
	return final, s.alive(ctx, who)
}

// alive returns an error if the device of a waiting request was deleted or its account was locked.
func (s *Service) alive(ctx context.Context, who *ident.Requester) error {
	if s.opts.Alive == nil {
		return nil
	}
	return s.opts.Alive(ctx, who.UserNID, who.DeviceNID)
}

// timedBuild calls build and measures how long it takes.
func (s *Service) timedBuild(ctx context.Context, r *request, final bool) (json.RawMessage, error) {
	start := time.Now() // not the injected clock: real time is measured
	defer func() { syncBuild.Observe(time.Since(start).Seconds()) }()
	return s.build(ctx, r, final)
}

// rest sleeps for the duration coalesce if many requests are waiting. More news can then go into one answer.
func (s *Service) rest() {
	if s.opts.Hub.Parked() < crowd {
		return
	}
	time.Sleep(coalesce)
}

// request parses a SyncRequest.
func (s *Service) request(ctx context.Context, q *SyncRequest) (*request, error) {
	r := &request{SyncRequest: *q, initial: q.Since == "" || s.isFromBeforeRestore(q.Since), online: event.PresenceOnline}
	var err error
	if q.SetPresence != "" {
		if r.online, err = parsePresence(q.SetPresence); err != nil {
			return nil, err
		}
	}
	if r.initial {
		r.since.Chain = random32()
	} else if r.since, err = s.parseSince(q.Since); err != nil {
		return nil, err
	}
	if r.filter, err = s.filterOf(ctx, r.Requester, q.Filter); err != nil {
		return nil, err
	}
	r.session = s.sessions.of(q.UserNID, q.DeviceNID, s.opts.Now())
	return r, nil
}

// isFromBeforeRestore reports whether a token was issued before the database was restored from a backup. Its client may
// have events and state that the database has lost, so it gets an initial sync.
func (s *Service) isFromBeforeRestore(since string) bool {
	restored := s.opts.DB.Restored()
	if restored == 0 {
		return false
	}
	t, err := ParseToken(since)
	return err == nil && t.Pos < restored
}

// parseSince parses a token, and rejects one that this database cannot have issued.
func (s *Service) parseSince(text string) (Token, error) {
	t, err := ParseToken(text)
	if err != nil {
		return Token{}, mxerr.InvalidParam("since is not a token from this server").Because(err)
	}
	if t.Pos > s.opts.DB.Settled() {
		return Token{}, mxerr.InvalidParam("since is a token from the future")
	}
	return t, nil
}

// acknowledge deletes the to-device messages that the client confirms by sending a token. On a full disk they stay
// until the next token is confirmed, so that reading goes on.
func (s *Service) acknowledge(ctx context.Context, r *request) error {
	if s.opts.E2EE == nil || r.DeviceNID == 0 || r.initial || !r.session.acknowledge(r.since.ToDevice) {
		return nil
	}
	err := s.opts.E2EE.AckToDevice(ctx, r.DeviceNID, r.since.ToDevice)
	if errors.Is(err, storage.ErrFull) {
		return nil
	}
	return err
}
