// Package media stores uploaded files. It keeps them encrypted on disk, and their keys and metadata in the database,
// makes thumbnails, and deletes a file when the last media ID with its content is deleted. It uses a claimed content
// type only for a response header.
//
// Service.Upload, or Create followed by Put, passes an upload to store.receive, which encrypts and hashes it into a
// temporary file. The file is moved and synced, and then its rows are written. Service.Open reads the rows, checks that
// the media are still shown (shown.go), and opens the file.
//
// Storage records which texts refer to which media, and deletes media in the write that purges, redacts or erases the
// last reference. That write queues the name of the file; Unlink removes it from disk. CollectUnused finds uploads to
// which nothing has ever referred, or nothing refers any more (unused.go).
package media

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"ebb/deletions"
	"ebb/ident"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// Options are the dependencies and settings of a Service; all fields but Remote are required.
type Options struct {
	DB            *storage.DB
	Server        string // server name
	Dir           string // directory for the files, which must not be used for anything else
	Key           []byte // secret of this database; file names are keyed hashes
	MaxUploadSize int64  // bytes
	QuotaPerUser  int64  // bytes; 0 means unlimited
	MaxPending    int    // pending reservations per user
	PendingExpiry time.Duration
	Workers       int          // thumbnails made at a time
	Cache         keyed.Budget // bounds the caches
	Now           func() time.Time
	// RemoveBy returns the time up to which expired files may be deleted; nil means Now.
	RemoveBy func(context.Context) (time.Time, error)
	Secrets  Secrets        // encrypts the keys of files
	Commits  *rooms.Commits // nil: files are removed at the next round of Run
	Rooms    Rooms          // nil: no message expires
	// Deletions counts deleted media for receipts; nil: there are none.
	Deletions *deletions.Log
	Log       *slog.Logger

	Remote         Remote        // nil if federation is disabled
	MaxRemoteSize  int64         // bytes of one file of another server
	RemoteCache    int64         // bytes of all cached files of other servers
	RemoteLifetime time.Duration // how long an unused file of another server is cached
	TemporarySize  int64         // bytes of all files stored by AddImage

	// UnusedLifetime is how long an upload to which nothing refers is kept before it waits for its deletion; 0: for
	// ever.
	UnusedLifetime time.Duration
	Lifetimes      Lifetimes // nil: uploads to which nothing refers are only reported
}

// Secrets encrypts keys for the database; secrets.Ring implements it.
type Secrets interface {
	Seal(row string, plain []byte) (string, error)
	Open(row, sealed string) ([]byte, error)
	Stale(sealed string) bool
}

// Rooms knows which messages have expired; history.Service implements it.
type Rooms interface {
	// MessageExpired reports whether a message of a room that was sent and received at these times (ms) has expired.
	MessageExpired(ctx context.Context, room ident.RoomNID, originTS, receivedTS int64) (bool, error)
}

// Service implements the content repository. It is safe for concurrent use.
type Service struct {
	opts    Options
	files   *store
	workers chan struct{}
	memory  *semaphore.Weighted // limits the bytes of pictures being decoded
	garbage atomic.Int64        // bytes decoded since memory was last returned to the system
	remote  remoteFiles

	// unlinking is a semaphore of capacity one that is held while files are removed from disk.
	unlinking chan struct{}
	wake      chan struct{} // of capacity one; tells Run that there may be files to remove

	collected time.Time // when Run last searched for unused uploads

	// mu guards arrivals.
	mu sync.Mutex
	// arrivals has a channel for each reserved ID for which requests are waiting. The channel is closed when the upload
	// is complete.
	arrivals map[string]chan struct{}
}

// New opens the directory and removes the remains of a crash.
func New(ctx context.Context, o Options) (*Service, error) {
	files, err := openStore(o.Dir, o.Key, o.Cache.Entries(maxChecked))
	if err != nil {
		return nil, err
	}
	s := &Service{
		opts: o, files: files, workers: make(chan struct{}, max(1, o.Workers)), memory: semaphore.NewWeighted(maxDecoded),
		arrivals: map[string]chan struct{}{}, remote: newRemoteFiles(), unlinking: make(chan struct{}, 1), wake: make(chan struct{}, 1),
	}
	o.Commits.Subscribe(s.committed)
	if err := s.recordReferences(ctx); err != nil {
		return nil, fmt.Errorf("record which messages refer to which media: %w", err)
	}
	err = s.Sweep(ctx)
	if errors.Is(err, storage.ErrFull) { // left for the next start
		o.Log.Warn("Cannot remove unreferenced media", "err", err)
		err = nil
	}
	return s, err
}

