package feed

import (
	"encoding/json"

	"ebb/canonjson"
)

// selectFields appends an event reduced to the fields that the paths name. An event with none of them becomes an empty
// object.
// Spec: client-server-api#filtering event_fields
func selectFields(dst, event []byte, paths []fieldPath) []byte {
	dst = append(dst, '{')
	start := len(dst)
	_ = canonjson.Each(event, func(key string, value []byte) error {
		whole, tails := pathsBelow(paths, key)
		if !whole && len(tails) == 0 {
			return nil
		}
		part := value
		if !whole {
			if len(value) == 0 || value[0] != '{' {
				return nil
			}
			if part = selectFields(nil, value, tails); len(part) == len("{}") {
				return nil
			}
		}
		if len(dst) > start {
			dst = append(dst, ',')
		}
		dst = canonjson.AppendString(dst, key)
		dst = append(dst, ':')
		dst = append(dst, part...)
		return nil
	})
	return append(dst, '}')
}

// pathsBelow looks at the paths that begin with key. If one of them ends there, whole is true. Otherwise tails holds
// what follows key in each of them.
func pathsBelow(paths []fieldPath, key string) (whole bool, tails []fieldPath) {
	for _, p := range paths {
		switch {
		case p[0] != key:
		case len(p) == 1:
			return true, nil
		default:
			tails = append(tails, p[1:])
		}
	}
	return false, tails
}

// hasURL reports whether content has a url, as events with media do.
func hasURL(content json.RawMessage) bool {
	url, ok := canonjson.Get(content, "url")
	return ok && len(url) > 0 && url[0] == '"'
}
