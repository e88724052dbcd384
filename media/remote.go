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
func (s *Service) remoteMedia(ctx context.Context, server, mediaID string) (m storage.Media, found bool, err error) {
	if !validID(mediaID) || !pdu.ValidServerName(server) {
		return m, false, errGone()
	}
	row, found, err := s.fetched(ctx, server, mediaID)
	return asMedia(row), found, err
}

// asMedia converts the row of a remote file to the type for local files.
func asMedia(m storage.RemoteMedia) storage.Media {
	return storage.Media{ID: m.ID, Blob: m.Blob, ContentType: m.ContentType, Filename: m.Filename, Size: m.Size}
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
		if err != nil || found && s.files.intact(m.Blob, m.Size) {
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
	err = s.store(ctx, body, s.opts.MaxRemoteSize, func(tx *storage.Tx, in *incoming) error {
		m.Blob, m.Size = in.Name, in.Size
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

// Run periodically removes unused files of other servers and expired images, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(pruneInterval)
	defer tick.Stop()
	for {
		if err := s.PruneRemote(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Error("Cannot remove unused files of other servers", "err", err)
		}
		if err := s.PruneTemporary(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Error("Cannot remove expired images of link previews", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
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
				name: m.ID + " of " + m.Server, blob: m.Blob, size: m.Size, expired: m.Used <= expired,
				forget: func(tx *storage.Tx) error { return tx.DeleteRemoteMedia(m.Server, m.ID) },
			})
		}
		return size, first, err
	})
}

// removable is a file that prune may remove.
type removable struct {
	name    string // for error messages
	blob    string
	size    int64
	expired bool                       // whether to remove it even if there is room
	forget  func(tx *storage.Tx) error // deletes its row in the database
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
				return nil
			}
			if err := s.remove(ctx, m); err != nil {
				return fmt.Errorf("remove %s: %w", m.name, err)
			}
			size -= m.size
		}
		if len(first) < pruneBatch {
			return nil
		}
	}
}

// remove deletes the row of a file, and the file itself if no other row refers to it.
func (s *Service) remove(ctx context.Context, m removable) error {
	release, err := s.files.claims.Acquire(ctx, m.blob)
	if err != nil {
		return err
	}
	defer release()
	if err := s.opts.DB.Write(ctx, m.forget); err != nil {
		return err
	}
	return s.removeUnnamedClaimed(ctx, m.blob)
}
