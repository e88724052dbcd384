package fedclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"ebb/mxerr"
)

// Media is a file that is being downloaded from another server. Its size is not known in advance. The caller must close
// Body and limit how much it reads.
type Media struct {
	ContentType string // as declared by the other server
	Filename    string
	Body        io.ReadCloser
}

const (
	// fetchTime bounds the time of a download.
	fetchTime = 5 * time.Minute
	// maxPartHeader bounds the first part of a response, which holds metadata and is empty in current versions.
	maxPartHeader = 64 << 10
)

// DownloadMedia downloads a file from the server that owns it. If the file has not been uploaded yet, that server may
// wait for it, for at most the given time. If the server does not support the authenticated endpoint, the deprecated
// unauthenticated one is used.
// Spec: server-server-api#get_matrixfederationv1mediadownloadmediaid
func (c *Client) DownloadMedia(ctx context.Context, server, mediaID string, wait time.Duration) (*Media, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	query := url.Values{"timeout_ms": {strconv.FormatInt(wait.Milliseconds(), 10)}}
	m, err := c.multipart(ctx, request{server: server, method: http.MethodGet, path: path(v1+"/media/download", mediaID), query: query})
	var remote *RemoteError
	if errors.As(err, &remote) && (remote.Code == mxerr.CodeUnrecognized || remote.Code == "" && remote.Status/100 == 4) {
		query.Set("allow_remote", "false")
		m, err = c.bare(ctx, request{
			server: server, method: http.MethodGet, path: path("/_matrix/media/v3/download", server, mediaID), query: query, unsigned: true,
		})
	}
	if err != nil {
		cancel()
		return nil, err
	}
	m.Body = &body{m.Body, cancel}
	return m, nil
}

// body cancels its request when it is closed.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *body) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// bare requests a file from an endpoint whose response is the file itself.
func (c *Client) bare(ctx context.Context, r request) (*Media, error) {
	resp, err := c.open(ctx, r) //nolint:bodyclose // the caller closes it
	if err != nil {
		return nil, err
	}
	return &Media{ContentType: resp.Header.Get("Content-Type"), Filename: filename(resp.Header), Body: resp.Body}, nil
}

// multipart requests a file from the endpoint that returns two parts: metadata, and either the file or its location.
func (c *Client) multipart(ctx context.Context, r request) (*Media, error) {
	resp, err := c.open(ctx, r)
	if err != nil {
		return nil, err
	}
	m, err := c.secondPart(ctx, resp)
	if err != nil {
		_ = resp.Body.Close() // the first error is returned
		return nil, err
	}
	return m, nil
}

func (c *Client) secondPart(ctx context.Context, resp *http.Response) (*Media, error) {
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" || params["boundary"] == "" {
		return nil, fmt.Errorf("%w: unexpected content type %.100q of a file", ErrBadAnswer, kind)
	}
	parts := multipart.NewReader(resp.Body, params["boundary"])
	about, err := parts.NextRawPart()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(about, maxPartHeader)); err != nil || n == maxPartHeader {
		return nil, fmt.Errorf("%w: the metadata of a file: %w", ErrBadAnswer, errors.Join(err, errTooLarge))
	}
	file, err := parts.NextRawPart()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	if place := file.Header.Get("Location"); place != "" {
		m, err := c.fetch(ctx, place)
		if err == nil {
			_ = resp.Body.Close() // the rest of the response is not needed
		}
		return m, err
	}
	header := http.Header(file.Header)
	return &Media{ContentType: header.Get("Content-Type"), Filename: filename(header), Body: &part{file, resp.Body}}, nil
}

// part is one part of a response. Closing it closes the response.
type part struct {
	io.Reader
	io.Closer
}

// fetch downloads a file from a location named by another server. It accepts only addresses on the public internet, and
// does not sign the request.
func (c *Client) fetch(ctx context.Context, place string) (*Media, error) {
	u, err := url.Parse(place)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("%w: the location of a file is not a valid URL: %.100q", ErrBadAnswer, place)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	req.Header.Set("User-Agent", c.opts.UserAgent)
	resp, err := c.elsewhere.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	if resp.StatusCode != http.StatusOK {
		_ = resp.Body.Close() // the body of an error is not needed
		return nil, fmt.Errorf("%w: the location of a file answered with status %d", ErrBadAnswer, resp.StatusCode)
	}
	return &Media{ContentType: resp.Header.Get("Content-Type"), Filename: filename(resp.Header), Body: resp.Body}, nil
}

// filename returns the file name in a Content-Disposition header, or "" if there is none.
func filename(h http.Header) string {
	_, params, err := mime.ParseMediaType(h.Get("Content-Disposition"))
	if err != nil {
		return ""
	}
	return params["filename"]
}
