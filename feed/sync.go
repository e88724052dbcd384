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

// PollSync begins a request for the news of a client. The answer is a json.RawMessage, an object that the caller may
// keep.
// Spec: client-server-api#get_matrixclientv3sync
func (s *Service) PollSync(ctx context.Context, q *SyncRequest) (*Poll, error) {
	r, err := s.request(ctx, q)
	if err != nil {
		return nil, err
	}
	if err := s.acknowledge(ctx, r); err != nil {
		return nil, err
	}
	timeout := r.Timeout
	if r.initial || r.FullState {
		timeout = 0
	}
	p := s.newDevicePoll(&r.Requester, r.online, timeout, r.filter.Profiles.Fields != nil)
	p.build = func(ctx context.Context, final bool) (any, error) { return orNothing(s.timedBuild(ctx, r, final)) }
	return p, nil
}

// timedBuild calls build and measures how long it takes.
func (s *Service) timedBuild(ctx context.Context, r *request, final bool) (json.RawMessage, error) {
	start := time.Now() // not the injected clock: real time is measured
	defer func() { syncBuild.Observe(time.Since(start).Seconds()) }()
	return s.build(ctx, r, final)
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
	r.Since, r.Filter, r.SetPresence = "", "", "" // not kept while the client waits: parts of the URL
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
