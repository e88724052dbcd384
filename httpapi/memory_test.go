package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
)

// slowReader is a peer that reads only the header of a response.
type slowReader struct {
	httptest.ResponseRecorder
	begun chan<- struct{}
	rest  <-chan struct{}
}

func (w *slowReader) Write(b []byte) (int, error) {
	if w.begun != nil {
		close(w.begun)
		w.begun = nil
		<-w.rest
	}
	return w.ResponseRecorder.Write(b)
}

func answerServer() *Server {
	handler := func(r *Request) (any, error) {
		n, err := strconv.Atoi(r.Query("size"))
		return Raw{Body: make([]byte, n)}, err
	}
	return New(Options{
		Log: slog.New(slog.DiscardHandler),
		Authenticate: func(_ context.Context, token string, _ *Request) (ident.Requester, error) {
			return ident.Requester{UserID: id.UserID("@" + token + ":here")}, nil
		},
		Routes: []Route{
			{Method: "GET", Path: "/_matrix/client/v3/large", Auth: User, Handler: handler},
			{Method: "PUT", Path: "/_matrix/client/v3/large", Auth: User, Handler: handler},
			{Method: "PUT", Path: "/_matrix/client/v3/reserved", Auth: User, Handler: func(r *Request) (any, error) {
				if err := r.ReserveAnswer(1 << 20); err != nil {
					return nil, err
				}
				return handler(r)
			}},
		},
	})
}

// ask sends a request for an answer of the given size, which is written to w.
func ask(t *testing.T, s *Server, method, user, from string, size int, w http.ResponseWriter) {
	t.Helper()
	askFor(t, s, method, "large", user, from, size, w)
}

func askFor(t *testing.T, s *Server, method, path, user, from string, size int, w http.ResponseWriter) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, "/_matrix/client/v3/"+path+"?size="+strconv.Itoa(size), nil)
	r.RemoteAddr = from
	r.Header.Set("Authorization", "Bearer "+user)
	s.ServeHTTP(w, r)
}

func TestAnswersToSlowReadersAreBounded(t *testing.T) {
	s := answerServer()
	rest := make(chan struct{})
	ended := make(chan int)
	hold := func(user, from string, size int) {
		begun := make(chan struct{})
		w := &slowReader{*httptest.NewRecorder(), begun, rest}
		go func() { ask(t, s, "GET", user, from, size, w); ended <- w.Code }()
		<-begun
	}
	code := func(method, user, from string, size int) int {
		w := httptest.NewRecorder()
		ask(t, s, method, user, from, size, w)
		return w.Code
	}
	hold("alice", "192.0.2.1:1", maxRequesterAnswers-smallAnswer)
	for _, c := range []struct {
		what, method, user, from string
		size, want               int
	}{
		{"another large one of the user", "GET", "alice", "198.51.100.1:1", 1 << 20, 429},
		{"a small one of the user", "GET", "alice", "192.0.2.1:1", smallAnswer, 200},
		{"what is done already", "PUT", "alice", "192.0.2.1:1", 1 << 20, 200},
		{"one of another user in the network", "GET", "bob", "192.0.2.1:1", 1 << 20, 200},
		{"one beyond the bound of a user who has none", "GET", "carol", "192.0.2.7:1", maxRequesterAnswers + 1, 200},
	} {
		if got := code(c.method, c.user, c.from, c.size); got != c.want {
			t.Errorf("%s gets %d", c.what, got)
		}
	}
	hold("bob", "192.0.2.1:1", maxRequesterAnswers)
	if got := code("GET", "carol", "192.0.2.1:1", 1<<20); got != 429 {
		t.Errorf("one more of the network gets %d", got)
	}
	hold("dave", "192.0.2.2:1", maxNetworkAnswers)
	if got := code("GET", "carol", "192.0.2.3:1", 1<<20); got != 429 {
		t.Errorf("one more when there is too much in sum gets %d", got)
	}
	close(rest)
	for range 3 {
		if got := <-ended; got != 200 {
			t.Errorf("a slow reader gets %d", got)
		}
	}
	if s.memory.answers.total != 0 || len(s.memory.answers.by) != 0 {
		t.Errorf("%d bytes of %v are still counted", s.memory.answers.total, s.memory.answers.by)
	}
}

