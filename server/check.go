package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/upstream"
	"ebb/adminapi"
	"ebb/backup"
	"ebb/bodykeys"
	"ebb/config"
	"ebb/fedclient"
	"ebb/httpapi"
	"ebb/rooms/pdu"
	"ebb/secrets"
	"ebb/storage"
)

// Check checks everything that a configuration names: files, keys, versions, ports. Mistakes keep the server from
// starting, warnings do not. Check reads the database and changes nothing.
func Check(ctx context.Context, cfg *config.Config, o Options) (mistakes, warnings config.Problems) {
	o.setDefaults()
	mistakes, warnings = cfg.CheckFiles(o.Now())
	warnings = append(warnings, cfg.Warnings()...)
	if _, ok := pdu.VersionOf(id.RoomVersion(cfg.Rooms.DefaultVersion)); !ok {
		mistakes = append(mistakes, cfg.Problem("rooms.default_version", "%q is not a room version that this server supports: %s", cfg.Rooms.DefaultVersion, versions()))
	}
	_, others := upstreamOptions(cfg, o)
	mistakes = append(mistakes, others...)
	_, others = newUpstream(cfg, upstream.Options{})
	mistakes = append(mistakes, others...)
	for i, recipient := range cfg.Backup.Recipients {
		if _, err := backup.ParseRecipients([]string{recipient}); err != nil {
			mistakes = append(mistakes, cfg.Problem(fmt.Sprintf("backup.recipients[%d]", i), "%v", err))
		}
	}
	if config.Exists(cfg.Dir()) {
		mistakes = append(mistakes, checkDataDir(cfg)...)
		if others = checkDatabase(ctx, cfg); len(others) == 0 {
			var unusual config.Problems
			others, unusual = checkBodyKeys(ctx, cfg)
			warnings = append(warnings, unusual...)
		}
		mistakes = append(mistakes, others...)
	} else if err := storage.CheckDSN(cfg.DSN()); err != nil {
		mistakes = append(mistakes, cfg.Problem("database", "%v", err))
	}
	return append(mistakes, checkPorts(ctx, cfg)...), warnings
}

// checkDataDir checks what a server would read from data_dir at its start, besides the database and the signing key.
func checkDataDir(cfg *config.Config) (mistakes config.Problems) {
	const key = "data_dir"
	if secrets.Exists(cfg.Dir()) {
		if _, err := secrets.Load(cfg.Dir()); err != nil {
			mistakes = append(mistakes, cfg.Problem(key, "%v%s", err, config.OwnerOf(err)))
		}
	}
	files := filepath.Join(cfg.Dir(), "media")
	if info, err := os.Stat(files); err == nil && !info.IsDir() {
		mistakes = append(mistakes, cfg.Problem(key, "%s is not a folder", files))
	}
	return mistakes
}

// checkDatabase checks that the database and the signing key exist and belong to this server.
func checkDatabase(ctx context.Context, cfg *config.Config) (mistakes config.Problems) {
	keys, keyErr := fedclient.LoadSigningKeys(cfg.KeyFile(), cfg.ServerName)
	if keyErr != nil {
		mistakes = append(mistakes, cfg.Problem("data_dir", "%v", keyErr))
	}
	was, found, err := storage.Peek(ctx, cfg.DSN())
	if err != nil {
		return append(mistakes, cfg.Problem("database", "%v%s", err, config.OwnerOf(err)))
	}
	if !found {
		return mistakes
	}
	if err := refuseOtherName(was, cfg); err != nil {
		mistakes = append(mistakes, cfg.Problem("server_name", "%v", err))
	}
	if keyErr != nil {
		return mistakes
	}
	if err := refuseOtherKey(was, cfg, keys); err != nil {
		mistakes = append(mistakes, cfg.Problem("data_dir", "%v", err))
	}
	return mistakes
}

// checkBodyKeys checks the keys of the messages in a database on PostgreSQL.
func checkBodyKeys(ctx context.Context, cfg *config.Config) (mistakes, warnings config.Problems) {
	const key = "database_keys"
	state, found, err := storage.PeekKeys(ctx, cfg.DSN())
	if err != nil {
		return config.Problems{cfg.Problem("database", "%v", err)}, nil
	}
	if !found {
		return nil, nil
	}
	folder := cfg.BodyKeys()
	if state.Folder == "" {
		if !state.Empty && cfg.OnlyNewBodies() {
			warnings = append(warnings, cfg.Problem(key, "is not set, and messages in this database are not encrypted: PostgreSQL keeps deleted ones in its log and on replicas; "+
				"set it to a folder, such as keys, or to off"))
		}
		return nil, warnings
	}
	if folder == "" {
		return config.Problems{cfg.Problem(key, "is off, but messages in this database are encrypted: name the folder of their keys")}, nil
	}
	switch f, err := bodykeys.Open(folder); {
	case err != nil:
		mistakes = append(mistakes, cfg.Problem(key, "messages in this database are encrypted, but their keys cannot be read: %v%s", err, config.OwnerOf(err)))
	case f.ID() != state.Folder:
		mistakes = append(mistakes, cfg.Problem(key, "the keys in %s belong to another database", folder))
	case cfg.Backup.Keys == "":
		warnings = append(warnings, cfg.Problem("backup.keys", "is not set: ebb backup does not work without it, and if %s is lost, all messages are lost; "+
			"name a folder on another disk or host than the backups", folder))
	}
	return mistakes, warnings
}

func versions() string {
	var words []string
	for _, v := range pdu.Versions() {
		words = append(words, string(v))
	}
	return strings.Join(words, ", ")
}

// checkPorts binds all addresses for a moment, except those of a server that is running on this data_dir.
func checkPorts(ctx context.Context, cfg *config.Config) (mistakes config.Problems) {
	running := false
	if client, err := adminapi.Dial(ctx, cfg.Dir()); err == nil {
		running = true
		_ = client.Close() // the connection was only opened to see whether a server is running
	}
	for i, l := range cfg.Listen {
		bound, err := httpapi.Listen(ctx, l.Address)
		if err == nil {
			defer func() { _ = bound.Close() }() // only now, since two names can stand for one address; no connection was accepted
			continue
		}
		if running && errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		mistakes = append(mistakes, cfg.Problem(fmt.Sprintf("listen[%d].address", i), "%v", err))
	}
	return mistakes
}
