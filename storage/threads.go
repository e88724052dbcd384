package storage

import "ebb/ident"

// Subscription says whether a user is subscribed to a thread, and if so, how that came about.
type Subscription int64

// The states of a subscription. A row with Unsubscribed records when the user unsubscribed.
const (
	Unsubscribed Subscription = iota
	SubscribedManually
	SubscribedAutomatically
)

// ThreadSubscription is a user's subscription to a thread as it was last changed.
type ThreadSubscription struct {
	Room     ident.RoomNID
	RoomID   string
	Root     string // the event ID of the thread's root
	State    Subscription
	Position Pos // of the last change
}

const threadSubscriptionQuery = `SELECT state, position FROM thread_subscriptions WHERE user_nid = $1 AND root = $2`

// ThreadSubscription returns a user's subscription to the thread with the given root. It returns false if the user
// never subscribed to it.
func (tx *Tx) ThreadSubscription(user ident.UserNID, root Pos) (ThreadSubscription, bool, error) {
	return one(tx, func(r Row) (s ThreadSubscription, err error) {
		var state int64
		err = r.Scan(&state, &s.Position)
		s.State = Subscription(state)
		return s, err
	}, threadSubscriptionQuery, int64(user), int64(root))
}

const setThreadSubscriptionQuery = `INSERT INTO thread_subscriptions (user_nid, root, room_nid, state, position) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (user_nid, root) DO UPDATE SET state = excluded.state, position = excluded.position`

// SetThreadSubscription stores a user's subscription to the thread with the given root.
func (tx *Tx) SetThreadSubscription(user ident.UserNID, room ident.RoomNID, root Pos, state Subscription) error {
	_, err := tx.exec(setThreadSubscriptionQuery, int64(user), int64(root), int64(room), int64(state), int64(tx.NextPos()))
	return err
}

// ThreadSubscriptionCount counts the threads to which a user is subscribed or was subscribed before.
func (tx *Tx) ThreadSubscriptionCount(user ident.UserNID) (int64, error) {
	n, _, err := one(tx, scanNumber[int64], `SELECT count(*) FROM thread_subscriptions WHERE user_nid = $1`, int64(user))
	return n, err
}

const forgetUnsubscribedQuery = `DELETE FROM thread_subscriptions WHERE user_nid = $1 AND root IN (
    SELECT root FROM thread_subscriptions WHERE user_nid = $1 AND state = 0 ORDER BY position LIMIT $2)`

// ForgetUnsubscribed deletes at most limit rows of a user that only record that the user unsubscribed from a thread,
// oldest first. It returns the number of rows deleted.
func (tx *Tx) ForgetUnsubscribed(user ident.UserNID, limit int) (int64, error) {
	return tx.exec(forgetUnsubscribedQuery, int64(user), limit)
}

const threadSubscriptionsQuery = `SELECT t.room_nid, r.room_id, e.event_id, t.state, t.position FROM thread_subscriptions t
JOIN rooms r ON r.nid = t.room_nid JOIN events e ON e.position = t.root
WHERE t.user_nid = $1 AND t.position > $2 AND t.position <= $3 ORDER BY t.position DESC LIMIT $4`

// ThreadSubscriptions lists the subscriptions of a user that last changed in (since, upTo], the newest first. It uses
// the index thread_subscriptions_by_position.
func (tx *Tx) ThreadSubscriptions(user ident.UserNID, since, upTo Pos, limit int) ([]ThreadSubscription, error) {
	return collect(tx, func(r Row) (s ThreadSubscription, err error) {
		var state int64
		err = r.Scan(&s.Room, &s.RoomID, &s.Root, &state, &s.Position)
		s.State = Subscription(state)
		return s, err
	}, threadSubscriptionsQuery, int64(user), int64(since), int64(upTo), limit)
}

const threadSubscribersQuery = `SELECT user_nid FROM thread_subscriptions WHERE root = $1 AND state <> 0`

// ThreadSubscribers lists the local users who are subscribed to the thread with a root. It uses the index
// thread_subscriptions_by_root.
func (tx *Tx) ThreadSubscribers(root Pos) ([]ident.UserNID, error) {
	return collect(tx, scanNumber[ident.UserNID], threadSubscribersQuery, int64(root))
}
