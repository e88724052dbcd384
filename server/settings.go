package server

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"ebb/config"
	"ebb/storage"
)

// ownSettings are the keys that may differ between nodes of one server, and change nothing for its users.
var ownSettings = []string{"cache", "data_dir", "listen", "log"}

// recordSettings adds a record to the audit log if the configuration, apart from secrets and ownSettings, is not that
// of the last start. Whoever can write the configuration file can switch off second factors, for example, so the log
// shows it like the acts of administrators. The first start, and keys that are new in this version of Ebb, are not
// recorded.
func (s *services) recordSettings(ctx context.Context, cfg *config.Config) error {
	now := cfg.Settings()
	maps.DeleteFunc(now, func(key, _ string) bool {
		return slices.Contains(ownSettings, strings.FieldsFunc(key, func(r rune) bool { return r == '.' || r == '[' })[0])
	})
	text, err := json.Marshal(now)
	if err != nil {
		return err
	}
	var last string
	err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		last, err = tx.AuditedSettings()
		return err
	})
	if err != nil || last == string(text) {
		return err
	}
	was := map[string]string{}
	if last != "" {
		if err := json.Unmarshal([]byte(last), &was); err != nil {
			return fmt.Errorf("the recorded settings: %w", err)
		}
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		if changes := settingChanges(was, now); len(changes) > 0 {
			if err := s.audit.Add(ctx, tx, "configuration changed", changes...); err != nil {
				return err
			}
		}
		return tx.SetAuditedSettings(string(text))
	})
}

// settingChanges returns the keys that differ, each followed by its old and its new value.
func settingChanges(was, now map[string]string) (changes []any) {
	for _, key := range slices.Sorted(maps.Keys(now)) {
		old, known := was[key]
		if known && old != now[key] || !known && len(was) > 0 && strings.Contains(key, "[") {
			changes = append(changes, key, fmt.Sprintf("%q, was %q", now[key], old))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(was)) {
		if _, kept := now[key]; !kept && strings.Contains(key, "[") {
			changes = append(changes, key, fmt.Sprintf("removed, was %q", was[key]))
		}
	}
	return changes
}
