package feed

import (
	"context"
	"encoding/json"
)

// Sync waits for the answer of PollSync.
func (s *Service) Sync(ctx context.Context, q *SyncRequest) (json.RawMessage, error) {
	return answerOf[json.RawMessage](ctx)(s.PollSync(ctx, q))
}

// SlidingSync waits for the answer of PollSliding.
func (s *Service) SlidingSync(ctx context.Context, q *SlidingRequest) (json.RawMessage, error) {
	return answerOf[json.RawMessage](ctx)(s.PollSliding(ctx, q))
}

// Peek waits for the answer of PollRoom.
func (s *Service) Peek(ctx context.Context, q PeekRequest) (Peeked, error) {
	return answerOf[Peeked](ctx)(s.PollRoom(ctx, q))
}

func answerOf[T any](ctx context.Context) func(*Poll, error) (T, error) {
	return func(p *Poll, err error) (answer T, _ error) {
		if err != nil {
			return answer, err
		}
		v, err := p.run(ctx)
		if err != nil {
			return answer, err
		}
		return v.(T), nil
	}
}
