package main

import (
	"bytes"
	"image"
	"image/png"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// upload uploads a picture and requests a thumbnail of it.
func (c *client) upload() {
	c.t.Helper()
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 400, 300))); err != nil {
		c.t.Fatal(err)
	}
	answer := c.bytes("POST", "/_matrix/media/v3/upload?filename=wall.png", "image/png", &picture)
	uri := regexp.MustCompile(`mxc://(test/[^"]+)`).FindSubmatch(answer)
	if uri == nil {
		c.t.Fatalf("upload: %s", answer)
	}
	c.bytes("GET", "/_matrix/client/v1/media/thumbnail/"+string(uri[1])+"?width=32&height=32&method=crop", "", http.NoBody)
}

// bytes sends a request that must succeed and returns the body of the response.
func (c *client) bytes(method, target, contentType string, body io.Reader) []byte {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.base+target, body)
	if err != nil {
		c.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", contentType)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		c.t.Fatalf("%s %s: %s %v %s", method, target, resp.Status, err, answer)
	}
	return answer
}

// TestStoragePageListsEveryFile compares docs/storage.md with the folder of a running server.
func TestStoragePageListsEveryFile(t *testing.T) {
	page, err := os.ReadFile("../../docs/storage.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(page), "\n## Files below data_dir\n")
	if !found {
		t.Fatal("docs/storage.md has no section on files")
	}
	seen := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(section, -1) {
		seen[row[1]] = false
	}
	s, _ := houses(t)
	s.serve(t)
	alice, _ := s.login(t, "alice", "some secret")
	alice.upload()
	must(t, "", "keys", "rotate", "--config="+s.config)
	err = filepath.WalkDir(s.dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err = filepath.Rel(s.dir, name)
		listed := false
		for pattern := range seen {
			if match, _ := path.Match(pattern, filepath.ToSlash(name)); match {
				seen[pattern], listed = true, true
			}
		}
		if !listed {
			t.Errorf("docs/storage.md does not list the file %s", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for pattern, there := range seen {
		// A file of an upload in progress exists only for moments, an export only if somebody asks for it; a restore
		// has ended before the server starts, make run writes the token, and keys are for PostgreSQL.
		passing := []string{"media/tmp/*", "exports/*", "restore.incomplete", "registration-token", "keys/folder.id", "keys/??/*"}
		if !there && !slices.Contains(passing, pattern) {
			t.Errorf("docs/storage.md lists %s, and a server at work has no such file", pattern)
		}
	}
}
