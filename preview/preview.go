// Package preview makes previews of web pages that messages link to. A preview consists of a title, a description and
// an image. Strangers choose the pages, so every request is bounded in time, size, redirects and content type, and is
// sent through netguard, which checks each address when it is dialled. Nothing is fetched recursively: a preview takes
// one page, at most one oEmbed document and one image.
//
// Service.Preview looks in the cache, which is in the database. If the preview is not there, fetch (fetch.go) requests
// the page once for all waiting requests, readPage (page.go) reads its metadata, package media stores the image for a
// while, and the preview is added to the cache.
package preview

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"ebb/ident"
	"ebb/keyed"
	"ebb/media"
	"ebb/mxerr"
	"ebb/netguard"
	"ebb/storage"
)

// Options are the dependencies and settings of a Service; all fields but Allowed and Timeout are required.
type Options struct {
	DB        *storage.DB
	Media     *media.Service
	Server    string       // the name of this server, for the mxc URIs of images
	Client    *http.Client // made by netguard
	Allowed   func(host string) bool
	Languages string        // value of Accept-Language
	Lifetime  time.Duration // how long a preview is valid
	MaxImage  int64         // bytes in an image
	Timeout   time.Duration // for one preview with its image; 0 means fetchTime
	Now       func() time.Time
	Log       *slog.Logger
}

const (
	maxFetches     = 16               // previews being made at a time
	maxUserFetches = 2                // previews being made for one user at a time
	maxUserWaiting = 20               // unanswered requests of one user
	maxURL         = 2048             // bytes in a URL
	fetchTime      = 20 * time.Second // for one preview, with its image
	failureTime    = 10 * time.Minute // time until a page without a preview is fetched again
	// imageGrace is how long an image is kept after its preview has expired, because clients may still show it.
	imageGrace = 24 * time.Hour
)

// Service makes previews. It is safe for concurrent use.
type Service struct {
	opts   Options
	client *http.Client
	users  *keyed.Semaphore[ident.UserNID]
	// fetches lets requests for the same page share one fetch. It keeps no results, since previews are in the database.
	fetches *keyed.Memo[string, json.RawMessage]
}

// New returns a Service.
func New(o Options) *Service {
	if o.Allowed == nil {
		o.Allowed = func(string) bool { return true }
	}
	if o.Timeout == 0 {
		o.Timeout = fetchTime
	}
	client := *o.Client
	client.Transport = hostGuard{next: o.Client.Transport, allowed: o.Allowed}
	return &Service{
		opts: o, client: &client, users: keyed.NewSemaphore[ident.UserNID](maxUserFetches, maxUserWaiting),
		fetches: keyed.NewMemo(keyed.Options[string, json.RawMessage]{Loads: maxFetches}),
	}
}

func errNoPreview() error { return mxerr.NotFound("This page has no preview") }

// errHost means that the configuration forbids previews from a host.
var errHost = errors.New("the host is not allowed by the configuration")

// Preview returns the preview of a page as it was at the given time, or a newer one.
//
// Errors: M_INVALID_PARAM, M_FORBIDDEN if the configuration excludes the host, M_NOT_FOUND if the page has no preview,
// M_LIMIT_EXCEEDED.
// Spec: client-server-api#get_matrixclientv1mediapreview_url
func (s *Service) Preview(ctx context.Context, user ident.UserNID, link string, at time.Time) (json.RawMessage, error) {
	u, err := s.parse(link)
	if err != nil {
		return nil, err
	}
	now := s.opts.Now()
	if at.After(now) {
		at = now
	}
	hash := hashOf(u)
	for _, moment := range []time.Time{at, now} {
		if found, err := s.cached(ctx, hash, moment); found != nil || err != nil {
			return found, err
		}
	}
	release, err := s.users.Acquire(ctx, user)
	if errors.Is(err, keyed.ErrBusy) {
		return nil, mxerr.LimitExceeded(time.Second)
	} else if err != nil {
		return nil, err
	}
	defer release()
	return s.fetches.Get(ctx, hash, func(ctx context.Context) (json.RawMessage, error) {
		if found, err := s.cached(ctx, hash, s.opts.Now()); found != nil || err != nil {
			return found, err // another request has made it in the meantime
		}
		return s.make(ctx, u, hash)
	})
}

// parse parses and checks the URL of a page.
//
// Errors: M_MISSING_PARAM, M_INVALID_PARAM, M_FORBIDDEN.
func (s *Service) parse(link string) (*url.URL, error) {
	if link == "" {
		return nil, mxerr.MissingParam("url is missing")
	}
	u, err := url.Parse(link)
	if err != nil || len(link) > maxURL || netguard.CheckURL(u, true) != nil {
		return nil, mxerr.InvalidParam("url must be an http or https URL of at most %d bytes, without a user name", maxURL)
	}
	if !s.opts.Allowed(u.Hostname()) {
		return nil, mxerr.Forbidden("This server does not preview pages of this host")
	}
	u.Fragment = ""
	return u, nil
}

// hashOf returns the hash under which the preview of a URL is stored. The URL itself is not stored, because it may be
// secret.
func hashOf(u *url.URL) string {
	sum := sha256.Sum256([]byte(u.String()))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// cached returns the stored preview that was valid at a given time, or nil if there is none.
//
// Errors: M_NOT_FOUND if the page is known to have no preview.
func (s *Service) cached(ctx context.Context, hash string, at time.Time) (json.RawMessage, error) {
	var p storage.URLPreview
	found := false
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		p, found, err = tx.URLPreview(hash, at.UnixMilli())
		return err
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("read a link preview: %w", err)
	case !found || p.ExpiresTS <= s.opts.Now().UnixMilli():
		return nil, nil
	case p.JSON == "":
		return nil, errNoPreview()
	}
	return json.RawMessage(p.JSON), nil
}

// make fetches a page and stores its preview, or the fact that it has none.
func (s *Service) make(ctx context.Context, u *url.URL, hash string) (json.RawMessage, error) {
	limited, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	made, err := s.fetch(limited, u)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	now := s.opts.Now()
	row := storage.URLPreview{URLHash: hash, FetchedTS: now.UnixMilli(), ExpiresTS: now.Add(s.opts.Lifetime).UnixMilli(), JSON: string(made)}
	if err != nil {
		s.opts.Log.DebugContext(ctx, "no link preview", "host", u.Host, "err", err)
		row.JSON, row.ExpiresTS = "", now.Add(min(failureTime, s.opts.Lifetime)).UnixMilli()
	}
	stored := s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := tx.DeleteExpiredURLPreviews(now.UnixMilli()); err != nil {
			return err
		}
		return tx.PutURLPreview(row)
	})
	switch {
	case err != nil:
		return nil, errors.Join(errNoPreview(), stored)
	case stored != nil:
		return nil, fmt.Errorf("store a link preview: %w", stored)
	}
	return made, nil
}
