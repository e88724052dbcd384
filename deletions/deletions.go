// Package deletions makes signed receipts of what the server has deleted: how many events and media of which room, by
// which policy, when, and which other servers had copies; and how much of which data of an account that was erased. A
// receipt names no event, no user and no content.
//
// A receipt is a statement by the server. It shows that the server says so, and, as each receipt has the hash of the
// one before, that none was changed or left out since. It is no proof that there are no copies elsewhere.
package deletions

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
	"maunium.net/go/mautrix/id"

	"ebb/audit"
	"ebb/ident"
	"ebb/secrets"
	"ebb/storage"
)

// Kinds of deletions. What is deleted is counted until the deletion has ended: at the end of the purge of a room, or
// else when CloseOpen is called.
const (
	Expired  = "expired messages"
	Released = "messages kept by a hold that was lifted"
	Redacted = "redacted messages"
	Removed  = "messages removed for their sender"
	Media    = "media"
	Left     = "rooms that all users of this server have left"
	Erased   = "everything about an account"
)

// policies says by which policy something of a kind is deleted if that does not depend on the room.
var policies = map[string]string{
	Redacted: "redaction",
	Removed:  "request to delete all messages of a user",
	Media:    "deletion by an administrator, or of files to which nothing refers",
	Erased:   "request to erase everything about a user",
}

// maxServers bounds the servers that a receipt names. It says how many more there are.
const maxServers = 50

// Options are the dependencies and settings of a Log.
type Options struct {
	DB      *storage.DB
	Server  string
	Secrets *secrets.Ring // encrypts the key that signs receipts
	Audit   *audit.Log    // records the hash of each receipt; may be nil
	Keep    time.Duration // how long receipts are kept; 0: none are made
	Now     func() time.Time
	Log     *slog.Logger // nil: nothing is logged
}

// Log makes receipts. It is safe for concurrent use. A nil Log makes none.
type Log struct {
	opts   Options
	signer atomic.Pointer[note.Signer]
}

// Open returns a Log. It creates the key that signs receipts if there is none.
func Open(ctx context.Context, o Options) (*Log, error) {
	if o.Keep == 0 {
		return nil, nil
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Log{opts: o}
	var keys []storage.DeletionKey
	err := o.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		keys, err = tx.DeletionKeys(1)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(keys) == 0 || keys[0].Private == "" {
		return l, l.Rotate(ctx)
	}
	private, err := o.Secrets.Open(keyRow, keys[0].Private)
	if err != nil {
		o.Log.Warn("The key that signs receipts of deletions cannot be read; there is a new one from now on", "err", err)
		return l, l.Rotate(ctx)
	}
	return l, l.use(private)
}

// keyRow is the row name under which the key is encrypted (see secrets.Ring.Seal).
const keyRow = "deletions:receipts"

func (l *Log) use(private []byte) error {
	signer, err := note.NewSigner(string(private))
	if err != nil {
		return err
	}
	l.signer.Store(&signer)
	return nil
}

// Rotate makes a new key. The public parts of the former keys stay.
func (l *Log) Rotate(ctx context.Context) error {
	if l == nil {
		return nil
	}
	private, verifier, err := note.GenerateKey(rand.Reader, l.opts.Server)
	if err != nil {
		return err
	}
	sealed, err := l.opts.Secrets.Seal(keyRow, []byte(private))
	if err != nil {
		return err
	}
	err = l.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := l.opts.Audit.Add(ctx, tx, "key of deletion receipts created", "key", verifier); err != nil {
			return err
		}
		return tx.ReplaceDeletionKey(sealed, verifier)
	})
	if err != nil {
		return err
	}
	l.opts.Log.Info("Receipts of deletions have a new key: keep this text, with which ebb receipts verify checks them", "key", verifier)
	return l.use([]byte(private))
}

// Room describes the room that a receipt is about.
type Room struct {
	ID      id.RoomID `json:"id"`      // "": what was deleted belongs to no room
	Policy  string    `json:"policy"`  // by which policy messages were deleted
	Servers []string  `json:"servers"` // other servers in the room
	More    int       `json:"more"`    // number of servers that are not in Servers
}

// bounded returns a description that names at most maxServers servers, in order.
func (r Room) bounded() Room {
	r.Servers = slices.Sorted(slices.Values(r.Servers))
	n := min(len(r.Servers), maxServers)
	r.Servers, r.More = r.Servers[:n], len(r.Servers)-n
	return r
}