// Sweep removes files without a media ID, thumbnails made by an earlier version, and expired reservations.
func (s *Service) Sweep(ctx context.Context) error {
	now, err := s.removeBy(ctx)
	if err == nil {
		err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteExpiredMedia(now.UnixMilli()) })
	}
	if err != nil {
		return fmt.Errorf("remove expired media reservations: %w", err)
	}
	if err := s.files.removeOldThumbs(); err != nil {
		return fmt.Errorf("remove thumbnails of an earlier version: %w", err)
	}
	if err := s.unlinkAll(ctx); err != nil {
		return fmt.Errorf("remove deleted media: %w", err)
	}
	names := make([]string, 0, sweepBatch)
	err = s.files.each(func(name string) error {
		if names = append(names, name); len(names) < sweepBatch {
			return nil
		}
		err := s.removeUnnamed(ctx, names)
		names = names[:0]
		return err
	})
	if err != nil {
		return err
	}
	return s.removeUnnamed(ctx, names)
}

// sweepBatch is how many names are looked up together.
const sweepBatch = 500

// removeBy returns the time up to which expired files may be deleted. It is earlier than now after a jump of the clock,
// so that a wrong clock does not cause files to be deleted.
func (s *Service) removeBy(ctx context.Context) (time.Time, error) {
	if s.opts.RemoveBy == nil {
		return s.opts.Now(), nil
	}
	return s.opts.RemoveBy(ctx)
}

// Upload stores a new file and returns its media ID.
//
// Errors: M_TOO_LARGE beyond MaxUploadSize, M_FORBIDDEN beyond the quota.
func (s *Service) Upload(ctx context.Context, user ident.UserNID, claimedType, filename string, body io.Reader) (string, error) {
	m := s.row(newMediaID(), user, claimedType, filename)
	return m.ID, s.take(ctx, m, body, func(tx *storage.Tx, m storage.Media) error { return tx.InsertMedia(m) })
}

// Create reserves a media ID for a later upload. The reservation expires at the returned time.
//
// Errors: M_LIMIT_EXCEEDED if the user has MaxPending reservations without an upload.
// Spec: client-server-api#post_matrixmediav1create
func (s *Service) Create(ctx context.Context, user ident.UserNID) (mediaID string, expires time.Time, err error) {
	now := s.opts.Now()
	m := storage.Media{ID: newMediaID(), User: user, Created: now.UnixMilli(), Expires: now.Add(s.opts.PendingExpiry).UnixMilli()}
	by, err := s.removeBy(ctx)
	if err != nil {
		return "", now, err
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := tx.DeleteExpiredMedia(by.UnixMilli()); err != nil {
			return err
		}
		_, pending, err := tx.MediaUsage(user)
		if err != nil {
			return err
		}
		if pending >= int64(s.opts.MaxPending) {
			return mxerr.LimitExceeded(s.opts.PendingExpiry)
		}
		return tx.InsertMedia(m)
	})
	return m.ID, now.Add(s.opts.PendingExpiry), err
}

// Put uploads a file to a reserved media ID.
//
// Errors: M_NOT_FOUND for an unknown or expired ID, M_FORBIDDEN for another user's, M_CANNOT_OVERWRITE_MEDIA if the
// file has already been uploaded, and those of Upload.
// Spec: client-server-api#put_matrixmediav3uploadservernamemediaid
func (s *Service) Put(ctx context.Context, user ident.UserNID, mediaID, claimedType, filename string, body io.Reader) error {
	if err := s.mayPut(ctx, user, mediaID); err != nil {
		return err
	}
	err := s.take(ctx, s.row(mediaID, user, claimedType, filename), body, func(tx *storage.Tx, m storage.Media) error {
		filled, err := tx.FillMedia(m)
		if err == nil && !filled {
			return cannotOverwrite()
		}
		return err
	})
	if err == nil {
		s.arrived(mediaID)
	}
	return err
}

func cannotOverwrite() error {
	return mxerr.New(409, mxerr.CodeCannotOverwriteMedia, "There is already an upload with this media ID")
}

func (s *Service) mayPut(ctx context.Context, user ident.UserNID, mediaID string) error {
	m, err := s.lookup(ctx, mediaID)
	switch {
	case err != nil:
		return err
	case m.User != user:
		return mxerr.Forbidden("This media ID is reserved for another user")
	case m.Blob != "":
		return cannotOverwrite()
	}
	return nil
}

