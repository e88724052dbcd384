package server

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"time"

	"ebb/config"
	"ebb/storage"
	"ebb/telemetry"
)

const (
	// healthTimeout is how long the database may take to answer a health check.
	healthTimeout = 5 * time.Second
	// minFreeSpace is the free disk space that a healthy server needs. It covers the writes between two health checks.
	minFreeSpace = 1 << 20
	// checkInterval is how often a health check reads the complete database. Only databases of at most maxCheckedSize
	// are read, which takes about 100 ms; damage to a larger one is found when the damaged part is used.
	checkInterval  = time.Minute
	maxCheckedSize = 64 << 20
)

var healthState = telemetry.NewGauge("ebb_healthy", "1 if the last health check passed, else 0.")

// health answers requests for /health.
type health struct {
	db  *storage.DB
	cfg *config.Config
	opt *Options

	mu      sync.Mutex // guards the fields below; held during a check of the database
	checked time.Time
	ailing  bool
}

// ok reports whether the server can read and write. It logs when a problem begins and when it ends.
func (h *health) ok() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), healthTimeout)
	defer cancel()
	err := h.examine(ctx)
	switch {
	case err != nil && !h.ailing:
		h.opt.Log.Warn("the server is not healthy", "err", err)
	case err == nil && h.ailing:
		h.opt.Log.Info("the server is healthy again")
	}
	h.ailing = err != nil
	healthState.Set(map[bool]float64{true: 1}[err == nil])
	return err == nil
}

func (h *health) examine(ctx context.Context) error {
	if err := h.db.Health(ctx); err != nil {
		return err
	}
	if err := checkFreeSpace(h.cfg.Dir()); err != nil {
		return err
	}
	now := h.opt.Now()
	if !h.checked.IsZero() && now.Sub(h.checked).Abs() < checkInterval {
		return nil
	}
	h.checked = now
	size, err := h.db.Size(ctx)
	if err != nil || size > maxCheckedSize {
		return err
	}
	return h.db.Check(ctx)
}

// checkFreeSpace returns an error if the disk that holds dir is full.
func checkFreeSpace(dir string) error {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		return fmt.Errorf("check free space in %s: %w", dir, err)
	}
	if free := disk.Bavail * uint64(disk.Bsize); free < minFreeSpace {
		return fmt.Errorf("%w: only %d bytes are free in %s", storage.ErrFull, free, dir)
	}
	return nil
}
