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
	// maxDue is how many due events are read at a time, and maxRooms in how many rooms they are sent at the same time.
	maxDue   = 100
	maxRooms = 8
	// sendTime bounds the sending of one event, which may wait for other servers.
	sendTime = 30 * time.Second
	// retryAfter is when an event is tried again that could not be sent for a reason that passes.
	retryAfter = 30 * time.Second
	// maxPause is the longest time for which Run waits, since the clock may be set.
	maxPause = time.Minute
	// pruneEvery is how often old events that were sent or cancelled are deleted, pruneChunk of them in one write.
	pruneEvery = time.Hour
	pruneChunk = 500
)

// Run sends the scheduled events when they are due, until ctx ends. Those that were due while the server was stopped
// are sent first.
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

// waitFor wakes Run if it waits for a later time (ms).
func (s *Service) waitFor(sendTS int64) {
	if next := s.next.Load(); next != 0 && next <= sendTS {
		return
	}
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// SendDue sends the scheduled events that are due, in the order of their times in each room, and returns when (ms) the
// next one is due; 0 if none is scheduled.
func (s *Service) SendDue(ctx context.Context) (next int64, err error) {
	s.next.Store(0) // so that what is scheduled from now on wakes Run
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

// sendAll sends due events. Those of one room are sent one after the other.
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

// sendOne sends a due event. If it cannot be sent it records why, or tries again later if the reason passes.
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
	s.opts.Log.Warn("a delayed event cannot be sent now and will be tried again", "room", d.RoomID, "user", d.UserID, "err", err)
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		return tx.PostponeEvent(d.DelayID, d.SendTS, s.opts.Now().Add(retryAfter).UnixMilli())
	})
}

// fail records that an event cannot be sent.
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

// errDecided means that an event was sent, cancelled or restarted meanwhile.
var errDecided = errors.New("delayed: the event is not scheduled for this time any more")

// send sends a scheduled event. The write that stores it also records that it was sent.
func (s *Service) send(ctx context.Context, d *storage.DelayedEvent) error {
	if d.Deactivated || d.Locked {
		return mxerr.Forbidden("The account is deactivated or locked")
	}
	if err := s.checkOverridden(ctx, d); err != nil {
		return err
	}
	_, err := s.opts.Rooms.Send(ctx, rooms.NewEvent{
		Room: id.RoomID(d.RoomID), Sender: ident.Requester{UserID: id.UserID(d.UserID), UserNID: d.User, Suspended: d.Suspended},
		Type: d.Type, StateKey: d.StateKey, Content: json.RawMessage(d.Content), Timestamp: d.OriginTS, DelayID: d.DelayID,
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

// checkOverridden refuses a state event if somebody else has set the same entry since it was scheduled, as deployed
// servers do. What the user has set since does not count: clients schedule the event that ends a call before the one
// that joins it.
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
