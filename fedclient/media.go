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

// Media is a file of another server as it comes over the network: its size is not known before its end. The caller closes
// Body, and bounds what it reads of it.
type Media struct {
	ContentType string // as the other server has it
	Filename    string
	Body        io.ReadCloser
}

const (
	// fetchTime is how long a file may take to come over.
	fetchTime = 5 * time.Minute
	// maxPartHeader bounds the first part of an answer, which describes the file and is empty so far.
	maxPartHeader = 64 << 10
)

// DownloadMedia asks a server for a file of its own, waiting there up to wait for one that is announced. A server that does
// not know the operation is asked by its old address, which is without signature.
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

// body ends its request when it is closed.
type body struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (b *body) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}

// bare asks for a file whose answer is nothing but the file.
func (c *Client) bare(ctx context.Context, r request) (*Media, error) {
	resp, err := c.open(ctx, r) //nolint:bodyclose // the caller closes it
	if err != nil {
		return nil, err
	}
	return &Media{ContentType: resp.Header.Get("Content-Type"), Filename: filename(resp.Header), Body: resp.Body}, nil
}

// multipart asks for a file whose answer has two parts: what is to be known of it, and itself or where it lies.
func (c *Client) multipart(ctx context.Context, r request) (*Media, error) {
	resp, err := c.open(ctx, r)
	if err != nil {
		return nil, err
	}
	m, err := c.secondPart(ctx, resp)
	if err != nil {
		_ = resp.Body.Close() // the first error tells
		return nil, err
	}
	return m, nil
}

func (c *Client) secondPart(ctx context.Context, resp *http.Response) (*Media, error) {
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/mixed" || params["boundary"] == "" {
		return nil, fmt.Errorf("%w: a file came as %.100q", ErrBadAnswer, kind)
	}
	parts := multipart.NewReader(resp.Body, params["boundary"])
	about, err := parts.NextRawPart()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	if n, err := io.Copy(io.Discard, io.LimitReader(about, maxPartHeader)); err != nil || n == maxPartHeader {
		return nil, fmt.Errorf("%w: the description of a file: %w", ErrBadAnswer, errors.Join(err, errTooLarge))
	}
	file, err := parts.NextRawPart()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadAnswer, err)
	}
	if place := file.Header.Get("Location"); place != "" {
		m, err := c.fetch(ctx, place)
		if err == nil {
			_ = resp.Body.Close() // nothing more is in it
		}
		return m, err
	}
	header := http.Header(file.Header)
	return &Media{ContentType: header.Get("Content-Type"), Filename: filename(header), Body: &part{file, resp.Body}}, nil
}

// part is one part of an answer, which it ends with it.
type part struct {
	io.Reader
	io.Closer
}

// fetch reads a file from where a server says that it lies: somewhere on the public internet, without signature.
func (c *Client) fetch(ctx context.Context, place string) (*Media, error) {
	u, err := url.Parse(place)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("%w: a file lies at %.100q", ErrBadAnswer, place)
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
		_ = resp.Body.Close() // what it says is not for us
		return nil, fmt.Errorf("%w: a file lies where the answer is %d", ErrBadAnswer, resp.StatusCode)
	}
	return &Media{ContentType: resp.Header.Get("Content-Type"), Filename: filename(resp.Header), Body: resp.Body}, nil
}

// newElsewhere reaches what is no server of Matrix. It follows one redirect, and dials no private address.
func newElsewhere(o Options, reach *reach) *http.Client {
	return &http.Client{
		Transport: &http.Transport{
			DialContext: reach.host, TLSClientConfig: tlsConfig(o, ""), TLSHandshakeTimeout: dialTime, ResponseHeaderTimeout: usualTime,
			DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxHeaderSize,
		},
		CheckRedirect: func(r *http.Request, via []*http.Request) error {
			if len(via) > 1 || r.URL.Scheme != "https" {
				return errors.New("too many redirects, or to what is not https")
			}
			return nil
		},
	}
}

// filename is the name that a Content-Disposition gives a file, "" for none.
func filename(h http.Header) string {
	_, params, err := mime.ParseMediaType(h.Get("Content-Disposition"))
	if err != nil {
		return ""
	}
	return params["filename"]
}
