package storagetest

import (
	"io"
	"net"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
)

// Line is the connection of a test to PostgreSQL, which can be cut.
type Line struct {
	t        testing.TB
	listener net.Listener
	server   string // the path of the server's socket

	mu  sync.Mutex // guards the fields below
	cut bool
	all []net.Conn
}

// PostgresByLine is like Postgres, but the connections go through a Line. It needs a server that listens on a socket in
// a folder, as that of internal/pgtest does.
func PostgresByLine(t testing.TB) (dsn string, line *Line) {
	t.Helper()
	u, err := url.Parse(Postgres(t))
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if !filepath.IsAbs(q.Get("host")) {
		t.Skip("SKIP: the PostgreSQL server does not listen on a socket in a folder")
	}
	port := "5432"
	if q.Has("port") {
		port = q.Get("port")
	}
	l := &Line{t: t, server: filepath.Join(q.Get("host"), ".s.PGSQL."+port)}
	if l.listener, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.listener.Close(); l.Cut() })
	go l.accept()
	host, port, _ := net.SplitHostPort(l.listener.Addr().String())
	q.Set("host", host)
	q.Set("port", port)
	q.Set("sslmode", "disable")
	u.RawQuery = q.Encode()
	return u.String(), l
}

// Cut closes all connections, and new ones as soon as they are made, until Mend is called.
func (l *Line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = true
	for _, c := range l.all {
		_ = c.Close()
	}
	l.all = nil
}

// Mend lets connections pass again.
func (l *Line) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = false
}

func (l *Line) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return
		}
		server, err := (&net.Dialer{}).DialContext(l.t.Context(), "unix", l.server)
		if err != nil { // the test has ended, or the server has
			_ = client.Close()
			return
		}
		l.connect(client, server)
	}
}

func (l *Line) connect(client, server net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut {
		_, _ = client.Close(), server.Close()
		return
	}
	l.all = append(l.all, client, server)
	forward := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		_, _ = to.Close(), from.Close()
	}
	go forward(server, client)
	go forward(client, server)
}
