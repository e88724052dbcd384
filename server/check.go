package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"maunium.net/go/mautrix/id"

	"ebb/adminapi"
	"ebb/config"
	"ebb/federation/fedclient"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// Check looks at everything that a configuration names: files, keys, versions, ports. Mistakes keep the server from starting,
// warnings do not. It opens no database.
func Check(ctx context.Context, cfg *config.Config, o Options) (mistakes, warnings config.Problems) {
	o.setDefaults()
	mistakes, warnings = cfg.CheckFiles(o.Now())
	warnings = append(warnings, cfg.Warnings()...)
	if _, ok := pdu.VersionOf(id.RoomVersion(cfg.Rooms.DefaultVersion)); !ok {
		mistakes = append(mistakes, cfg.Problem("rooms.default_version", "%q is no room version that this server knows: %s", cfg.Rooms.DefaultVersion, versions()))
	}
	if err := storage.CheckDSN(cfg.DSN()); err != nil {
		mistakes = append(mistakes, cfg.Problem("database", "%v", err))
	}
	if config.Exists(cfg.Dir()) {
		if _, err := fedclient.LoadSigningKeys(cfg.KeyFile(), cfg.ServerName); err != nil {
			mistakes = append(mistakes, cfg.Problem("data_dir", "%v", err))
		}
	}
	return append(mistakes, checkPorts(ctx, cfg)...), warnings
}

func versions() string {
	var words []string
	for _, v := range pdu.Versions() {
		words = append(words, string(v))
	}
	return strings.Join(words, ", ")
}

// checkPorts binds every address for a moment. The ports of the server that runs on this data_dir are its own.
func checkPorts(ctx context.Context, cfg *config.Config) (mistakes config.Problems) {
	running := false
	if client, err := adminapi.Dial(ctx, cfg.Dir()); err == nil {
		running = true
		_ = client.Close() // it was only looked for
	}
	for i, l := range cfg.Listen {
		bound, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.Address)
		if err == nil {
			_ = bound.Close() // nothing was accepted
			continue
		}
		if running && errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		mistakes = append(mistakes, cfg.Problem(fmt.Sprintf("listen[%d].address", i), "%v%s", err, mendPort(err)))
	}
	return mistakes
}

// mendPort is what to do about an address that cannot be bound, as the end of a message.
func mendPort(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return ": another program listens there (ss -ltnp names it); stop it, or choose another port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return ": this machine has no such address; 0.0.0.0 and [::] stand for all that it has"
	case errors.Is(err, syscall.EACCES):
		return ": ports below 1024 need the capability CAP_NET_BIND_SERVICE, or a proxy in front"
	}
	return ""
}
