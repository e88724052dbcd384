package redactions

import (
	"context"
	"errors"
	"math"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/graph"
	"ebb/storage"
)

const (
	// maxOwnRequests bounds the unfinished requests of a user to redact their own messages. maxOwnListed is how many
	// requests of a user are listed, the newest first.
	maxOwnRequests = 10
	maxOwnListed   = 50
	// maxReason bounds the reason of a request in bytes, since each of the redactions contains it.
	maxReason = 1000
	// ownPause is the time after a write that redacts rooms.MaxOwnRedactions messages; after one that redacts fewer, it
	// is shorter accordingly. So sends of other users do not suffer, and other servers get at most one full transaction
	// a second.
	ownPause = time.Second
	// ownWindow is how many events of a room are examined at a time, in a few milliseconds. maxOwnWindows is how many
	// times in one step.
	ownWindow     = 5000
	maxOwnWindows = 10
	// keepOwn is how long finished requests are listed.
	keepOwn = 30 * 24 * time.Hour
	// pruneOwnChunk is how many finished requests one write deletes.
	pruneOwnChunk = 500
)

// Own describes the messages that a user wants to have redacted: all that the user has sent, except for state events
// and redactions.
type Own struct {
	User   ident.UserNID
	Room   ident.RoomNID // 0: all rooms in which the user is or was
	Before time.Time     // only messages from before this time; zero: all
	Reason string        // part of each redaction; may be ""
}

// row returns the row with which a request begins.
func (o *Own) row() *storage.OwnRedaction {
	row := &storage.OwnRedaction{User: o.User, Room: o.Room, Before: math.MaxInt64, Reason: o.Reason}
	if !o.Before.IsZero() {
		row.Before = o.Before.UnixMilli()
	}
	return row
}

// RedactOwn stores a request to redact the messages of a user, which Run carries out, and returns its number. Messages
// that are sent later are not redacted. In rooms where the user can send redactions they reach other servers; in those
// that the user has left, the messages are removed from this server.
//
// Errors: M_INVALID_PARAM, M_LIMIT_EXCEEDED.
func (s *Service) RedactOwn(ctx context.Context, o Own) (request storage.Pos, err error) {
	if len(o.Reason) > maxReason {
		return 0, mxerr.InvalidParam("The reason must have at most %d bytes", maxReason)
	}
	row := o.row()
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		pending, err := tx.PendingOwnRedactions(o.User)
		if err != nil {
			return err
		}
		if pending >= maxOwnRequests {
			return mxerr.LimitExceeded(time.Minute)
		}
		if err := tx.TrimOwnRedactions(o.User, maxOwnListed); err != nil {
			return err
		}
		return tx.AddOwnRedaction(row)
	})
	if err != nil {
		return 0, err
	}
	s.WakeOwn()
	return row.Position, nil
}

// RedactEverything stores, within a write, a request to redact everything that a user has sent, with the names in the
// user's member events. It replaces the user's other unfinished requests. Call WakeOwn after the commit.
func (s *Service) RedactEverything(tx *storage.Tx, user ident.UserNID) error {
	if _, err := tx.CancelOwnRedactions(user); err != nil {
		return err
	}
	row := (&Own{User: user}).row()
	row.Everything = true
	return tx.AddOwnRedaction(row)
}

// WakeOwn makes Run look for new requests at once.
func (s *Service) WakeOwn() {
	select {
	case s.wakeOwn <- struct{}{}:
	default: // Run has been woken already
	}
}

// OwnRequests lists the newest requests of a user, the newest first: those that are not finished, and those that were
// finished within the last 30 days.
func (s *Service) OwnRequests(ctx context.Context, user ident.UserNID) (list []storage.OwnRedaction, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		list, err = tx.OwnRedactions(user, maxOwnListed)
		return err
	})
	return list, err
}

// CancelOwn ends the unfinished requests of a user and returns their number. What has been redacted stays redacted.
func (s *Service) CancelOwn(ctx context.Context, user ident.UserNID) (n int64, err error) {
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
		n, err = tx.CancelOwnRedactions(user)
		return err
	})
	return n, err
}

