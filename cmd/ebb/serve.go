package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"ebb/config"
	"ebb/server"
	"ebb/telemetry"
	"ebb/trim"
)

var serveCommand = command{
	name: "serve", short: "run the server", example: "ebb serve --config /etc/ebb.yaml",
	setup: func(inv *invocation) func(context.Context) error {
		changeRPID := inv.flags.Bool("change-rp-id", false, "accept another auth.passkeys.rp_id, with which existing passkeys do not work")
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			return serve(ctx, inv, *changeRPID)
		}
	},
}

// commitDelayVariable adds a delay to every commit, with which the benchmark simulates a slow disk. clockOffsetVariable
// shifts the clock, for tests of servers whose clocks differ.
const (
	commitDelayVariable = "EBB_BENCH_COMMIT_DELAY"
	clockOffsetVariable = "EBB_TEST_CLOCK_OFFSET"
)

func serve(ctx context.Context, inv *invocation, changeRPID bool) error {
	hangup := make(chan os.Signal, 1) // one pending signal is enough: reloading once covers all earlier ones
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	cfg, warnings, err := inv.checkedConfig(ctx)
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	l, err := telemetry.ParseLevel(cfg.Log.Level)
	if err != nil {
		return usageError{err}
	}
	level.Set(l)
	log, err := telemetry.NewLogger(inv.stderr, level, cfg.Log.Format, telemetry.Addresses(cfg.Log.Addresses))
	if err != nil {
		return usageError{err}
	}
	for _, w := range warnings {
		log.Warn("the configuration has a dangerous or unusual setting", "key", w.Key, "why", w.Text)
	}
	o := server.Options{Version: version, Log: log, ChangeRPID: changeRPID, HashCommand: hashCommand}
	if err := forTests(&o); err != nil {
		return err
	}
	s, err := server.New(ctx, cfg, o)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil // it was stopped while it opened the database
	}
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	r := &reloader{running: cfg, latest: cfg, server: s, level: level, log: log, terminal: terminalOf(inv.stderr)}
	var beside sync.WaitGroup
	beside.Go(func() { r.run(ctx, hangup, stop) })
	beside.Go(func() { trim.Run(ctx) })
	err = s.Run(ctx)
	stop()
	beside.Wait()
	return err
}

// forTests sets the options that only the benchmark and the tests use.
func forTests(o *server.Options) (err error) {
	var offset time.Duration
	for name, into := range map[string]*time.Duration{commitDelayVariable: &o.CommitDelay, clockOffsetVariable: &offset} {
		if text := os.Getenv(name); text != "" {
			if *into, err = time.ParseDuration(text); err != nil {
				return usagef("%s: %w", name, err)
			}
		}
	}
	if offset != 0 {
		o.Now = func() time.Time { return time.Now().Add(offset) }
	}
	return nil
}

var healthcheckCommand = command{
	name: "healthcheck", short: "check that the running server is healthy (exit code 0)", example: "ebb healthcheck --config /etc/ebb.yaml",
	setup: func(inv *invocation) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := inv.none(); err != nil {
				return err
			}
			cfg, err := inv.config()
			if err != nil {
				return err
			}
			return healthcheck(ctx, cfg)
		}
	},
}

// healthcheck requests /health from the first configured address. It does not verify the certificate, which is valid
// only for other names.
func healthcheck(ctx context.Context, cfg *config.Config) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	l := cfg.Listen[0]
	scheme := "http"
	if l.TLS.Certificate != "" || len(l.TLS.ACMEHosts) > 0 {
		scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+reachable(l.Address)+"/health", nil)
	if err != nil {
		return err
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // it asks itself
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the server is not healthy: %s", resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

// reachable returns an address to connect to. If address stands for all interfaces, it returns the loopback address.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	switch host {
	case "":
		host = "localhost"
	case "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return net.JoinHostPort(host, port)
}
