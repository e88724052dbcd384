// Package sealing encrypts the texts that package storage keeps in a PostgreSQL database, under the keys of a
// bodykeys.Folder. It knows which key is used for what at the moment and which keys are spare, but not the database:
// package storage tells it what has been committed, and what has not.
package sealing

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"ebb/bodykeys"
	"ebb/ident"
	"ebb/keyed"
)

const (
	// maxOpenedKeys bounds the keys in memory, of about 1 KB each.
	maxOpenedKeys = 4096
	// maxCurrentKeys bounds the slots whose keys are known without a query.
	maxCurrentKeys = 4096
	// SpareKeys is the number of keys that are made in advance, since making one takes as long as a commit. Half of
	// them are enough for the rooms that begin a day while the others are made.
	SpareKeys = 64
)

// Kind says what a key is for.
type Kind int64

// The kinds of keys.
const (
	Bodies Kind = iota // events, and other texts of a room
	// Search is the kind of keys for the blocks of the search index. They are merged every day, so something under
	// their keys is replaced although nothing was deleted.
	Search
	// The following are for texts that belong to no room. Previews come and go so often that they must not share keys
	// with what stays.
	MediaKeys // the keys of media files
	Previews  // link previews
	Reasons   // why users report and redact something
)

// Slot is what a key is for.
type Slot struct {
	Room ident.RoomNID
	Kind Kind
	Day  int64 // days since 1970, of when the text arrived here
}

// DayOf returns the day of a time in ms.
func DayOf(ms int64) int64 { return ms / (24 * time.Hour).Milliseconds() }

// In identifies a column with sealed texts. It is part of what is authenticated and must not change.
type In byte

// The columns.
const (
	Events In = iota + 1
	SearchParts
	DelayedEvents
	RelatedRedactions
	StrippedState
	MediaFiles
	URLPreviews
	Reports
	OwnRedactions
)

// mark is the first byte of a sealed text. No JSON text begins with it.
const mark = '~'

const (
	idLength    = 8
	nonceLength = 12
	overhead    = idLength + nonceLength + 16
)

// Errors of a Sealer.
var (
	// ErrSealed means that a sealed text cannot be opened.
	ErrSealed = errors.New("an encrypted text in the database is damaged, belongs to another row, or is read without keys")
	// ErrKeys means that a key cannot be read, created or destroyed: the folder of keys is away or full, or the key is
	// lost.
	ErrKeys = errors.New("the folder of keys for messages cannot be used")
)

// Key is a key for sealing.
type Key struct {
	ID   bodykeys.ID
	aead cipher.AEAD
}

// bound returns the additional data by which a sealed text belongs to a row.
func bound(in In, row int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{byte(in)}, uint64(row))
}

// Seal encrypts a text for a row. The result is the number of the key, a nonce, and the encrypted text.
func (k Key) Seal(in In, row int64, plain []byte) []byte {
	out := make([]byte, idLength+nonceLength, len(plain)+overhead)
	binary.BigEndian.PutUint64(out, uint64(k.ID))
	_, _ = rand.Read(out[idLength:]) // never fails (crypto/rand); 12 random bytes do not repeat for the texts of a day
	return k.aead.Seal(out, out[idLength:], plain, bound(in, row))
}

// SealText is Seal for a column of type TEXT.
func (k Key) SealText(in In, row int64, plain []byte) string {
	raw := k.Seal(in, row, plain)
	text := make([]byte, 1, 1+base64.RawStdEncoding.EncodedLen(len(raw)))
	text[0] = mark
	return string(base64.RawStdEncoding.AppendEncode(text, raw))
}

// IsSealed reports whether a text from a column with JSON is sealed.
func IsSealed[T []byte | string](text T) bool { return len(text) > 0 && text[0] == mark }

// EventText returns what is sealed of an event: the transaction ID, which a client may choose freely, and the JSON.
func EventText(txnID string, json []byte) []byte {
	text := binary.AppendUvarint(make([]byte, 0, binary.MaxVarintLen32+len(txnID)+len(json)), uint64(len(txnID)))
	return append(append(text, txnID...), json...)
}

