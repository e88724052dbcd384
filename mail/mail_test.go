package mail_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"ebb/internal/mailsink"
	"ebb/mail"
)

// sender returns a Sender that sends to a sink. change may modify its options.
func sender(t *testing.T, s *mailsink.Sink, change func(*mail.Options)) *mail.Sender {
	t.Helper()
	o := mail.Options{Host: s.Host, Port: s.Port, TLS: mail.Plain, From: "Ebb Tide <ebb@example.org>", Hello: "example.org", Timeout: 10 * time.Second}
	if change != nil {
		change(&o)
	}
	m, err := mail.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMessageArrivesEncryptedWithBothTexts(t *testing.T) {
	config, roots := mailsink.Certificate(t)
	for name, implicit := range map[string]bool{"starttls": false, "implicit": true} {
		t.Run(name, func(t *testing.T) {
			sink := mailsink.New(t, mailsink.Options{TLS: config, Implicit: implicit, Password: "secret"})
			m := sender(t, sink, func(o *mail.Options) {
				o.TLS, o.Roots, o.Username, o.Password = mail.TLS(name), roots, "ebb", "secret"
			})
			text := "Grüße,\n.\nline of a dot above\n" + strings.Repeat("long ", 300) + "\n"
			if err := m.Send(t.Context(), mail.Message{To: "Alice@Example.org", Subject: "Schöne Grüße", Text: text, HTML: "<p>Grüße</p>"}); err != nil {
				t.Fatal(err)
			}
			got := sink.Next()
			if got.To != "alice@example.org" || got.From != "ebb@example.org" || got.Subject != "Schöne Grüße" || !got.Encrypted || got.Authenticated != "ebb" {
				t.Errorf("got %+v", got)
			}
			if strings.ReplaceAll(got.Text, "\r\n", "\n") != text || got.HTML != "<p>Grüße</p>" {
				t.Errorf("text %q, html %q", got.Text, got.HTML)
			}
			if got.Header.Get("From") != `"Ebb Tide" <ebb@example.org>` || got.Header.Get("Auto-Submitted") != "auto-generated" || got.Header.Get("Message-Id") == "" {
				t.Errorf("header %v", got.Header)
			}
		})
	}
}

func TestNothingIsSentWithoutTheConfiguredEncryption(t *testing.T) {
	sink := mailsink.New(t, mailsink.Options{})
	config, _ := mailsink.Certificate(t)
	untrusted := mailsink.New(t, mailsink.Options{TLS: config})
	message := mail.Message{To: "alice@example.org", Text: "x"}
	if err := sender(t, sink, func(o *mail.Options) { o.TLS = mail.StartTLS }).Send(t.Context(), message); err == nil {
		t.Error("a server without STARTTLS got a message")
	}
	if err := sender(t, untrusted, func(o *mail.Options) { o.TLS = mail.StartTLS }).Send(t.Context(), message); err == nil {
		t.Error("a server with an unknown certificate got a message")
	}
	elsewhere := func(o *mail.Options) {
		o.Dial = func(context.Context, string, string) (net.Conn, error) {
			client, server := net.Pipe() // its address is not a loopback address
			_ = server.Close()
			return client, nil
		}
	}
	if err := sender(t, sink, elsewhere).Send(t.Context(), message); err == nil || !strings.Contains(err.Error(), "not on this machine") {
		t.Errorf("a server elsewhere was sent plain text: %v", err)
	}
	if sink.Count()+untrusted.Count() != 0 {
		t.Error("a message arrived")
	}
}

func TestHeadersCannotBeInjected(t *testing.T) {
	sink := mailsink.New(t, mailsink.Options{})
	m := sender(t, sink, nil)
	for _, to := range []string{"a@example.org\r\nBcc: eve@example.org", "a@example.org>\r\nRCPT TO:<eve@example.org", "a@example.org, eve@example.org"} {
		if err := m.Send(t.Context(), mail.Message{To: to, Text: "x"}); !errors.Is(err, mail.ErrAddress) {
			t.Errorf("%q: %v", to, err)
		}
	}
	for _, subject := range []string{"x\r\nBcc: eve@example.org", "ü\r\nBcc: eve@example.org", "x\n\nbody", "\u2028x\x00"} {
		if err := m.Send(t.Context(), mail.Message{To: "a@example.org", Subject: subject, Text: "x"}); err != nil {
			t.Fatal(err)
		}
		got := sink.Next()
		if got.Header.Get("Bcc") != "" || strings.ContainsAny(got.Subject, "\r\n\x00") || strings.TrimSpace(got.Text) != "x" {
			t.Errorf("%q became %q", subject, got.Raw)
		}
	}
}

func TestPermanentRejectionDiffersFromTemporary(t *testing.T) {
	code := 550
	sink := mailsink.New(t, mailsink.Options{Refuse: func(string) error { return &smtp.SMTPError{Code: code, Message: "no"} }})
	m := sender(t, sink, nil)
	if err := m.Send(t.Context(), mail.Message{To: "a@example.org", Text: "x"}); !errors.Is(err, mail.ErrRefused) {
		t.Error(err)
	}
	code = 451
	if err := m.Send(t.Context(), mail.Message{To: "a@example.org", Text: "x"}); err == nil || errors.Is(err, mail.ErrRefused) {
		t.Error(err)
	}
}

func TestWrongPasswordIsAnError(t *testing.T) {
	sink := mailsink.New(t, mailsink.Options{Password: "secret"})
	m := sender(t, sink, func(o *mail.Options) { o.Username, o.Password = "ebb", "wrong" })
	if err := m.Send(t.Context(), mail.Message{To: "a@example.org", Text: "x"}); err == nil || sink.Count() != 0 {
		t.Error(err)
	}
	none := mailsink.New(t, mailsink.Options{})
	m = sender(t, none, func(o *mail.Options) { o.Username, o.Password = "ebb", "secret" })
	if err := m.Send(t.Context(), mail.Message{To: "a@example.org", Text: "x"}); err == nil || none.Count() != 0 {
		t.Error(err)
	}
}

// hostile returns a Sender for an SMTP server implemented by talk.
func hostile(t *testing.T, timeout time.Duration, talk func(net.Conn)) *mail.Sender {
	t.Helper()
	m, err := mail.New(mail.Options{Host: "127.0.0.1", Port: 25, TLS: mail.Plain, From: "ebb@example.org", Hello: "example.org", Timeout: timeout,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return nil, err
			}
			go func() {
				defer l.Close()
				if conn, err := l.Accept(); err == nil {
					talk(conn)
					_ = conn.Close()
				}
			}()
			return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
		}})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestServerThatNeverAnswersTimesOut(t *testing.T) {
	m := hostile(t, 50*time.Millisecond, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	// Either the context or the connection times out first.
	if err := m.Send(t.Context(), mail.Message{To: "a@example.org", Text: "x"}); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error(err)
	}
}