func (s *Service) row(mediaID string, user ident.UserNID, claimedType, filename string) storage.Media {
	return storage.Media{ID: mediaID, User: user, ContentType: contentType(claimedType), Filename: cleanFilename(filename), Created: s.opts.Now().UnixMilli()}
}

// take receives an upload and writes its row with save, in an order that never leaves a row without a file after a
// crash.
func (s *Service) take(ctx context.Context, m storage.Media, body io.Reader, save func(*storage.Tx, storage.Media) error) error {
	_, err := s.store(ctx, body, s.opts.MaxUploadSize, func(tx *storage.Tx, in *incoming) error {
		m.Blob, m.Size = in.Blob, in.Size
		if err := s.checkQuota(tx, m); err != nil {
			return err
		}
		return save(tx, m)
	})
	switch {
	case errors.Is(err, errTooLarge):
		return mxerr.TooLarge("Files on this server must not be larger than %d bytes", s.opts.MaxUploadSize)
	case err != nil:
		return err
	}
	uploads.Inc()
	uploaded.Add(float64(m.Size))
	return nil
}

// store receives a file of at most limit bytes and writes its row with save. It returns errTooLarge for a larger file.
func (s *Service) store(ctx context.Context, body io.Reader, limit int64, save func(*storage.Tx, *incoming) error) (storage.MediaFile, error) {
	in, err := s.files.receive(body, limit)
	if err != nil {
		return storage.MediaFile{}, err
	}
	return s.place(ctx, in, save)
}

// errReplaced means that the file of a blob was replaced or deleted meanwhile.
var errReplaced = errors.New("media: the file was replaced")

// place writes the row of a received file with save. If the same content is stored already, the stored file is used,
// unless it is damaged. Otherwise the received file is moved to its name first.
func (s *Service) place(ctx context.Context, in *incoming, save func(*storage.Tx, *incoming) error) (storage.MediaFile, error) {
	damaged, err := s.reuse(ctx, in, save)
	if !errors.Is(err, errReplaced) {
		return damaged, errors.Join(err, in.drop())
	}
	plain := s.files.exists(in.Blob)
	var other storage.MediaFile // the same content, from a request at the same time
	f, err := s.placeFile(ctx, in, func(tx *storage.Tx, f storage.MediaFile) error {
		if err := save(tx, in); err != nil {
			return err
		}
		now, found, err := tx.MediaFile(in.Blob)
		if err != nil {
			return err
		}
		if found && now.Name != damaged.Name {
			other = now // and somebody may be about to open it
			return nil
		}
		if plain { // the same content, from before files were encrypted
			if err := tx.QueueMediaUnlink(in.Blob); err != nil {
				return err
			}
		}
		return tx.PutMediaFile(in.Blob, f)
	})
	if err == nil && other.Name != "" {
		return other, s.files.remove(in.Name)
	}
	return f, err
}

// reuse writes the row of a received file with save, if the same content is stored already. Otherwise it returns
// errReplaced, with the stored file if that is damaged.
func (s *Service) reuse(ctx context.Context, in *incoming, save func(*storage.Tx, *incoming) error) (f storage.MediaFile, err error) {
	found := false
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		f, found, err = tx.MediaFile(in.Blob)
		return err
	})
	if err != nil {
		return f, err
	}
	if !found || !s.intact(storage.Media{Blob: in.Blob, Size: in.Size, File: f}) {
		return f, errReplaced
	}
	return f, s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if now, found, err := tx.MediaFile(in.Blob); err != nil || !found || now.Name != f.Name {
			return errors.Join(errReplaced, err)
		}
		return save(tx, in)
	})
}

// placeFile moves a received file to its name and calls save in a write. If that fails, it removes the file.
func (s *Service) placeFile(ctx context.Context, in *incoming, save func(*storage.Tx, storage.MediaFile) error) (storage.MediaFile, error) {
	defer func() {
		if err := in.drop(); err != nil {
			s.opts.Log.Warn("Cannot remove an unfinished upload", "err", err)
		}
	}()
	f, err := s.keep(in)
	if err == nil {
		err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return save(tx, f) })
	}
	if err != nil && ctx.Err() == nil { // otherwise the write may still succeed
		return f, errors.Join(err, s.files.remove(in.Name))
	}
	s.wakeUp()
	return f, err
}

// keep moves a received file to its name and encrypts its key.
func (s *Service) keep(in *incoming) (f storage.MediaFile, err error) {
	f.Name = in.Name
	if f.SealedKey, err = s.opts.Secrets.Seal(sealedRow(in.Name), in.key); err != nil {
		return f, err
	}
	return f, in.keep()
}

