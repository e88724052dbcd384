package fedclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"ebb/mxerr"
)

// recordingGate records its calls.
type recordingGate struct {
	// mu guards the fields below.
	mu     sync.Mutex
	events []string
}

func (g *recordingGate) Allowed(string) error { return nil }

func (g *recordingGate) Succeeded(string) { g.note("succeeded") }

func (g *recordingGate) Failed(string, error) { g.note("failed") }

func (g *recordingGate) note(what string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.events = append(g.events, what)
}

func (g *recordingGate) told() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := strings.Join(g.events, " ")
	g.events = nil
	return all
}

func TestOnlyUnreachableServersAreReportedToTheGate(t *testing.T) {
	l := newLab(t)
	l.ips["a.test"] = []string{"8.8.1.1"}
	answer := func(http.ResponseWriter, *http.Request) {}
	l.serve("8.8.1.1:8448", "a.test", func(w http.ResponseWriter, r *http.Request) { answer(w, r) })
	gate := &recordingGate{}
	c := l.client("me.test", func(o *Options) { o.Allowed = func(s string) bool { return s != "kept.test" } })
	c.SetGate(gate)
	status := func(status int, body string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status); _, _ = w.Write([]byte(body)) }
	}
	for _, s := range []struct {
		name, server, want string
		answer             func(http.ResponseWriter, *http.Request)
	}{
		{"an answer", "a.test", "succeeded", status(200, `{}`)},
		{"an answer that is no JSON", "a.test", "succeeded", status(200, `<html>`)},
		{"a refusal", "a.test", "succeeded", status(403, `{"errcode":"M_FORBIDDEN"}`)},
		{"no page there", "a.test", "succeeded", status(404, `<html>`)},
		{"an error of the server", "a.test", "succeeded", status(504, `{"errcode":"M_NOT_YET_UPLOADED"}`)},
		{"an error of its proxy", "a.test", "failed", status(502, `<html>`)},
		{"an answer that breaks off", "a.test", "failed", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		{"no such server", "nowhere.test", "failed", nil},
		{"a server that is kept out", "kept.test", "failed", nil}, // otherwise a caller would retry over and over
	} {
		answer = s.answer
		_, _, err := c.Version(t.Context(), s.server)
		if got := gate.told(); got != s.want || (s.name == "an answer") != (err == nil) {
			t.Errorf("%s: the gate was told %q, %v", s.name, got, err)
		}
	}
	stuck := make(chan struct{})
	defer close(stuck)
	answer = func(http.ResponseWriter, *http.Request) { <-stuck }
	hurried, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := c.Version(hurried, "a.test"); err == nil || gate.told() != "" {
		t.Errorf("somebody in a hurry: %v", err)
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, _, err := c.Version(gone, "a.test"); err == nil || gate.told() != "" {
		t.Errorf("somebody who left: %v", err)
	}
}

func TestAnswersAreBoundedInSizeAndTime(t *testing.T) {
	l := newLab(t)
	l.ips["a.test"] = []string{"8.8.1.1"}
	sent := 0
	l.serve("8.8.1.1:8448", "a.test", func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/user/devices/") { // slowly, one byte after the other
			_, _ = w.Write([]byte("{"))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return
		}
		chunk := []byte(strings.Repeat(" ", 64<<10))
		for sent = 0; sent < 64<<20; sent += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	})
	c := l.client("me.test", nil)
	if _, err := c.ServerKeys(t.Context(), "a.test"); !errors.Is(err, errTooLarge) {
		t.Errorf("an endless answer: %v", err)
	}
	if sent > 16<<20 {
		t.Errorf("%d bytes of it were taken", sent)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := c.do(ctx, request{server: "a.test", method: "GET", path: v1 + "/user/devices/x"}, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("an answer that stands still: %v", err)
	}
}

