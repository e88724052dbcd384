package delayed

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

const (
	// maxDue bounds the due events that are read at a time. maxRooms bounds the rooms to which events are sent at the
	// same time.
	maxDue   = 100
	maxRooms = 8
	// sendTime bounds the time for sending one event, which may have to wait for other servers.
	sendTime = 30 * time.Second
	// retryAfter is the time after which an event is retried if it could not be sent for a temporary reason.
	retryAfter = 30 * time.Second
	// maxPause bounds how long Run waits at a time, since the system clock may be changed.
	maxPause = time.Minute
	// pruneEvery is how often old events that were sent or cancelled are deleted. One write deletes pruneChunk of them.
	pruneEvery = time.Hour
	pruneChunk = 500
)

// Run sends scheduled events when they are due, until ctx ends. It first sends those that fell due while the server was
// stopped.
func (s *Service) Run(ctx context.Context) error {
	var pruned time.Time
	for {
		if now := s.opts.Now(); now.Sub(pruned) >= pruneEvery || now.Before(pruned) {
			pruned = now
			if err := s.prune(ctx); err != nil && ctx.Err() == nil {
				s.opts.Log.Error("cannot delete old delayed events", "err", err)
			}
		}
		next, err := s.SendDue(ctx)
		if err != nil && ctx.Err() == nil {
			s.opts.Log.Error("cannot read the delayed events that are due; trying again", "err", err)
		}
		pause := maxPause
		if next != 0 {
			pause = min(pause, time.UnixMilli(next).Sub(s.opts.Now()))
		}
		timer, stop := s.opts.Timer(max(0, pause))
		select {
		case <-ctx.Done():
			stop()
			return nil
		case <-timer:
		case <-s.kick:
			stop()
		}
	}
}

// waitFor wakes Run if it would otherwise wait beyond sendTS (in milliseconds).
func (s *Service) waitFor(sendTS int64) {
	if next := s.next.Load(); next != 0 && next <= sendTS {
		return
	}
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// SendDue sends the scheduled events that are due, in chronological order within each room. It returns the time in
// milliseconds at which the next event is due, or 0 if none is scheduled.
func (s *Service) SendDue(ctx context.Context) (next int64, err error) {
	s.next.Store(0) // so that events scheduled from now on wake Run
	for {
		var due []storage.DelayedEvent
		err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			if due, err = tx.DueEvents(s.opts.Now().UnixMilli(), maxDue); err != nil {
				return err
			}
			next, err = tx.NextDue()
			return err
		})
		if err != nil {
			return 0, err
		}
		if len(due) == 0 {
			s.next.Store(next)
			return next, nil
		}
		if err := s.sendAll(ctx, due); err != nil {
			return 0, err
		}
	}
}

// sendAll sends due events. It sends the events of one room one after the other.
func (s *Service) sendAll(ctx context.Context, due []storage.DelayedEvent) error {
	byRoom := map[ident.RoomNID][]*storage.DelayedEvent{}
	for i := range due {
		byRoom[due[i].Room] = append(byRoom[due[i].Room], &due[i])
	}
	var wg sync.WaitGroup
	var mu sync.Mutex // guards errs
	var errs []error
	slots := make(chan struct{}, maxRooms)
	for _, list := range byRoom {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			for _, d := range list {
				if err := s.sendOne(ctx, d); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// sendOne sends a due event. If sending fails permanently, it records the reason; if it fails temporarily, it postpones
// the event.
func (s *Service) sendOne(ctx context.Context, d *storage.DelayedEvent) error {
	bounded, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	err := s.send(bounded, d)
	var final *mxerr.Error
	switch {
	case err == nil, errors.Is(err, errDecided):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &final) && final.Status < 500 && final.Code != mxerr.CodeLimitExceeded:
		return s.fail(ctx, d, final)
	}
	s.opts.Log.Warn("a delayed event cannot be sent now; trying again later", "room", d.RoomID, "user", d.UserID, "err", err)
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		return tx.PostponeEvent(d.DelayID, d.SendTS, s.opts.Now().Add(retryAfter).UnixMilli())
	})
}

// fail records why an event cannot be sent.
func (s *Service) fail(ctx context.Context, d *storage.DelayedEvent, because *mxerr.Error) error {
	problem, err := json.Marshal(map[string]string{"errcode": because.Code, "error": because.Msg})
	if err != nil {
		return err
	}
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if _, err := tx.FinaliseEvent(d.DelayID, s.opts.Now().UnixMilli(), "", string(problem), d.SendTS); err != nil {
			return err
		}
		return tx.TrimFinalisedEvents(d.User, maxFinalised)
	})
}

// errDecided means that an event was sent, cancelled or restarted in the meantime.
var errDecided = errors.New("delayed: the event is no longer scheduled for this time")

// send sends a scheduled event. The write that stores the event also records that it was sent.
func (s *Service) send(ctx context.Context, d *storage.DelayedEvent) error {
	if d.Deactivated || d.Locked {
		return mxerr.Forbidden("The account is deactivated or locked")
	}
	if err := s.checkOverridden(ctx, d); err != nil {
		return err
	}
	_, err := s.opts.Rooms.Send(ctx, rooms.NewEvent{
		Room: id.RoomID(d.RoomID), Sender: ident.Requester{UserID: id.UserID(d.UserID), UserNID: d.User, Suspended: d.Suspended},
		Type: d.Type, StateKey: d.StateKey, Content: json.RawMessage(d.Content), Timestamp: d.OriginTS, StickyMS: d.StickyMS, DelayID: d.DelayID,
		Also: func(tx *storage.Tx, sent id.EventID) error {
			ok, err := tx.FinaliseEvent(d.DelayID, s.opts.Now().UnixMilli(), string(sent), "", d.SendTS)
			if err == nil && !ok {
				err = errDecided
			}
			if err != nil {
				return err
			}
			return tx.TrimFinalisedEvents(d.User, maxFinalised)
		},
	})
	return err
}

// checkOverridden refuses a state event if another user has changed the same state since it was scheduled, as deployed
// servers do. Changes by the same user do not count, because clients schedule the event that ends a call before they
// send the event that joins it.
func (s *Service) checkOverridden(ctx context.Context, d *storage.DelayedEvent) error {
	if d.StateKey == nil {
		return nil
	}
	room, err := s.opts.Rooms.RoomByNID(ctx, d.Room)
	if err != nil {
		return err
	}
	if e := room.State(d.Type, *d.StateKey); e != nil && e.Pos > d.Position && e.Sender() != id.UserID(d.UserID) {
		return mxerr.Forbidden("Somebody else has changed this state since the event was scheduled")
	}
	return nil
}

// prune deletes old events that were sent or cancelled.
func (s *Service) prune(ctx context.Context) error {
	before := s.opts.Now().Add(-keepFor).UnixMilli()
	for {
		var n int64
		err := s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
			n, err = tx.PruneDelayedEvents(before, pruneChunk)
			return err
		})
		if err != nil || n < pruneChunk {
			return err
		}
	}
}
