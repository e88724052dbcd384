// Package delayed sends events at a later time (MSC4140). For example, a client schedules the event that ends the
// user's part in a call and keeps postponing it for as long as the call goes on.
//
// A scheduled event is a row of the table delayed_events. Schedule adds the row. Run, which is the only sender, waits
// for the earliest event. The write that stores the event in the room also marks the row as sent, so that each event is
// sent exactly once, even if the server stops in between. Memory holds nothing but the time for which Run waits.
package delayed

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/txns"
	"ebb/storage"
	"ebb/wake"
)

// These constants bound delayed events.
const (
	maxContent   = 64 << 10           // bytes, the bound for an event
	maxFinalised = 100                // sent or cancelled events kept per user
	maxList      = 1000               // events in one response
	keepFor      = 7 * 24 * time.Hour // how long sent or cancelled events are kept
)

// Options configures a Service.
type Options struct {
	DB         *storage.DB
	Rooms      *rooms.Service
	MaxDelay   time.Duration
	MaxPerUser int // scheduled events of one user; 0 disables delayed events
	Now        func() time.Time
	// Timer starts a timer for Run. The channel receives a value after d unless stop is called first.
	Timer func(d time.Duration) (c <-chan time.Time, stop func())
	Log   *slog.Logger
}

// Service schedules events and sends them. It is safe for concurrent use.
type Service struct {
	opts Options
	kick chan struct{} // wakes Run for an event that is due before next
	next atomic.Int64  // milliseconds; the time until which Run waits
}

// New returns a Service. It sends nothing until Run or SendDue is called.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timer == nil {
		o.Timer = wake.Timer
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Service{opts: o, kick: make(chan struct{}, 1)}
}

// Event is an event to be scheduled.
type Event struct {
	Room       id.RoomID
	Sender     ident.Requester
	Type       string
	StateKey   *string // nil unless it is a state event
	Content    json.RawMessage
	ContentErr error     // why Content could not be read; reported unless the request is a repeated one
	Timestamp  int64     // milliseconds, set by application services; 0 means the time of sending
	StickyMS   *int64    // for how many milliseconds the event will be sticky; nil if it will not
	Txn        *txns.Txn // nil if the request has no transaction ID
	Delay      time.Duration
}

// Schedule stores an event to be sent after its delay, and returns its delay ID.
// Spec: MSC4140
//
// Errors: M_FORBIDDEN, M_INVALID_PARAM, M_BAD_JSON, M_TOO_LARGE, M_LIMIT_EXCEEDED, MaxDelayError.
func (s *Service) Schedule(ctx context.Context, e Event) (delayID string, err error) {
	return s.opts.Rooms.Once(ctx, e.Sender, e.Txn, func(record func(*storage.Tx, string) error) (string, error) {
		room, err := s.check(ctx, &e)
		if err != nil {
			return "", err
		}
		now := s.opts.Now().UnixMilli()
		row := &storage.DelayedEvent{
			DelayID: newID(), User: e.Sender.UserNID, Room: room.NID(), Type: e.Type, StateKey: e.StateKey, Content: string(e.Content),
			OriginTS: e.Timestamp, StickyMS: e.StickyMS, Delay: e.Delay.Milliseconds(), ScheduledTS: now, SendTS: now + e.Delay.Milliseconds(),
		}
		err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
			if err := s.checkCount(tx, row.User, now); err != nil {
				return err
			}
			if err := tx.AddDelayedEvent(row); err != nil {
				return err
			}
			return record(tx, row.DelayID)
		})
		if err == nil {
			s.waitFor(row.SendTS)
		}
		return row.DelayID, err
	})
}

// MaxDelayError is returned for a delay that is longer than allowed.
type MaxDelayError struct{ Max time.Duration }

// Error implements error.
func (e *MaxDelayError) Error() string { return "the delay is longer than " + e.Max.String() }

// check refuses events that cannot be scheduled. Whether the user has the power to send the event is decided only when
// it is sent.
func (s *Service) check(ctx context.Context, e *Event) (*rooms.Room, error) {
	switch {
	case e.ContentErr != nil:
		return nil, e.ContentErr
	case s.opts.MaxPerUser == 0:
		return nil, mxerr.Forbidden("Delayed events are disabled on this server")
	case e.Delay <= 0:
		return nil, mxerr.InvalidParam("The delay must be a positive number of milliseconds")
	case e.Delay > s.opts.MaxDelay:
		return nil, &MaxDelayError{s.opts.MaxDelay}
	case len(e.Content) > maxContent || len(e.Type) > maxName || e.StateKey != nil && len(*e.StateKey) > maxName:
		return nil, mxerr.TooLarge("An event must not be larger than %d bytes, and its type and state key must not be longer than %d bytes each", maxContent, maxName)
	case e.Type == "" || len(e.Content) == 0 || e.Content[0] != '{':
		return nil, mxerr.BadJSON("An event must have a type, and a content that is a JSON object")
	case e.Sender.Suspended:
		return nil, mxerr.UserSuspended()
	}
	room, err := s.opts.Rooms.Room(ctx, e.Room)
	if errors.Is(err, rooms.ErrNoRoom) || err == nil && room.Membership(e.Sender.UserID) != rooms.Join {
		return nil, mxerr.Forbidden("You are not in this room")
	}
	return room, err
}

// maxName bounds the type and the state key of an event, in bytes.
const maxName = 255

