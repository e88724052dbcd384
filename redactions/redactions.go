// Package redactions sends redactions in the background: of an event with the events that relate to it (MSC3912), of
// all messages that a user has sent, and of messages that ask to be destroyed (MSC2228).
//
// Redact redacts the first related events itself. If there are more, the write that redacts the target also stores a
// row of the table related_redactions. Run, the only owner of these rows, redacts the rest in steps and stores after
// each step how far it has come, so that a restart continues there. A step that is repeated finds the events of its
// first run redacted. The row is deleted when all related events are done, or when the user may no longer redact them.
//
// RedactOwn stores a row of the table own_redactions, which Run owns too. It walks through the timelines of the user's
// rooms, first to count the messages and then to redact them, with a pause after each write. The write of some
// redactions also stores the progress of the request, so that its numbers are exact.
//
// SetLifetime stores that messages of a user are redacted once they are older than a time (message_lifetimes). Run
// makes such a request of it once a day, which looks up the lifetime again in each room.
//
// A message that asks to be destroyed has a row of the table self_destructs, which rooms.Service stores with it. Run
// redacts the message when it is due, as its sender; if it is of another server, or its sender cannot redact it any
// more, Run removes it from this server. The write that does so deletes the row.
package redactions

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/audit"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/txns"
	"ebb/storage"
	"ebb/wake"
)

const (
	// maxRelTypes and maxRelType bound the relation types of one request, and the length of each in bytes.
	maxRelTypes = 100
	maxRelType  = 255
	// page is how many stored redactions are read at a time.
	page = 100
	// retryAfter is the time after which a step is repeated that failed for a temporary reason.
	retryAfter = 30 * time.Second
)

// Options are the dependencies of a Service; DB and Rooms are required.
type Options struct {
	DB    *storage.DB
	Rooms *rooms.Service
	// Commits are those of Rooms. Without them, messages are destroyed at a time, but not after they were read.
	Commits *rooms.Commits
	// Audit records what users choose; it may be nil.
	Audit *audit.Log
	// Time returns the time by which messages are redacted that have reached a lifetime. A jump of the clock must not
	// change it at once, since redactions cannot be undone. The default is Now.
	Time func(context.Context) (time.Time, error)
	// Step is how many related events one step examines. The default is the largest number that rooms.Service allows.
	Step int
	// Window is how many events of a room are examined at a time for messages of a user. The default is ownWindow.
	Window int
	Now    func() time.Time
	// Timer starts a timer for Run. The channel receives a value after d unless stop is called first.
	Timer func(d time.Duration) (c <-chan time.Time, stop func())
	Log   *slog.Logger
}

// Service redacts events with related events. It is safe for concurrent use.
type Service struct {
	opts Options
	wake chan struct{} // wakes Run for a new redaction with related events

	wakeOwn  chan struct{} // wakes Run for a new request to redact a user's own messages
	ownAfter storage.Pos   // the request whose turn was last; used only by StepOwn

	destructs destructs
}

