// Package audit keeps the audit log: sign-ins and failures, sessions that ended, changed passwords and factors, and the
// acts of administrators. A record is added in the same write as the act that it records, and is never changed. Only
// its body, which has all personal data, is removed after a while (audit.keep). The networks from which people acted
// are stored apart from the body, which has their hash, and are removed earlier (audit.keep_addresses).
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

	"ebb/ident"
	"ebb/secrets"
	"ebb/storage"
)

// Options are the dependencies and settings of a Log.
type Options struct {
	DB       *storage.DB
	Server   string        // this server's name
	Secrets  *secrets.Ring // encrypts the key that signs checkpoints
	Keep     time.Duration // how long the bodies of records are kept; 0: for ever
	Networks time.Duration // how long networks are kept; 0: as long as bodies
	Sinks    []Sink
	Interval time.Duration // between checkpoints
	Now      func() time.Time
	Log      *slog.Logger
}

// Log writes the audit log. It is safe for concurrent use. A nil Log records nothing.
type Log struct {
	opts Options

	// mu guards the fields below; a leaf lock.
	mu       sync.Mutex
	failures map[failure]int64
	networks map[string]int64 // failed sign-ins by network
}

// New returns a Log.
func New(o Options) *Log {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Log{opts: o, failures: map[failure]int64{}, networks: map[string]int64{}}
}

// maxBody bounds the body of a record, in bytes; beyond it, the record has only its kind.
const maxBody = 16 << 10

// actorKey is the context key of the actor.
type actorKey struct{}

// WithActor returns a context that makes Add and Record name the given actor in the record, such as "command line".
func WithActor(ctx context.Context, actor string) context.Context {
	return context.WithValue(ctx, actorKey{}, actor)
}

// networkKey is the context key of the client's network.
type networkKey struct{}

// WithNetwork returns a context that makes Add, Record and Failed name the client's network, which is masked
// (ident.MaskedNetwork).
func WithNetwork(ctx context.Context, network string) context.Context {
	return context.WithValue(ctx, networkKey{}, network)
}

// networkOf returns the masked network of a context, or "".
func networkOf(ctx context.Context) string {
	network, _ := ctx.Value(networkKey{}).(string)
	return ident.MaskedNetwork(network)
}

// Add appends a record in the caller's write. The attributes are alternating names and values, as for a log message.
func (l *Log) Add(ctx context.Context, tx *storage.Tx, kind string, attrs ...any) error {
	networks := map[string]int64{}
	if n := networkOf(ctx); n != "" {
		networks[n] = 1
	}
	return l.add(ctx, tx, kind, networks, attrs)
}

// add is Add with the networks of the record and how often each of them acted.
func (l *Log) add(ctx context.Context, tx *storage.Tx, kind string, networks map[string]int64, attrs []any) error {
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
	row := storage.AuditRow{TS: tx.Now().UnixMilli(), Kind: kind, Salt: newSalt()}
	if len(networks) > 0 {
		text, err := json.Marshal(networks)
		if err != nil {
			return err
		}
		row.Networks, row.NetworksSalt = string(text), newSalt()
		body[networksMember] = networksHash(row)
	}
	text, err := json.Marshal(body) // with sorted members
	if err != nil {
		return err
	}
	if len(text) > maxBody {
		text, row.Networks, row.NetworksSalt = []byte(`{"shortened":"true"}`), "", ""
	}
	row.Body = string(text)
	return appendRow(tx, row)
}

// networksMember is the member of a body with the hash of the record's networks.
const networksMember = "networks_hash"

func newSalt() string {
	var salt [16]byte
	_, _ = rand.Read(salt[:]) // never fails (crypto/rand)
	return hex.EncodeToString(salt[:])
}

// appendRow adds a row to the end of the chain.
func appendRow(tx *storage.Tx, row storage.AuditRow) error {
	last, _, err := tx.LastAudit()
	if err != nil {
		return err
	}
	row.Seq, row.BodyHash = last.Seq+1, bodyHash(row)
	row.Hash = chainHash(last.Hash, row)
	return tx.AddAudit(row)
}

func bodyHash(a storage.AuditRow) string {
	sum := sha256.Sum256([]byte(a.Salt + "\n" + a.Body))
	return hex.EncodeToString(sum[:])
}

func networksHash(a storage.AuditRow) string {
	sum := sha256.Sum256([]byte(a.NetworksSalt + "\n" + a.Networks))
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

// Bounds of one record of failed sign-ins.
const (
	maxFailures        = 20 // counts; the failures beyond it share one more count
	maxFailureNetworks = 50 // networks; those beyond it are missing
)

// Failed counts a failed sign-in. Anybody can cause these, so they do not get a record each: Flush writes the counts
// from time to time. user must be "" unless the account exists, because users sometimes type their password as the user
// name.
func (l *Log) Failed(ctx context.Context, user, reason string) {
	if l == nil {
		return
	}
	network := networkOf(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	f := failure{user, reason}
	if _, known := l.failures[f]; !known && len(l.failures) >= maxFailures {
		f = failure{reason: "others"}
	}
	l.failures[f]++
	if _, known := l.networks[network]; network != "" && (known || len(l.networks) < maxFailureNetworks) {
		l.networks[network]++
	}
}

// Flush writes one record with the counts of the sign-ins that have failed since the last call.
func (l *Log) Flush(ctx context.Context) error {
	l.mu.Lock()
	counted, networks := l.failures, l.networks
	l.failures, l.networks = map[failure]int64{}, map[string]int64{}
	l.mu.Unlock()
	if len(counted) == 0 {
		return nil
	}
	var attrs []any
	for f, n := range counted {
		attrs = append(attrs, f.user+" "+f.reason, n)
	}
	return l.opts.DB.Write(ctx, func(tx *storage.Tx) error { return l.add(ctx, tx, "sign-ins failed", networks, attrs) })
}

// pruneBatch is the number of bodies that one write removes.
const pruneBatch = 500

// The kinds of records that tell up to which record bodies, and networks, were removed.
const (
	KindPruned         = "bodies removed"
	KindNetworksPruned = "networks removed"
)

// Prune removes the bodies of records that are older than Options.Keep, and the networks of records that are older than
// Options.Networks. It adds records that tell up to which record.
func (l *Log) Prune(ctx context.Context) error {
	if err := l.prune(ctx, l.opts.Keep, KindPruned, (*storage.Tx).PruneAudit); err != nil {
		return err
	}
	return l.prune(ctx, l.opts.Networks, KindNetworksPruned, (*storage.Tx).PruneAuditNetworks)
}

// prune calls remove for records that are older than keep, unless keep is 0, until it finds none.
func (l *Log) prune(ctx context.Context, keep time.Duration, kind string, remove func(tx *storage.Tx, beforeTS int64, limit int) (int64, error)) error {
	before := l.opts.Now().Add(-keep).UnixMilli()
	for more := keep != 0; more; {
		err := l.opts.DB.Write(ctx, func(tx *storage.Tx) error {
			last, err := remove(tx, before, pruneBatch)
			if more = last != 0; err != nil || !more {
				return err
			}
			return l.Add(ctx, tx, kind, "up_to", last)
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
	l.try(ctx, "send checkpoints of the audit log; they are sent again", l.Checkpoint)
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