func (s *Service) checkQuota(tx *storage.Tx, m storage.Media) error {
	if s.opts.QuotaPerUser == 0 {
		return nil
	}
	used, _, err := tx.MediaUsage(m.User)
	if err == nil && used+m.Size > s.opts.QuotaPerUser {
		return mxerr.Forbidden("This file would bring your uploads above %d bytes, the quota of this server", s.opts.QuotaPerUser)
	}
	return err
}

// maxWait bounds timeout_ms.
const maxWait = time.Minute

// Open opens an upload. If its ID is only reserved, Open waits for the upload for at most the given time.
//
// Errors: M_NOT_FOUND; 504 M_NOT_YET_UPLOADED.
// Spec: client-server-api#get_matrixclientv1mediadownloadservernamemediaid
func (s *Service) Open(ctx context.Context, mediaID string, wait time.Duration) (*File, error) {
	m, err := s.await(ctx, mediaID, min(wait, maxWait))
	if err != nil {
		return nil, err
	}
	downloads.Inc()
	f, err := s.openBlob(m)
	if errors.Is(err, fs.ErrNotExist) { // it may have been replaced by another upload of the same content, or encrypted
		if m, err = s.lookup(ctx, mediaID); err != nil {
			return nil, err
		}
		f, err = s.openBlob(m)
	}
	if errors.Is(err, errDamaged) {
		err = s.lost(m, err)
	}
	return f, err
}

// removeUnnamed removes those of the named files to which no row refers.
func (s *Service) removeUnnamed(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	named, err := s.named(ctx, names)
	if err != nil {
		return err
	}
	for _, name := range names {
		if named[name] {
			continue
		}
		if err := s.removeFile(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// named returns those of the given names of files to which a row refers.
func (s *Service) named(ctx context.Context, names []string) (named map[string]bool, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		named, err = tx.NamedMediaFiles(names)
		return err
	})
	return named, err
}

func errGone() *mxerr.Error { return mxerr.NotFound("There is no such file") }

// lookup reads the row of a media ID. An expired reservation or file counts as missing, and so do media that
// mustBeShown hides.
func (s *Service) lookup(ctx context.Context, mediaID string) (m storage.Media, err error) {
	found := false
	if !validID(mediaID) {
		return m, errGone()
	}
	name := storage.MediaName{ID: mediaID}
	var u use
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if m, found, err = tx.Media(mediaID); err != nil || !found {
			return err
		}
		u, err = readUse(tx, name)
		return err
	})
	if err == nil && (!found || m.Expires > 0 && m.Expires <= s.opts.Now().UnixMilli()) {
		err = errGone()
	}
	if err != nil {
		return m, err
	}
	if m.Unused > 0 && len(u.refs) == 0 {
		return m, errGone()
	}
	return m, s.mustBeShown(ctx, name, u)
}

// await is like lookup, but waits for the upload if the ID is only reserved.
func (s *Service) await(ctx context.Context, mediaID string, wait time.Duration) (storage.Media, error) {
	m, err := s.lookup(ctx, mediaID)
	if err != nil || m.Blob != "" {
		return m, err
	}
	timeout := time.NewTimer(max(wait, 0))
	defer timeout.Stop()
	defer s.arrived(mediaID) // wakes the other waiting requests, which check again and go on waiting
	for {
		arrival := s.arrival(mediaID) // before the look-up, so that no arrival is missed
		if m, err = s.lookup(ctx, mediaID); err != nil || m.Blob != "" {
			return m, err
		}
		select {
		case <-arrival:
		case <-ctx.Done():
			return m, ctx.Err()
		case <-timeout.C:
			return m, mxerr.New(504, mxerr.CodeNotYetUploaded, "The file has not been uploaded yet")
		}
	}
}

// arrival returns a channel that is closed when the upload may be complete. There are no more channels than waiting
// requests, because arrived removes them.
func (s *Service) arrival(mediaID string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.arrivals[mediaID]
	if c == nil {
		c = make(chan struct{})
		s.arrivals[mediaID] = c
	}
	return c
}

func (s *Service) arrived(mediaID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.arrivals[mediaID]; c != nil {
		close(c)
		delete(s.arrivals, mediaID)
	}
}

// newMediaID returns an ID of 144 random bits, which nobody can guess or choose.
func newMediaID() string {
	var b [18]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// validID reports whether s is a valid media ID. The specification (appendices#media-ids) does not limit the length;
// this server allows 255 bytes, as for other IDs.
func validID(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}
