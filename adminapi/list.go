package adminapi

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/history"
	"ebb/ident"
	"ebb/moderation"
	"ebb/mxerr"
)

// maxListPage is the maximum length of a page. A room may have several state events of 64 KiB that describe it, so a
// page has at most about 30 MiB.
const maxListPage = 100

// ListArgs are the arguments of commands that return lists.
type ListArgs struct {
	After string `json:"after,omitempty"` // Next of the previous page, or "" for the first page
	Limit int    `json:"limit,omitempty"` // 0 and values above maxListPage mean maxListPage
}

// Page is one page of a list. The next page starts after the key of the last item, so items that are added or removed
// between two requests cause no repetitions or gaps.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"` // After of the next page, or "" if this is the last page
}

// pageOf returns the page for args. It reads one extra row to find out whether there is another page.
func pageOf[Row, T any](args ListArgs, read func(limit int) ([]Row, error), key func(Row) string, item func(Row) T) (Page[T], error) {
	if args.Limit < 0 {
		return Page[T]{}, mxerr.InvalidParam("limit must not be negative")
	}
	limit := min(args.Limit, maxListPage)
	if limit == 0 {
		limit = maxListPage
	}
	rows, err := read(limit + 1)
	if err != nil {
		return Page[T]{}, err
	}
	var page Page[T]
	if len(rows) > limit {
		rows = rows[:limit]
		page.Next = key(rows[limit-1])
	}
	page.Items = make([]T, len(rows))
	for i, row := range rows {
		page.Items[i] = item(row)
	}
	return page, nil
}

func badAfter() error { return mxerr.InvalidParam("after must be the next of an earlier page") }

// userList lists accounts, ordered by localpart.
func (a *API) userList(ctx context.Context, args ListArgs) (any, error) {
	read := func(limit int) ([]accounts.Account, error) { return a.Accounts.List(ctx, args.After, limit) }
	key := func(u accounts.Account) string { return u.User.Localpart() }
	return pageOf(args, read, key, func(u accounts.Account) User { return User(u) })
}

// tokenList lists registration tokens, oldest first. The key of an item is its creation time, a dot and the token.
func (a *API) tokenList(ctx context.Context, args ListArgs) (any, error) {
	var after accounts.RegistrationToken
	if args.After != "" {
		created, token, _ := strings.Cut(args.After, ".")
		ms, err := strconv.ParseInt(created, 10, 64)
		if err != nil {
			return nil, badAfter()
		}
		after.Created, after.Token = time.UnixMilli(ms), token
	}
	read := func(limit int) ([]accounts.RegistrationToken, error) { return a.Accounts.ListTokens(ctx, after, limit) }
	key := func(t accounts.RegistrationToken) string { return fmt.Sprintf("%d.%s", t.Created.UnixMilli(), t.Token) }
	return pageOf(args, read, key, tokenOf)
}

// roomList lists rooms in the order in which they were added to the database.
func (a *API) roomList(ctx context.Context, args ListArgs) (any, error) {
	after, err := numberAfter(args)
	if err != nil {
		return nil, err
	}
	read := func(limit int) ([]history.Details, error) {
		return a.History.ListRooms(ctx, ident.RoomNID(after), limit)
	}
	key := func(r history.Details) string { return strconv.FormatInt(int64(r.NID), 10) }
	return pageOf(args, read, key, roomOf)
}

// numberAfter returns args.After as a number, for lists whose keys are numbers.
func numberAfter(args ListArgs) (int64, error) {
	if args.After == "" {
		return 0, nil
	}
	nid, err := strconv.ParseInt(args.After, 10, 64)
	if err != nil {
		return 0, badAfter()
	}
	return nid, nil
}

// Report describes a report in the result of the command "report list".
type Report struct {
	Reporter id.UserID         `json:"reporter"`
	Time     time.Time         `json:"time"`
	Room     id.RoomID         `json:"room,omitempty"`
	Event    id.EventID        `json:"event,omitempty"`
	User     id.UserID         `json:"user,omitempty"`
	Reason   string            `json:"reason"`
	Profile  json.RawMessage   `json:"profile,omitempty"` // profile of a reported local user at the time of the report
	Content  []json.RawMessage `json:"content,omitempty"` // the reported events, unless they were purged or have expired
}

// reportList lists reports, oldest first.
func (a *API) reportList(ctx context.Context, args ListArgs) (any, error) {
	after, err := numberAfter(args)
	if err != nil {
		return nil, err
	}
	read := func(limit int) ([]moderation.Report, error) { return a.Moderation.Reports(ctx, after, limit) }
	key := func(r moderation.Report) string { return strconv.FormatInt(r.NID, 10) }
	return pageOf(args, read, key, func(r moderation.Report) Report {
		return Report{Reporter: r.Reporter, Time: r.Time, Room: r.Room, Event: r.Event, User: r.User, Reason: r.Reason, Profile: r.Profile, Content: r.Content}
	})
}
