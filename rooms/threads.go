package rooms

import (
	"context"

	"ebb/ident"
	"ebb/keyed"
	"ebb/storage"
)

// maxCachedThreads bounds the threads whose subscribers are in memory.
const maxCachedThreads = 5_000

// threadCache keeps which local users are subscribed to threads, for push rules.
type threadCache struct {
	subscribers *keyed.Memo[storage.Pos, map[ident.UserNID]struct{}] // by the position of the root
}

func (c *threadCache) init(entries int) {
	c.subscribers = keyed.NewMemo(keyed.Options[storage.Pos, map[ident.UserNID]struct{}]{Entries: entries})
}

// committed is the Listener that forgets the threads whose subscriptions have changed.
func (c *threadCache) committed(commit *Commit) {
	for _, s := range commit.Subscriptions {
		c.subscribers.Forget(s.Root)
	}
}

// IsSubscribed reports whether a local user is subscribed to the thread whose root is at the given position. Push rules
// ask this only about users who have used subscriptions (see accountdata.Push).
func (s *Service) IsSubscribed(user ident.UserNID, root storage.Pos) bool {
	subscribers, err := s.threads.subscribers.Get(context.Background(), root, func(ctx context.Context) (map[ident.UserNID]struct{}, error) {
		out := map[ident.UserNID]struct{}{}
		err := s.db.ReadInner(ctx, func(tx *storage.Tx) error {
			users, err := tx.ThreadSubscribers(root)
			for _, u := range users {
				out[u] = struct{}{}
			}
			return err
		})
		return out, err
	})
	if err != nil {
		s.log.Error("cannot read the subscribers of a thread for push rules", "root", root, "err", err)
	}
	_, ok := subscribers[user]
	return ok
}
