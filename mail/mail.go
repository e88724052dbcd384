// Package mail sends e-mail through one SMTP server. It keeps no queue: Send returns when the SMTP server has accepted
// the message or when it has failed, and the caller decides whether to try again.
//
// A message travels: Send → a connection to the SMTP server, encrypted and authenticated (connection.go) → the message
// in MIME form (message.go). ParseAddress (address.go) checks an address that a user has typed.
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

// TLS is how the connection to the SMTP server is encrypted.
type TLS string

// The ways to encrypt the connection.
const (
	StartTLS TLS = "starttls" // the server must offer STARTTLS
	Implicit TLS = "implicit" // TLS from the first byte
	Plain    TLS = "none"     // no encryption; only to a server on this machine
)

// Options are the settings of a Sender.
type Options struct {
	Host     string
	Port     int
	TLS      TLS
	Username string // "": the server requires no authentication
	Password string
	From     string        // NAME <ADDRESS> or ADDRESS
	Hello    string        // the name with which the SMTP server is greeted
	Timeout  time.Duration // for one message, from the connection to the SMTP server's confirmation
	Roots    *x509.CertPool
	Dial     func(ctx context.Context, network, address string) (net.Conn, error) // nil: a net.Dialer
	Now      func() time.Time
}

// Message is an e-mail to one recipient.
type Message struct {
	To      string // an address from ParseAddress
	Subject string
	Text    string
	HTML    string // an alternative to Text; "": none
}

// Sender sends messages. It is safe for concurrent use.
type Sender struct {
	opts  Options
	from  *netmail.Address
	slots chan struct{} // a semaphore for connections
}

// maxConnections bounds the simultaneous connections to the SMTP server. Many servers allow no more from one client.
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

// ErrRefused means that the SMTP server has rejected a message for good, as for an address that does not exist: sending
// it again would not help. Any other error may be temporary.
var ErrRefused = errors.New("the SMTP server refuses the message")

// Send sends a message and waits until the SMTP server has accepted it. After an error the message may still have been
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

// deliver hands a message to the SMTP server.
func (s *Sender) deliver(ctx context.Context, to string, raw []byte) error {
	c, done, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := s.submit(c, to, raw); err != nil {
		return explain(err)
	}
	_ = c.Quit() // the message is accepted
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

// explain marks a permanent rejection as ErrRefused.
func explain(err error) error {
	var answer *smtp.SMTPError
	if errors.As(err, &answer) && answer.Code >= 500 && answer.Code < 600 {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return fmt.Errorf("send through the SMTP server: %w", err)
}
