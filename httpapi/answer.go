package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"ebb/mxerr"
)

// answer writes the value or error that a handler returned.
func (s *Server) answer(w http.ResponseWriter, r *Request, v any, err error) {
	if err != nil {
		s.writeError(w, r, err)
		return
	}
	switch a := v.(type) {
	case Stream:
		a(w, r.Request)
	case Raw:
		s.write(w, r, a)
	case json.RawMessage:
		s.write(w, r, Raw{Body: a})
	case nil:
		writeRaw(w, Raw{Body: []byte("{}")})
	default:
		body, err := json.Marshal(v)
		if err != nil {
			s.writeError(w, r, err)
			return
		}
		s.write(w, r, Raw{Body: body})
	}
}

func writeRaw(w http.ResponseWriter, a Raw) {
	h := w.Header()
	maps.Copy(h, a.Header)
	if a.ContentType == "" {
		a.ContentType = "application/json"
	}
	h["Content-Type"] = []string{a.ContentType}
	h["Content-Length"] = []string{strconv.Itoa(len(a.Body))}
	if a.Status == 0 {
		a.Status = http.StatusOK
	}
	w.WriteHeader(a.Status)
	for part := range slices.Chunk(a.Body, writeChunk) { // the deadline is extended for each chunk
		if _, err := w.Write(part); err != nil {
			return // the peer has disconnected
		}
	}
}

// writeChunk is how many bytes of an answer are written at a time.
const writeChunk = 64 << 10

// write writes an answer that is held in memory. If the memory bound for answers has no room for it, write sends an
// error instead.
func (s *Server) write(w http.ResponseWriter, r *Request, a Raw) {
	n := int64(len(a.Body))
	if !r.holdAnswer(n) {
		s.writeError(w, r, mxerr.LimitExceeded(memoryPause))
		return
	}
	if n <= smallAnswer {
		writeRaw(w, a)
		return
	}
	if rec, ok := w.(*recorder); ok {
		rec.held = true
	}
	writeRaw(w, a)
}

// statusClientClosed is logged for a request that its client abandoned. Nobody receives it. HTTP defines no status for
// this; other servers use the same one.
const statusClientClosed = 499

// abandoned reports whether a request failed because its client closed the connection.
func abandoned(r *Request, err error) bool {
	gone := r.Context().Err() != nil
	return errors.Is(err, errHungUp) || gone && (errors.Is(err, context.Canceled) || errors.Is(err, errBody))
}

// relayedCode stands for the error codes of other servers in metrics: every code makes a metric that stays in memory,
// and another server could return a new one each time.
const relayedCode = "relayed"

// writeError is the only place that decides how an error is presented to clients. An error that is not an mxerr.Error
// becomes a 500 response with a neutral text; its cause is logged once with the request ID.
func (s *Server) writeError(w http.ResponseWriter, r *Request, err error) {
	r.releaseAnswer()
	if abandoned(r, err) {
		w.WriteHeader(statusClientClosed)
		return
	}
	var e *mxerr.Error
	if !errors.As(err, &e) {
		e = s.opt.Unknown(err)
	}
	if r.errcode = e.Code; e.Relays {
		r.errcode = relayedCode
	}
	level, what := faultLevel(e.Status)
	s.opt.Log.Log(r.Context(), level, what, "operation", r.route.OperationID, "err", err)
	if after, ok := e.Extra["retry_after_ms"].(int64); ok {
		w.Header().Set("Retry-After", strconv.FormatInt((after+999)/1000, 10))
	}
	if r.route.Page {
		writeRaw(w, Raw{Status: e.Status, ContentType: HTML, Body: errorHTML(e, r.Nonce)})
		return
	}
	body := errorBody
	if r.route.ErrorBody != nil {
		body = r.route.ErrorBody
	}
	writeRaw(w, Raw{Status: e.Status, Body: body(e)})
}

// faultLevel returns the log level and the message for an error with a status. Only this server's own faults are logged
// as errors, because anybody can cause a request to another server to fail by naming that server.
func faultLevel(status int) (level slog.Level, what string) {
	switch {
	case status < http.StatusInternalServerError:
		return slog.LevelDebug, "request refused"
	case status == http.StatusBadGateway, status == http.StatusGatewayTimeout:
		return slog.LevelInfo, "another server failed"
	}
	return slog.LevelError, "request failed"
}

func errorBody(e *mxerr.Error) []byte {
	members := map[string]any{}
	maps.Copy(members, e.Extra)
	if e.Code != "" { // the first response of user-interactive authentication has no code
		members["errcode"], members["error"] = e.Code, e.Msg
	}
	body, err := json.Marshal(members)
	if err != nil {
		return []byte(`{"errcode":"M_UNKNOWN","error":"Internal server error"}`)
	}
	return body
}

// cors sets the headers that allow browsers on any origin to read the response. Errors and preflights need them too.
// Spec: client-server-api#web-browser-clients
func cors(h http.Header) {
	h["Access-Control-Allow-Origin"] = corsOrigin
	h["Access-Control-Allow-Methods"] = corsMethods
	h["Access-Control-Allow-Headers"] = corsHeaders
	h["Access-Control-Expose-Headers"] = corsExpose
}

var (
	corsOrigin  = []string{"*"}
	corsMethods = []string{"GET, POST, PUT, DELETE, OPTIONS"}
	corsHeaders = []string{"X-Requested-With, Content-Type, Authorization, Date, If-Match, If-None-Match"} // the last two are for MSC4108
	corsExpose  = []string{"Retry-After, X-Request-Id"}
)
