package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/secrets"
	"ebb/storage"
)

type fixture struct {
	*Service
	dir  string
	now  time.Time
	ring *secrets.Ring
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	f := &fixture{dir: t.TempDir(), now: time.UnixMilli(1_700_000_000_000)}
	ring, err := secrets.Create(f.dir)
	if err != nil {
		t.Fatal(err)
	}
	f.ring = ring
	db, err := storage.Open(context.Background(), storage.Config{Server: "here.test", Now: func() time.Time { return f.now }, DSN: "sqlite:" + filepath.Join(f.dir, "ebb.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	f.open(t, db)
	return f
}

func (f *fixture) open(t testing.TB, db *storage.DB) {
	t.Helper()
	var err error
	f.Service, err = New(context.Background(), Options{
		DB: db, Server: "here.test", Dir: filepath.Join(f.dir, "media"), Key: []byte("secret"), MaxUploadSize: 1000, QuotaPerUser: 2500, MaxPending: 2,
		Secrets: f.ring, PendingExpiry: time.Hour, Workers: 2, Now: func() time.Time { return f.now }, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) upload(t testing.TB, user ident.UserNID, body string) string {
	t.Helper()
	id, err := f.Upload(t.Context(), user, "text/plain", "a.txt", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func (f *fixture) read(t *testing.T, id string) string {
	t.Helper()
	file, err := f.Open(t.Context(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	b, err := io.ReadAll(file.Content)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// filesWith counts the files in the media directory that contain text.
func (f *fixture) filesWith(t *testing.T, text string) (n int) {
	t.Helper()
	f.eachMediaFile(t, func(b []byte) {
		if bytes.Contains(b, []byte(text)) {
			n++
		}
	})
	return n
}

// countFiles counts the files in the media directory.
func (f *fixture) countFiles(t testing.TB) (n int) {
	t.Helper()
	f.eachMediaFile(t, func([]byte) { n++ })
	return n
}

func (f *fixture) eachMediaFile(t testing.TB, do func(content []byte)) {
	t.Helper()
	err := filepath.Walk(filepath.Join(f.dir, "media"), func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		do(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// renameThumbs replaces a part of the names of all thumbnails.
func (f *fixture) renameThumbs(part, by string) error {
	return f.files.walk(f.files.thumbDir(), func(path string) error {
		return os.Rename(path, strings.Replace(path, "."+part, "."+by, 1))
	})
}

func status(err error) int {
	var e *mxerr.Error
	if errors.As(err, &e) {
		return e.Status
	}
	return 0
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if mxerr.Code(err) != code {
		t.Fatalf("err = %v, want %s", err, code)
	}
}

func TestFileIsRemovedWithItsLastMediaID(t *testing.T) {
	f := newFixture(t)
	f.connect(&origin{body: []byte("same bytes")})
	local := f.upload(t, 1, "same bytes")
	for _, mediaID := range []string{"first", "second"} {
		file, err := f.OpenRemote(t.Context(), "elsewhere.test", mediaID, 0)
		if err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
	}
	if err := f.unlinkAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := f.countFiles(t); n != 1 {
		t.Fatalf("%d files, want one for the three ids", n)
	}
	f.opts.RemoteCache = 0
	if err := f.PruneRemote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := f.read(t, local); got != "same bytes" {
		t.Fatalf("the other id gives %q", got)
	}
}

func TestThumbnailIsRemovedWithItsFile(t *testing.T) {
	f := newFixture(t)
	f.connect(&origin{body: pngOf(t, 500, 500)})
	for range 2 { // made the first time, cached the second time
		thumb, err := f.ThumbnailRemote(t.Context(), "elsewhere.test", "abc", Size{Width: 32, Height: 32, Crop: true}, 0)
		if err != nil || thumb.ContentType != "image/png" {
			t.Fatal(thumb, err)
		}
		_ = thumb.Close()
	}
	if f.countFiles(t) != 2 {
		t.Fatal("no thumbnail on disk")
	}
	f.opts.RemoteCache = 0
	if err := f.PruneRemote(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := f.countFiles(t); n != 0 {
		t.Fatalf("%d files left", n)
	}
}

func TestUploadLimits(t *testing.T) {
	f := newFixture(t)
	_, err := f.Upload(t.Context(), 1, "", "", strings.NewReader(strings.Repeat("x", 1001)))
	wantCode(t, err, mxerr.CodeTooLarge)
	for i := range 2 {
		f.upload(t, 1, strings.Repeat("x", 999-i))
	}
	_, err = f.Upload(t.Context(), 1, "", "", strings.NewReader(strings.Repeat("y", 1000)))
	wantCode(t, err, mxerr.CodeForbidden)
	if n := f.countFiles(t); n != 2 {
		t.Fatalf("%d files of a refused upload", n)
	}
	f.upload(t, 2, strings.Repeat("y", 1000)) // another user has a quota of their own
}

func TestAsyncUpload(t *testing.T) {
	f := newFixture(t)
	id, _, err := f.Create(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Open(t.Context(), id, 0)
	wantCode(t, err, mxerr.CodeNotYetUploaded)
	wantCode(t, f.Put(t.Context(), 2, id, "", "", strings.NewReader("b")), mxerr.CodeForbidden)

	var wg sync.WaitGroup
	wg.Go(func() {
		file, err := f.Open(t.Context(), id, 30*time.Second)
		if err != nil {
			t.Error(err)
			return
		}
		_ = file.Close()
	})
	if err := f.Put(t.Context(), 1, id, "text/plain", "n", strings.NewReader("late")); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	wantCode(t, f.Put(t.Context(), 1, id, "", "", strings.NewReader("again")), mxerr.CodeCannotOverwriteMedia)
	if got := f.read(t, id); got != "late" {
		t.Fatalf("got %q", got)
	}
}

func TestReservationsAreBoundedAndExpire(t *testing.T) {
	f := newFixture(t)
	first, _, err := f.Create(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err = f.Create(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	_, _, err = f.Create(t.Context(), 1)
	wantCode(t, err, mxerr.CodeLimitExceeded)
	f.now = f.now.Add(2 * time.Hour)
	wantCode(t, f.Put(t.Context(), 1, first, "", "", strings.NewReader("b")), mxerr.CodeNotFound)
	if _, _, err = f.Create(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
}

func TestConcurrentPutsLeaveOneUpload(t *testing.T) {
	f := newFixture(t)
	id, _, err := f.Create(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() {
			errs[i] = f.Put(t.Context(), 1, id, "text/plain", "", strings.NewReader(strings.Repeat("z", 10+i)))
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			wantCode(t, err, mxerr.CodeCannotOverwriteMedia)
		}
	}
	if n := f.countFiles(t); won != 1 || n != 1 {
		t.Fatalf("%d uploads accepted, %d files on disk", won, n)
	}
}

func TestStartupRemovesTheRemainsOfACrash(t *testing.T) {
	f := newFixture(t)
	kept := f.upload(t, 1, "kept")
	in, err := f.files.receive(strings.NewReader("orphan"), 100)
	if err != nil {
		t.Fatal(err)
	}
	if err := in.keep(); err != nil { // the row is never written
		t.Fatal(err)
	}
	if _, err := f.files.receive(strings.NewReader("half an upload"), 100); err != nil {
		t.Fatal(err)
	}
	f.open(t, f.opts.DB)
	if f.countFiles(t) != 1 || f.read(t, kept) != "kept" {
		t.Fatal("the sweep removed too little or too much")
	}
}

func TestMediaIDsCannotLeaveTheFolder(t *testing.T) {
	f := newFixture(t)
	for _, id := range []string{"", "../../etc/passwd", "a/b", "a.b", "a\x00", strings.Repeat("a", 256)} {
		_, err := f.Open(t.Context(), id, 0)
		wantCode(t, err, mxerr.CodeNotFound)
	}
}

// Otherwise the file that one of them has stored and is about to serve would be removed by the other.
func TestRequestsThatStoreTheSameContentAtOnceShareTheFileOfTheFirst(t *testing.T) {
	f := newFixture(t)
	for round := range 10 {
		content := fmt.Sprint("the same content ", round)
		stored := make([]storage.MediaFile, 4)
		errs := make([]error, len(stored))
		var all sync.WaitGroup
		for i := range stored {
			all.Go(func() {
				stored[i], errs[i] = f.store(t.Context(), strings.NewReader(content), 100, func(*storage.Tx, *incoming) error { return nil })
			})
		}
		all.Wait()
		for i, file := range stored {
			if errs[i] != nil || file.Name != stored[0].Name {
				t.Fatalf("round %d: request %d has the file %q and the first one %q: %v", round, i, file.Name, stored[0].Name, errs[i])
			}
		}
	}
}
