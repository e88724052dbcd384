// Package delayed sends events at a later time, for example the one that ends a user's part in a call unless the user's
// client keeps putting it off (MSC4140).
//
// A scheduled event is a row of the table delayed_events. Schedule adds it; Run, which is the only sender, waits for
// the earliest one. The write that stores the event records in the row that it was sent, so that each is sent once,
// whenever the server stops. Memory holds nothing but the time for which Run waits.
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
)

// Bounds of delayed events.
const (
	maxContent   = 64 << 10           // bytes, as of an event
	maxFinalised = 100                // per user
	maxList      = 1000               // of one response
	keepFor      = 7 * 24 * time.Hour // after an event was sent or cancelled
)

// Options configures a Service.
type Options struct {
	DB         *storage.DB
	Rooms      *rooms.Service
	MaxDelay   time.Duration
	MaxPerUser int // scheduled events; 0: delayed events are off
	Now        func() time.Time
	// Timer starts a timer for Run: the channel receives after d unless stop is called first.
	Timer func(d time.Duration) (c <-chan time.Time, stop func())
	Log   *slog.Logger
}

// Service schedules events and sends them. It is safe for concurrent use.
type Service struct {
	opts Options
	kick chan struct{} // wakes Run for an event earlier than next
	next atomic.Int64  // ms; the time for which Run waits
}

// New returns a Service, which sends nothing before Run or SendDue.
func New(o Options) *Service {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timer == nil {
		o.Timer = func(d time.Duration) (<-chan time.Time, func()) {
			t := time.NewTimer(d)
			return t.C, func() { t.Stop() }
		}
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
	StateKey   *string // nil: not a state event
	Content    json.RawMessage
	ContentErr error     // why Content could not be read; a repeated request is answered nevertheless
	Timestamp  int64     // ms, for application services; 0: when it is sent
	Txn        *txns.Txn // nil: none
	Delay      time.Duration
}

// Schedule stores an event to be sent after its delay, and returns its delay ID.
// Spec: MSC4140
//
// Errors: M_FORBIDDEN, M_INVALID_PARAM, M_BAD_JSON, M_TOO_LARGE, M_LIMIT_EXCEEDED, ErrMaxDelay.
func (s *Service) Schedule(ctx context.Context, e Event) (delayID string, err error) {
	return s.opts.Rooms.Once(ctx, e.Sender, e.Txn, func(record func(*storage.Tx, string) error) (string, error) {
		room, err := s.check(ctx, &e)
		if err != nil {
			return "", err
		}
		now := s.opts.Now().UnixMilli()
		row := &storage.DelayedEvent{
			DelayID: newID(), User: e.Sender.UserNID, Room: room.NID(), Type: e.Type, StateKey: e.StateKey, Content: string(e.Content),
			OriginTS: e.Timestamp, Delay: e.Delay.Milliseconds(), ScheduledTS: now, SendTS: now + e.Delay.Milliseconds(),
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

// MaxDelayError is the error for a delay that is longer than allowed.
type MaxDelayError struct{ Max time.Duration }

// Error implements error.
func (e *MaxDelayError) Error() string { return "the delay is longer than " + e.Max.String() }

// check refuses events that cannot be scheduled. Whether the user may send the event is decided when it is sent.
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
		return nil, mxerr.TooLarge("An event must not be larger than %d bytes, its type and state key not longer than %d", maxContent, maxName)
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

// maxName bounds the type and the state key of an event in bytes.
const maxName = 255

// checkCount refuses another event of a user who has scheduled as many as allowed.
func (s *Service) checkCount(tx *storage.Tx, user ident.UserNID, now int64) error {
	count, first, err := tx.ScheduledCount(user)
	if err != nil || count < int64(s.opts.MaxPerUser) {
		return err
	}
	wait := time.Duration(max(1, first-now)) * time.Millisecond
	return mxerr.LimitExceeded(wait).With("org.matrix.msc4140.errcode", "M_MAX_DELAYED_EVENTS_EXCEEDED")
}

// newID returns an ID that nobody can guess: it permits acting on the event.
func newID() string {
	var b [24]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Item is a delayed event as its user sees it.
type Item struct {
	DelayID  string          `json:"delay_id"`
	RoomID   string          `json:"room_id"`
	Type     string          `json:"type"`
	StateKey *string         `json:"state_key,omitempty"`
	Content  json.RawMessage `json:"content"`

	// Both names of each are in use.
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
	if content == "" { // the room has it, and only as long as the room keeps messages
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

// List returns a user's scheduled events, the earliest first, or the newest of those that were sent or cancelled.
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

// errConflict is returned for an action on an event for which another one was decided.
func errConflict(what string) error {
	return mxerr.New(http.StatusConflict, mxerr.CodeUnknown, "The delayed event was %s already", what)
}

// Restart begins the delay of a scheduled event again.
// Spec: MSC4140
// Deviation: an event that was sent or cancelled is not found, as on deployed servers, instead of a conflict:
// matrix-js-sdk schedules a new one then, and gives up its call after any other error.
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

// Cancel makes sure that a scheduled event is not sent.
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

// Send sends a scheduled event now. If that fails, it stays scheduled.
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
		return s.Send(ctx, delayID) // another request was faster
	}
	return err
}

// Enabled reports whether users can schedule events.
func (s *Service) Enabled() bool { return s.opts.MaxPerUser > 0 }

// Limits returns the longest delay and the largest number of scheduled events of a user.
func (s *Service) Limits() (maxDelay time.Duration, maxScheduled int) {
	return s.opts.MaxDelay, s.opts.MaxPerUser
}
