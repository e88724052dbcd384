package mail

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	netmail "net/mail"
	"net/textproto"
	"strings"
	"time"
)

// maxSubject bounds the subject of a message, in bytes; a longer subject is truncated.
const maxSubject = 200

// compose returns a message in MIME form. The recipient is a canonical address. All headers are encoded, so that no
// value can end its header and start another one.
func (s *Sender) compose(m Message) ([]byte, error) {
	var b bytes.Buffer
	_, domain, _ := strings.Cut(s.from.Address, "@")
	header := func(name, value string) { fmt.Fprintf(&b, "%s: %s\r\n", name, value) }
	header("From", s.from.String())
	header("To", (&netmail.Address{Address: m.To}).String())
	header("Subject", mime.QEncoding.Encode("utf-8", oneLine(m.Subject, maxSubject)))
	header("Date", s.opts.Now().Format(time.RFC1123Z))
	header("Message-ID", "<"+rand.Text()+"@"+domain+">")
	header("Auto-Submitted", "auto-generated") // RFC 3834: suppresses automatic replies
	header("MIME-Version", "1.0")
	if m.HTML == "" {
		header("Content-Type", contentType("plain"))
		header("Content-Transfer-Encoding", "quoted-printable")
		b.WriteString("\r\n")
		err := writeText(quotedprintable.NewWriter(&b), m.Text)
		return b.Bytes(), err
	}
	parts := multipart.NewWriter(&b)
	header("Content-Type", "multipart/alternative; boundary="+parts.Boundary())
	b.WriteString("\r\n")
	// MIME readers prefer the last alternative.
	for _, p := range []struct{ kind, text string }{{"plain", m.Text}, {"html", m.HTML}} {
		w, err := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {contentType(p.kind)}, "Content-Transfer-Encoding": {"quoted-printable"}})
		if err != nil {
			return nil, err
		}
		if err := writeText(quotedprintable.NewWriter(w), p.text); err != nil {
			return nil, err
		}
	}
	err := parts.Close()
	return b.Bytes(), err
}

func contentType(kind string) string { return "text/" + kind + "; charset=utf-8" }

// writeText writes a body with CRLF line endings.
func writeText(w *quotedprintable.Writer, text string) error {
	lines := strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n")
	if _, err := w.Write([]byte(lines)); err != nil {
		return err
	}
	return w.Close()
}

// oneLine replaces control characters by spaces and truncates text to at most limit bytes.
func oneLine(text string, limit int) string {
	text = strings.Map(func(c rune) rune {
		if c < 0x20 || c == 0x7f || c == 0x85 || c == 0x2028 || c == 0x2029 {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(text, "\ufffd"))
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "") + "…"
}