// openPage is how many kinds of deletions in rooms are listed at a time.
const openPage = 100

// CloseOpen ends all deletions except those of a purge or a removal of a room that is to continue. describe describes a
// room.
func (l *Log) CloseOpen(ctx context.Context, describe func(ctx context.Context, nid ident.RoomNID) (Room, error)) error {
	if l == nil {
		return nil
	}
	for after, more := (storage.OpenDeletion{Room: -1}), true; more; {
		var page []storage.OpenDeletion
		err := l.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) { page, err = tx.OpenDeletions(after, openPage); return err })
		if err != nil {
			return err
		}
		for _, o := range page {
			after = o
			policy, found := policies[o.Kind]
			if !found {
				continue // the purge of the room continues
			}
			room := Room{}
			if o.Room != 0 {
				if room, err = describe(ctx, o.Room); err != nil {
					return err
				}
			}
			room.Policy = policy
			if err := l.opts.DB.Write(ctx, func(tx *storage.Tx) error { return l.Close(tx, o.Room, o.Kind, func() Room { return room }) }); err != nil {
				return err
			}
		}
		more = len(page) == openPage
	}
	return nil
}

// Count counts what was deleted from a room, in the write that deletes it.
func (l *Log) Count(tx *storage.Tx, room ident.RoomNID, kind string, events, media int64) error {
	if l == nil || events+media == 0 {
		return nil
	}
	return tx.CountDeleted(room, kind, events, media)
}

// Close ends a deletion: what was counted about a room gets a receipt, which Sign makes. It does nothing if nothing was
// deleted. room describes the room.
func (l *Log) Close(tx *storage.Tx, nid ident.RoomNID, kind string, room func() Room) error {
	if l == nil {
		return nil
	}
	counts, found, err := tx.TakeDeleted(nid, kind)
	if err != nil || !found {
		return err
	}
	about, err := json.Marshal(room().bounded())
	if err != nil {
		return err
	}
	return tx.AddPendingReceipt(&storage.PendingReceipt{Room: nid, Kind: kind, DeletionCounts: counts, About: string(about)})
}

// signPage is how many receipts one write signs.
const signPage = 50