// checkCount returns an error if a user has already scheduled as many events as allowed.
func (s *Service) checkCount(tx *storage.Tx, user ident.UserNID, now int64) error {
	count, first, err := tx.ScheduledCount(user)
	if err != nil || count < int64(s.opts.MaxPerUser) {
		return err
	}
	wait := time.Duration(max(1, first-now)) * time.Millisecond
	return mxerr.LimitExceeded(wait).With("org.matrix.msc4140.errcode", "M_MAX_DELAYED_EVENTS_EXCEEDED")
}

// newID returns a delay ID that cannot be guessed, since anybody who has it may act on the event.
func newID() string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Item is a delayed event in the form that its user sees.
type Item struct {
	DelayID  string          `json:"delay_id"`
	RoomID   string          `json:"room_id"`
	Type     string          `json:"type"`
	StateKey *string         `json:"state_key,omitempty"`
	Content  json.RawMessage `json:"content"`

	// Each member has two names, because clients use both.
	Delay        int64 `json:"delay_ms"`
	OldDelay     int64 `json:"delay"`
	ScheduledAt  int64 `json:"scheduled_at"`
	RunningSince int64 `json:"running_since"`

	FinalisedTS int64           `json:"finalised_ts,omitempty"`
	EventID     string          `json:"event_id,omitempty"`
	Error       json.RawMessage `json:"error,omitempty"`
}

func itemOf(d *storage.DelayedEvent) Item {
	content := d.Content
	if content == "" { // a sent event has its content only in the room, where retention applies
		content = "{}"
	}
	item := Item{
		DelayID: d.DelayID, RoomID: d.RoomID, Type: d.Type, StateKey: d.StateKey, Content: json.RawMessage(content),
		Delay: d.Delay, OldDelay: d.Delay, ScheduledAt: d.ScheduledTS, RunningSince: d.ScheduledTS,
		FinalisedTS: d.FinalisedTS, EventID: d.EventID,
	}
	if d.Error != "" {
		item.Error = json.RawMessage(d.Error)
	}
	return item
}

// List returns a user's scheduled events, the earliest first. If finalised is set, it returns the user's sent or
// cancelled events instead, the newest first.
// Spec: MSC4140
func (s *Service) List(ctx context.Context, user ident.UserNID, finalised bool) (items []Item, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		read, limit := tx.ScheduledEvents, maxList
		if finalised {
			read, limit = tx.FinalisedEvents, maxFinalised
		}
		rows, err := read(user, limit)
		for i := range rows {
			items = append(items, itemOf(&rows[i]))
		}
		return err
	})
	return items, err
}

// Get returns a delayed event of a user.
// Spec: MSC4140
//
// Errors: M_NOT_FOUND.
func (s *Service) Get(ctx context.Context, user ident.UserNID, delayID string) (Item, error) {
	d, err := s.read(ctx, delayID)
	if err == nil && d.User != user {
		err = errUnknown()
	}
	return itemOf(&d), err
}

func errUnknown() error { return mxerr.NotFound("There is no such delayed event") }

// read reads a delayed event.
func (s *Service) read(ctx context.Context, delayID string) (d storage.DelayedEvent, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		var found bool
		if d, found, err = tx.DelayedEvent(delayID); err == nil && !found {
			err = errUnknown()
		}
		return err
	})
	return d, err
}

// errConflict returns the error for an action on an event that is no longer scheduled. The argument is "sent" or
// "cancelled".
func errConflict(what string) error {
	return mxerr.New(http.StatusConflict, mxerr.CodeUnknown, "The delayed event was already %s", what)
}

// Restart restarts the delay of a scheduled event.
// Spec: MSC4140
// Deviation: a sent or cancelled event is reported as not found instead of as a conflict, as on deployed servers. In
// that case matrix-js-sdk schedules a new event; after any other error it abandons its call.
//
// Errors: M_NOT_FOUND.
func (s *Service) Restart(ctx context.Context, delayID string) error {
	now := s.opts.Now().UnixMilli()
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		ok, err := tx.RescheduleEvent(delayID, now)
		if err == nil && !ok {
			err = errUnknown()
		}
		return err
	})
}

// Cancel cancels a scheduled event, so that it is never sent.
// Spec: MSC4140
//
// Errors: M_NOT_FOUND, M_UNKNOWN.
func (s *Service) Cancel(ctx context.Context, delayID string) error {
	now := s.opts.Now().UnixMilli()
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		d, found, err := tx.DelayedEvent(delayID)
		switch {
		case err != nil:
			return err
		case !found:
			return errUnknown()
		case d.EventID != "":
			return errConflict("sent")
		}
		if _, err := tx.FinaliseEvent(delayID, now, "", "", 0); err != nil {
			return err
		}
		return tx.TrimFinalisedEvents(d.User, maxFinalised)
	})
}

// Send sends a scheduled event immediately. If that fails, the event stays scheduled.
// Spec: MSC4140
//
// Errors: M_NOT_FOUND, M_UNKNOWN, and those of sending an event.
func (s *Service) Send(ctx context.Context, delayID string) error {
	d, err := s.read(ctx, delayID)
	switch {
	case err != nil:
		return err
	case d.EventID != "":
		return nil
	case d.FinalisedTS != 0:
		return errConflict("cancelled")
	}
	err = s.send(ctx, &d)
	if errors.Is(err, errDecided) {
		return s.Send(ctx, delayID) // another request acted first
	}
	return err
}

// Enabled reports whether users may schedule events.
func (s *Service) Enabled() bool { return s.opts.MaxPerUser > 0 }

// Limits returns the longest delay and the largest number of scheduled events per user.
func (s *Service) Limits() (maxDelay time.Duration, maxScheduled int) {
	return s.opts.MaxDelay, s.opts.MaxPerUser
}