// runOwn carries out requests until ctx ends.
func (s *Service) runOwn(ctx context.Context) {
	for ctx.Err() == nil {
		redacted, more, err := s.StepOwn(ctx)
		pause := ownIdle
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.opts.Log.Error("Cannot redact messages of a user now; trying again later", "err", err)
			pause = retryAfter
		case redacted > 0:
			pause = ownPause * time.Duration(min(redacted, rooms.MaxOwnRedactions)) / rooms.MaxOwnRedactions
		case more:
			continue
		default:
			if err := s.pruneOwn(ctx); err != nil && ctx.Err() == nil {
				s.opts.Log.Error("Cannot delete finished requests to redact messages", "err", err)
			}
		}
		woken := s.wakeOwn
		if redacted > 0 {
			woken = nil // a new request does not shorten the pause
		}
		s.wait(ctx, pause, woken)
	}
}

// wait waits for a time, unless it is woken earlier or ctx ends.
func (s *Service) wait(ctx context.Context, d time.Duration, woken <-chan struct{}) {
	timer, stop := s.opts.Timer(d)
	defer stop()
	select {
	case <-ctx.Done():
	case <-woken:
	case <-timer:
	}
}

// ownIdle is how often Run looks for work if nothing wakes it.
const ownIdle = time.Hour

// StepOwn does one step of the next request: it counts messages, or redacts at most rooms.MaxOwnRedactions of them. It
// returns how many it has redacted, and whether there may be more to do. The requests take turns. It makes the daily
// requests that are due first.
func (s *Service) StepOwn(ctx context.Context) (redacted int, more bool, err error) {
	if err := s.requestDaily(ctx); err != nil {
		return 0, false, err
	}
	var row storage.OwnRedaction
	var found bool
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		if row, found, err = tx.NextOwnRedaction(s.ownAfter); err == nil && !found && s.ownAfter != 0 {
			row, found, err = tx.NextOwnRedaction(0)
		}
		return err
	})
	if err != nil || !found {
		return 0, false, err
	}
	s.ownAfter = row.Position
	o := ownStep{s: s, row: &row, to: row.OwnProgress, before: row.Before}
	redacted, err = o.do(ctx)
	return redacted, true, err
}

// ownStep is one step of a request.
type ownStep struct {
	s     *Service
	row   *storage.OwnRedaction
	to    storage.OwnProgress // after the step
	marks []ownMark
	// before is the time (ms) before which messages in the room at hand are redacted.
	before int64
}

// ownMark says that all messages of the user between two orders of a room are redacted.
type ownMark struct {
	room     ident.RoomNID
	from, to ident.Order
}

// do examines parts of timelines until it finds messages to redact, or has examined maxOwnWindows.
func (o *ownStep) do(ctx context.Context) (redacted int, err error) {
	for range maxOwnWindows {
		if o.to.AtOrder == storage.NextRoom {
			if err := o.enter(ctx); err != nil || o.to.FinishedTS != 0 {
				return 0, errors.Join(err, o.save(ctx))
			}
			continue
		}
		w, err := o.look(ctx)
		switch {
		case err != nil:
			return 0, err
		case len(w.positions)+len(w.foreign) == 0:
			o.leave(&w)
		case !o.to.Counted:
			o.to.Expected += int64(len(w.positions) + len(w.foreign))
			w.done = o.to.AtOrder // they are not redacted yet
			o.leave(&w)
		default:
			return o.redact(ctx, &w)
		}
	}
	return 0, o.save(ctx)
}

// enter moves to the next room. After the last one, it ends the counting or the request.
func (o *ownStep) enter(ctx context.Context) error {
	certain := true
	err := o.s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		next, found, err := o.nextRoom(tx)
		switch {
		case err != nil:
			return err
		case found:
			if o.to.AtRoom = next; o.row.Everything { // the marks say nothing about state events
				o.to.AtOrder = storage.UnplacedState
				return nil
			}
			o.to.AtOrder, certain, err = tx.OwnMark(o.row.User, next)
			return err
		case !o.to.Counted && o.to.Expected > 0:
			o.to.Counted, o.to.AtRoom = true, 0
			return nil
		}
		o.to.Counted, o.to.FinishedTS = true, o.s.opts.Now().UnixMilli()
		return nil
	})
	if err != nil || certain {
		return err
	}
	return o.s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.BeginOwnMark(o.row.User, o.to.AtRoom) })
}

// nextRoom returns the room after AtRoom.
func (o *ownStep) nextRoom(tx *storage.Tx) (next ident.RoomNID, found bool, err error) {
	switch {
	case o.row.Daily:
		return tx.NextLimitedRoom(o.row.User, o.to.AtRoom)
	case o.row.Room != 0:
		return o.row.Room, o.to.AtRoom < o.row.Room, nil
	}
	m, found, err := tx.NextMembership(o.row.User, o.to.AtRoom)
	return m.Room, found, err
}

