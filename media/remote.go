package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"ebb/fedclient"
	"ebb/keyed"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Remote downloads files from other servers; fedclient.Client implements it.
type Remote interface {
	// DownloadMedia downloads a file from the server it belongs to. If its upload is still pending, that server may
	// wait for it, for at most the given time.
	DownloadMedia(ctx context.Context, server, mediaID string, wait time.Duration) (*fedclient.Media, error)
}

const (
	maxFetches         = 32 // simultaneous downloads from other servers
	maxFetchesOfServer = 8  // from one server, so that a slow server leaves capacity for others
	pruneBatch         = 50
	pruneInterval      = time.Hour
	// usedStep is the precision of the stored time of last use. With a finer one, every access would cause a write.
	usedStep = time.Hour
)

// remoteFiles coordinates the downloads from other servers. Simultaneous requests for a file share one download.
type remoteFiles struct {
	// fetches keeps no results, because a downloaded file is immediately in the database.
	fetches *keyed.Memo[remoteName, storage.RemoteMedia]
	servers *keyed.Semaphore[string]
	// pruning is a semaphore of capacity one that is held while files are removed.
	pruning chan struct{}
}

type remoteName struct{ server, id string }

func newRemoteFiles() remoteFiles {
	return remoteFiles{
		fetches: keyed.NewMemo(keyed.Options[remoteName, storage.RemoteMedia]{Loads: maxFetches}),
		servers: keyed.NewSemaphore[string](maxFetchesOfServer, 0),
		pruning: make(chan struct{}, 1),
	}
}

// OpenRemote opens a file of another server, downloading it if it is not cached. If the file has not been uploaded yet,
// the other server is asked to wait for it, for at most the given time.
//
// Errors: M_NOT_FOUND; 504 M_NOT_YET_UPLOADED; 502 M_TOO_LARGE; 502 M_UNKNOWN if the download fails.
// Spec: client-server-api#get_matrixclientv1mediadownloadservernamemediaid
func (s *Service) OpenRemote(ctx context.Context, server, mediaID string, wait time.Duration) (*File, error) {
	f, err := s.withRemote(ctx, server, mediaID, wait, s.openBlob)
	if err == nil {
		downloads.Inc()
	}
	return f, err
}

// ThumbnailRemote is like Thumbnail for a file of another server. The thumbnail is made locally.
//
// Errors: those of OpenRemote; 400 M_UNKNOWN if the file is not an image; 502 M_TOO_LARGE for a still thumbnail of an
// animation that is too large.
// Spec: client-server-api#get_matrixclientv1mediathumbnailservernamemediaid
func (s *Service) ThumbnailRemote(ctx context.Context, server, mediaID string, want Size, wait time.Duration) (*File, error) {
	f, err := s.withRemote(ctx, server, mediaID, wait, func(m storage.Media) (*File, error) { return s.thumbnailOf(ctx, m, want) })
	if errors.Is(err, errTooLarge) {
		err = mxerr.New(http.StatusBadGateway, mxerr.CodeTooLarge, "The image is too large for a thumbnail")
	}
	return f, err
}

// withRemote calls open with a file of another server, downloading it if necessary. If the file is damaged on disk, it
// is downloaded again.
func (s *Service) withRemote(ctx context.Context, server, mediaID string, wait time.Duration, open func(storage.Media) (*File, error)) (*File, error) {
	m, found, err := s.remoteMedia(ctx, server, mediaID)
	if err != nil {
		return nil, err
	}
	if found {
		f, err := open(m)
		if !errors.Is(err, errDamaged) {
			return f, err
		}
		damaged.Inc()
		s.opts.Log.Warn("A cached file of another server is damaged or missing; downloading it again", "server", server, "media_id", mediaID, "err", err)
	}
	fetched, err := s.fetchOnce(ctx, server, mediaID, min(wait, maxWait))
	if err != nil {
		return nil, err
	}
	f, err := open(asMedia(fetched))
	if errors.Is(err, errDamaged) {
		err = errGone().Because(err) // lost again since it was downloaded
	}
	return f, err
}

// remoteMedia finds a downloaded file.
//
// Errors: M_NOT_FOUND if the media are not shown, or the last message that referred to them was removed.
func (s *Service) remoteMedia(ctx context.Context, server, mediaID string) (m storage.Media, found bool, err error) {
	if !validID(mediaID) || !pdu.ValidServerName(server) {
		return m, false, errGone()
	}
	name := storage.MediaName{Server: server, ID: mediaID}
	var u use
	gone := false
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if u, err = readUse(tx, name); err == nil && len(u.refs) == 0 {
			gone, err = tx.MediaGone(name)
		}
		return err
	})
	if err == nil && gone {
		err = errGone()
	}
	if err == nil {
		err = s.mustBeShown(ctx, name, u)
	}
	if err != nil {
		return m, false, err
	}
	row, found, err := s.fetched(ctx, server, mediaID)
	return asMedia(row), found, err
}

