package appservice

import (
	"bytes"
	"encoding/json"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/history"
	"ebb/ident"
	"ebb/rooms"
)

// maxEphemeral bounds the ephemeral events that wait for one application service; the oldest are dropped.
const maxEphemeral = 500

// volatile holds the news that waits to be sent to an application service and that a restart may lose. worker.mu guards
// it.
type volatile struct {
	ephemeral []ephemeralEvent
	anyNews   bool                   // whether there may be news about devices
	noted     map[ident.UserNID]bool // local users with news
}

// ephemeralEvent is an ephemeral event that waits to be sent. A newer event with the same key replaces it.
type ephemeralEvent struct {
	key  string
	json json.RawMessage
}

// addEphemeral queues an ephemeral event. It does nothing while the application service does not answer, because the
// event would be outdated by the time of its delivery.
func (w *worker) addEphemeral(key string, event json.RawMessage) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.row.Failures > 0 {
		return false
	}
	w.ephemeral = slices.DeleteFunc(w.ephemeral, func(e ephemeralEvent) bool { return e.key == key })
	if len(w.ephemeral) >= maxEphemeral {
		w.ephemeral = w.ephemeral[1:]
	}
	w.ephemeral = append(w.ephemeral, ephemeralEvent{key, event})
	return true
}

// takeEphemeral removes the waiting ephemeral events and returns them.
func (w *worker) takeEphemeral() []ephemeralEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.ephemeral
	w.ephemeral = nil
	return out
}

// noteReceipts queues the receipts of a commit, and reports whether there are any. A private receipt goes only to the
// application service that owns the user.
// Spec: application-service-api#pushing-ephemeral-data
func (w *worker) noteReceipts(a *app, known *interest, c *rooms.Commit) (any bool) {
	if !a.Ephemeral || len(c.Receipts) == 0 || c.Room == nil || !a.concerns(known, c.Room) {
		return false
	}
	for i := range c.Receipts {
		r := &c.Receipts[i]
		if r.Type == rooms.PrivateReadReceipt && !(r.Local && a.owns(r.User)) {
			continue
		}
		key := "receipt\x00" + string(c.Room.ID()) + "\x00" + string(r.User) + "\x00" + r.Type + "\x00" + r.Thread
		any = w.addEphemeral(key, receiptEvent(c.Room, r)) || any
	}
	return any
}

// receiptEvent returns an m.receipt event with one receipt.
func receiptEvent(room *rooms.Room, r *rooms.CommittedReceipt) json.RawMessage {
	receipt := map[string]any{"ts": r.TS}
	if r.Thread != "" {
		receipt["thread_id"] = r.Thread
	}
	raw, _ := json.Marshal(map[string]any{ // strings and numbers always encode
		"type": "m.receipt", "room_id": room.ID(),
		"content": map[string]any{string(r.Event): map[string]any{r.Type: map[string]any{string(r.User): receipt}}},
	})
	return raw
}

// Typing queues an m.typing event for the application services that the room concerns. event is in the form for
// clients.
func (s *Service) Typing(room *rooms.Room, event []byte) {
	for _, w := range s.working() {
		if a := w.app.Load(); a.Ephemeral && a.concernsNow(w.known.Load(), room) {
			raw := canonjson.AppendString([]byte(`{"room_id":`), string(room.ID()))
			raw = append(append(raw, ','), bytes.TrimPrefix(event, []byte("{"))...)
			if w.addEphemeral("typing\x00"+string(room.ID()), raw) {
				w.signal()
			}
		}
	}
}

// PresenceWanted reports whether any application service receives presence.
func (s *Service) PresenceWanted() bool {
	return slices.ContainsFunc(s.working(), func(w *worker) bool { return w.app.Load().Ephemeral })
}

// Presence queues an m.presence event for each application service that has the user in its namespaces or shares a room
// with the user. shared holds the user's rooms.
func (s *Service) Presence(user id.UserID, shared []*rooms.Room, event []byte) {
	for _, w := range s.working() {
		a := w.app.Load()
		if !a.Ephemeral {
			continue
		}
		known := w.known.Load()
		if a.owns(user) || slices.ContainsFunc(shared, func(r *rooms.Room) bool { return a.concernsNow(known, r) }) {
			if w.addEphemeral("presence\x00"+string(user), event) {
				w.signal()
			}
		}
	}
}

// body returns the body of a transaction. oldNames is set if the registration asks for ephemeral events under their
// unstable name.
// Spec: application-service-api#put_matrixappv1transactionstxnid, MSC4203, MSC3202
func body(events []history.AppEvent, ephemeral []ephemeralEvent, news deviceNews, oldNames bool) []byte {
	size := 0
	for _, e := range events {
		size += len(e.JSON) + 1
	}
	b := append(make([]byte, 0, size+256), `{"events":[`...)
	for i, e := range events {
		b = append(appendComma(b, i), e.JSON...)
	}
	b = append(b, ']')
	if len(ephemeral) > 0 {
		list := make([]json.RawMessage, len(ephemeral))
		for i, e := range ephemeral {
			list[i] = e.json
		}
		names := []string{"ephemeral"}
		if oldNames {
			names = append(names, "de.sorunome.msc2409.ephemeral")
		}
		b = appendMember(b, list, names...)
	}
	return append(news.append(b), '}')
}

func appendComma(b []byte, i int) []byte {
	if i > 0 {
		return append(b, ',')
	}
	return b
}

// appendMember appends a field to a JSON object, once under each of the given names.
func appendMember(b []byte, value any, names ...string) []byte {
	raw, err := json.Marshal(value)
	if err != nil { // all values are valid JSON
		return b
	}
	for _, name := range names {
		b = canonjson.AppendString(append(b, ','), name)
		b = append(append(b, ':'), raw...)
	}
	return b
}
