package accountdata

import (
	"context"
	"net/http"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Error codes of MSC4306 under their unstable names.
const (
	codeNotInThread               = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"
	codeConflictingUnsubscription = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"
)

// maxThreadSubscriptions bounds the threads of a user that have a row, including those that the user unsubscribed from.
const maxThreadSubscriptions = 10_000

// Push enables push rules about threads for users. It is implemented by pushrules.Rules.
type Push interface {
	// FollowThreads enables the push rules about threads for a user who subscribes to a thread.
	FollowThreads(ctx context.Context, nid ident.UserNID, user id.UserID) error
}

// Subscribe subscribes a local user to the thread with the given root, which the user can see. A client may also
// subscribe automatically, for example because of a mention: cause is then the event that made it do so; it is nil if
// the user asked for the subscription. An automatic subscription does not replace a manual one, and is refused if the
// user unsubscribed after cause had arrived.
// Spec: MSC4306
//
// Errors: IO.ELEMENT.MSC4306.M_NOT_IN_THREAD, IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION, M_TOO_LARGE.
func (s *Service) Subscribe(ctx context.Context, who ident.Requester, root, cause *rooms.Event) error {
	to := storage.SubscribedManually
	if cause != nil {
		to = storage.SubscribedAutomatically
		if rel := pdu.RelationOf(cause.Content()); rel == nil || rel.RelType != "m.thread" || rel.Parent != root.ID() {
			return mxerr.BadRequest(codeNotInThread, "The event that caused the subscription is not in the thread")
		}
	}
	if s.push != nil {
		if err := s.push.FollowThreads(ctx, who.UserNID, who.UserID); err != nil {
			return err
		}
	}
	return s.setSubscription(ctx, who, root, func(tx *storage.Tx, before storage.ThreadSubscription, found bool) (storage.Subscription, error) {
		switch {
		case !found:
			return to, makeRoomForSubscription(tx, who.UserNID)
		case before.State == storage.SubscribedManually:
			return before.State, nil
		case before.State == storage.Unsubscribed && cause != nil && (cause.Pos <= before.Position || cause.Backfilled()):
			return 0, mxerr.New(http.StatusConflict, codeConflictingUnsubscription, "You unsubscribed from the thread after that event")
		}
		return to, nil
	})
}

// Unsubscribe ends a local user's subscription to the thread with the given root, if there is one.
// Spec: MSC4306
func (s *Service) Unsubscribe(ctx context.Context, who ident.Requester, root *rooms.Event) error {
	return s.setSubscription(ctx, who, root, func(*storage.Tx, storage.ThreadSubscription, bool) (storage.Subscription, error) {
		return storage.Unsubscribed, nil
	})
}

// Subscription returns an error if the local user is not subscribed to the thread with the given root. Otherwise it
// reports whether the subscription was made automatically.
// Spec: MSC4306
//
// Errors: M_NOT_FOUND.
func (s *Service) Subscription(ctx context.Context, who ident.Requester, root *rooms.Event) (automatic bool, err error) {
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

// setSubscription changes a user's subscription to a thread in one write: it passes the stored subscription to decide,
// and stores the state that decide returns. found is false if the user never subscribed to the thread.
func (s *Service) setSubscription(
	ctx context.Context, who ident.Requester, root *rooms.Event,
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
				s.commits.Deliver(&rooms.Commit{Subscriptions: []rooms.CommittedSubscription{{User: who.UserNID, Root: root.Pos}}})
			}
		},
	}
	return s.db.Enqueue(w).Wait(context.WithoutCancel(ctx))
}

// makeRoomForSubscription makes room for one more row of the user. If the user already has maxThreadSubscriptions rows,
// it deletes the oldest one that only records an unsubscription, and returns an error if there is none.
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
