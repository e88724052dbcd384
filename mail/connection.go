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

// maxAnswers bounds what the SMTP server may send over one connection, in bytes: a greeting, a certificate and a few
// lines.
const maxAnswers = 1 << 20

var (
	errTooMuch  = errors.New("the SMTP server sends more than any conversation needs")
	errNotLocal = errors.New("email.smtp.tls is none, and the SMTP server is not on this machine")
	errNoAuth   = errors.New("the SMTP server offers no authentication by password (PLAIN or LOGIN), but email.smtp has a username")
)

// connect opens an encrypted and authenticated connection, which ends when ctx does. done closes it.
func (s *Sender) connect(ctx context.Context) (c *smtp.Client, done func(), err error) {
	address := net.JoinHostPort(s.opts.Host, strconv.Itoa(s.opts.Port))
	conn, err := s.opts.Dial(ctx, "tcp", address)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the SMTP server: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // ends whatever waits for the server
	done = func() {
		stop()
		_ = conn.Close() // the result is known
	}
	c, err = s.greet(&boundedConn{Conn: conn, left: maxAnswers})
	if err == nil && s.opts.Username != "" {
		err = s.authenticate(c)
	}
	if err != nil {
		done()
		return nil, nil, fmt.Errorf("greet the SMTP server %s: %w", address, err)
	}
	return c, done, nil
}

// greet encrypts the connection as configured and greets the server.
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

// authenticate signs in by password.
func (s *Sender) authenticate(c *smtp.Client) error {
	switch {
	case c.SupportsAuth(sasl.Plain):
		return c.Auth(sasl.NewPlainClient("", s.opts.Username, s.opts.Password))
	case c.SupportsAuth(sasl.Login):
		return c.Auth(sasl.NewLoginClient(s.opts.Username, s.opts.Password))
	}
	return errNoAuth
}

// boundedConn fails once the peer has sent too much.
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