// Operations with side effects, such as joins, must not create more answers than there is room for.
func TestAnswersWithSideEffectsWaitForMemory(t *testing.T) {
	s := answerServer()
	s.memory.patience = time.Millisecond
	rest := make(chan struct{})
	ended := make(chan int)
	hold := func(user string, size int) {
		begun := make(chan struct{})
		w := &slowReader{*httptest.NewRecorder(), begun, rest}
		go func() { askFor(t, s, "PUT", "reserved", user, "192.0.2.1:1", size, w); ended <- w.Code }()
		<-begun
	}
	code := func(user string, size int) int {
		w := httptest.NewRecorder()
		askFor(t, s, "PUT", "reserved", user, "192.0.2.1:1", size, w)
		return w.Code
	}
	hold("alice", maxRequesterAnswers/2)
	hold("alice", maxRequesterAnswers/2+1)
	if held := s.memory.answers.total; held != maxRequesterAnswers+1 {
		t.Errorf("%d bytes are counted for what is made", held)
	}
	if got := code("alice", 10); got != 429 {
		t.Errorf("a third one gets %d", got)
	}
	if got := code("bob", 1<<20); got != 200 {
		t.Errorf("somebody else gets %d", got)
	}
	s.memory.patience = time.Minute
	third := make(chan int)
	go func() { third <- code("alice", 1<<20) }()
	close(rest)
	for _, c := range []chan int{ended, ended, third} {
		if got := <-c; got != 200 {
			t.Errorf("a request gets %d", got)
		}
	}
	if a := &s.memory.answers; a.total != 0 || len(a.by) != 0 || len(a.reserving) != 0 {
		t.Errorf("%d bytes of %v are still counted, %v", a.total, a.by, a.reserving)
	}
}

// An answer may be larger than its reservation, so the answers of one requester must be created one at a time.
func TestAnswersOfOneRequesterAreCreatedOneAtATime(t *testing.T) {
	m := NewMemory()
	m.patience = time.Millisecond
	request := func() *Request {
		r := &Request{Request: httptest.NewRequest("PUT", "/", nil), memory: m, ClientAddr: "192.0.2.1"}
		r.Server = "a.test"
		return r
	}
	first, second := request(), request()
	if err := first.ReserveAnswer(1); err != nil {
		t.Fatal(err)
	}
	if err := second.ReserveAnswer(1); mxerr.Code(err) != mxerr.CodeLimitExceeded {
		t.Errorf("a second one: %v", err)
	}
	first.holdAnswer(10 << 20)
	if err := second.ReserveAnswer(1); err != nil {
		t.Errorf("when the first one is made: %v", err)
	}
	first.releaseAnswer()
	second.releaseAnswer()
	if m.answers.total != 0 || len(m.answers.by) != 0 || len(m.answers.reserving) != 0 {
		t.Errorf("%+v", m.answers.by)
	}
}

// deadlines is a ResponseWriter that records the time allowed for each write.
type deadlines struct {
	connection
	longest time.Duration
}

func (d *deadlines) Write(b []byte) (int, error) {
	d.longest = max(d.longest, time.Until(d.write))
	return d.ResponseRecorder.Write(b)
}

func TestDeadlineOfLargeAnswerExtendsWithProgress(t *testing.T) {
	s := answerServer()
	const size = 64 << 20
	d := &deadlines{connection: connection{ResponseRecorder: *httptest.NewRecorder()}}
	ask(t, s, "GET", "alice", "192.0.2.1:1", size, d)
	if want := patience + briskAfter/trickle*time.Second + size/brisk*time.Second; d.longest > want {
		t.Errorf("the reader of %d bytes may take %s", size, d.longest)
	}
	first := &firstDeadline{connection: connection{ResponseRecorder: *httptest.NewRecorder()}}
	ask(t, s, "GET", "alice", "192.0.2.1:1", size, first)
	if first.given > patience+writeChunk/trickle*time.Second {
		t.Errorf("for the first bytes the reader may take %s", first.given)
	}
}

// firstDeadline is a ResponseWriter that records the time allowed for the first write.
type firstDeadline struct {
	connection
	given time.Duration
}

func (d *firstDeadline) Write(b []byte) (int, error) {
	if d.given == 0 {
		d.given = time.Until(d.write)
	}
	return d.ResponseRecorder.Write(b)
}
