package feed

import (
	"context"
	"strconv"
	"strings"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Numbers of thread subscriptions in a response (MSC4308).
const (
	DefaultThreadSubscriptions = 100
	MaxThreadSubscriptions     = 500
)

// ThreadSubscriptions are the subscriptions of a user that changed in a part of the stream, by room and by the event ID
// of the thread's root.
type ThreadSubscriptions struct {
	Subscribed   map[string]map[string]ThreadSubscription `json:"subscribed,omitempty"`
	Unsubscribed map[string]map[string]ThreadSubscription `json:"unsubscribed,omitempty"`
	// Earlier is the position up to which the changes are missing, because there were more than the limit; 0: none are.
	Earlier storage.Pos `json:"-"`
}

// ThreadSubscription is a subscription as clients see it.
type ThreadSubscription struct {
	Automatic *bool       `json:"automatic,omitempty"` // nil if the user unsubscribed
	BumpStamp storage.Pos `json:"bump_stamp"`
}

// threadSubscriptions returns the subscriptions of a user that changed in (since, upTo]. If there are more than limit,
// it returns the newest ones. It leaves out threads whose root has expired.
func (s *Service) threadSubscriptions(ctx context.Context, tx *storage.Tx, user ident.UserNID, since, upTo storage.Pos, limit int) (out ThreadSubscriptions, err error) {
	rows, err := tx.ThreadSubscriptions(user, since, upTo, limit+1)
	if err != nil {
		return out, err
	}
	refs := make([]storage.EventRef, len(rows))
	for i, row := range rows {
		refs[i] = storage.EventRef{Room: row.Room, EventID: row.Root}
	}
	gone, err := s.opts.Rooms.GoneEvents(ctx, tx, refs)
	if err != nil {
		return out, err
	}
	if len(rows) > limit {
		rows = rows[:limit]
		out.Earlier = rows[limit-1].Position - 1
	}
	for i, row := range rows {
		if gone[refs[i]] {
			continue
		}
		change, list := ThreadSubscription{BumpStamp: row.Position}, &out.Unsubscribed
		if row.State != storage.Unsubscribed {
			automatic := row.State == storage.SubscribedAutomatically
			change.Automatic, list = &automatic, &out.Subscribed
		}
		if *list == nil {
			*list = map[string]map[string]ThreadSubscription{}
		}
		if (*list)[row.RoomID] == nil {
			(*list)[row.RoomID] = map[string]ThreadSubscription{}
		}
		(*list)[row.RoomID][row.Root] = change
	}
	return out, nil
}

// ThreadSubscriptionsPage returns the subscriptions of a user that changed between two tokens, the newest first. from
// is where to begin, "" for the end of the stream; to is where to stop, "" for its beginning. end is where the next
// page begins, "" if there is none.
// Spec: MSC4308
//
// Errors: M_INVALID_PARAM.
func (s *Service) ThreadSubscriptionsPage(ctx context.Context, who ident.Requester, from, to string, limit int) (page ThreadSubscriptions, end string, err error) {
	upTo := s.opts.DB.Announced()
	if from != "" {
		pos, err := s.parseThreadToken(from)
		if err != nil {
			return page, "", err
		}
		upTo = min(upTo, pos)
	}
	var since storage.Pos
	if to != "" {
		if since, err = s.parseThreadToken(to); err != nil {
			return page, "", err
		}
	}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		page, err = s.threadSubscriptions(ctx, tx, who.UserNID, since, upTo, limit)
		return err
	})
	if page.Earlier > 0 {
		end = threadToken(page.Earlier)
	}
	return page, end, err
}

const threadTokenPrefix = "th1_"

// threadToken returns a token for a position in pages of thread subscriptions.
func threadToken(p storage.Pos) string {
	return threadTokenPrefix + strconv.FormatInt(int64(p), 10)
}

// parseThreadToken parses a token of threadToken, one of /sync or one of sliding sync.
func (s *Service) parseThreadToken(text string) (storage.Pos, error) {
	if p, err := parseSlidingPos(text); err == nil {
		return min(p.Pos, s.opts.DB.Settled()), nil
	}
	rest, ok := strings.CutPrefix(text, threadTokenPrefix)
	if !ok {
		t, err := s.parseSince(text)
		return t.Pos, err
	}
	n, err := strconv.ParseInt(rest, 10, 64)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != rest {
		return 0, mxerr.InvalidParam("That is not a token for thread subscriptions")
	}
	return storage.Pos(n), nil
}
