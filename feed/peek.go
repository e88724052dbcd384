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

// PollRoom begins a request for the new events of a room that the user may read. The answer is a Peeked.
// Spec: client-server-api#get_matrixclientv3events (peeking_events)
func (s *Service) PollRoom(ctx context.Context, q PeekRequest) (*Poll, error) {
	who := q.Requester
	if err := s.opts.History.MayRead(ctx, q.Room, who); err != nil {
		return nil, err
	}
	room, err := s.opts.Rooms.Room(ctx, q.Room)
	if err != nil {
		return nil, err
	}
	p := s.newPoll(&who, q.Timeout) // it is also woken when the account is locked or the device is deleted
	p.visit = s.opts.Hub.Visit(room.NID(), p.signal)
	peeked := Peeked{Start: cmp.Or(q.From, history.TimelineToken(room.LastOrder()))}
	peeked.End = peeked.Start
	p.build = func(ctx context.Context, final bool) (any, error) {
		if err := s.newIn(ctx, q.Room, who, &peeked); err != nil || len(peeked.Chunk) == 0 && !final {
			return nil, err
		}
		return peeked, nil
	}
	return p, nil
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