// window is a part of a timeline.
type window struct {
	positions []storage.Pos // events to redact
	foreign   []storage.Pos // member events about the user that others have sent: only this server's copy is changed
	next      ident.Order   // where the next window begins; storage.NextRoom: there is none in this room
	done      ident.Order   // up to here the user has no messages except positions
}

// look examines the next part of the timeline of the room.
func (o *ownStep) look(ctx context.Context) (w window, err error) {
	if o.row.Everything {
		return o.lookForEverything(ctx)
	}
	err = o.s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		if o.row.Daily {
			lifetime, found, err := tx.MessageLifetime(o.row.User, o.to.AtRoom)
			if err != nil || !found { // the user has changed their mind
				w.next = storage.NextRoom
				return err
			}
			o.before = o.row.Before - lifetime
		}
		own, err := o.find(tx, &w)
		o.choose(&w, own)
		return err
	})
	return w, err
}

// lookForEverything is look for a request of an erasure.
func (o *ownStep) lookForEverything(ctx context.Context) (w window, err error) {
	room, err := o.s.opts.Rooms.RoomByNID(ctx, o.to.AtRoom)
	if errors.Is(err, rooms.ErrNoRoom) {
		return window{next: storage.NextRoom}, nil
	}
	if err != nil {
		return w, err
	}
	err = o.s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		own, err := o.find(tx, &w)
		if err != nil {
			return err
		}
		var state []storage.Pos
		for _, m := range own {
			switch {
			case !m.IsState:
				w.positions = append(w.positions, m.Position)
			case strings.Contains(m.StateKey, o.row.UserID):
				state = append(state, m.Position)
			}
		}
		sent, named, err := room.PersonalState(tx, o.row.User, state)
		if w.foreign = named; o.to.AtOrder == storage.UnplacedState { // no redaction could refer to them
			w.foreign = append(w.foreign, sent...)
		} else {
			w.positions = append(w.positions, sent...)
		}
		return err
	})
	return w, err
}

// find returns the user's events in the next part of the timeline, and sets where the one after it begins.
func (o *ownStep) find(tx *storage.Tx, w *window) (own []storage.OwnMessage, err error) {
	if o.to.AtOrder == storage.UnplacedState {
		w.next = 0
		return tx.UnplacedMembers(o.to.AtRoom, o.row.UserID, rooms.MaxOwnRedactions)
	}
	end, found, err := tx.WindowEnd(o.to.AtRoom, o.to.AtOrder, o.s.opts.Window)
	if err != nil {
		return nil, err
	}
	upTo := ident.Order(math.MaxInt64)
	if found {
		upTo = end.Order
	}
	if o.row.Everything {
		own, err = tx.OwnEvents(o.to.AtRoom, o.row.User, o.row.UserID, o.to.AtOrder, upTo, rooms.MaxOwnRedactions)
	} else {
		own, err = tx.OwnMessages(o.to.AtRoom, o.row.User, o.to.AtOrder, upTo, rooms.MaxOwnRedactions)
	}
	w.next, w.done = storage.NextRoom, o.to.AtOrder
	if len(own) > 0 {
		w.done = own[len(own)-1].Order
	}
	switch {
	case len(own) == rooms.MaxOwnRedactions: // there may be more in this window
		w.next = w.done
	case found && o.beyond(&end):
		w.done = end.Order
	case found:
		w.next, w.done = end.Order, end.Order
	}
	return own, err
}

// beyond reports whether no event that arrived after e is to be redacted. History that was fetched from another server
// says nothing about that.
func (o *ownStep) beyond(e *storage.OwnMessage) bool {
	if o.row.Everything {
		return false
	}
	return e.Order == ident.Order(e.Position)*graph.OrderStep && (e.Position > o.row.Position || e.ReceivedTS >= o.before)
}

// choose determines which of the user's messages in a window are redacted.
func (o *ownStep) choose(w *window, own []storage.OwnMessage) {
	for _, m := range own {
		if m.Position > o.row.Position || min(m.OriginTS, m.ReceivedTS) >= o.before {
			w.done = min(w.done, m.Order-1)
			continue
		}
		w.positions = append(w.positions, m.Position)
	}
}

// leave records that a window is done.
func (o *ownStep) leave(w *window) {
	if w.done > o.to.AtOrder && !o.row.Everything {
		o.marks = append(o.marks, ownMark{room: o.to.AtRoom, from: o.to.AtOrder, to: w.done})
	}
	o.to.AtOrder = w.next
}

