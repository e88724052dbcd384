// Package mail sends e-mail through one SMTP server. It keeps no queue: Send returns when the SMTP server has accepted
// the message or when sending has failed, and the caller decides whether to try again.
//
// Send opens an encrypted and authenticated connection to the SMTP server (connection.go), composes the message in MIME
// form (message.go) and submits it. ParseAddress (address.go) checks an address that a user has entered.
package mail

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"time"

	"github.com/emersion/go-smtp"
)

// TLS says how the connection to the SMTP server is encrypted.
type TLS string

// These are the ways to encrypt the connection.
const (
	StartTLS TLS = "starttls" // the server must offer STARTTLS
	Implicit TLS = "implicit" // TLS from the first byte
	Plain    TLS = "none"     // no encryption; allowed only if the server is on this machine
)

// Options are the settings of a Sender.
type Options struct {
	Host     string
	Port     int
	TLS      TLS
	Username string // empty if the server requires no authentication
	Password string
	From     string        // NAME <ADDRESS> or ADDRESS
	Hello    string        // the name sent with EHLO
	Timeout  time.Duration // for one message, from connecting to the SMTP server's confirmation
	Roots    *x509.CertPool
	Dial     func(ctx context.Context, network, address string) (net.Conn, error) // nil means a net.Dialer
	Now      func() time.Time
}

// Message is an e-mail to one recipient.
type Message struct {
	To      string // an address from ParseAddress
	Subject string
	Text    string
	HTML    string // alternative to Text; may be empty
}

// Sender sends messages. It is safe for concurrent use.
type Sender struct {
	opts  Options
	from  *netmail.Address
	slots chan struct{} // semaphore for connections
}

// maxConnections bounds the simultaneous connections to the SMTP server. Many servers accept no more from one client.
const maxConnections = 4

// New returns a Sender. It does not connect.
func New(o Options) (*Sender, error) {
	from, err := ParseSender(o.From)
	if err != nil {
		return nil, err
	}
	if o.Dial == nil {
		o.Dial = new(net.Dialer).DialContext
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Sender{opts: o, from: from, slots: make(chan struct{}, maxConnections)}, nil
}

// ErrRefused means that the SMTP server has rejected a message permanently, for example because the address does not
// exist. Sending it again would not help.
var ErrRefused = errors.New("the SMTP server rejected the message")

// Send sends a message and waits until the SMTP server has accepted it. Even after an error the message may have been
// delivered, if the connection broke before the server's confirmation arrived.
//
// Errors: ErrRefused; any other error may be temporary.
func (s *Sender) Send(ctx context.Context, m Message) error {
	ctx, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	to, err := ParseAddress(m.To)
	if err != nil {
		return err
	}
	m.To = to
	raw, err := s.compose(m)
	if err != nil {
		return err
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return fmt.Errorf("wait for a connection to the SMTP server: %w", ctx.Err())
	}
	err = s.deliver(ctx, m.To, raw)
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("the SMTP server %s did not accept the message in time: %w", s.opts.Host, ctx.Err())
	}
	return err
}

// deliver connects to the SMTP server and submits a message.
func (s *Sender) deliver(ctx context.Context, to string, raw []byte) error {
	c, done, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := s.submit(c, to, raw); err != nil {
		return explain(err)
	}
	_ = c.Quit() // the message has been accepted, so an error does not matter
	return nil
}

func (s *Sender) submit(c *smtp.Client, to string, raw []byte) error {
	options := &smtp.MailOptions{UTF8: !isASCII(to) || !isASCII(s.from.Address), Size: int64(len(raw))}
	if err := c.Mail(s.from.Address, options); err != nil {
		return err
	}
	if err := c.Rcpt(to, nil); err != nil {
		return err
	}
	w, err := c.Data()
	if err != nil {
		return err
	}
	if _, err := w.Write(raw); err != nil {
		return err
	}
	return w.Close()
}

// explain wraps ErrRefused around a permanent rejection.
func explain(err error) error {
	var answer *smtp.SMTPError
	if errors.As(err, &answer) && answer.Code >= 500 && answer.Code < 600 {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return fmt.Errorf("send through the SMTP server: %w", err)
}
