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

// Remote fetches files of other servers; fedclient.Client does.
type Remote interface {
	// DownloadMedia asks a server for a file of its own, waiting there up to wait for one that is announced.
	DownloadMedia(ctx context.Context, server, mediaID string, wait time.Duration) (*fedclient.Media, error)
}

const (
	maxFetches         = 32 // files of other servers that are on their way
	maxFetchesOfServer = 8  // of one of them, so that a slow one leaves room for the others
	pruneBatch         = 50
	pruneInterval      = time.Hour
	// usedStep is how exactly it is known when a file was last asked for: more often would be a write for every look.
	usedStep = time.Hour
)

// remoteFiles is the work on files of other servers. Each is fetched once for all who ask for it.
type remoteFiles struct {
	// fetches remembers nothing: a file that was fetched is in the database at once.
	fetches *keyed.Memo[remoteName, storage.RemoteMedia]
	servers *keyed.Semaphore[string]
	// pruning is held while files are removed; a slot of one.
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

// OpenRemote finds a file of another server: one that was fetched before, or else it is fetched now, and there waited for up
// to wait where it is only announced.
//
// Errors: M_NOT_FOUND; 504 M_NOT_YET_UPLOADED; 502 M_TOO_LARGE; 502 M_UNKNOWN where the server does not give it.
// Spec: client-server-api#get_matrixclientv1mediadownloadservernamemediaid
func (s *Service) OpenRemote(ctx context.Context, server, mediaID string, wait time.Duration) (*File, error) {
	f, err := s.withRemote(ctx, server, mediaID, wait, s.openBlob)
	if err == nil {
		downloads.Inc()
	}
	return f, err
}

// ThumbnailRemote is Thumbnail for a file of another server; it is made here.
//
// Errors: those of OpenRemote; M_UNKNOWN 400 where the file is not an image; M_TOO_LARGE 502 where a still is asked for of an
// animation that is too large.
// Spec: client-server-api#get_matrixclientv1mediathumbnailservernamemediaid
func (s *Service) ThumbnailRemote(ctx context.Context, server, mediaID string, want Size, wait time.Duration) (*File, error) {
	f, err := s.withRemote(ctx, server, mediaID, wait, func(m storage.Media) (*File, error) { return s.thumbnailOf(ctx, m, want) })
	if errors.Is(err, errTooLarge) {
		err = mxerr.New(http.StatusBadGateway, mxerr.CodeTooLarge, "The image is too large for a thumbnail")
	}
	return f, err
}

// withRemote opens a file of another server, after fetching it where it is not here. A file that the disk has lost is fetched again.
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
		s.opts.Log.Warn("a cached file of another server is damaged or missing: it is fetched again", "server", server, "media_id", mediaID, "err", err)
	}
	fetched, err := s.fetchOnce(ctx, server, mediaID, min(wait, maxWait))
	if err != nil {
		return nil, err
	}
	f, err := open(asMedia(fetched))
	if errors.Is(err, errDamaged) {
		err = errGone().Because(err) // lost since it was fetched
	}
	return f, err
}

// remoteMedia looks for a file that was fetched before.
func (s *Service) remoteMedia(ctx context.Context, server, mediaID string) (m storage.Media, found bool, err error) {
	if !validID(mediaID) || !pdu.ValidServerName(server) {
		return m, false, errGone()
	}
	row, found, err := s.fetched(ctx, server, mediaID)
	return asMedia(row), found, err
}

// asMedia is a file of another server as if it were one of this server.
func asMedia(m storage.RemoteMedia) storage.Media {
	return storage.Media{ID: m.ID, Blob: m.Blob, ContentType: m.ContentType, Filename: m.Filename, Size: m.Size}
}

// fetched finds a file that is here, and notes that it is asked for.
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
		err = nil // reading goes on
	}
	return m, true, err
}

// fetchOnce fetches a file for all who ask for it meanwhile.
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
			return m, err // it came while this one waited
		}
		return s.fetch(ctx, server, mediaID, wait)
	})
}

func (s *Service) fetch(ctx context.Context, server, mediaID string, wait time.Duration) (m storage.RemoteMedia, err error) {
	file, err := s.opts.Remote.DownloadMedia(ctx, server, mediaID, wait)
	if err != nil {
		return m, notFetched(err)
	}
	defer func() { _ = file.Body.Close() }() // only read
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
		s.opts.Log.Warn("removing files of other servers", "err", err)
	}
	return m, nil
}

// watched tells a failure of the network from one of the disk.
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

// notFetched is what a client is told: nothing of what the other server says reaches it but these three things.
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

// Run removes files of other servers that nobody asks for any more, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(pruneInterval)
	defer tick.Stop()
	for {
		if err := s.PruneRemote(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Error("removing files of other servers", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// PruneRemote removes files of other servers: those that nobody has asked for within RemoteLifetime, and beyond that those not
// asked for for longest, until the rest is within RemoteCache.
func (s *Service) PruneRemote(ctx context.Context) error {
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
		var oldest []storage.RemoteMedia
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			if size, err = tx.RemoteMediaSize(); err == nil {
				oldest, err = tx.OldestRemoteMedia(pruneBatch)
			}
			return err
		})
		if err != nil {
			return err
		}
		expired := now.Add(-s.opts.RemoteLifetime).UnixMilli()
		for _, m := range oldest {
			if m.Used > expired && size <= s.opts.RemoteCache {
				return nil
			}
			if err := s.removeRemote(ctx, m); err != nil {
				return fmt.Errorf("remove %s of %s: %w", m.ID, m.Server, err)
			}
			size -= m.Size
		}
		if len(oldest) < pruneBatch {
			return nil
		}
	}
}

func (s *Service) removeRemote(ctx context.Context, m storage.RemoteMedia) error {
	release, err := s.files.claims.Acquire(ctx, m.Blob)
	if err != nil {
		return err
	}
	defer release()
	if err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteRemoteMedia(m.Server, m.ID) }); err != nil {
		return err
	}
	return s.removeUnnamedClaimed(ctx, m.Blob)
}
