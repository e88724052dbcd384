// Package mailsink is an SMTP server for tests. It accepts and keeps every message, unless the test makes it refuse
// some.
package mailsink

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/http/httptest"
	netmail "net/mail"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Message is a message that a sink has accepted.
type Message struct {
	From, To      string // in the envelope
	Header        netmail.Header
	Subject       string
	Text, HTML    string
	Authenticated string // the user name with which the client authenticated
	Encrypted     bool
	Raw           string
}

// Options configures a Sink.
type Options struct {
	TLS      *tls.Config
	Implicit bool   // TLS from the first byte; otherwise STARTTLS is offered if TLS is set
	Password string // if not empty, clients must authenticate with it
	// Refuse returns an error for recipients that the sink refuses.
	Refuse func(to string) error
}

// Sink is a running SMTP server.
type Sink struct {
	Host string
	Port int

	t       testing.TB
	opts    Options
	arrived chan Message
}

// New starts a sink on a loopback address. The sink is closed when the test ends.
func New(t testing.TB, o Options) *Sink {
	t.Helper()
	var listen net.ListenConfig
	l, err := listen.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().(*net.TCPAddr)
	if o.Implicit {
		l = tls.NewListener(l, o.TLS)
	}
	s := &Sink{Host: "127.0.0.1", Port: address.Port, t: t, opts: o, arrived: make(chan Message, 1000)}
	server := smtp.NewServer(s)
	server.Domain, server.AllowInsecureAuth = "sink.test", true
	if !o.Implicit {
		server.TLSConfig = o.TLS
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) }) // ends with an error when the server is closed
	t.Cleanup(func() {
		_ = server.Close() // the test is over, so errors do not matter
		serving.Wait()
	})
	return s
}

// Next returns the next message. The test fails if none arrives.
func (s *Sink) Next() Message {
	s.t.Helper()
	select {
	case m := <-s.arrived:
		return m
	case <-time.After(10 * time.Second):
		s.t.Fatal("no e-mail arrives")
		return Message{}
	}
}

// Count returns the number of messages that Next has not returned yet.
func (s *Sink) Count() int { return len(s.arrived) }

// NewSession implements smtp.Backend.
func (s *Sink) NewSession(c *smtp.Conn) (smtp.Session, error) {
	_, encrypted := c.TLSConnectionState()
	return &session{sink: s, got: Message{Encrypted: encrypted}}, nil
}

// session is one connection.
type session struct {
	sink *Sink
	got  Message
}

// AuthMechanisms implements smtp.AuthSession.
func (s *session) AuthMechanisms() []string {
	if s.sink.opts.Password == "" {
		return nil
	}
	return []string{sasl.Plain}
}

// Auth implements smtp.AuthSession.
func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, username, password string) error {
		if password != s.sink.opts.Password {
			return errors.New("wrong password")
		}
		s.got.Authenticated = username
		return nil
	}), nil
}

// Mail implements smtp.Session.
func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if s.sink.opts.Password != "" && s.got.Authenticated == "" {
		return smtp.ErrAuthRequired
	}
	s.got.From = from
	return nil
}

// Rcpt implements smtp.Session.
func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	s.got.To = to
	if s.sink.opts.Refuse != nil {
		return s.sink.opts.Refuse(to)
	}
	return nil
}

// Data implements smtp.Session.
func (s *session) Data(r io.Reader) error {
	raw, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	m := s.got
	m.Raw = string(raw)
	if err := m.parse(); err != nil {
		return err
	}
	s.sink.arrived <- m
	return nil
}

// Reset implements smtp.Session.
func (s *session) Reset() {}

// Logout implements smtp.Session.
func (s *session) Logout() error { return nil }

// parse reads the header and the bodies of the message.
func (m *Message) parse() error {
	parsed, err := netmail.ReadMessage(strings.NewReader(m.Raw))
	if err != nil {
		return err
	}
	m.Header = parsed.Header
	if m.Subject, err = new(mime.WordDecoder).DecodeHeader(parsed.Header.Get("Subject")); err != nil {
		return err
	}
	kind, params, err := mime.ParseMediaType(parsed.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	if kind != "multipart/alternative" {
		text, err := io.ReadAll(quotedprintable.NewReader(parsed.Body))
		m.Text = string(text)
		return err
	}
	parts := multipart.NewReader(parsed.Body, params["boundary"])
	for {
		p, err := parts.NextPart() // NextPart decodes quoted-printable
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		text, err := io.ReadAll(p)
		if err != nil {
			return err
		}
		if strings.HasPrefix(p.Header.Get("Content-Type"), "text/html") {
			m.HTML = string(text)
		} else {
			m.Text = string(text)
		}
	}
}

// Certificate returns a certificate for 127.0.0.1, and a pool that trusts it.
func Certificate(t testing.TB) (*tls.Config, *x509.CertPool) {
	t.Helper()
	s := httptest.NewTLSServer(nil) // the test server comes with a certificate
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates, MinVersion: tls.VersionTLS12}, roots
}
