// Package audit keeps the audit log: sign-ins and failures, sessions that ended, changed passwords and factors, and the
// acts of administrators. A record is added in the same write as the act that it records, and is never changed. Only
// its body, which has all personal data, is removed after a while (audit.keep).
//
// The records form a chain: the hash of each one covers that of the record before. Whoever controls the database could
// still compute the whole chain again. So signed checkpoints are sent to sinks outside the host, and a Verifier
// compares the chain with them. The key that signs checkpoints is stored in the database, encrypted with a key that is
// kept in a file (package secrets).
package audit

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"ebb/secrets"
	"ebb/storage"
)

// Options are the dependencies and settings of a Log.
type Options struct {
	DB       *storage.DB
	Server   string        // this server's name
	Secrets  *secrets.Ring // encrypts the key that signs checkpoints
	Keep     time.Duration // how long the bodies of records are kept; 0: for ever
	Sinks    []Sink
	Interval time.Duration // between checkpoints
	Now      func() time.Time
	Log      *slog.Logger
}

// Log writes the audit log. It is safe for concurrent use. A nil Log records nothing.
type Log struct {
	opts Options

	// mu guards failures; a leaf lock.
	mu       sync.Mutex
	failures map[failure]int64
}

// New returns a Log.
func New(o Options) *Log {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Log{opts: o, failures: map[failure]int64{}}
}

// maxBody bounds the body of a record, in bytes; beyond it, the record has only its kind.
const maxBody = 16 << 10

// actorKey is the context key of the actor.
type actorKey struct{}

// WithActor returns a context that makes Add and Record name the given actor in the record, such as "command line".
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// Add appends a record in the caller's write. The attributes are alternating names and values, as for a log message.
func (l *Log) Add(ctx context.Context, tx *storage.Tx, kind string, attrs ...any) error {
	if l == nil {
		return nil
	}
	body := map[string]string{}
	if actor, ok := ctx.Value(actorKey{}).(string); ok {
		body["actor"] = actor
	}
	for i := 0; i+1 < len(attrs); i += 2 {
		body[fmt.Sprint(attrs[i])] = fmt.Sprint(attrs[i+1])
	}
	text, err := json.Marshal(body) // with sorted members
	if err != nil {
		return err
	}
	if len(text) > maxBody {
		text = []byte(`{"shortened":"true"}`)
	}
	return add(tx, kind, string(text))
}

func add(tx *storage.Tx, kind, body string) error {
	last, _, err := tx.LastAudit()
	if err != nil {
		return err
	}
	var salt [16]byte
	_, _ = rand.Read(salt[:]) // never fails (crypto/rand)
	row := storage.AuditRow{Seq: last.Seq + 1, TS: tx.Now().UnixMilli(), Kind: kind, Salt: hex.EncodeToString(salt[:]), Body: body}
	row.BodyHash = bodyHash(row)
	row.Hash = chainHash(last.Hash, row)
	return tx.AddAudit(row)
}

func bodyHash(a storage.AuditRow) string {
	sum := sha256.Sum256([]byte(a.Salt + "\n" + a.Body))
	return hex.EncodeToString(sum[:])
}

// chainHash returns the hash of row a. previous is the hash of the row before.
func chainHash(previous string, a storage.AuditRow) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "ebb audit 1\n%s\n%d\n%d\n%s\n%s", previous, a.Seq, a.TS, a.Kind, a.BodyHash))
	return hex.EncodeToString(sum[:])
}

// Record appends a record in a write of its own, for an act that changes nothing else in the database.
func (l *Log) Record(ctx context.Context, kind string, attrs ...any) error {
	if l == nil {
		return nil
	}
	return l.opts.DB.Write(ctx, func(tx *storage.Tx) error { return l.Add(ctx, tx, kind, attrs...) })
}

// failure identifies failed sign-ins that are counted together.
type failure struct{ user, reason string }

// maxFailures bounds the number of counts in one record of failed sign-ins; the failures beyond it share one more
// count.
const maxFailures = 20

// Failed counts a failed sign-in. Anybody can cause these, so they do not get a record each: Flush writes the counts
// from time to time. user must be "" unless the account exists, because users sometimes type their password as the user
// name.
func (l *Log) Failed(user, reason string) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	f := failure{user, reason}
	if _, known := l.failures[f]; !known && len(l.failures) >= maxFailures {
		f = failure{reason: "others"}
	}
	l.failures[f]++
}

// Flush writes one record with the counts of the sign-ins that have failed since the last call.
func (l *Log) Flush(ctx context.Context) error {
	l.mu.Lock()
	counted := l.failures
	l.failures = map[failure]int64{}
	l.mu.Unlock()
	if len(counted) == 0 {
		return nil
	}
	var attrs []any
	for f, n := range counted {
		attrs = append(attrs, f.user+" "+f.reason, n)
	}
	return l.Record(ctx, "sign-ins failed", attrs...)
}

// pruneBatch is the number of bodies that one write removes.
const pruneBatch = 500

// KindPruned is the kind of a record that tells up to which record the bodies were removed.
const KindPruned = "bodies removed"

// Prune removes the bodies of records that are older than Options.Keep. It adds a record that tells up to which record
// the bodies were removed.
func (l *Log) Prune(ctx context.Context) error {
	if l.opts.Keep == 0 {
		return nil
	}
	before := l.opts.Now().Add(-l.opts.Keep).UnixMilli()
	for more := true; more; {
		err := l.opts.DB.Write(ctx, func(tx *storage.Tx) error {
			last, err := tx.PruneAudit(before, pruneBatch)
			if more = last != 0; err != nil || !more {
				return err
			}
			return l.Add(ctx, tx, KindPruned, "up_to", last)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Intervals of Run.
const (
	flushInterval = time.Minute
	pruneInterval = time.Hour
)

// Run writes counted failures, removes old bodies and sends checkpoints until ctx ends.
func (l *Log) Run(ctx context.Context) error {
	flush, prune, check := time.NewTicker(flushInterval), time.NewTicker(pruneInterval), time.NewTicker(max(l.opts.Interval, time.Second))
	defer flush.Stop()
	defer prune.Stop()
	defer check.Stop()
	l.try(ctx, "remove old bodies from the audit log", l.Prune)
	for {
		select {
		case <-ctx.Done():
			ctx = context.WithoutCancel(ctx)
			l.try(ctx, "write failed sign-ins to the audit log", l.Flush)
			return nil
		case <-flush.C:
			l.try(ctx, "write failed sign-ins to the audit log", l.Flush)
		case <-prune.C:
			l.try(ctx, "remove old bodies from the audit log", l.Prune)
		case <-check.C:
			l.try(ctx, "send checkpoints of the audit log; they are sent again", l.Checkpoint)
		}
	}
}

func (l *Log) try(ctx context.Context, what string, f func(context.Context) error) {
	if err := f(ctx); err != nil && ctx.Err() == nil {
		l.opts.Log.Error("Cannot "+what, "err", err)
	}
}