// asMedia converts the row of a remote file to the type for local files.
func asMedia(m storage.RemoteMedia) storage.Media {
	return storage.Media{ID: m.ID, Blob: m.Blob, ContentType: m.ContentType, Filename: m.Filename, Size: m.Size, File: m.File}
}

// fetched finds a downloaded file and records that it was used.
func (s *Service) fetched(ctx context.Context, server, mediaID string) (m storage.RemoteMedia, found bool, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		m, found, err = tx.RemoteMedia(server, mediaID)
		return err
	})
	now := s.opts.Now().UnixMilli()
	if err != nil || !found || now-m.Used < usedStep.Milliseconds() {
		return m, found, err
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.UseRemoteMedia(server, mediaID, now) })
	if errors.Is(err, storage.ErrFull) {
		err = nil // the file can be served nevertheless
	}
	return m, true, err
}

// fetchOnce downloads a file once for all concurrent requests.
func (s *Service) fetchOnce(ctx context.Context, server, mediaID string, wait time.Duration) (m storage.RemoteMedia, err error) {
	if s.opts.Remote == nil {
		return m, errGone()
	}
	leave, err := s.remote.servers.Acquire(ctx, server)
	if err != nil {
		return m, err
	}
	defer leave()
	return s.remote.fetches.Get(ctx, remoteName{server, mediaID}, func(ctx context.Context) (storage.RemoteMedia, error) {
		m, found, err := s.fetched(ctx, server, mediaID)
		if err != nil || found && s.intact(asMedia(m)) {
			return m, err // another request has downloaded it in the meantime
		}
		return s.fetch(ctx, server, mediaID, wait)
	})
}

func (s *Service) fetch(ctx context.Context, server, mediaID string, wait time.Duration) (m storage.RemoteMedia, err error) {
	file, err := s.opts.Remote.DownloadMedia(ctx, server, mediaID, wait)
	if err != nil {
		return m, notFetched(err)
	}
	defer func() { _ = file.Body.Close() }() // the body was only read
	now := s.opts.Now().UnixMilli()
	m = storage.RemoteMedia{
		Server: server, ID: mediaID, ContentType: contentType(file.ContentType), Filename: cleanFilename(file.Filename), Fetched: now, Used: now,
	}
	body := &watched{Reader: file.Body}
	m.File, err = s.store(ctx, body, s.opts.MaxRemoteSize, func(tx *storage.Tx, in *incoming) error {
		if gone, err := isGone(tx, server, mediaID); err != nil || gone {
			return errors.Join(err, errGone()) // the message that refers to it was removed during the download
		}
		m.Blob, m.Size = in.Blob, in.Size
		return tx.SetRemoteMedia(m)
	})
	switch {
	case errors.Is(err, errTooLarge):
		return m, mxerr.New(http.StatusBadGateway, mxerr.CodeTooLarge, "The file is larger than this server fetches from other servers")
	case body.err != nil:
		return m, notFetched(fmt.Errorf("read the file: %w", body.err))
	case err != nil:
		return m, err
	}
	fetches.Inc()
	if err := s.PruneRemote(ctx); err != nil {
		s.opts.Log.Warn("Cannot remove unused files of other servers", "err", err)
	}
	return m, nil
}

// isGone reports whether the last reference to media of another server was deleted, so that they are not stored again.
func isGone(tx *storage.Tx, server, mediaID string) (bool, error) {
	name := storage.MediaName{Server: server, ID: mediaID}
	gone, err := tx.MediaGone(name)
	if err != nil || !gone {
		return false, err
	}
	referenced, err := tx.MediaReferenced(name)
	return !referenced, err
}

// watched is a reader that records its error, so that a failure of the network can be distinguished from one of the
// disk.
type watched struct {
	io.Reader
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		w.err = err
	}
	return n, err
}