// SplitEvent is the reverse of EventText.
func SplitEvent(text []byte) (txnID string, json []byte, err error) {
	n, read := binary.Uvarint(text)
	if read <= 0 || n > uint64(len(text)-read) {
		return "", nil, ErrSealed
	}
	text = text[read:]
	return string(text[:n]), text[n:], nil
}

// Sealer has the keys of a database. A nil Sealer has none. Open, OpenText, Enter and WaitForReads are safe for
// concurrent use; the other methods are called by the goroutine that writes to the database, except where they say
// otherwise.
type Sealer struct {
	Folder *bodykeys.Folder // set before the first use
	// Low has a value when there are few spare keys.
	Low chan struct{}

	opened  *keyed.Map[bodykeys.ID, cipher.AEAD]
	current map[Slot]Key
	fresh   []Slot        // slots that were added to current in this batch
	taken   []bodykeys.ID // spares that were taken in this batch
	spares  []bodykeys.ID
	spare   atomic.Int64 // the length of spares

	failed   atomic.Bool // whether the folder has failed since it was last found to work
	checking atomic.Bool // whether Check is running

	mu    sync.Mutex // guards reads; a leaf
	reads *sync.WaitGroup
}

// New returns a Sealer without a folder.
func New() *Sealer {
	return &Sealer{
		opened: keyed.NewMap[bodykeys.ID, cipher.AEAD](maxOpenedKeys), current: map[Slot]Key{}, Low: make(chan struct{}, 1), reads: &sync.WaitGroup{},
	}
}

// Key returns a key by its number. It is safe for concurrent use.
func (s *Sealer) Key(id bodykeys.ID) (Key, error) {
	if a, ok := s.opened.Get(id); ok {
		return Key{id, a}, nil
	}
	k, err := s.Folder.Key(id)
	if err != nil {
		return Key{}, s.fail(err)
	}
	block, err := aes.NewCipher(k[:])
	if err != nil {
		return Key{}, err
	}
	a, err := cipher.NewGCM(block)
	if err == nil {
		s.opened.Put(id, a)
	}
	return Key{id, a}, err
}

// Open decrypts what Seal has encrypted for a row.
func (s *Sealer) Open(in In, row int64, raw []byte) ([]byte, error) {
	if s == nil || len(raw) < overhead {
		return nil, ErrSealed
	}
	k, err := s.Key(bodykeys.ID(binary.BigEndian.Uint64(raw)))
	if err != nil {
		return nil, err
	}
	nonce, text := raw[idLength:idLength+nonceLength], raw[idLength+nonceLength:]
	plain, err := k.aead.Open(text[:0], nonce, text, bound(in, row))
	if err != nil {
		return nil, ErrSealed
	}
	return plain, nil
}

// OpenText is Open for a column of type TEXT.
func (s *Sealer) OpenText(in In, row int64, text []byte) ([]byte, error) {
	if !IsSealed(text) {
		return nil, ErrSealed
	}
	raw, err := base64.RawStdEncoding.AppendDecode(nil, text[1:])
	if err != nil {
		return nil, ErrSealed
	}
	return s.Open(in, row, raw)
}

// fail records that the folder of keys has failed, and returns the error for that.
func (s *Sealer) fail(err error) error {
	s.failed.Store(true)
	return fmt.Errorf("%w: %w", ErrKeys, err)
}

// NewKey creates a key. It is safe for concurrent use.
func (s *Sealer) NewKey() (bodykeys.ID, error) {
	id, err := s.Folder.New()
	if err != nil {
		err = s.fail(err)
	}
	return id, err
}

// Check returns an error if the folder of keys cannot be used. After it has failed, Check creates a key and destroys it
// again, to find out whether it works. It is safe for concurrent use.
func (s *Sealer) Check(ctx context.Context) error {
	if s == nil {
		return nil
	}
	hangs := fmt.Errorf("%w: it does not answer", ErrKeys)
	if !s.checking.CompareAndSwap(false, true) {
		return hangs
	}
	result := make(chan error, 1)
	go func() { // a call to a network share that is gone may never return
		defer s.checking.Store(false)
		result <- s.check()
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return hangs
	}
}

