package feed

import (
	"cmp"
	"context"
	"encoding/json"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/history"
	"ebb/ident"
)

// PeekRequest asks for what is new in one room. The user need not be a member of it.
type PeekRequest struct {
	ident.Requester
	Room    id.RoomID
	From    string // a token of the room's timeline or of /sync; "": from now on
	Timeout time.Duration
}

// Peeked holds the new events of a room between two tokens, oldest first.
type Peeked struct {
	Start, End string
	Chunk      []json.RawMessage
}

// maxPeeked bounds the events of one answer.
const maxPeeked = 100

// Peek returns the new events of a room that the user may read, waiting for one up to the timeout.
// Spec: client-server-api#get_matrixclientv3events (peeking_events)
func (s *Service) Peek(ctx context.Context, q PeekRequest) (p Peeked, err error) {
	to := q.Requester
	if err := s.opts.History.MayRead(ctx, q.Room, to); err != nil {
		return p, err
	}
	room, err := s.opts.Rooms.Room(ctx, q.Room)
	if err != nil {
		return p, err
	}
	sub := s.opts.Hub.Visit(room.NID())
	defer sub.Close()
	own := s.opts.Hub.Park(to.UserNID, to.DeviceNID) // woken when the account is locked or the device is deleted
	defer own.Close()
	expired, stop := s.opts.Timer(min(max(0, q.Timeout), maxTimeout))
	defer stop()
	p.Start = cmp.Or(q.From, history.TimelineToken(room.LastOrder()))
	p.End = p.Start
	syncWaiting.Inc()
	defer syncWaiting.Dec()
	for final := q.Timeout <= 0; ; {
		if err := s.alive(ctx, &to); err != nil {
			return p, err
		}
		if err := s.newIn(ctx, q.Room, to, &p); err != nil || len(p.Chunk) > 0 || final {
			return p, err
		}
		select {
		case <-sub.C():
		case <-own.C():
		case <-expired:
			final = true
		case <-s.stopped:
			final = true
		case <-ctx.Done():
			return p, ctx.Err()
		}
	}
}

// newIn reads the events after p.End into p, skipping those that the user may not see, and moves p.End.
func (s *Service) newIn(ctx context.Context, roomID id.RoomID, to ident.Requester, p *Peeked) error {
	room, err := s.opts.Rooms.Room(ctx, roomID)
	if err != nil {
		return err
	}
	last := history.TimelineToken(room.LastOrder())
	for {
		page, err := s.opts.History.Messages(ctx, roomID, to, history.PageRequest{From: p.End, To: last, Limit: maxPeeked})
		if err != nil {
			return err
		}
		p.End, p.Chunk = cmp.Or(page.End, last), page.Chunk
		if len(p.Chunk) > 0 || page.End == "" {
			return nil
		}
	}
}
