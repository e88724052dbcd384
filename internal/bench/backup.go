package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"filippo.io/age"
)

// A backup is made of a server that has as many bytes of messages as of media.
const (
	backupBytes    = 1 << 30
	backupMessage  = 56 << 10
	backupMedium   = 16 << 20
	backupSenders  = signInSenders
	backupSettings = `backup: {recipients: [%q]}
media: {max_upload_size: 100M}
`
)

// backup measures how fast `ebb backup` copies a server, compared with copying its files, and how much longer sends
// take meanwhile.
func (b *bench) backup() error {
	p, err := b.startEbb("backup", 0)
	if err != nil {
		return err
	}
	defer p.stop()
	if err := p.allowBackups(); err != nil {
		return err
	}
	h, err := newHouse(p, backupSenders, 1)
	if err != nil {
		return err
	}
	if err := h.fillDisk(); err != nil {
		return err
	}
	size, err := p.dataSize()
	if err != nil {
		return err
	}
	var copied, backedUp, quiet, busy []float64
	for round := range b.rounds {
		took, err := p.copyData(filepath.Join(b.dir, "copy"))
		if err != nil {
			return err
		}
		copied = append(copied, float64(size)/1e6/took.Seconds())
		waits, err := h.pacedSends(func() error { time.Sleep(2 * b.duration); return nil })
		if err != nil {
			return err
		}
		quiet = append(quiet, percentile(waits, 0.99))
		dir := filepath.Join(b.dir, fmt.Sprint("backups", round))
		start := time.Now()
		if _, err := p.command("backup", dir); err != nil {
			return err
		}
		backedUp = append(backedUp, float64(size)/1e6/time.Since(start).Seconds())
		waits, err = h.pacedSends(func() error {
			_, err := p.command("backup", dir+"-meanwhile")
			return err
		})
		if err != nil {
			return err
		}
		busy = append(busy, percentile(waits, 0.99))
		if err := errors.Join(os.RemoveAll(dir), os.RemoveAll(dir+"-meanwhile")); err != nil {
			return err
		}
	}
	b.print(figure{fmt.Sprintf("backup of %.1f GB; limit: copying the files", float64(size)/1e9), "MB/s", backedUp, copied, "ratio ≥ 0.60"},
		figure{"a message without a backup, p99", "ms", quiet, nil, ""},
		figure{"a message during a backup, p99", "ms", busy, nil, "twice the line above"})
	return nil
}

// allowBackups restarts the server with a recipient of backups.
func (p *process) allowBackups() error {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		return err
	}
	p.stop()
	text := fmt.Sprintf(configuration, p.addr) + fmt.Sprintf(backupSettings, identity.Recipient())
	if err := os.WriteFile(p.config(), []byte(text), 0o600); err != nil {
		return err
	}
	_, err = p.serve(0)
	return err
}

// fillDisk sends long messages and uploads large files.
func (h *house) fillDisk() error {
	long := []byte(`{"msgtype":"m.text","body":"` + strings.Repeat("Ebb und Flut. ", backupMessage/14) + `"}`)
	err := parallel(len(h.senders), backupBytes/len(long), func(i int) error {
		a := h.senders[i%len(h.senders)]
		c := newConn(a.addr, a.token)
		defer c.close()
		_, err := c.do("PUT", sendPath(h.rooms[i%len(h.senders)][0]), long)
		return err
	})
	if err != nil {
		return err
	}
	medium := make([]byte, backupMedium)
	for range backupBytes / backupMedium {
		_, _ = rand.Read(medium) // never fails
		if _, err := h.senders[0].upload(medium); err != nil {
			return err
		}
	}
	return nil
}

// dataFiles calls f for each file of the server.
func (p *process) dataFiles(f func(path string, info fs.FileInfo) error) error {
	return filepath.WalkDir(p.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return f(path, info)
	})
}

func (p *process) dataSize() (size int64, err error) {
	err = p.dataFiles(func(_ string, info fs.FileInfo) error {
		size += info.Size()
		return nil
	})
	return size, err
}

// copyData copies the files of the server into a folder, waits until they are on the disk, and removes the copies. It
// returns how long copying took.
func (p *process) copyData(to string) (time.Duration, error) {
	if err := os.Mkdir(to, 0o700); err != nil {
		return 0, err
	}
	start, n := time.Now(), 0
	err := p.dataFiles(func(path string, _ fs.FileInfo) error {
		n++
		return copyFile(path, filepath.Join(to, fmt.Sprint(n)))
	})
	took := time.Since(start)
	return took, errors.Join(err, os.RemoveAll(to))
}

// copyFile copies a file through memory, so that the file system does not share its blocks.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 1<<20))
	return errors.Join(err, out.Sync(), out.Close())
}
