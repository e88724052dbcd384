package upstream

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// maxKeys bounds the keys of a provider that are used.
const maxKeys = 50

// parseKeys reads a JSON Web Key Set. Keys of unknown kinds are ignored.
func parseKeys(raw []byte, now time.Time) (keySet, error) {
	var list struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return keySet{}, fmt.Errorf("read the keys: %w", err)
	}
	set := keySet{fetched: now}
	for _, one := range list.Keys {
		var key jose.JSONWebKey
		if json.Unmarshal(one, &key) == nil && len(set.keys) < maxKeys {
			set.keys = append(set.keys, key)
		}
	}
	return set, nil
}