// notFetched returns the client's error for a failed download. It distinguishes only three kinds of failure, and passes
// on no text from the other server.
func notFetched(err error) error {
	var remote *fedclient.RemoteError
	switch {
	case errors.As(err, &remote) && remote.Code == mxerr.CodeNotYetUploaded:
		return mxerr.New(http.StatusGatewayTimeout, mxerr.CodeNotYetUploaded, "The file has not been uploaded yet").Because(err)
	case errors.As(err, &remote) && remote.Code == mxerr.CodeTooLarge:
		return mxerr.New(http.StatusBadGateway, mxerr.CodeTooLarge, "The file's server refused to send it: it is too large").Because(err)
	case errors.As(err, &remote) && remote.Status >= 400 && remote.Status < 500 && remote.Status != http.StatusTooManyRequests:
		return mxerr.NotFound("There is no such file").Because(err)
	case errors.Is(err, fedclient.ErrNoServer):
		return mxerr.NotFound("That is not a valid server name").Because(err)
	}
	return mxerr.New(http.StatusBadGateway, mxerr.CodeUnknown, "The file could not be fetched from its server").Because(err)
}

// Run removes files of deleted media when there are any, and periodically unused files of other servers, expired images
// and unused uploads, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(pruneInterval)
	defer tick.Stop()
	s.try(ctx, "Cannot encrypt media files", s.encryptAll)
	for {
		s.try(ctx, "Cannot remove unused files of other servers", s.PruneRemote)
		s.try(ctx, "Cannot remove expired images of link previews", s.PruneTemporary)
		s.try(ctx, "Cannot forget which media of other servers were removed", s.forgetGone)
		s.try(ctx, "Cannot remove unused uploads", s.collectUnused)
		for pruning := false; !pruning; {
			s.try(ctx, "Cannot remove the files of deleted media", s.unlinkAll)
			select {
			case <-ctx.Done():
				return nil
			case <-s.wake:
				gatherUnlinks(ctx)
			case <-tick.C:
				pruning = true
			}
		}
	}
}

// try calls a job, one of those that Run repeats, and logs its error with the message failed.
func (s *Service) try(ctx context.Context, failed string, job func(context.Context) error) {
	if err := job(ctx); err != nil && ctx.Err() == nil {
		s.opts.Log.Error(failed, "err", err)
	}
}

const (
	// rememberGone is how long media of other servers are not fetched again after the last message that referred to
	// them was removed.
	rememberGone = 30 * 24 * time.Hour
	// forgetGoneChunk is how many such media one write forgets: 2000 keep it under about 20 ms.
	forgetGoneChunk = 2000
)

func (s *Service) forgetGone(ctx context.Context) error {
	before := s.opts.Now().Add(-rememberGone).UnixMilli()
	for more := true; more; {
		err := s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
			more, err = tx.ForgetGoneMedia(before, forgetGoneChunk)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// PruneRemote removes cached files of other servers. It first removes those not used within RemoteLifetime, and then
// the least recently used ones until the rest fits into RemoteCache.
func (s *Service) PruneRemote(ctx context.Context) error {
	return s.prune(ctx, s.opts.RemoteCache, func(tx *storage.Tx, now time.Time) (size int64, first []removable, err error) {
		if size, err = tx.RemoteMediaSize(); err != nil {
			return 0, nil, err
		}
		expired := now.Add(-s.opts.RemoteLifetime).UnixMilli()
		files, err := tx.OldestRemoteMedia(pruneBatch)
		for _, m := range files {
			first = append(first, removable{
				name: m.ID + " of " + m.Server, size: m.Size, expired: m.Used <= expired,
				forget: func(tx *storage.Tx) error { return tx.DeleteRemoteMedia(m.Server, m.ID) },
			})
		}
		return size, first, err
	})
}

// removable is a file that prune may remove.
type removable struct {
	name    string // for error messages
	size    int64
	expired bool                       // whether to remove it even if there is room
	forget  func(tx *storage.Tx) error // deletes its row, and queues the file for removal if no other row refers to it
}

// prune removes files in the order in which next returns them, as long as they have expired or the total size exceeds
// limit. next returns the total size and the first pruneBatch files.
func (s *Service) prune(ctx context.Context, limit int64, next func(tx *storage.Tx, now time.Time) (size int64, first []removable, err error)) error {
	select {
	case s.remote.pruning <- struct{}{}:
		defer func() { <-s.remote.pruning }()
	case <-ctx.Done():
		return ctx.Err()
	}
	now, err := s.removeBy(ctx)
	if err != nil {
		return err
	}
	for {
		var size int64
		var first []removable
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			size, first, err = next(tx, now)
			return err
		})
		if err != nil {
			return err
		}
		for _, m := range first {
			if !m.expired && size <= limit {
				return s.unlinkAll(ctx)
			}
			if err := s.opts.DB.Write(ctx, m.forget); err != nil {
				return fmt.Errorf("remove %s: %w", m.name, err)
			}
			size -= m.size
		}
		if err := s.unlinkAll(ctx); err != nil {
			return err
		}
		if len(first) < pruneBatch {
			return nil
		}
	}
}
