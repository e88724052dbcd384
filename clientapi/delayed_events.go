package clientapi

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"time"

	"ebb/delayed"
	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/rooms"
)

// Names used by MSC4140.
const (
	delayedPrefix = "/_matrix/client/unstable/org.matrix.msc4140"
	delayParam    = "org.matrix.msc4140.delay"
)

func (a *API) delayedEventRoutes() []httpapi.Route {
	const list, one, action = "/delayed_events", "/delayed_events/{delayId}", "/delayed_events/{delayId}/{action}"
	route := func(method, path, operation string, auth httpapi.Auth, rate httpapi.Rate, h func(*httpapi.Request) (any, error)) httpapi.Route {
		return httpapi.Route{Method: method, Path: delayedPrefix + path, Aliases: []string{clientV1 + path}, OperationID: operation, Auth: auth, Rate: rate, Handler: h}
	}
	const schedule = "/rooms/{roomId}/delayed_event/{eventType}/{txnId}"
	return []httpapi.Route{
		{Method: "PUT", Path: delayedPrefix + schedule, Aliases: []string{clientV3 + schedule}, OperationID: "scheduleDelayedEvent", Auth: httpapi.User, Rate: httpapi.Sends, Acts: true, Handler: a.scheduleDelayedEvent},
		route("GET", list, "getDelayedEvents", httpapi.User, httpapi.Reads, a.getDelayedEvents),
		route("GET", one, "getDelayedEvent", httpapi.User, httpapi.Reads, a.getDelayedEvent),
		route("POST", one, "updateDelayedEvent", httpapi.Optional, httpapi.Heartbeats, a.updateDelayedEvent),
		route("POST", action, "manageDelayedEvent", httpapi.Optional, httpapi.Heartbeats, a.manageDelayedEvent),
	}
}

// maxDelayMillis is the longest delay that fits in a time.Duration.
const maxDelayMillis = math.MaxInt64 / int64(time.Millisecond)

// scheduleDelayedEvent schedules an event.
// Spec: MSC4140
func (a *API) scheduleDelayedEvent(r *httpapi.Request) (any, error) {
	var body struct {
		DelayMS  *int64          `json:"delay_ms"`
		Delay    *int64          `json:"delay"`
		StateKey *string         `json:"state_key"`
		Content  json.RawMessage `json:"content"`
	}
	err := r.Decode(&body)
	if body.DelayMS == nil {
		body.DelayMS = body.Delay
	}
	if err == nil && (body.DelayMS == nil || body.Content == nil) {
		err = missing("delay_ms or content")
	}
	e := delayed.Event{Type: r.Var("eventType"), StateKey: body.StateKey, Content: body.Content, ContentErr: err, Txn: txn(r)}
	if body.DelayMS != nil {
		e.Delay = time.Duration(min(*body.DelayMS, maxDelayMillis)) * time.Millisecond
	}
	answer, err := a.schedule(r, e)
	var tooLong *delayed.MaxDelayError
	if errors.As(err, &tooLong) {
		return nil, delayTooLong(tooLong, http.StatusForbidden, mxerr.CodeForbidden)
	}
	return answer, err
}

// schedule completes an event with values from the request and schedules it.
func (a *API) schedule(r *httpapi.Request, e delayed.Event) (any, error) {
	var err error
	if e.Timestamp, err = timestamp(r); err != nil {
		return nil, err
	}
	if e.StickyMS, err = stickyMS(r); err != nil {
		return nil, err
	}
	e.Room, e.Sender = roomID(r), r.Requester
	delayID, err := a.Delayed.Schedule(r.Context(), e)
	if err != nil {
		return nil, err
	}
	return map[string]string{"delay_id": delayID}, nil
}

// scheduleSend handles requests to the operations that normally send an event at once, if a query parameter asks for a
// delay.
func (a *API) scheduleSend(r *httpapi.Request, n rooms.NewEvent) (any, error) {
	delay, err := r.QueryInt(delayParam, 0, 1, maxDelayMillis)
	if err != nil {
		return nil, err
	}
	e := delayed.Event{Type: r.Var("eventType"), StateKey: n.StateKey, Txn: n.Txn, Delay: time.Duration(delay) * time.Millisecond}
	e.ContentErr = r.Decode(&e.Content)
	answer, err := a.schedule(r, e)
	var tooLong *delayed.MaxDelayError
	if errors.As(err, &tooLong) { // matrix-js-sdk understands only this form
		return nil, delayTooLong(tooLong, http.StatusBadRequest, mxerr.CodeUnknown)
	}
	return answer, err
}

