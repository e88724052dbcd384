package crash

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"testing"

	"ebb/test/process"
)

// observer follows /sync over all restarts as a client does, with the token of the last response that it received.
type observer struct {
	client   *process.Client
	since    string
	failure  error               // a response with a status other than 200
	events   map[string][]string // event IDs by room, in order of arrival
	toDevice []string            // markers of the messages
}

// wide makes every timeline complete, because the limit exceeds the number of events between two responses.
const wide = `{"room":{"timeline":{"limit":1000}},"presence":{"not_types":["*"]}}`

func newObserver(t *testing.T, c *process.Client) *observer {
	t.Helper()
	o := &observer{client: c, events: map[string][]string{}}
	if err := o.once(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	return o
}

// follow syncs until there is no response.
func (o *observer) follow(ctx context.Context) {
	for o.failure == nil {
		if err := o.once(ctx, 1000); err != nil {
			return
		}
	}
}

// once sends one request and records the response.
func (o *observer) once(ctx context.Context, timeout int) error {
	query := url.Values{"timeout": {strconv.Itoa(timeout)}, "filter": {wide}}
	if o.since != "" {
		query.Set("since", o.since)
	}
	status, answer, err := o.client.Do(ctx, http.MethodGet, process.Path("sync")+"?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		o.failure = fmt.Errorf("/sync since %q: %d %v", o.since, status, answer)
		return o.failure
	}
	for room, joined := range objects(process.At(answer, "rooms", "join")) {
		if limited, _ := process.At(joined, "timeline", "limited").(bool); limited && o.since != "" {
			o.failure = fmt.Errorf("the timeline since %q is limited", o.since)
			return o.failure
		}
		for _, e := range process.List(joined, "timeline", "events") {
			o.events[room] = append(o.events[room], process.Text(e, "event_id"))
		}
	}
	for _, m := range process.List(answer, "to_device", "events") {
		o.toDevice = append(o.toDevice, process.Text(m, "content", "marker"))
	}
	o.since = process.Text(answer, "next_batch")
	return nil
}

// catchUp syncs until there are no new events.
func (o *observer) catchUp(t *testing.T) {
	t.Helper()
	for range 100 {
		before := o.since
		if err := o.once(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		if o.since == before {
			return
		}
	}
	t.Fatal("/sync never comes to an end")
}

func objects(value any) process.Object {
	object, _ := value.(process.Object)
	return object
}