func TestEndlessServerResponseIsAborted(t *testing.T) {
	written := 0
	ended := make(chan bool)
	m := hostile(t, time.Minute, func(c net.Conn) {
		defer close(ended)
		for line := []byte("220-" + strings.Repeat("x", 1000) + "\r\n"); ; {
			n, err := c.Write(line)
			if written += n; err != nil {
				return
			}
		}
	})
	if err := m.Send(t.Context(), mail.Message{To: "a@example.org", Text: "x"}); err == nil {
		t.Error("the endless greeting ended")
	}
	<-ended
	if written > 20<<20 { // the client's bound plus the buffers of the system
		t.Errorf("the server could send %d bytes", written)
	}
}

func TestAddressesAreCanonical(t *testing.T) {
	for text, want := range map[string]string{
		"Alice@Example.ORG": "alice@example.org", "a.b+c@example.org": "a.b+c@example.org", "ä@exämple.org": "ä@exämple.org", "a@localhost": "a@localhost",
		"": "", "alice": "", "@example.org": "", "a@": "", "a@b@c": "", "a b@example.org": "", "Alice <a@example.org>": "", `"a b"@example.org`: "", "a@[127.0.0.1]": "",
		"a@exa mple.org": "", "a..b@example.org": "", ".a@example.org": "", "a@-example.org": "", "a@example..org": "", "a@example.org\n": "", "a\x00@example.org": "",
		"a,b@example.org": "", "a@example.org,b@example.org": "", "a@example.org (comment)": "", "\xff@example.org": "", strings.Repeat("a", 250) + "@example.org": "",
	} {
		got, err := mail.ParseAddress(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestSenderMustBeAnAddress(t *testing.T) {
	for _, from := range []string{"", "nobody", "a@example.org\r\nBcc: b@example.org", "x <a@[1.2.3.4]>"} {
		if _, err := mail.New(mail.Options{From: from}); err == nil {
			t.Errorf("%q is accepted", from)
		}
	}
}
