package media

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebb/fedclient"
	"ebb/storage"
	"ebb/storage/storagetest"
)

// harm lists the ways in which a disk may damage a file.
var harm = map[string]func(path string) error{
	"missing":  os.Remove,
	"empty":    func(path string) error { return os.Truncate(path, 0) },
	"cut off":  func(path string) error { return cutOff(path, -1) },
	"longer":   func(path string) error { return cutOff(path, +1) },
	"altered":  func(path string) error { return alter(path) },
	"a folder": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) },
}

func cutOff(path string, by int64) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return os.Truncate(path, info.Size()+by)
}

func alter(path string) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	raw[len(raw)/2]++
	return os.WriteFile(path, raw, 0o600)
}

// eachFile calls f for every blob, or for every thumbnail.
func (f *fixture) eachFile(t *testing.T, thumbs bool, do func(path string) error) {
	t.Helper()
	n := 0
	if err := f.files.walk(f.files.dir, func(path string) error {
		if strings.HasPrefix(path, f.files.thumbDir()) != thumbs {
			return nil
		}
		n++
		return do(path)
	}); err != nil || n == 0 {
		t.Fatal(n, err)
	}
}

func TestDamagedUploadIsNotServed(t *testing.T) {
	for name, do := range harm {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			raw := pngOf(t, 200, 200)
			id := f.uploaded(t, raw)
			if got := f.read(t, id); got != string(raw) {
				t.Fatal("not what was uploaded")
			}
			f.eachFile(t, false, do)
			for range 2 {
				_, err := f.Open(t.Context(), id, 0)
				wantCode(t, err, "M_NOT_FOUND")
				_, err = f.Thumbnail(t.Context(), id, Size{Width: 32, Height: 32}, 0)
				wantCode(t, err, "M_NOT_FOUND")
			}
			if name == "a folder" {
				return // a file cannot be put in its place
			}
			f.uploaded(t, raw) // the same bytes again
			if got := f.read(t, id); got != string(raw) {
				t.Error("another upload of the same bytes does not bring it back")
			}
		})
	}
}

func TestDamagedThumbnailIsMadeAgain(t *testing.T) {
	for name, do := range harm {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			raw := pngOf(t, 200, 200)
			want, _ := f.thumb(t, raw, Size{Width: 32, Height: 32, Crop: true})
			if name == "a folder" {
				return
			}
			f.eachFile(t, true, do)
			if got, typ := f.thumb(t, raw, Size{Width: 32, Height: 32, Crop: true}); !bytes.Equal(got, want) || typ != "image/png" {
				t.Errorf("%d bytes of %s, want %d", len(got), typ, len(want))
			}
		})
	}
}

// origin is another server with one file.
type origin struct {
	body  []byte
	asked int
	err   error
}

func (o *origin) DownloadMedia(context.Context, string, string, time.Duration) (*fedclient.Media, error) {
	o.asked++
	return &fedclient.Media{ContentType: "image/png", Body: io.NopCloser(bytes.NewReader(o.body))}, o.err
}

func (f *fixture) connect(o *origin) {
	f.opts.Remote, f.opts.MaxRemoteSize, f.opts.RemoteCache, f.opts.RemoteLifetime = o, 1<<20, 1<<20, time.Hour
}

func TestDamagedFileOfAnotherServerIsFetchedAgain(t *testing.T) {
	for name, do := range harm {
		if name == "a folder" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			f, o := newFixture(t), &origin{body: pngOf(t, 200, 200)}
			f.connect(o)
			for n := 1; n <= 3; n++ {
				file, err := f.OpenRemote(t.Context(), "elsewhere.test", "abc", 0)
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(file.Content)
				if err = errors.Join(err, file.Close()); err != nil || !bytes.Equal(got, o.body) || o.asked != n {
					t.Fatalf("%d bytes after %d downloads: %v", len(got), o.asked, err)
				}
				f.eachFile(t, false, do)
			}
			thumb, err := f.ThumbnailRemote(t.Context(), "elsewhere.test", "abc", Size{Width: 32, Height: 32, Crop: true}, 0)
			if err != nil || o.asked != 4 {
				t.Fatal(err, o.asked)
			}
			_ = thumb.Close()
			f.eachFile(t, false, do)
			f.eachFile(t, true, os.Remove)
			o.err = &fedclient.RemoteError{Status: http.StatusNotFound, Code: "M_NOT_FOUND"}
			_, err = f.OpenRemote(t.Context(), "elsewhere.test", "abc", 0)
			wantCode(t, err, "M_NOT_FOUND")
		})
	}
}

