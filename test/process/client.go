package process

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// requestTimeout is the timeout of one request.
const requestTimeout = 60 * time.Second

// Client sends requests as one user, or anonymously while Token is empty.
type Client struct {
	URL, UserID, Token, Device string

	http *http.Client
}

// Object is a JSON object in a request or response.
type Object = map[string]any

// NewClient returns a client with its own connections.
func (s *Server) NewClient() *Client {
	return &Client{URL: s.URL, http: &http.Client{Timeout: requestTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
}

// Register creates an account on a server with open registration.
func (s *Server) Register(t testing.TB, name string) *Client {
	t.Helper()
	c := s.NewClient()
	answer := c.Must(t, http.MethodPost, "/_matrix/client/v3/register",
		Object{"username": name, "password": "a password of " + name, "auth": Object{"type": "m.login.dummy"}})
	c.UserID, c.Token, c.Device = Text(answer, "user_id"), Text(answer, "access_token"), Text(answer, "device_id")
	return c
}

// Do sends a request once. It returns an error only if there was no response; the caller checks the status.
func (c *Client) Do(ctx context.Context, method, path string, body any) (int, Object, error) {
	var reader io.Reader = http.NoBody
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		reader = bytes.NewReader(raw)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.URL+path, reader)
	if err != nil {
		return 0, nil, err
	}
	if c.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.Token)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil, err
	}
	var answer Object
	if err := json.Unmarshal(raw, &answer); err != nil {
		return response.StatusCode, nil, fmt.Errorf("%s %s: %w: %.200s", method, path, err, raw)
	}
	return response.StatusCode, answer, nil
}

// Must sends a request and fails the test unless the response has status 200.
func (c *Client) Must(t testing.TB, method, path string, body any) Object {
	t.Helper()
	status, answer, err := c.Do(context.Background(), method, path, body)
	if err != nil || status != http.StatusOK {
		t.Fatalf("%s %s: %d %v %v", method, path, status, answer, err)
	}
	return answer
}

// Path escapes and joins segments.
func Path(segments ...string) string {
	var b strings.Builder
	b.WriteString("/_matrix/client/v3")
	for _, s := range segments {
		b.WriteString("/" + url.PathEscape(s))
	}
	return b.String()
}

// At returns a nested value of a response, or nil if there is none.
func At(answer any, members ...string) any {
	for _, m := range members {
		object, ok := answer.(Object)
		if !ok {
			return nil
		}
		answer = object[m]
	}
	return answer
}

// Text returns a nested string, or "" if there is none.
func Text(answer any, members ...string) string {
	text, _ := At(answer, members...).(string)
	return text
}

// Number returns a nested number, or 0 if there is none.
func Number(answer any, members ...string) int {
	number, _ := At(answer, members...).(float64)
	return int(number)
}

// List returns a nested array.
func List(answer any, members ...string) []any {
	list, _ := At(answer, members...).([]any)
	return list
}

// FilesWith returns the files below a folder that contain marker.
func FilesWith(t testing.TB, dir, marker string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return skipGone(err)
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte(marker)) {
			found = append(found, strings.TrimPrefix(path, dir+"/"))
		}
		return skipGone(err)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// skipGone returns nil for the error of a file that disappeared while the folder was read, which happens because the
// server is running.
func skipGone(err error) error {
	if os.IsNotExist(err) {
		return nil
	}
	return err
}

// Gone reports whether the server does not respond.
func (c *Client) Gone(ctx context.Context) bool {
	_, _, err := c.Do(ctx, http.MethodGet, "/_matrix/client/versions", nil)
	return err != nil
}
