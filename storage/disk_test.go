package storage_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebb/storage"
	"ebb/storage/storagetest"
)

func TestFullDiskFailsTheBatchReadsGoOnAndItRecovers(t *testing.T) {
	dir := storagetest.TinyDisk(t, 8<<20)
	db := storagetest.Open(t, storage.Config{DSN: "sqlite:" + filepath.Join(dir, "ebb.db")})
	wait(t, db.Enqueue(adding("before")))
	ballast := filepath.Join(dir, "ballast")
	storagetest.Fill(t, ballast)

	acknowledged := 0
	big := strings.Repeat("x", 20_000)
	for range 20 {
		p := batch(db, adding(big), adding(big), adding(big))
		for _, p := range p {
			err := p.Wait(ctx)
			if err == nil {
				acknowledged++
			} else if !errors.Is(err, storage.ErrFull) {
				t.Fatalf("on a full disk: %v", err)
			}
		}
	}
	if acknowledged == 60 {
		t.Fatal("the disk did not become full")
	}
	count := func() (n int64) {
		if err := db.Read(ctx, func(tx *storage.Tx) (err error) {
			n, err = tx.Int64(`SELECT count(*) FROM to_device`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if got := count(); got != int64(acknowledged)+1 {
		t.Errorf("%d rows while the disk is full, %d acknowledged", got, acknowledged+1)
	}

	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	wait(t, batch(db, adding("after"), adding(big))...)
	if got := count(); got != int64(acknowledged)+3 {
		t.Errorf("%d rows afterwards, %d acknowledged", got, acknowledged+3)
	}
	integrity(t, db)
}

func TestClosureThatFillsTheDiskIsNotKeptInPart(t *testing.T) {
	db := storagetest.Open(t, storage.Config{DSN: "sqlite:" + filepath.Join(storagetest.TinyDisk(t, 8<<20), "ebb.db")})
	big := strings.Repeat("x", 60_000)
	p := batch(db, adding("a"), storage.Write{Do: func(tx *storage.Tx) error {
		for range 1000 { // 60 MB: more than the cache holds, so it reaches the disk before the commit
			if err := add(tx, big); err != nil {
				return err
			}
		}
		return nil
	}}, adding("c"))
	var want []string
	for i, name := range []string{"a", big, "c"} {
		if err := p[i].Wait(ctx); err == nil {
			want = append(want, name)
		} else if !errors.Is(err, storage.ErrFull) {
			t.Errorf("write %d: %v", i, err)
		}
	}
	if p[1].Err() == nil {
		t.Error("60 MB were acknowledged on a disk of 8")
	}
	if got := rows(t, db); got != strings.Join(want, " ") {
		t.Errorf("kept %d bytes, acknowledged %d writes", len(got), len(want))
	}
	wait(t, db.Enqueue(adding("d")))
}

func integrity(t *testing.T, db *storage.DB) {
	t.Helper()
	if err := db.Read(ctx, func(tx *storage.Tx) error {
		return tx.Each(func(r storage.Row) error {
			var s string
			err := r.Scan(&s)
			if s != "ok" {
				t.Error(s)
			}
			return err
		}, `PRAGMA integrity_check`)
	}); err != nil {
		t.Fatal(err)
	}
}

// TestMain runs the helper process of the tests below if HELPER_DSN is set.
func TestMain(m *testing.M) {
	if dsn := os.Getenv("HELPER_DSN"); dsn != "" {
		if err := helper(dsn); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// helper writes until it is killed, and prints each acknowledged position. It leaves no rows behind.
func helper(dsn string) error {
	db, err := storage.Open(ctx, storage.Config{DSN: dsn})
	if err != nil {
		return err
	}
	for {
		var p storage.Pos
		if err := db.Write(ctx, func(tx *storage.Tx) error {
			p = tx.NextPos()
			if _, err := tx.Exec(addQuery, p, "x"); err != nil {
				return err
			}
			_, err := tx.Exec(`DELETE FROM to_device`)
			return err
		}); err != nil {
			return err
		}
		fmt.Println(p)
	}
}

func helperCommand(t *testing.T, dsn string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	limit, cancel := context.WithTimeout(ctx, time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(limit, self)
	cmd.Env = append(os.Environ(), "HELPER_DSN="+dsn)
	return cmd
}

func TestSecondProcessIsRefusedByName(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		db := storagetest.Open(t, storage.Config{DSN: dsn})
		out, err := helperCommand(t, dsn).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "another process uses this database") {
			t.Fatalf("%v: %s", err, out)
		}
		if path, ok := strings.CutPrefix(dsn, "sqlite:"); ok && !strings.Contains(string(out), path) {
			t.Errorf("the message does not name the file: %s", out)
		}
		if _, err := storage.Open(ctx, storage.Config{DSN: dsn}); !errors.Is(err, storage.ErrInUse) {
			t.Errorf("the same process: %v", err)
		}
		wait(t, db.Enqueue(adding("a")))
	})
}

func TestKilledProcessLeavesItsHighWaterMark(t *testing.T) {
	storagetest.EachDSN(t, func(t *testing.T, dsn string) {
		cmd := helperCommand(t, dsn)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var seen bytes.Buffer
		for strings.Count(seen.String(), "\n") < 20 {
			if _, err := io.CopyN(&seen, out, 1); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(&seen, out)
		_ = cmd.Wait() // the error only reports the signal
		lines := strings.Fields(seen.String())
		last, err := strconv.Atoi(lines[len(lines)-1])
		if err != nil {
			t.Fatal(err)
		}
		db := openWhenFree(t, dsn)
		if int(db.Settled()) < last {
			t.Errorf("settled %d, position %d was acknowledged", db.Settled(), last)
		}
	})
}

// openWhenFree opens the database once PostgreSQL has noticed that the session of a killed process has ended.
func openWhenFree(t *testing.T, dsn string) *storage.DB {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		db, err := storage.Open(ctx, storage.Config{DSN: dsn})
		if err == nil {
			t.Cleanup(func() { _ = db.Close() })
			return db
		}
		if !errors.Is(err, storage.ErrInUse) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestDeletedRowsAreInNoFileAfterMaintain(t *testing.T) {
	dir := t.TempDir()
	db := storagetest.Open(t, storage.Config{DSN: "sqlite:" + filepath.Join(dir, "ebb.db")})
	marker := "MARKER-of-a-deleted-message"
	var writes []storage.Write
	for i := range 400 {
		writes = append(writes, adding(fmt.Sprintf("%s %d %s", marker, i, strings.Repeat("x", 3000))))
	}
	wait(t, batch(db, writes...)...)
	if files(t, dir, marker) == 0 {
		t.Fatal("the search does not find what is there")
	}
	if err := db.Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	full := size(t, filepath.Join(dir, "ebb.db"))
	wait(t, db.Enqueue(storage.Write{Do: func(tx *storage.Tx) error {
		_, err := tx.Exec(`DELETE FROM to_device`)
		return err
	}}))
	if err := db.Maintain(ctx); err != nil {
		t.Fatal(err)
	}
	if n := files(t, dir, marker); n != 0 {
		t.Errorf("%d files hold the deleted message", n)
	}
	if n := size(t, filepath.Join(dir, "ebb.db-wal")); n != 0 {
		t.Errorf("the log has %d bytes", n)
	}
	if now := size(t, filepath.Join(dir, "ebb.db")); now > full-1_000_000 {
		t.Errorf("the database shrank from %d to %d bytes", full, now)
	}
	integrity(t, db)
}

// An older version left copies of moved rows in unused parts of pages.
func TestPagesOfAnOldDatabaseAreClearedOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "ebb.db")
	open := func() {
		t.Helper()
		db, err := storage.Open(ctx, storage.Config{DSN: "sqlite:" + path})
		if err == nil {
			err = db.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	open()
	const copied = "COPY-of-a-moved-row"
	soil := func() {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte(copied), unusedBytes(t, f))
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	soil()
	storage.RunSQL(t, path, `PRAGMA application_id = 0`)
	if files(t, dir, copied) == 0 {
		t.Fatal("the copy is not in the file")
	}
	open()
	if files(t, dir, copied) > 0 {
		t.Error("the copy is still in the file")
	}
	soil()
	open()
	if files(t, dir, copied) == 0 {
		t.Error("all pages were read again")
	}
}

// unusedBytes returns the offset of unused bytes of a database: those before the last row in the leaf of a table.
func unusedBytes(t *testing.T, f *os.File) int64 {
	t.Helper()
	const pageSize, leafOfATable, empty = 4096, 13, 64
	page := make([]byte, pageSize)
	for at := int64(2 * pageSize); ; at += pageSize {
		if _, err := f.ReadAt(page, at); err != nil {
			t.Fatal(err)
		}
		rows, content := binary.BigEndian.Uint16(page[3:]), int(binary.BigEndian.Uint16(page[5:]))
		if page[0] == leafOfATable && rows > 0 && int(rows)*2+8+empty < content {
			return at + int64(content-empty)
		}
	}
}

func TestMaintainOnPostgreSQL(t *testing.T) {
	db := storagetest.Open(t, storage.Config{DSN: storagetest.Postgres(t)})
	wait(t, db.Enqueue(adding("a")))
	if err := db.Maintain(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestMaintainWaitsForAReaderAndWritesGoOn(t *testing.T) {
	db := storagetest.Open(t, storage.Config{})
	wait(t, db.Enqueue(adding("a")))
	reading, release := make(chan struct{}), make(chan struct{})
	read := make(chan error, 1)
	go func() {
		read <- db.Read(ctx, func(tx *storage.Tx) error {
			_, err := tx.Int64(`SELECT count(*) FROM to_device`)
			close(reading)
			<-release
			return err
		})
	}()
	<-reading
	wait(t, db.Enqueue(adding("b")))
	maintained := make(chan error, 1)
	go func() { maintained <- db.Maintain(ctx) }()
	for range 5 {
		wait(t, db.Enqueue(adding("c")))
	}
	close(release)
	if err := errors.Join(<-read, <-maintained); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := db.Maintain(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("Maintain of an ended context: %v", err)
	}
}

// files returns the number of files below dir that contain text.
func files(t *testing.T, dir, text string) (n int) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(text)) {
			n++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// slack is how much is appended to the log before a checkpoint of a log that has become too long is completed: the
// writes of a few looks of the committer, 1.2 MB each.
const slack = 40 << 20

func TestWriteAheadLogStaysBoundedUnderLoad(t *testing.T) {
	dir := t.TempDir()
	db := storagetest.Open(t, storage.Config{DSN: "sqlite:" + filepath.Join(dir, "ebb.db")})
	longest := int64(0)
	for range 200 { // 1.2 MB each: in total 240 MB
		wait(t, batch(db, megabyte()...)...)
		longest = max(longest, size(t, filepath.Join(dir, "ebb.db-wal")))
	}
	if limit := int64(storage.LongestLog)*4096 + slack; longest > limit {
		t.Errorf("the log grew to %d bytes, expected at most %d", longest, limit)
	}
	if total := size(t, filepath.Join(dir, "ebb.db")); total < 100_000_000 {
		t.Errorf("only %d bytes were folded back", total)
	}
}

// megabyte returns writes of 1.2 MB.
func megabyte() (writes []storage.Write) {
	big := strings.Repeat("x", 60_000)
	for range 20 {
		writes = append(writes, adding(big))
	}
	return writes
}

func TestCommitsWaitForACheckpointThatIsSlowerThanThey(t *testing.T) {
	dir := t.TempDir()
	db := storagetest.Open(t, storage.Config{DSN: "sqlite:" + filepath.Join(dir, "ebb.db")})
	release := storage.SlowCheckpoint(db)
	committed := make(chan error)
	go func() {
		for range 200 { // 240 MB
			var err error
			for _, p := range batch(db, megabyte()...) {
				err = errors.Join(err, p.Wait(ctx))
			}
			committed <- err
		}
		close(committed)
	}()
	patience := time.NewTimer(time.Minute)
	n := 0
	for waiting := false; !waiting; {
		select {
		case err, more := <-committed:
			if n++; err != nil || !more {
				t.Fatalf("nothing waits for a checkpoint that does not end: %v", err)
			}
			patience.Reset(2 * time.Second)
		case <-patience.C:
			waiting = true
		}
	}
	if got, limit := size(t, filepath.Join(dir, "ebb.db-wal")), int64(storage.LongestLog)*4096+slack; got > limit {
		t.Errorf("the log grew to %d bytes while a checkpoint ran, expected at most %d", got, limit)
	}
	release()
	for err := range committed {
		if n++; err != nil {
			t.Error(err)
		}
	}
	if n != 200 {
		t.Errorf("%d batches were committed", n)
	}
}

func TestDatabaseWithOtherSettingsIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ebb.db")
	storage.MakeForeign(t, path)
	db, err := storage.Open(ctx, storage.Config{DSN: "sqlite:" + path})
	if err == nil {
		t.Fatal("opened", db.Close())
	}
	if !strings.Contains(err.Error(), "auto_vacuum") || !strings.Contains(err.Error(), path) {
		t.Errorf("%v does not say what is wrong, and where", err)
	}
}

// TestDatabaseFromADumpOpensOnceTheAdviceIsFollowed uses a dump, because sqlite3's .dump omits auto_vacuum.
func TestDatabaseFromADumpOpensOnceTheAdviceIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ebb.db")
	storage.MakeForeign(t, path)
	_, err := storage.Open(ctx, storage.Config{DSN: "sqlite:" + path})
	advice := regexp.MustCompile(`sqlite3 '([^']+)' "([^"]+)"`).FindStringSubmatch(fmt.Sprint(err))
	if advice == nil || advice[1] != path {
		t.Fatalf("the error does not say what to run: %v", err)
	}
	storage.RunSQL(t, path, advice[2])
	db, err := storage.Open(ctx, storage.Config{DSN: "sqlite:" + path})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFilesOfTheDatabaseAreTheOwnersAlone(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o022))
	path := filepath.Join(t.TempDir(), "ebb.db")
	for range 2 { // a new database, and one that an older version left readable
		db := storagetest.Open(t, storage.Config{DSN: "sqlite:" + path})
		wait(t, db.Enqueue(adding("a")))
		for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
			if info, err := os.Stat(path + suffix); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", suffix, info.Mode(), err)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPathWithCharactersOfURLs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c#d%20é", "ebb.db")
	db := storagetest.Open(t, storage.Config{DSN: "sqlite:" + path})
	wait(t, db.Enqueue(adding("a")))
	if got := rows(t, db); got != "a" {
		t.Errorf("kept %q", got)
	}
	if size(t, path) == 0 {
		t.Error("the database is elsewhere")
	}
}