// Sign makes receipts of the deletions that have ended. It is called when the files have been overwritten. A receipt
// of texts whose keys are not destroyed yet (on PostgreSQL) is left for a later call, so that it is true when it is
// signed.
func (l *Log) Sign(ctx context.Context) error {
	if l == nil {
		return nil
	}
	for more := true; more; {
		err := l.opts.DB.Write(ctx, func(tx *storage.Tx) error {
			due, err := tx.DueReceipts(signPage)
			for _, p := range due {
				if err == nil {
					err = l.sign(tx, &p)
				}
			}
			more = len(due) == signPage
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *Log) sign(tx *storage.Tx, p *storage.PendingReceipt) error {
	var room Room
	if err := json.Unmarshal([]byte(p.About), &room); err != nil {
		return err
	}
	if _, err := l.add(tx, p.Room, room, deleted{DeletionCounts: p.DeletionCounts, until: p.UntilTS, kind: p.Kind}); err != nil {
		return err
	}
	return tx.DropPendingReceipt(p.NID)
}

// Erasure is what the erasure of everything about a user has deleted.
type Erasure struct {
	Requested time.Time
	Redacted  int64 // events for which redactions were sent
	Removed   int64 // events whose content was removed from this server only
	Media     int64 // uploads that went with no event
	// Data says how many rows of each kind of other data were deleted.
	Data map[string]int64
}

// CloseErasure makes a receipt of an erasure, in the write that ends it, and returns its number, or 0 if no receipts
// are made. The audit log is to name the number, so the receipt does not wait until the files are overwritten, but says
// until when something is left in them. What was deleted of the user's events, and the media of these, also is in the
// receipts of the rooms, so the numbers of events and media in this receipt do not include it.
func (l *Log) CloseErasure(tx *storage.Tx, e Erasure) (number int64, err error) {
	if l == nil {
		return 0, nil
	}
	var data []string
	for _, kind := range slices.Sorted(maps.Keys(e.Data)) {
		data = append(data, fmt.Sprintf("%s %d", kind, e.Data[kind]))
	}
	if len(data) == 0 {
		data = []string{"none"}
	}
	counts := storage.DeletionCounts{Media: e.Media, SinceTS: e.Requested.UnixMilli()}
	now, left := tx.Now(), "until the next purge has overwritten them"
	if !l.opts.DB.Overwrites() {
		keys := stamp(now.Add(storage.MaxKeyDelay).UnixMilli())
		left = "encrypted texts until their keys are destroyed, by " + keys + "; other data until their space is reused"
	}
	return l.add(tx, 0, Room{Policy: policies[Erased]}, deleted{DeletionCounts: counts, until: now.UnixMilli(), kind: Erased, more: []field{
		{"redactions sent", fmt.Sprint(e.Redacted)}, {"events removed from this server only", fmt.Sprint(e.Removed)},
		{"other data", strings.Join(data, ", ")}, {"left in files", left},
	}})
}

// deleted is what a receipt is about.
type deleted struct {
	storage.DeletionCounts
	until int64 // ms; when the last of it was deleted
	kind  string
	more  []field
}

// field is a line of a receipt.
type field struct{ name, value string }

// add signs and stores a receipt, and returns its number.
func (l *Log) add(tx *storage.Tx, nid ident.RoomNID, room Room, what deleted) (number int64, err error) {
	last, _, err := tx.LastDeletionReceipt()
	if err != nil {
		return 0, err
	}
	r := storage.DeletionReceipt{Number: last.Number + 1, Room: nid, TS: tx.Now().UnixMilli()}
	signed, err := note.Sign(&note.Note{Text: l.text(room, what, r, last.Digest)}, *l.signer.Load())
	if err != nil {
		return 0, err
	}
	r.Note, r.Digest = string(signed), digest(signed)
	if err := tx.AddDeletionReceipt(r); err != nil {
		return 0, err
	}
	return r.Number, l.opts.Audit.Add(context.Background(), tx, "deletion receipt", "number", r.Number, "digest", r.Digest)
}

// CloseLeft is Close for a room that was removed because no user of this server is in it.
func (l *Log) CloseLeft(tx *storage.Tx, of storage.RemovedRoom) error {
	return l.Close(tx, of.NID, Left, func() Room {
		return Room{ID: id.RoomID(of.RoomID), Policy: "removal of rooms that no user of this server is in", Servers: of.Servers}
	})
}

func digest(signed []byte) string {
	sum := sha256.Sum256(signed)
	return hex.EncodeToString(sum[:])
}

// title is the first line of a receipt.
const title = "ebb deletion receipt 1"

// text returns the text of a receipt: a line for each field. previous is the digest of the receipt before.
func (l *Log) text(room Room, what deleted, r storage.DeletionReceipt, previous string) string {
	copies := "none known"
	if len(room.Servers) > 0 {
		copies = strings.Join(room.Servers, " ")
	}
	if room.More > 0 {
		copies += fmt.Sprintf(" and %d more", room.More)
	}
	if previous == "" {
		previous = "none"
	}
	if room.ID == "" {
		room.ID, copies = "none", "not known"
	}
	var b strings.Builder
	fields := []field{
		{"server", l.opts.Server}, {"number", fmt.Sprint(r.Number)}, {"previous", previous}, {"room", string(room.ID)}, {"deleted", what.kind},
		{"events", fmt.Sprint(what.Events)}, {"media", fmt.Sprint(what.Media)}, {"policy", room.Policy},
		{"from", stamp(what.SinceTS)}, {"until", stamp(what.until)}, {"signed", stamp(r.TS)}, {"other servers", copies},
	}
	for _, f := range append(fields, what.more...) {
		fmt.Fprintf(&b, "%s: %s\n", f.name, oneLine(f.value))
	}
	return title + "\n" + b.String()
}

func stamp(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }

// oneLine replaces control characters, which a note must not have.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// pruneBatch is how many receipts one write removes.
const pruneBatch = 1000

// Prune removes receipts that are older than Options.Keep.
func (l *Log) Prune(ctx context.Context) error {
	if l == nil {
		return nil
	}
	before := l.opts.Now().Add(-l.opts.Keep).UnixMilli()
	for more := true; more; {
		err := l.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
			more, err = tx.ForgetDeletionReceipts(before, pruneBatch)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