func TestRemoteErrorsAreRelayedOnlyIfTheirMeaningIsTheSame(t *testing.T) {
	remote := func(status int, code string) error {
		return fmt.Errorf("join: %w", &RemoteError{Server: "a.test", Status: status, Code: code, Msg: "why"})
	}
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{remote(403, "M_FORBIDDEN"), 403, "M_FORBIDDEN"},
		{remote(404, "M_NOT_FOUND"), 404, "M_NOT_FOUND"},
		{remote(403, "M_INVITE_BLOCKED"), 403, "M_INVITE_BLOCKED"},
		{remote(400, "M_UNKNOWN"), 400, "M_UNKNOWN"},
		{remote(403, "M_BANNED_FROM_HERE"), 403, "M_BANNED_FROM_HERE"}, // a code of a later specification
		{remote(409, "ORG.EXAMPLE.TOO_LATE"), 409, "ORG.EXAMPLE.TOO_LATE"},
		{remote(400, "not a code"), 502, "M_UNKNOWN"},
		{remote(400, ""), 502, "M_UNKNOWN"},
		{remote(400, strings.Repeat("M", 101)), 502, "M_UNKNOWN"},
		{remote(401, "M_OF_ITS_OWN"), 502, "M_UNKNOWN"},
		{remote(404, "M_UNRECOGNIZED"), 502, "M_UNKNOWN"},
		{remote(403, "M_RESOURCE_LIMIT_EXCEEDED"), 502, "M_UNKNOWN"},
		{remote(503, "M_OVERLOADED"), 502, "M_UNKNOWN"},
		{remote(401, "M_UNKNOWN_TOKEN"), 502, "M_UNKNOWN"},
		{remote(401, "M_MISSING_TOKEN"), 502, "M_UNKNOWN"},
		{remote(403, "M_USER_DEACTIVATED"), 502, "M_UNKNOWN"},
		{remote(401, "M_FORBIDDEN"), 403, "M_FORBIDDEN"},
		{remote(200, "M_FORBIDDEN"), 502, "M_UNKNOWN"},
		{remote(500, "M_FORBIDDEN"), 502, "M_UNKNOWN"},
		{remote(504, "M_NOT_YET_UPLOADED"), 504, "M_NOT_YET_UPLOADED"},
		{fmt.Errorf("%w: x", ErrUnreachable), 502, "M_UNKNOWN"},
		{mxerr.NotFound("here"), 404, "M_NOT_FOUND"},
	} {
		var e *mxerr.Error
		if !errors.As(Relay(c.err), &e) || e.Status != c.status || e.Code != c.code {
			t.Errorf("%v is relayed as %+v, want %d %s", c.err, e, c.status, c.code)
		}
	}
	var e *mxerr.Error
	incompatible := &RemoteError{Status: 400, Code: "M_INCOMPATIBLE_ROOM_VERSION", Extra: map[string]json.RawMessage{"room_version": json.RawMessage(`"99"`)}}
	if !errors.As(Relay(incompatible), &e) || e.Extra["room_version"] != "99" {
		t.Errorf("the version of a room is lost: %+v", e)
	}
	if Relay(nil) != nil {
		t.Error("no error is one")
	}
}

func TestConnectionsAreReusedAndDeadOnesReplaced(t *testing.T) {
	l := newLab(t)
	l.ips["a.test"] = []string{"8.8.1.1"}
	l.serve("8.8.1.1:8448", "a.test", func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("HTTP/%d", r.ProtoMajor)
		}
		answerJSON(w, map[string]any{})
	})
	c := l.client("me.test", nil)
	var all sync.WaitGroup
	send := func() {
		if _, err := c.SendTransaction(t.Context(), "a.test", "1", nil, []json.RawMessage{json.RawMessage(`{"n":1.5}`)}); err != nil {
			t.Error(err)
		}
	}
	send()
	for range 20 {
		all.Go(send)
	}
	all.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	dials := 0
	for _, address := range l.dialled {
		if address == "8.8.1.1:8448" {
			dials++
		}
	}
	if dials != 1 {
		t.Errorf("%d connections for 21 requests", dials)
	}
}
