package main

import (
	"context"
	"log/slog"
	"os"

	"golang.org/x/term"

	"ebb/config"
	"ebb/server"
	"ebb/telemetry"
)

// reloader reads the configuration again on SIGHUP, for what can change while the server runs.
type reloader struct {
	running  *config.Config // what the server was started with
	latest   *config.Config // what was read last
	server   *server.Server
	level    *slog.LevelVar
	log      *slog.Logger
	terminal *os.File // that the server was started at; nil for none
}

// run reloads at every SIGHUP until ctx ends. If SIGHUP comes because the terminal itself is gone, it calls stop, since nobody could end
// the server any more.
func (r *reloader) run(ctx context.Context, hangup <-chan os.Signal, stop func()) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
		}
		if r.terminal != nil && !term.IsTerminal(int(r.terminal.Fd())) {
			stop()
			return
		}
		r.reload()
	}
}

// reload takes over a new configuration; a bad one changes nothing.
func (r *reloader) reload() {
	cfg, err := config.Load(r.running.Path())
	if err != nil {
		r.log.Error("the configuration was not reloaded: the previous one stays in use", "err", err)
		return
	}
	changed, _ := config.Differences(r.latest, cfg)
	_, restart := config.Differences(r.running, cfg)
	level, err := telemetry.ParseLevel(cfg.Log.Level)
	if err != nil { // config.Load has checked it
		r.log.Error("the log level was not reloaded", "err", err)
		return
	}
	r.latest = cfg
	if err := r.server.Reload(cfg); err != nil {
		r.log.Error("not everything was reloaded: the rest stays as it was", "err", err)
	}
	if level < r.level.Level() {
		r.level.Set(level) // the more talkative one tells what happened
	}
	r.log.Info("the configuration was reloaded, and certificates were read again", "file", cfg.Path(), "changed", changed)
	r.level.Set(level)
	if len(restart) > 0 {
		r.log.Warn("these keys have changed and need a restart to take effect", "keys", restart)
	}
}

// terminalOf returns w if it is a terminal.
func terminalOf(w any) *os.File {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}
