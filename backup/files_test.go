package backup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestFilesAreHandedToTheDiskInSmallSteps(t *testing.T) {
	var p pacer
	var files []*os.File
	var sizes []int
	dir := t.TempDir()
	content := bytes.Repeat([]byte("0123456789"), 40_000)
	write := func(name string, size int) {
		file, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		files, sizes = append(files, file), append(sizes, size)
		paced := &pacedFile{file: file, pace: &p}
		for rest := content[:size]; len(rest) > 0; { // in parts that do not agree with the steps
			n := min(len(rest), 100_003)
			if _, err := paced.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			if left := paced.size - paced.asked; left >= paceStep {
				t.Errorf("%d bytes of %s are kept back", left, name)
			}
			rest = rest[n:]
		}
		paced.Close()
		if p.size > maxPending || len(p.pending) > maxPendingFiles {
			t.Errorf("%d bytes of %d pieces are pending", p.size, len(p.pending))
		}
	}
	for i := range 5 {
		write(fmt.Sprint("large", i), len(content))
	}
	for i := range 2 * maxPendingFiles {
		write(fmt.Sprint("small", i), i)
	}
	if err := p.finish(); err != nil || len(p.pending) != 0 || p.size != 0 {
		t.Fatalf("%d pieces of %d bytes are left: %v", len(p.pending), p.size, err)
	}
	for i, file := range files {
		if err := file.Close(); !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s was not closed: %v", file.Name(), err)
		}
		if got, err := os.ReadFile(file.Name()); err != nil || !bytes.Equal(got, content[:sizes[i]]) {
			t.Errorf("%s has %d bytes, not the %d that were written: %v", file.Name(), len(got), sizes[i], err)
		}
	}
}

func TestFileThatCannotBeClosedFailsTheBackup(t *testing.T) {
	var p pacer
	file, err := os.Create(filepath.Join(t.TempDir(), "f"))
	if err != nil {
		t.Fatal(err)
	}
	paced := &pacedFile{file: file, pace: &p}
	paced.Close()
	_ = file.Close()
	if err := p.finish(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("err = %v", err)
	}
}
