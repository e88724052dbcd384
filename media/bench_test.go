package media

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"ebb/storage"
)

// BenchmarkDownload downloads a file of 32 MiB over loopback HTTP, encrypted and as it was stored before files were
// encrypted.
func BenchmarkDownload(b *testing.B) {
	const size = 32 << 20
	f := newFixture(b)
	f.opts.MaxUploadSize, f.opts.QuotaPerUser = 2*size, 0
	content := contentOf(size)
	id, err := f.Upload(b.Context(), 1, "", "", strings.NewReader(string(content)))
	if err != nil {
		b.Fatal(err)
	}
	content[0]++
	for name, id := range map[string]string{"plain": f.plain(b, content), "encrypted": id} {
		b.Run(name, func(b *testing.B) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				file, err := f.Open(r.Context(), id, 0)
				if err != nil {
					b.Error(err)
					return
				}
				defer func() { _ = file.Close() }()
				http.ServeContent(Writer(struct{ http.ResponseWriter }{w}), r, "", time.Time{}, file.Content) // without sendfile, as in httpapi
			}))
			defer s.Close()
			b.SetBytes(size)
			began, n := cpuTime(b), 0
			for ; b.Loop(); n++ {
				resp, err := http.Get(s.URL)
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(struct{ io.Writer }{io.Discard}, resp.Body)
				if err = errors.Join(err, resp.Body.Close()); err != nil || n != size {
					b.Fatal(n, err)
				}
			}
			b.ReportMetric(float64((cpuTime(b)-began).Microseconds())/1000/float64(n), "cpu-ms/op")
		})
	}
}

// cpuTime returns the CPU time of the process, which says more than the rate if the machine is busy.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkDelete purges messages that show a file each, and removes the files. It reports the files per second.
func BenchmarkDelete(b *testing.B) {
	const perRun = 1000
	f := newFixture(b)
	f.opts.QuotaPerUser = 0
	var spent time.Duration
	p := storage.Pos(0)
	for range b.N {
		var events []storage.PurgeCandidate
		with := map[storage.Pos]bool{}
		for range perRun {
			p++
			uri := "mxc://here.test/" + f.upload(b, 1, fmt.Sprint("file ", p))
			f.refer(b, p, uri)
			events, with[p] = append(events, storage.PurgeCandidate{Position: p, EventID: "$" + uri}), true
		}
		start := time.Now()
		err := f.opts.DB.Write(b.Context(), func(tx *storage.Tx) error { return tx.PurgeEvents(events, with, true) })
		if err = errors.Join(err, f.unlinkAll(b.Context())); err != nil || f.countFiles(b) != 0 {
			b.Fatal(f.countFiles(b), err)
		}
		spent += time.Since(start)
	}
	b.ReportMetric(float64(b.N*perRun)/spent.Seconds(), "files/s")
}
