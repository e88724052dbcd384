package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A file of this size is downloaded again and again, by one client or by several at once.
const (
	downloadSize    = 32 << 20
	downloadClients = 4
)

// media measures how fast a file is downloaded, which Ebb decrypts, compared with a program that serves the same file
// without encryption. Several clients at once leave no processor free.
func (b *bench) media() error {
	p, err := b.startEbbWith("media", "media: {max_upload_size: 100M}\n")
	if err != nil {
		return err
	}
	defer p.stop()
	limit, err := b.startLimit(0)
	if err != nil {
		return err
	}
	defer limit.kill()
	content := make([]byte, downloadSize)
	_, _ = rand.Read(content) // never fails
	if err := os.WriteFile(filepath.Join(limit.dir, limitFile), content, 0o600); err != nil {
		return err
	}
	people, err := p.register("m", downloadClients)
	if err != nil {
		return err
	}
	path, err := people[0].upload(content)
	if err != nil {
		return err
	}
	others := make([]*account, downloadClients)
	for i := range others {
		others[i] = &account{conn: newConn(limit.addr, "")}
	}
	for _, clients := range []int{1, downloadClients} {
		var encrypted, plain samples
		for round := range b.rounds {
			if err := plain.add(limit.measure(func() (int, error) { return b.downloads(others[:clients], "/"+limitFile) })); err != nil {
				return err
			}
			err := b.profiled(p, fmt.Sprint("media-", clients, "-", round), func() error {
				return encrypted.add(p.measure(func() (int, error) { return b.downloads(people[:clients], path) }))
			})
			if err != nil {
				return err
			}
		}
		rate := func(s spent) float64 { return s.perSecond() * downloadSize / 1e6 }
		b.print(figure{fmt.Sprintf("encrypted media, %d at a time; limit: not encrypted", clients), "MB/s", encrypted.of(rate), plain.of(rate), "ratio ≥ 0.85"},
			figure{fmt.Sprintf("CPU of %d MiB", downloadSize>>20), "ms", encrypted.of(spent.millis), plain.of(spent.millis), ""})
	}
	return nil
}

// downloads makes clients download a file for the duration of a measurement, and returns how often they did.
func (b *bench) downloads(clients []*account, path string) (int, error) {
	return concurrently(len(clients), b.duration, func(i, _ int) error { return clients[i].discard(path, downloadSize) })
}

// upload uploads a file and returns the path from which it is downloaded.
func (a *account) upload(content []byte) (path string, err error) {
	var made struct {
		URI string `json:"content_uri"`
	}
	answer, err := a.do("POST", "/_matrix/media/v3/upload", content)
	if err == nil {
		err = json.Unmarshal(answer, &made)
	}
	return "/_matrix/client/v1/media/download/" + strings.TrimPrefix(made.URI, "mxc://"), err
}
