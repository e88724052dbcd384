package media

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"ebb/storage"
	"ebb/storage/storagetest"
)

// If the disk of the database is full while files of deleted media are removed, the names of the files stay in the
// queue, and the removal is repeated when there is space again.
func TestRemovalOfFilesThatAFullDiskInterruptsIsRepeated(t *testing.T) {
	disk := storagetest.TinyDisk(t, 16<<20)
	f := newFixture(t)
	db := storagetest.Open(t, storage.Config{Server: "here.test", DSN: "sqlite:" + filepath.Join(disk, "ebb.db")})
	f.open(t, db)
	gone, stays := f.upload(t, 1, "is deleted"), f.upload(t, 2, "stays")
	if err := db.Write(t.Context(), func(tx *storage.Tx) error { _, err := tx.DeleteMedia(gone); return err }); err != nil {
		t.Fatal(err)
	}
	if err := db.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	queued := func() (n int) {
		t.Helper()
		err := db.Read(t.Context(), func(tx *storage.Tx) error {
			names, err := tx.MediaUnlinks("", unlinkBatch)
			n = len(names)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	ballast := filepath.Join(disk, "ballast")
	storagetest.Fill(t, ballast)
	if _, err := f.Unlink(t.Context()); !errors.Is(err, storage.ErrFull) {
		t.Fatalf("on a full disk: %v, want ErrFull", err)
	}
	if n := queued(); n != 1 || f.countFiles(t) != 1 {
		t.Errorf("on a full disk %d names are queued and %d files left, want 1 and 1", n, f.countFiles(t))
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Unlink(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := queued(); n != 0 || f.countFiles(t) != 1 || f.read(t, stays) != "stays" {
		t.Errorf("afterwards %d names are queued and %d files left, want 0 and 1", n, f.countFiles(t))
	}
	if _, err := f.Open(t.Context(), gone, 0); err == nil {
		t.Error("the deleted file is still served")
	}
}
