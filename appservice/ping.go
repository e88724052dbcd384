package appservice

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"time"

	"ebb/mxerr"
)

// maxPingTime bounds a ping.
const maxPingTime = 30 * time.Second

// Ping sends a ping to an application service and returns how long the answer took.
// Spec: client-server-api#post_matrixclientv1appserviceappserviceidping
//
// Errors: M_NOT_FOUND, M_URL_NOT_SET, M_CONNECTION_FAILED, M_CONNECTION_TIMEOUT, M_BAD_STATUS.
func (r *Registry) Ping(ctx context.Context, service, txnID string) (time.Duration, error) {
	a := r.apps.Load().byID[service]
	if a == nil {
		return 0, mxerr.NotFound("No application service with the ID %.100q is registered", service)
	}
	body := map[string]string{}
	if txnID != "" {
		body["transaction_id"] = txnID
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, maxPingTime)
	defer cancel()
	began := time.Now()
	_, err = r.do(ctx, a, call{method: "POST", path: "/_matrix/app/v1/ping", body: raw})
	return time.Since(began), pingError(err)
}

// pingError returns the specification's error for a failed ping.
func pingError(err error) error {
	var refused *statusError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errNoURL):
		return mxerr.New(http.StatusBadRequest, mxerr.CodeURLNotSet, "The registration of the application service has no url")
	case errors.As(err, &refused):
		return mxerr.New(http.StatusBadGateway, mxerr.CodeBadStatus, "The ping returned status %d", refused.status).
			With("status", refused.status).With("body", string(refused.body[:min(len(refused.body), maxPingBody)]))
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return mxerr.New(http.StatusGatewayTimeout, mxerr.CodeConnectionTimeout, "The application service did not answer in time").Because(err)
	}
	return mxerr.New(http.StatusBadGateway, mxerr.CodeConnectionFailed, "The application service cannot be reached").Because(err)
}

// maxPingBody bounds how many bytes of the answer to a failed ping are passed on.
const maxPingBody = 4096

// Status describes an application service and the state of deliveries to it.
type Status struct {
	ID           string     `json:"id"`
	URL          string     `json:"url"`
	Sender       string     `json:"sender"`
	File         string     `json:"file"`
	Waiting      int        `json:"waiting"` // undelivered events in memory
	Behind       bool       `json:"behind"`  // whether there may be more in the database
	Failures     int64      `json:"failures"`
	FailingSince *time.Time `json:"failing_since"` // nil while deliveries succeed
	Retry        *time.Time `json:"retry"`         // time of the next attempt; nil while deliveries succeed
	Reached      *time.Time `json:"reached"`       // when a transaction was last confirmed; nil if none was
}

// List returns the application services in the order of the configuration.
func (s *Service) List() []Status {
	out := []Status{}
	for _, a := range s.all() {
		st := Status{ID: a.ID, URL: a.URL, Sender: string(a.sender), File: a.File}
		if w := s.workerOf(a.ID); w != nil {
			w.describe(&st)
		}
		out = append(out, st)
	}
	return out
}

func (w *worker) describe(st *Status) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st.Waiting, st.Behind, st.Failures = len(w.queue), w.behind, w.row.Failures
	st.Reached = timeOf(w.row.ReachedTS)
	if w.row.Txn != "" {
		st.Waiting++
	}
	if w.row.Failures > 0 {
		st.FailingSince, st.Retry = timeOf(w.row.FailingTS), timeOf(w.row.RetryTS)
	}
}

func timeOf(ms int64) *time.Time {
	if ms == 0 {
		return nil
	}
	t := time.UnixMilli(ms)
	return &t
}