func (s *Sealer) check() error {
	err := s.Folder.Check()
	if err == nil && s.failed.Load() {
		if _, err = s.Folder.Probe(); err == nil {
			s.failed.Store(false)
		}
	}
	if err != nil {
		return s.fail(err)
	}
	return nil
}

// Destroy destroys a key. It is safe for concurrent use.
func (s *Sealer) Destroy(id bodykeys.ID) error {
	if err := s.Folder.Destroy(id); err != nil {
		return s.fail(err)
	}
	s.opened.Forget(id)
	return nil
}

// Current returns the key of a slot, if it is known.
func (s *Sealer) Current(slot Slot) (Key, bool) {
	k, ok := s.current[slot]
	return k, ok
}

// Use makes a key the current one of a slot.
func (s *Sealer) Use(slot Slot, k Key) {
	if len(s.current) >= maxCurrentKeys {
		clear(s.current)
	}
	s.current[slot] = k
	s.fresh = append(s.fresh, slot)
}

// Stop ends the use of a key for a slot.
func (s *Sealer) Stop(slot Slot, id bodykeys.ID) {
	if s.current[slot].ID == id {
		delete(s.current, slot)
	}
}

// AddSpares adds keys that the database has as spare keys.
func (s *Sealer) AddSpares(ids []bodykeys.ID) {
	s.spares = append(s.spares, ids...)
	s.count()
}

// Spares returns the number of spare keys. It is safe for concurrent use.
func (s *Sealer) Spares() int { return int(s.spare.Load()) }

// NextSpare removes a spare key from the list. It returns false if there is none.
func (s *Sealer) NextSpare() (id bodykeys.ID, ok bool) {
	if len(s.spares) > 0 {
		id, ok = s.spares[len(s.spares)-1], true
		s.spares = s.spares[:len(s.spares)-1]
	}
	s.count()
	return id, ok
}

// Taken records that a spare key has been assigned to a slot. If the batch fails, it is spare again.
func (s *Sealer) Taken(id bodykeys.ID) { s.taken = append(s.taken, id) }

// count publishes the number of spares.
func (s *Sealer) count() {
	s.spare.Store(int64(len(s.spares)))
	if len(s.spares) < SpareKeys/2 {
		select {
		case s.Low <- struct{}{}:
		default:
		}
	}
}

// Mark is a moment within a batch of writes.
type Mark struct{ fresh, taken int }

// Mark returns the current moment.
func (s *Sealer) Mark() (m Mark) {
	if s != nil {
		m = Mark{len(s.fresh), len(s.taken)}
	}
	return m
}

// Undo forgets what was done since a moment, because it was not committed. The zero Mark is the beginning of the batch.
func (s *Sealer) Undo(m Mark) {
	if s == nil {
		return
	}
	for _, slot := range s.fresh[m.fresh:] {
		delete(s.current, slot)
	}
	s.spares = append(s.spares, s.taken[m.taken:]...)
	s.fresh, s.taken = s.fresh[:m.fresh], s.taken[:m.taken]
	s.spare.Store(int64(len(s.spares)))
}

// Committed is called after the commit of a batch.
func (s *Sealer) Committed() {
	if s != nil {
		s.fresh, s.taken = s.fresh[:0], s.taken[:0]
	}
}

// Enter is called before a snapshot is read. The reader calls the result when it does not need the snapshot any more.
func (s *Sealer) Enter() (done func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads.Add(1)
	return s.reads.Done
}

// WaitForReads waits until nobody reads a snapshot from before the call.
func (s *Sealer) WaitForReads() {
	s.mu.Lock()
	before := s.reads
	s.reads = &sync.WaitGroup{}
	s.mu.Unlock()
	before.Wait()
}