// onFullDisk moves the files of a fixture to a full disk. free makes room on it.
func onFullDisk(t *testing.T, f *fixture) (free func()) {
	t.Helper()
	disk := storagetest.TinyDisk(t, 1<<20)
	db := f.opts.DB
	was := f.dir
	f.dir = disk
	if err := os.CopyFS(filepath.Join(disk, "media"), os.DirFS(filepath.Join(was, "media"))); err != nil {
		t.Fatal(err)
	}
	f.open(t, db)
	ballast := filepath.Join(disk, "ballast")
	storagetest.Fill(t, ballast)
	return func() {
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
	}
}

func TestUploadToAFullDiskIsRefusedAndLeavesNothing(t *testing.T) {
	f := newFixture(t)
	free := onFullDisk(t, f)
	f.opts.MaxUploadSize, f.opts.QuotaPerUser = 1<<20, 0
	f.connect(&origin{body: []byte(strings.Repeat("remote", 2000))})
	body := strings.Repeat("upload", 2000)
	id, _, err := f.Create(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	_, uploadErr := f.Upload(t.Context(), 1, "", "", strings.NewReader(body))
	_, remoteErr := f.OpenRemote(t.Context(), "elsewhere.test", "abc", 0)
	for what, err := range map[string]error{"upload": uploadErr, "put": f.Put(t.Context(), 1, id, "", "", strings.NewReader(body)), "file of another server": remoteErr} {
		if !errors.Is(err, storage.ErrFull) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if n := f.countFiles(t); n != 0 {
		t.Errorf("%d files are left", n)
	}
	free()
	if err := f.Put(t.Context(), 1, id, "", "", strings.NewReader(body)); err != nil || f.read(t, id) != body {
		t.Errorf("once there is room: %v", err)
	}
}

func TestThumbnailOnAFullDiskIsTheOriginal(t *testing.T) {
	f := newFixture(t)
	raw, moving := pngOf(t, 200, 200), gifOf(t, 200, 200, 2)
	id, animation := f.uploaded(t, raw), f.uploaded(t, moving)
	onFullDisk(t, f)
	thumb, err := f.Thumbnail(t.Context(), id, Size{Width: 32, Height: 32, Crop: true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(thumb.Content)
	if err = errors.Join(err, thumb.Close()); err != nil || !bytes.Equal(got, raw) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := f.Thumbnail(t.Context(), animation, Size{Width: 32, Height: 32, Crop: true}, 0); !errors.Is(err, storage.ErrFull) {
		t.Errorf("the still of an animation: %v", err)
	}
}

func TestFilesThatExpiredThroughAClockJumpAreKept(t *testing.T) {
	f, o := newFixture(t), &origin{body: []byte("what its server may have lost")}
	f.connect(o)
	right := f.now
	f.opts.RemoveBy = func(context.Context) (time.Time, error) { return right, nil }
	file, err := f.OpenRemote(t.Context(), "elsewhere.test", "abc", 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = file.Close()
	reserved, _, err := f.Create(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	f.now = right.Add(30 * 24 * time.Hour)
	if err := errors.Join(f.PruneRemote(t.Context()), f.Sweep(t.Context())); err != nil {
		t.Fatal(err)
	}
	if n := f.countFiles(t); n != 1 {
		t.Error("the file of another server is gone")
	}
	if _, _, err := f.Create(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	f.now = right
	if err := f.Put(t.Context(), 1, reserved, "", "", strings.NewReader("late")); err != nil {
		t.Errorf("the reservation is gone: %v", err)
	}
}
