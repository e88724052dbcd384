package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/syslog"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/sumdb/note"

	"ebb/storage"
)

// Sink is a place outside the host that keeps checkpoints.
type Sink struct {
	Name string // identifies the sink in the table audit_sinks
	Send func(ctx context.Context, line []byte) error
}

// sinkTimeout bounds one attempt to send a checkpoint.
const sinkTimeout = 10 * time.Second

// FileSink appends checkpoints to a file, which should be on another host or be one that this server can only append
// to.
func FileSink(path string) Sink {
	return Sink{"file " + path, func(_ context.Context, line []byte) error {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NONBLOCK, 0o600) // does not wait if it is a pipe
		if err != nil {
			return err
		}
		_, err = f.Write(append(line, '\n'))
		return errors.Join(err, f.Sync(), f.Close())
	}}
}

// SyslogSink sends checkpoints to a syslog server: udp://HOST:PORT, tcp://HOST:PORT, or local.
func SyslogSink(address string) Sink {
	return Sink{"syslog " + address, func(_ context.Context, line []byte) error {
		network, host := "", ""
		if u, err := url.Parse(address); err == nil && u.Host != "" {
			network, host = u.Scheme, u.Host
		}
		w, err := syslog.Dial(network, host, syslog.LOG_NOTICE|syslog.LOG_AUTH, "ebb")
		if err != nil {
			return err
		}
		return errors.Join(w.Notice(string(line)), w.Close())
	}}
}

// WebhookSink posts checkpoints to a URL.
func WebhookSink(address string) Sink {
	client := &http.Client{Timeout: sinkTimeout}
	return Sink{"webhook " + address, func(ctx context.Context, line []byte) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(line))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		_, _ = io.CopyN(io.Discard, resp.Body, 4096) // so that the connection can be used again
		if resp.StatusCode/100 != 2 {
			err = fmt.Errorf("the webhook answers %s", resp.Status)
		}
		return errors.Join(err, resp.Body.Close())
	}}
}

// checkpointLine is the line of JSON that a sink gets for a checkpoint.
type checkpointLine struct {
	Note string `json:"ebb_audit_checkpoint"`
}

// checkpointTitle is the first line of a checkpoint's text.
const checkpointTitle = "ebb audit log"

// Checkpoint signs a checkpoint of the newest record and sends it to every sink that has not received it yet. It does
// not repeat a checkpoint that a sink has missed: a later one covers the same records and more.
func (l *Log) Checkpoint(ctx context.Context) error {
	if l == nil || len(l.opts.Sinks) == 0 {
		return nil
	}
	var head storage.AuditRow
	delivered := make([]int64, len(l.opts.Sinks))
	err := l.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if head, _, err = tx.LastAudit(); err != nil {
			return err
		}
		for i, s := range l.opts.Sinks {
			if delivered[i], err = tx.AuditDelivered(s.Name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || head.Seq == 0 {
		return err
	}
	line, err := l.sign(ctx, head)
	if err != nil {
		return err
	}
	var failed error
	for i, s := range l.opts.Sinks {
		if delivered[i] < head.Seq {
			failed = errors.Join(failed, l.deliver(ctx, s, line, head.Seq))
		}
	}
	return failed
}

func (l *Log) deliver(ctx context.Context, s Sink, line []byte, seq int64) error {
	ctx, cancel := context.WithTimeout(ctx, sinkTimeout)
	defer cancel()
	if err := s.Send(ctx, bytes.Clone(line)); err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	return l.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.SetAuditDelivered(s.Name, seq) })
}

// sign returns a signed checkpoint of the given row, as a line for sinks.
func (l *Log) sign(ctx context.Context, head storage.AuditRow) ([]byte, error) {
	signer, err := l.signer(ctx)
	if err != nil {
		return nil, err
	}
	restored, err := l.lastRestore(ctx)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("%s\n%s\n%d\n%s\n%d\n%s", checkpointTitle, l.opts.Server, head.Seq, head.Hash, head.TS, restored.line())
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		return nil, err
	}
	return json.Marshal(checkpointLine{string(signed)})
}

// Sign signs a text with the key of checkpoints and returns it with its signature, as a note that note.Open verifies,
// and the public part of the key. The text must be lines, the first of which says what kind of statement it is, so that
// it cannot be taken for another one, such as a checkpoint.
func (l *Log) Sign(ctx context.Context, text string) (signed []byte, verifier string, err error) {
	signer, err := l.signer(ctx)
	if err != nil {
		return nil, "", err
	}
	if signed, err = note.Sign(&note.Note{Text: text}, signer); err != nil {
		return nil, "", err
	}
	err = l.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		_, verifier, err = tx.AuditKey()
		return err
	})
	return signed, verifier, err
}

