package mail

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// maxAnswers bounds the bytes that the SMTP server may send over one connection: a greeting, a certificate and a few
// lines.
const maxAnswers = 1 << 20

var (
	errTooMuch  = errors.New("the SMTP server sent more data than expected")
	errNotLocal = errors.New("email.smtp.tls is none, but the SMTP server is not on this machine; use starttls or implicit")
	errNoAuth   = errors.New("the SMTP server does not offer password authentication (PLAIN or LOGIN), but email.smtp.username is set")
)

// connect opens an encrypted and authenticated connection, which is closed when ctx ends or done is called.
func (s *Sender) connect(ctx context.Context) (c *smtp.Client, done func(), err error) {
	address := net.JoinHostPort(s.opts.Host, strconv.Itoa(s.opts.Port))
	conn, err := s.opts.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the SMTP server: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // unblocks reads and writes when ctx ends
	done = func() {
		stop()
		_ = conn.Close() // the outcome is already known
	}
	c, err = s.greet(&boundedConn{Conn: conn, left: maxAnswers})
	if err == nil && s.opts.Username != "" {
		err = s.authenticate(c)
	}
	if err != nil {
		done()
		return nil, nil, fmt.Errorf("open a session with the SMTP server %s: %w", address, err)
	}
	return c, done, nil
}

// greet sets up encryption as configured and greets the server.
func (s *Sender) greet(conn net.Conn) (c *smtp.Client, err error) {
	config := &tls.Config{ServerName: s.opts.Host, MinVersion: tls.VersionTLS12, RootCAs: s.opts.Roots, Time: s.opts.Now}
	switch s.opts.TLS {
	case Implicit:
		c = smtp.NewClient(tls.Client(conn, config))
	case Plain:
		if !isLoopback(conn.RemoteAddr()) {
			return nil, errNotLocal
		}
		c = smtp.NewClient(conn)
	default:
		if c, err = smtp.NewClientStartTLS(conn, config); err != nil {
			return nil, err
		}
	}
	c.CommandTimeout, c.SubmissionTimeout = s.opts.Timeout, s.opts.Timeout
	return c, c.Hello(s.opts.Hello)
}

func isLoopback(a net.Addr) bool {
	ap, err := netip.ParseAddrPort(a.String())
	return err == nil && ap.Addr().Unmap().IsLoopback()
}

// authenticate signs in with the username and password.
func (s *Sender) authenticate(c *smtp.Client) error {
	switch {
	case c.SupportsAuth(sasl.Plain):
		return c.Auth(sasl.NewPlainClient("", s.opts.Username, s.opts.Password))
	case c.SupportsAuth(sasl.Login):
		return c.Auth(sasl.NewLoginClient(s.opts.Username, s.opts.Password))
	}
	return errNoAuth
}

// boundedConn is a connection on which reading fails once the peer has sent too much.
type boundedConn struct {
	net.Conn
	left int
}

// Read implements io.Reader.
func (c *boundedConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, errTooMuch
	}
	n, err := c.Conn.Read(p)
	c.left -= n
	return n, err
}