// redact redacts the events of a window. Those that cannot be redacted are removed from this server.
func (o *ownStep) redact(ctx context.Context, w *window) (redacted int, err error) {
	room, err := o.s.opts.Rooms.RoomByNID(ctx, o.to.AtRoom)
	if errors.Is(err, rooms.ErrNoRoom) {
		o.to.AtOrder = storage.NextRoom
		return 0, o.save(ctx)
	}
	if err != nil {
		return 0, err
	}
	o.leave(w)
	if len(w.positions) == 0 {
		return o.remove(ctx, room, w.foreign)
	}
	if len(w.foreign) > 0 {
		err := o.s.opts.Rooms.RemoveMessages(ctx, room, o.row.User, w.foreign, func(_ *storage.Tx, n int) error {
			redacted = n
			return nil
		})
		if err != nil {
			return 0, err
		}
		o.to.Removed += int64(redacted)
	}
	before := o.to
	user := ident.Requester{UserID: id.UserID(o.row.UserID), UserNID: o.row.User}
	err = o.s.opts.Rooms.RedactMessages(ctx, room, user, o.row.Reason, w.positions, func(tx *storage.Tx, n int) error {
		o.to = before
		o.to.Redacted, redacted = o.to.Redacted+int64(n), n
		return o.writeDone(tx)
	})
	switch {
	case errors.Is(err, errCancelled):
		return 0, nil
	case !cannotRedact(err):
		return redacted, err
	}
	o.s.opts.Log.Debug("Messages are removed from this server only, since their user cannot redact them", "room", room.ID(), "err", err)
	o.to = before
	return o.remove(ctx, room, w.positions)
}

// cannotRedact reports whether an error of rooms.Service.RedactMessages means that the user cannot redact the messages,
// now or later.
func cannotRedact(err error) bool {
	var final *mxerr.Error
	return errors.As(err, &final) && final.Status < 500 && final.Code != mxerr.CodeLimitExceeded
}

// remove removes events from this server.
func (o *ownStep) remove(ctx context.Context, room *rooms.Room, positions []storage.Pos) (removed int, err error) {
	before := o.to
	err = o.s.opts.Rooms.RemoveMessages(ctx, room, o.row.User, positions, func(tx *storage.Tx, n int) error {
		o.to = before
		o.to.Removed, removed = o.to.Removed+int64(n), n
		return o.writeDone(tx)
	})
	if errors.Is(err, errCancelled) {
		return 0, nil
	}
	return removed, err
}

// errCancelled says that a request was cancelled during a step.
var errCancelled = errors.New("redactions: the request was cancelled")

// writeDone stores the progress of the request in the write that redacts or removes messages. If the request was
// cancelled, it returns errCancelled, so that the write does nothing.
func (o *ownStep) writeDone(tx *storage.Tx) error {
	found, err := tx.AdvanceOwnRedaction(o.row.Position, o.to)
	if err == nil && !found {
		err = errCancelled
	}
	if err != nil {
		return err
	}
	return o.writeMarks(tx)
}

// save stores the progress of the request. When the request is finished, the listeners of commits learn of it.
func (o *ownStep) save(ctx context.Context) error {
	return o.s.opts.DB.Enqueue(storage.Write{Do: o.write, Committed: func() {
		if o.to.FinishedTS != 0 && o.s.opts.Commits != nil {
			o.s.opts.Commits.Deliver(&rooms.Commit{OwnRedacted: true})
		}
	}}).Wait(ctx)
}

// write stores the progress of the request. A request that was cancelled stays so.
func (o *ownStep) write(tx *storage.Tx) error {
	if o.to.FinishedTS != 0 && o.row.Daily && o.to.Expected == 0 { // it found nothing, which is not worth listing
		if err := tx.DeleteOwnRedaction(o.row.Position); err != nil {
			return err
		}
	} else if _, err := tx.AdvanceOwnRedaction(o.row.Position, o.to); err != nil {
		return err
	}
	return o.writeMarks(tx)
}

// writeMarks stores up to where the timelines are done.
func (o *ownStep) writeMarks(tx *storage.Tx) error {
	for _, m := range o.marks {
		if err := tx.AdvanceOwnMark(o.row.User, m.room, m.from, m.to); err != nil {
			return err
		}
	}
	return nil
}

// pruneOwn deletes requests that were finished long ago.
func (s *Service) pruneOwn(ctx context.Context) error {
	before := s.opts.Now().Add(-keepOwn).UnixMilli()
	for more := true; more; {
		err := s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
			more, err = tx.PruneOwnRedactions(before, pruneOwnChunk)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
