package media

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ebb/fedclient"
	"ebb/ident"
	"ebb/storage"
)

// fixedLifetime implements Lifetimes with the same result for all users.
type fixedLifetime struct {
	longest time.Duration
	limited bool
}

func (l fixedLifetime) Undeclared(context.Context, ident.UserNID) (time.Duration, bool, error) {
	return l.longest, l.limited, nil
}

func (f *fixture) collect(t *testing.T, dry bool) Unused {
	t.Helper()
	u, err := f.CollectUnused(t.Context(), dry)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// refer stores a message that refers to the media.
func (f *fixture) refer(t testing.TB, p storage.Pos, uri string) {
	t.Helper()
	err := f.opts.DB.Write(t.Context(), func(tx *storage.Tx) error {
		return tx.InsertEvent(&storage.EventRow{Position: p, Room: 1, EventID: "$" + uri, Type: "m.room.message", JSON: []byte(`{"content":{"url":"` + uri + `"}}`)})
	})
	if err != nil {
		t.Fatal(err)
	}
}

const day = 24 * time.Hour

func TestUnusedUploadsWaitADayBeforeTheyAreDeleted(t *testing.T) {
	f := newFixture(t)
	f.opts.UnusedLifetime, f.opts.Lifetimes = day, fixedLifetime{0, true}
	id := f.upload(t, 1, "a draft")
	f.now = f.now.Add(day - time.Minute)
	if u := f.collect(t, false); u.Young != (Count{1, 7}) || f.read(t, id) != "a draft" {
		t.Fatalf("within the first day: %+v", u)
	}
	f.now = f.now.Add(time.Minute)
	if u := f.collect(t, true); u.Waiting != (Count{1, 7}) || f.read(t, id) != "a draft" {
		t.Fatalf("a dry run: %+v", u)
	}
	if u := f.collect(t, false); u.Waiting != (Count{1, 7}) || u.Deleted.Files != 0 {
		t.Fatalf("after a day: %+v", u)
	}
	_, err := f.Open(t.Context(), id, 0)
	wantCode(t, err, "M_NOT_FOUND")
	f.now = f.now.Add(day)
	if u := f.collect(t, true); u.Deleted != (Count{1, 7}) || f.countFiles(t) != 1 {
		t.Fatalf("a dry run after two days: %+v", u)
	}
	if u := f.collect(t, false); u.Deleted != (Count{1, 7}) || f.countFiles(t) != 0 {
		t.Fatalf("after two days: %+v, %d files", u, f.countFiles(t))
	}
}

func TestUnusedUploadsAreReportedByTheirAgeAndOnlyOldOnesAreTouched(t *testing.T) {
	f := newFixture(t)
	f.opts.UnusedLifetime, f.opts.Lifetimes = day, fixedLifetime{0, true}
	old, used := f.upload(t, 1, "old"), f.upload(t, 1, "in a message")
	f.refer(t, 5, "mxc://here.test/"+used)
	f.now = f.now.Add(day - time.Second)
	recent := f.upload(t, 1, "recent")
	expect := func(when string, want Unused) {
		t.Helper()
		for _, dry := range []bool{true, false} { // a dry run reports the same
			if u := f.collect(t, dry); u != want {
				t.Errorf("%s, dry run %v: %+v, want %+v", when, dry, u, want)
			}
		}
	}
	expect("within the first day", Unused{Young: Count{2, 9}})
	f.now = f.now.Add(time.Second)
	expect("after the first day of one", Unused{Waiting: Count{1, 3}, Young: Count{1, 6}})
	_, err := f.Open(t.Context(), old, 0)
	wantCode(t, err, "M_NOT_FOUND")
	if f.read(t, recent) != "recent" || f.read(t, used) != "in a message" {
		t.Error("what is not old and unused is not served")
	}
	f.now = f.now.Add(day - 2*time.Second)
	expect("before the first day of the other one ends", Unused{Waiting: Count{1, 3}, Young: Count{1, 6}})
	f.now = f.now.Add(time.Second)
	expect("after it", Unused{Waiting: Count{2, 9}})

	f.opts.UnusedLifetime = 0 // for ever
	f.now = f.now.Add(100 * day)
	expect("if unused uploads are kept", Unused{Young: Count{2, 9}})
	if f.read(t, old) != "old" || f.countFiles(t) != 3 {
		t.Errorf("%d files are left", f.countFiles(t))
	}
}

func TestAMessageBringsAnUnusedUploadBack(t *testing.T) {
	f := newFixture(t)
	f.opts.UnusedLifetime, f.opts.Lifetimes = day, fixedLifetime{0, true}
	id := f.upload(t, 1, "late")
	f.now = f.now.Add(day)
	f.collect(t, false)
	f.refer(t, 5, "mxc://here.test/"+id)
	if f.read(t, id) != "late" {
		t.Error("not served although a message refers to it")
	}
	f.now = f.now.Add(3 * day)
	if u := f.collect(t, false); u != (Unused{}) || f.read(t, id) != "late" {
		t.Errorf("%+v", u)
	}
}

func TestUploadsThatEncryptedRoomsMayUseAreKeptAsLongAsTheirMessages(t *testing.T) {
	f := newFixture(t)
	f.opts.UnusedLifetime, f.opts.Lifetimes = day, fixedLifetime{10 * day, true}
	id := f.upload(t, 1, "in an encrypted room")
	f.now = f.now.Add(9 * day)
	if u := f.collect(t, false); u.Undeclared.Files != 1 || f.read(t, id) == "" {
		t.Errorf("while messages live: %+v", u)
	}
	f.opts.Lifetimes = fixedLifetime{}
	f.now = f.now.Add(100 * day)
	if u := f.collect(t, false); u.Undeclared.Files != 1 || f.read(t, id) == "" {
		t.Errorf("if messages live for ever: %+v", u)
	}
	f.opts.Lifetimes = fixedLifetime{10 * day, true}
	if u := f.collect(t, false); u.Waiting.Files != 1 {
		t.Errorf("once messages have expired: %+v", u)
	}
}

func TestMediaInQuarantineAreNeitherServedNorDeleted(t *testing.T) {
	f := newFixture(t)
	f.opts.UnusedLifetime, f.opts.Lifetimes = day, fixedLifetime{0, true}
	id := f.upload(t, 1, "evidence")
	name := storage.MediaName{ID: id}
	f.refer(t, 5, "mxc://here.test/"+id)
	if err := f.Quarantine(t.Context(), name, true); err != nil {
		t.Fatal(err)
	}
	_, err := f.Open(t.Context(), id, 0)
	wantCode(t, err, "M_NOT_FOUND")
	_, err = f.Thumbnail(t.Context(), id, Size{Width: 32, Height: 32}, 0)
	wantCode(t, err, "M_NOT_FOUND")
	if err := f.opts.DB.Write(t.Context(), func(tx *storage.Tx) error { return tx.PurgeEvent(5, "$mxc://here.test/"+id) }); err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(10 * day)
	for range 2 {
		f.collect(t, false)
		f.now = f.now.Add(2 * day)
	}
	if f.countFiles(t) != 1 {
		t.Fatal("the file is gone")
	}
	if err := f.Quarantine(t.Context(), name, false); err != nil {
		t.Fatal(err)
	}
	if f.read(t, id) != "evidence" {
		t.Error("not served after the quarantine was lifted")
	}
	wantCode(t, f.Quarantine(t.Context(), name, false), "M_NOT_FOUND")
	wantCode(t, f.Quarantine(t.Context(), storage.MediaName{ID: "unknown"}, true), "M_NOT_FOUND")
}

func TestMediaOfOtherServersInQuarantineAreNotFetched(t *testing.T) {
	f, o := newFixture(t), &origin{body: []byte("elsewhere")}
	f.connect(o)
	name := storage.MediaName{Server: "elsewhere.test", ID: "abc"}
	if err := f.Quarantine(t.Context(), name, true); err != nil {
		t.Fatal(err)
	}
	_, err := f.OpenRemote(t.Context(), "elsewhere.test", "abc", 0)
	if wantCode(t, err, "M_NOT_FOUND"); o.asked != 0 {
		t.Error("fetched")
	}
}

func TestDeletedMediaAreGone(t *testing.T) {
	f, o := newFixture(t), &origin{body: []byte("elsewhere")}
	f.connect(o)
	id := f.upload(t, 1, "here")
	file, err := f.OpenRemote(t.Context(), "elsewhere.test", "abc", 0)
	if err = errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []storage.MediaName{{ID: id}, {Server: "elsewhere.test", ID: "abc"}} {
		if err := f.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		wantCode(t, f.Delete(t.Context(), name), "M_NOT_FOUND")
	}
	if _, err = f.Open(t.Context(), id, 0); f.countFiles(t) != 0 {
		t.Errorf("%d files are left", f.countFiles(t))
	}
	wantCode(t, err, "M_NOT_FOUND")
}

func TestMediaAreListedByUserRoomAgeAndSize(t *testing.T) {
	f := newFixture(t)
	var ids []string
	for i := range 5 {
		f.now = f.now.Add(time.Hour)
		ids = append(ids, f.upload(t, ident.UserNID(1+i%2), strings.Repeat("x", 10*(i+1))))
	}
	f.refer(t, 5, "mxc://here.test/"+ids[2])
	for name, tc := range map[string]struct {
		filter Filter
		want   []int
	}{
		"all":     {Filter{}, []int{0, 1, 2, 3, 4}},
		"by user": {Filter{User: 2}, []int{1, 3}},
		"by room": {Filter{Room: 1}, []int{2}},
		"by age":  {Filter{Age: 2 * time.Hour}, []int{0, 1, 2}},
		"by size": {Filter{MinSize: 40}, []int{3, 4}},
		"remote":  {Filter{Remote: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for after := (Info{}); ; {
				page, err := f.List(t.Context(), tc.filter, after, 2)
				if err != nil {
					t.Fatal(err)
				}
				for _, m := range page {
					got = append(got, m.URI)
				}
				if len(page) < 2 {
					break
				}
				after = page[1]
			}
			var want []string
			for _, i := range tc.want {
				want = append(want, "mxc://here.test/"+ids[i])
			}
			if strings.Join(got, " ") != strings.Join(want, " ") {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

func TestFilesFromBeforeFilesWereEncryptedAreServedAndThenEncrypted(t *testing.T) {
	f := newFixture(t)
	raw, other := pngOf(t, 200, 200), pngOf(t, 300, 300)
	id, thumbnailed, deleted, again := f.plain(t, raw), f.plain(t, other), f.plain(t, []byte("plain and deleted")), f.plain(t, []byte("plain and uploaded again"))
	if f.read(t, id) != string(raw) {
		t.Fatal("an unencrypted file is not served")
	}
	thumb, err := f.Thumbnail(t.Context(), thumbnailed, Size{Width: 32, Height: 32, Crop: true}, 0)
	if err = errors.Join(err, thumb.Close(), f.Delete(t.Context(), storage.MediaName{ID: deleted})); err != nil {
		t.Fatal(err)
	}
	f.upload(t, 1, "plain and uploaded again")
	if err := errors.Join(f.encryptAll(t.Context()), f.unlinkAll(t.Context())); err != nil {
		t.Fatal(err)
	}
	if n := f.filesWith(t, "PNG") + f.filesWith(t, "plain"); n != 0 || f.countFiles(t) != 4 {
		t.Errorf("%d files are not encrypted, of %d", n, f.countFiles(t))
	}
	if f.read(t, id) != string(raw) || f.read(t, thumbnailed) != string(other) || f.read(t, again) != "plain and uploaded again" {
		t.Error("an encrypted file is not served")
	}
}

// plain stores an upload as it was before files were encrypted.
func (f *fixture) plain(t testing.TB, content []byte) (id string) {
	t.Helper()
	hash := hmac.New(sha256.New, f.files.key)
	_, _ = hash.Write(content)
	m := storage.Media{ID: newMediaID(), User: 1, Blob: hex.EncodeToString(hash.Sum(nil)), ContentType: "image/png", Size: int64(len(content)), Created: f.now.UnixMilli()}
	path := f.files.path(m.Blob)
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, content, 0o600))
	if err == nil {
		err = f.opts.DB.Write(t.Context(), func(tx *storage.Tx) error { return tx.InsertMedia(m) })
	}
	if err != nil {
		t.Fatal(err)
	}
	return m.ID
}

func TestKeysAreEncryptedAgainAfterARotation(t *testing.T) {
	f := newFixture(t)
	id := f.upload(t, 1, "kept")
	if err := errors.Join(f.ring.Rotate(), f.Reseal(t.Context())); err != nil {
		t.Fatal(err)
	}
	m, err := f.lookup(t.Context(), id)
	if err != nil || f.ring.Stale(m.File.SealedKey) || f.read(t, id) != "kept" {
		t.Errorf("the key is encrypted under the former one (%v)", err)
	}
}

func TestAnInterruptedRemovalIsContinuedAtTheNextStart(t *testing.T) {
	f := newFixture(t)
	id, kept := f.upload(t, 1, "to be removed"), f.upload(t, 1, "kept")
	if err := f.opts.DB.Write(t.Context(), func(tx *storage.Tx) error {
		_, err := tx.DeleteMedia(id)
		return err
	}); err != nil || f.countFiles(t) != 2 {
		t.Fatal(err, f.countFiles(t))
	}
	f.open(t, f.opts.DB)
	if f.countFiles(t) != 1 || f.read(t, kept) != "kept" {
		t.Errorf("%d files are left", f.countFiles(t))
	}
}

func TestMediaOfAPurgedMessageDoNotComeBackToTheCache(t *testing.T) {
	f := newFixture(t)
	o := &origin{body: []byte("elsewhere")}
	f.connect(o)
	uri := "mxc://elsewhere.test/abc"
	f.refer(t, 5, uri)
	f.opts.Remote = purgingOrigin{o, func() {
		if err := f.opts.DB.Write(t.Context(), func(tx *storage.Tx) error { return tx.PurgeEvent(5, "$"+uri) }); err != nil {
			t.Error(err)
		}
	}}
	_, err := f.OpenRemote(t.Context(), "elsewhere.test", "abc", 0)
	wantCode(t, err, "M_NOT_FOUND")
	_, err = f.OpenRemote(t.Context(), "elsewhere.test", "abc", 0)
	if wantCode(t, err, "M_NOT_FOUND"); o.asked != 1 || f.countFiles(t) != 0 {
		t.Errorf("%d downloads, %d files", o.asked, f.countFiles(t))
	}
	f.refer(t, 6, uri) // somebody shows it again
	file, err := f.OpenRemote(t.Context(), "elsewhere.test", "abc", 0)
	if err = errors.Join(err, file.Close()); err != nil || o.asked != 2 {
		t.Errorf("a new message: %v after %d downloads", err, o.asked)
	}
}

// purgingOrigin is an origin that calls purge during each download.
type purgingOrigin struct {
	*origin
	purge func()
}

func (o purgingOrigin) DownloadMedia(ctx context.Context, server, mediaID string, wait time.Duration) (*fedclient.Media, error) {
	o.purge()
	return o.origin.DownloadMedia(ctx, server, mediaID, wait)
}