// keyRow is the row name under which the key is encrypted (see secrets.Ring.Seal).
const keyRow = "audit:checkpoints"

// signer returns the key that signs checkpoints. The first call creates it.
func (l *Log) signer(ctx context.Context) (note.Signer, error) {
	sealed := ""
	err := l.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		sealed, _, err = tx.AuditKey()
		return err
	})
	if err != nil {
		return nil, err
	}
	var key []byte
	verifier := ""
	if sealed != "" {
		if key, err = l.opts.Secrets.Open(keyRow, sealed); err != nil {
			l.opts.Log.Warn("The key that signs checkpoints of the audit log cannot be read; there is a new one from now on", "err", err)
			sealed = ""
		}
	}
	if sealed == "" {
		private, public, err := note.GenerateKey(rand.Reader, l.opts.Server)
		if err != nil {
			return nil, err
		}
		key, verifier = []byte(private), public
	}
	if sealed == "" || l.opts.Secrets.Stale(sealed) {
		if err := l.storeKey(ctx, key, verifier); err != nil {
			return nil, err
		}
	}
	return note.NewSigner(string(key))
}

// storeKey encrypts and stores the key that signs checkpoints. verifier is the public part of a new key, or "" if the
// stored key is only encrypted again.
func (l *Log) storeKey(ctx context.Context, key []byte, verifier string) error {
	sealed, err := l.opts.Secrets.Seal(keyRow, key)
	if err != nil {
		return err
	}
	if verifier != "" {
		l.opts.Log.Info("The audit log has a key: keep this text, with which ebb audit verify checks checkpoints", "key", verifier)
	}
	return l.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if verifier != "" {
			if err := l.Add(ctx, tx, "key of the audit log created", "key", verifier); err != nil {
				return err
			}
			return tx.SetAuditKey(sealed, verifier)
		}
		_, known, err := tx.AuditKey()
		if err != nil {
			return err
		}
		return tx.SetAuditKey(sealed, known)
	})
}

// RecordRef identifies a record by its number and its hash.
type RecordRef struct {
	Seq  int64
	Hash string
}

// Checkpoint is a checkpoint whose signature was verified.
type Checkpoint struct {
	RecordRef
	Restored RecordRef // the record of the last restore from a backup; zero if there was none
}

// maxCheckpointLine is the length in bytes above which ReadCheckpoints skips a line.
const maxCheckpointLine = 64 << 10

// ReadCheckpoints returns the checkpoints in the text that a sink has stored. A line may have other text before the
// checkpoint, as in the file of a syslog server; lines without a checkpoint are skipped. A checkpoint that is not
// signed with one of the given keys is an error. The checkpoints are in the order of the text.
func ReadCheckpoints(sink []byte, verifiers ...string) (list []Checkpoint, err error) {
	var keys []note.Verifier
	for _, text := range verifiers {
		v, err := note.NewVerifier(text)
		if err != nil {
			return nil, fmt.Errorf("the key %.60q is not one of an audit log: %w", text, err)
		}
		keys = append(keys, v)
	}
	for i, line := range bytes.Split(sink, []byte("\n")) {
		at := bytes.Index(line, []byte(`{"ebb_audit_checkpoint"`))
		if at < 0 || len(line) > maxCheckpointLine {
			continue
		}
		var l checkpointLine
		if err := json.NewDecoder(bytes.NewReader(line[at:])).Decode(&l); err != nil {
			return nil, fmt.Errorf("line %d of the checkpoints: %w", i+1, err)
		}
		c, err := openCheckpoint(l.Note, keys)
		if err != nil {
			return nil, fmt.Errorf("line %d of the checkpoints: %w", i+1, err)
		}
		list = append(list, c)
	}
	return list, nil
}

func openCheckpoint(text string, keys []note.Verifier) (c Checkpoint, err error) {
	n, err := note.Open([]byte(text), note.VerifierList(keys...))
	if err != nil {
		return c, err
	}
	lines := strings.Split(n.Text, "\n")
	if len(lines) < 5 || lines[0] != checkpointTitle {
		return c, errors.New("it is no checkpoint of an audit log")
	}
	if len(lines) > 5 {
		c.Restored = parseRestore(lines[5])
	}
	c.Hash = lines[3]
	c.Seq, err = strconv.ParseInt(lines[2], 10, 64)
	return c, err
}
