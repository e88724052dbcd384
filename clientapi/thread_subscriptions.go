package clientapi

import (
	"maunium.net/go/mautrix/id"

	"ebb/feed"
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/rooms"
)

// Paths of MSC4306 and MSC4308.
const (
	threadSubscriptionPath = "/_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription"
	subscribedThreadsPath  = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions"
)

func (a *API) threadSubscriptionRoutes() []httpapi.Route {
	return []httpapi.Route{
		{Method: "PUT", Path: threadSubscriptionPath, OperationID: "subscribeToThread", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.subscribeToThread},
		{Method: "DELETE", Path: threadSubscriptionPath, OperationID: "unsubscribeFromThread", Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.unsubscribeFromThread},
		{Method: "GET", Path: threadSubscriptionPath, OperationID: "getThreadSubscription", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getThreadSubscription},
		{Method: "GET", Path: subscribedThreadsPath, OperationID: "getThreadSubscriptions", Auth: httpapi.User, Rate: httpapi.Reads, Handler: a.getThreadSubscriptions},
	}
}

// threadRoot returns the root of the thread in the path, if the user may see it.
func (a *API) threadRoot(r *httpapi.Request) (*rooms.Event, error) {
	return a.History.VisibleEvent(r.Context(), roomID(r), eventID(r), r.Requester)
}

// subscribeToThread subscribes the user to a thread. The subscription is automatic if the body names an event as its
// cause.
// Spec: MSC4306
func (a *API) subscribeToThread(r *httpapi.Request) (any, error) {
	var body struct {
		Automatic *id.EventID `json:"automatic"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	root, err := a.threadRoot(r)
	if err != nil {
		return nil, err
	}
	var cause *rooms.Event
	if body.Automatic != nil {
		if cause, err = a.History.VisibleEvent(r.Context(), roomID(r), *body.Automatic, r.Requester); err != nil {
			return nil, err
		}
	}
	return nil, a.AccountData.Subscribe(r.Context(), r.Requester, root, cause)
}

// unsubscribeFromThread ends the user's subscription to a thread.
// Spec: MSC4306
func (a *API) unsubscribeFromThread(r *httpapi.Request) (any, error) {
	root, err := a.threadRoot(r)
	if err != nil {
		return nil, err
	}
	return nil, a.AccountData.Unsubscribe(r.Context(), r.Requester, root)
}

// getThreadSubscription returns the user's subscription to a thread.
// Spec: MSC4306
func (a *API) getThreadSubscription(r *httpapi.Request) (any, error) {
	root, err := a.threadRoot(r)
	if err != nil {
		return nil, err
	}
	automatic, err := a.AccountData.Subscription(r.Context(), r.Requester, root)
	return map[string]bool{"automatic": automatic}, err
}

// getThreadSubscriptions returns a page of the user's changed thread subscriptions, the newest first.
// Spec: MSC4308
func (a *API) getThreadSubscriptions(r *httpapi.Request) (any, error) {
	if r.Query("dir") != "b" {
		return nil, mxerr.InvalidParam("dir must be b")
	}
	limit, err := r.QueryInt("limit", feed.DefaultThreadSubscriptions, 1, feed.MaxThreadSubscriptions)
	if err != nil {
		return nil, err
	}
	page, end, err := a.Feed.ThreadSubscriptionsPage(r.Context(), r.Requester, r.Query("from"), r.Query("to"), int(limit))
	if err != nil {
		return nil, err
	}
	return struct {
		feed.ThreadSubscriptions
		End string `json:"end,omitempty"`
	}{page, end}, nil
}
