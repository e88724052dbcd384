package rooms

import (
	"context"
	"net/http"

	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/storage"
)

// Error codes of MSC4306 under their unstable names.
const (
	codeNotInThread               = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"
	codeConflictingUnsubscription = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"
)

// maxThreadSubscriptions bounds the threads of a user that have a row, including those that the user unsubscribed from.
const maxThreadSubscriptions = 10_000

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

// Subscribe subscribes a local user to the thread of a root that the user can see. cause is the event because of which
// the client subscribes automatically, or nil if the user asked for it. An automatic subscription does not replace a
// manual one, and is refused if the user unsubscribed after the cause had arrived.
// Spec: MSC4306
//
// Errors: IO.ELEMENT.MSC4306.M_NOT_IN_THREAD, IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION, M_TOO_LARGE.
func (s *Service) Subscribe(ctx context.Context, who ident.Requester, root, cause *Event) error {
	to := storage.SubscribedManually
	if cause != nil {
		to = storage.SubscribedAutomatically
		if rel := relationOf(cause.Content()); rel == nil || rel.relType != relThread || rel.parent != root.ID() {
			return badRequest(codeNotInThread, "The event that caused the subscription is not in the thread")
		}
	}
	if s.opts.Push != nil {
		if err := s.opts.Push.FollowThreads(ctx, who.UserNID, who.UserID); err != nil {
			return err
		}
	}
	return s.setSubscription(ctx, who, root, func(tx *storage.Tx, before storage.ThreadSubscription, found bool) (storage.Subscription, error) {
		switch {
		case !found:
			return to, makeRoomForSubscription(tx, who.UserNID)
		case before.State == storage.SubscribedManually:
			return before.State, nil
		case before.State == storage.Unsubscribed && cause != nil && (cause.Pos <= before.Position || isBackfilled(cause.row())):
			return 0, mxerr.New(http.StatusConflict, codeConflictingUnsubscription, "You unsubscribed from the thread after that event")
		}
		return to, nil
	})
}

// Unsubscribe ends a local user's subscription to the thread of a root, if there is one.
// Spec: MSC4306
func (s *Service) Unsubscribe(ctx context.Context, who ident.Requester, root *Event) error {
	return s.setSubscription(ctx, who, root, func(*storage.Tx, storage.ThreadSubscription, bool) (storage.Subscription, error) {
		return storage.Unsubscribed, nil
	})
}

// Subscription returns a local user's subscription to the thread of a root, and whether it was made automatically.
// Spec: MSC4306
//
// Errors: M_NOT_FOUND.
func (s *Service) Subscription(ctx context.Context, who ident.Requester, root *Event) (automatic bool, err error) {
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		sub, found, err := tx.ThreadSubscription(who.UserNID, root.Pos)
		if err == nil && (!found || sub.State == storage.Unsubscribed) {
			err = mxerr.NotFound("You are not subscribed to this thread")
		}
		automatic = sub.State == storage.SubscribedAutomatically
		return err
	})
	return automatic, err
}

// setSubscription stores the state that decide returns within the write for the state before. Users who have no row are
// unsubscribed.
func (s *Service) setSubscription(
	ctx context.Context, who ident.Requester, root *Event,
	decide func(tx *storage.Tx, before storage.ThreadSubscription, found bool) (storage.Subscription, error),
) error {
	changed := false
	w := storage.Write{
		Do: func(tx *storage.Tx) error {
			before, found, err := tx.ThreadSubscription(who.UserNID, root.Pos)
			if err != nil {
				return err
			}
			to, err := decide(tx, before, found)
			if changed = err == nil && to != before.State; !changed {
				return err
			}
			return tx.SetThreadSubscription(who.UserNID, root.Room, root.Pos, to)
		},
		Committed: func() {
			if changed {
				s.opts.Commits.Deliver(&Commit{Subscriptions: []CommittedSubscription{{User: who.UserNID, Root: root.Pos}}})
			}
		},
	}
	return s.db.Enqueue(w).Wait(context.WithoutCancel(ctx))
}

// makeRoomForSubscription deletes the oldest record of an unsubscription if the user has as many rows as are allowed.
//
// Errors: M_TOO_LARGE.
func makeRoomForSubscription(tx *storage.Tx, user ident.UserNID) error {
	n, err := tx.ThreadSubscriptionCount(user)
	if err != nil || n < maxThreadSubscriptions {
		return err
	}
	deleted, err := tx.ForgetUnsubscribed(user, 1)
	if err == nil && deleted == 0 {
		err = mxerr.TooLarge("You are already subscribed to %d threads, which is the maximum; unsubscribe from one first", maxThreadSubscriptions)
	}
	return err
}

// IsSubscribed reports whether a local user is subscribed to the thread of a root. Push rules ask it only about users
// who have used subscriptions (see Push.FollowThreads).
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