// delayTooLong returns the error for a delay that is longer than allowed.
func delayTooLong(e *delayed.MaxDelayError, status int, code string) error {
	return mxerr.New(status, code, "The delay must not be longer than %s", e.Max).
		With("org.matrix.msc4140.errcode", "M_MAX_DELAY_EXCEEDED").With("org.matrix.msc4140.max_delay", e.Max.Milliseconds())
}

// getDelayedEvents returns the user's scheduled delayed events, or those that were sent or cancelled. For clients of
// earlier drafts of the proposal, the response contains the list a second time, in a field with the name of the status.
// Spec: MSC4140
func (a *API) getDelayedEvents(r *httpapi.Request) (any, error) {
	status := r.Query("status")
	if status != "" && status != "scheduled" && status != "finalised" {
		return nil, mxerr.InvalidParam("status must be scheduled or finalised")
	}
	list, err := a.Delayed.List(r.Context(), r.UserNID, status == "finalised")
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = []delayed.Item{}
	}
	answer := map[string]any{"delayed_events": list}
	switch status {
	case "finalised":
		answer["finalised"] = finalised(list)
	default:
		answer["scheduled"] = list
	}
	return answer, nil
}

// finalised returns events that were sent or cancelled, in the format of earlier drafts.
func finalised(list []delayed.Item) []map[string]any {
	out := make([]map[string]any, 0, len(list))
	for _, item := range list {
		entry := map[string]any{"delayed_event": item, "outcome": "cancel", "reason": "action", "origin_server_ts": item.FinalisedTS}
		switch {
		case item.Error != nil:
			entry["reason"], entry["error"] = "error", item.Error
		case item.EventID != "":
			entry["outcome"], entry["event_id"] = "send", item.EventID
			if item.FinalisedTS >= item.ScheduledAt+item.Delay {
				entry["reason"] = "delay"
			}
		}
		out = append(out, entry)
	}
	return out
}

// getDelayedEvent returns one delayed event of the user.
// Spec: MSC4140
func (a *API) getDelayedEvent(r *httpapi.Request) (any, error) {
	item, err := a.Delayed.Get(r.Context(), r.UserNID, r.Var("delayId"))
	if err != nil {
		return nil, err
	}
	return item, nil
}

// updateDelayedEvent cancels, restarts or sends a delayed event, as the field action of the body demands. The delay ID
// is sufficient, because a service that watches a call has no access token.
// Spec: MSC4140 (earlier drafts)
func (a *API) updateDelayedEvent(r *httpapi.Request) (any, error) {
	var body struct {
		Action *string `json:"action"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Action == nil {
		return nil, missing("action")
	}
	if act := a.delayedAction(*body.Action); act != nil {
		return act(r)
	}
	return nil, mxerr.InvalidParam("action must be one of cancel, restart, send")
}

// manageDelayedEvent cancels, restarts or sends a delayed event, as the last segment of the path demands.
// Spec: MSC4140
func (a *API) manageDelayedEvent(r *httpapi.Request) (any, error) {
	act := a.delayedAction(r.Var("action"))
	if act == nil {
		return nil, mxerr.Unrecognized()
	}
	return act(r)
}

// delayedAction returns the handler for the action with the given name, or nil if there is no such action.
func (a *API) delayedAction(name string) func(*httpapi.Request) (any, error) {
	switch name {
	case "cancel":
		return func(r *httpapi.Request) (any, error) { return nil, a.Delayed.Cancel(r.Context(), r.Var("delayId")) }
	case "restart":
		return func(r *httpapi.Request) (any, error) { return nil, a.Delayed.Restart(r.Context(), r.Var("delayId")) }
	case "send":
		return func(r *httpapi.Request) (any, error) { return nil, a.Delayed.Send(r.Context(), r.Var("delayId")) }
	}
	return nil
}
