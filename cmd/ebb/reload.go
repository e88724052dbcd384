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

// reloader reads the configuration again on SIGHUP, for settings that can change while the server runs.
type reloader struct {
	running  *config.Config // the configuration at startup
	latest   *config.Config // the configuration that was read last
	server   *server.Server
	level    *slog.LevelVar
	log      *slog.Logger
	terminal *os.File // the terminal from which the server was started; nil if none
}

// run reloads the configuration at every SIGHUP until ctx ends. If SIGHUP came because the terminal was closed, run
// calls stop, because nobody could stop the server any more.
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

// reload applies a new configuration. An invalid one changes nothing.
func (r *reloader) reload() {
	cfg, err := config.Load(r.running.Path())
	if err != nil {
		r.log.Error("the configuration was not reloaded: the previous one stays in use", "err", err)
		return
	}
	changed, _ := config.Differences(r.latest, cfg)
	_, restart := config.Differences(r.running, cfg)
	level, err := telemetry.ParseLevel(cfg.Log.Level)
	if err != nil { // cannot happen, since config.Load has validated the level
		r.log.Error("the log level was not reloaded", "err", err)
		return
	}
	r.latest = cfg
	if err := r.server.Reload(cfg); err != nil {
		r.log.Error("some settings were not reloaded and stay as they were", "err", err)
	}
	if level < r.level.Level() {
		r.level.Set(level) // logged at the more verbose of the two levels
	}
	r.log.Info("the configuration was reloaded, and certificates were read again", "file", cfg.Path(), "changed", changed)
	r.level.Set(level)
	if len(restart) > 0 {
		r.log.Warn("these keys have changed and need a restart to take effect", "keys", restart)
	}
}

// terminalOf returns w if it is a terminal, and nil otherwise.
func terminalOf(w any) *os.File {
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return f
	}
	return nil
}