// New returns a Service.
func New(o Options) *Service {
	if o.Timer == nil {
		o.Timer = wake.Timer
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Time == nil {
		o.Time = func(context.Context) (time.Time, error) { return o.Now(), nil }
	}
	if o.Window == 0 {
		o.Window = ownWindow
	}
	s := &Service{opts: o, wake: make(chan struct{}, 1), wakeOwn: make(chan struct{}, 1)}
	s.destructs = destructs{wake: make(chan struct{}, 1), waiting: map[ident.RoomNID]struct{}{}, rooms: map[ident.RoomNID]struct{}{}}
	o.Commits.Subscribe(s.destructs.committed)
	return s
}

// Redact redacts an event and, if relTypes is not empty, the events that directly relate to it with one of these types,
// or with any if one is "*". It leaves out those that the sender may not redact. The target is redacted last: if the
// request is interrupted before that, the client gets no response and repeats it. Spec: MSC3912
//
// Errors: M_INVALID_PARAM, and those of rooms.Service.Redact.
func (s *Service) Redact(
	ctx context.Context, sender ident.Requester, room id.RoomID, eventID id.EventID, reason string, txn *txns.Txn, relTypes []string,
) (id.EventID, error) {
	if len(relTypes) == 0 {
		return s.opts.Rooms.Redact(ctx, sender, room, eventID, reason, txn)
	}
	if len(relTypes) > maxRelTypes || slices.ContainsFunc(relTypes, func(t string) bool { return len(t) > maxRelType }) {
		return "", mxerr.InvalidParam("with_rel_types must have at most %d entries of at most %d bytes", maxRelTypes, maxRelType)
	}
	d := rooms.RelatedRedaction{
		Room: room, Sender: sender, Target: eventID, Reason: reason, RelTypes: relTypes, After: math.MinInt64, UpTo: math.MaxInt64, Limit: s.opts.Step,
	}
	if err := s.opts.Rooms.CheckRelated(ctx, &d); err != nil {
		return "", err
	}
	more, err := s.opts.Rooms.RedactRelated(context.WithoutCancel(ctx), &d)
	if err != nil {
		return "", err
	}
	if !more {
		return s.opts.Rooms.Redact(ctx, sender, room, eventID, reason, txn)
	}
	return s.redactLater(ctx, &d, txn)
}

// redactLater redacts the target at once. The same write stores that related events are still to be redacted, which Run
// does later.
func (s *Service) redactLater(ctx context.Context, d *rooms.RelatedRedaction, txn *txns.Txn) (id.EventID, error) {
	types := slices.Compact(slices.Sorted(slices.Values(d.RelTypes)))
	relTypes, err := json.Marshal(types)
	if err != nil {
		return "", err
	}
	room, err := s.opts.Rooms.Room(ctx, d.Room)
	if err != nil {
		return "", err
	}
	row := &storage.RelatedRedaction{
		User: d.Sender.UserNID, Room: room.NID(), EventID: string(d.Target), RelTypes: string(relTypes), Reason: d.Reason, After: d.After,
	}
	event := rooms.RedactionOf(d, txn)
	event.Also = func(tx *storage.Tx, _ id.EventID) error { return tx.AddRelatedRedaction(row) }
	sent, err := s.opts.Rooms.Send(ctx, event)
	if err == nil {
		select {
		case s.wake <- struct{}{}:
		default: // Run has been woken already
		}
	}
	return sent, err
}

// Run redacts what is still to be redacted, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var others sync.WaitGroup
	others.Go(func() { s.runOwn(ctx) })
	others.Go(func() { s.runDestructs(ctx) })
	defer others.Wait()
	return s.runRelated(ctx)
}

func (s *Service) runRelated(ctx context.Context) error {
	for {
		more, err := s.Step(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the server is being stopped
		}
		var retry <-chan time.Time
		stop := func() {}
		switch {
		case err != nil:
			s.opts.Log.Error("Cannot redact related events now; trying again later", "err", err)
			retry, stop = s.opts.Timer(retryAfter)
		case more:
			continue
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-retry:
		}
		stop()
	}
}

// Step does one step of each stored redaction, and reports whether any of them has more related events. An error does
// not keep it from the other redactions.
func (s *Service) Step(ctx context.Context) (more bool, err error) {
	var errs []error
	for after := storage.Pos(0); ; {
		var rows []storage.RelatedRedaction
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			rows, err = tx.RelatedRedactions(after, page)
			return err
		})
		if err != nil || len(rows) == 0 {
			return more, errors.Join(append(errs, err)...)
		}
		for i := range rows {
			again, err := s.advance(ctx, &rows[i])
			more, errs = more || again, append(errs, err)
		}
		after = rows[len(rows)-1].Position
	}
}

// advance does one step of a redaction, and stores how far it has come.
func (s *Service) advance(ctx context.Context, row *storage.RelatedRedaction) (more bool, err error) {
	d := rooms.RelatedRedaction{
		Room: id.RoomID(row.RoomID), Target: id.EventID(row.EventID), Reason: row.Reason, After: row.After, UpTo: row.Position, Limit: s.opts.Step,
		Sender: ident.Requester{UserID: id.UserID(row.UserID), UserNID: row.User, Suspended: row.Suspended},
	}
	if !row.Deactivated && !row.Locked && json.Unmarshal([]byte(row.RelTypes), &d.RelTypes) == nil {
		more, err = s.opts.Rooms.RedactRelated(ctx, &d)
	}
	var final *mxerr.Error
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case errors.As(err, &final) && final.Status < 500 && final.Code != mxerr.CodeLimitExceeded:
		s.opts.Log.Warn("The remaining related events are not redacted", "room", row.RoomID, "user", row.UserID, "err", err)
		more = false
	case err != nil:
		return false, err
	}
	return more, s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if more {
			return tx.AdvanceRelatedRedaction(row.Position, d.After)
		}
		return tx.DeleteRelatedRedaction(row.Position)
	})
}
