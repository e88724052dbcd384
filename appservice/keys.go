package appservice

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
)

// Application services that keep the keys of their users themselves are asked for them. Those that do not are not
// asked again for a while.
const (
	maxKeyTime   = 5 * time.Second // how long somebody waits for keys
	unknownPause = time.Hour       // after an answer that the path is unknown
	failedPause  = time.Minute     // after any other failure
)

// The paths of MSC3984 and MSC3983.
const (
	keysQueryPath = "/_matrix/app/unstable/org.matrix.msc3984/keys/query"
	keysClaimPath = "/_matrix/app/unstable/org.matrix.msc3983/keys/claim"
)

// resting returns until when an application service is not asked by a path.
func (w *wire) resting(path string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rest[path]
}

func (w *wire) letRest(path string, until time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.rest == nil {
		w.rest = map[string]time.Time{}
	}
	w.rest[path] = until
}

// keeper returns the application service that may keep the keys of a user, or nil.
func (r *Registry) keeper(user id.UserID, path string) *app {
	if ident.ServerOf(user) != r.server {
		return nil
	}
	for _, a := range r.all() {
		if a.URL != "" && a.owns(user) && !r.now().Before(a.wire.resting(path)) {
			return a
		}
	}
	return nil
}

// byKeeper groups users by the application service that may keep their keys.
func byKeeper[V any](r *Registry, wanted map[id.UserID]V, path string) map[*app]map[id.UserID]V {
	out := map[*app]map[id.UserID]V{}
	if !r.Any() {
		return out
	}
	for user, what := range wanted {
		if a := r.keeper(user, path); a != nil {
			if out[a] == nil {
				out[a] = map[id.UserID]V{}
			}
			out[a][user] = what
		}
	}
	return out
}

// MayClaim reports whether an application service may have one-time keys of a user.
func (r *Registry) MayClaim(user id.UserID) bool {
	return r.Any() && r.keeper(user, keysClaimPath) != nil
}

// QueryKeys asks application services for the identity keys of their users' devices.
// Spec: MSC3984
func (r *Registry) QueryKeys(ctx context.Context, wanted map[id.UserID][]id.DeviceID) map[id.UserID]map[id.DeviceID]json.RawMessage {
	out := map[id.UserID]map[id.DeviceID]json.RawMessage{}
	groups := byKeeper(r, wanted, keysQueryPath)
	apps := slices.Collect(maps.Keys(groups))
	answers := inParallel(ctx, apps, func(ctx context.Context, a *app) (answer struct {
		Devices map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
	}) {
		query := map[id.UserID][]id.DeviceID{}
		for user, devices := range groups[a] {
			query[user] = append([]id.DeviceID{}, devices...)
		}
		r.askForKeys(ctx, a, keysQueryPath, map[string]any{"device_keys": query}, &answer)
		return answer
	})
	for i, answer := range answers {
		for user, devices := range answer.Devices {
			named, asked := groups[apps[i]][user]
			maps.DeleteFunc(devices, func(device id.DeviceID, _ json.RawMessage) bool {
				return len(named) > 0 && !slices.Contains(named, device)
			})
			if asked && len(devices) > 0 {
				out[user] = devices
			}
		}
	}
	return out
}

// ClaimKeys claims one-time keys of application services' users, which the services keep themselves.
// Spec: MSC3983
func (r *Registry) ClaimKeys(ctx context.Context, wanted map[id.UserID]map[id.DeviceID]string) map[id.UserID]map[id.DeviceID]map[string]json.RawMessage {
	out := map[id.UserID]map[id.DeviceID]map[string]json.RawMessage{}
	groups := byKeeper(r, wanted, keysClaimPath)
	apps := slices.Collect(maps.Keys(groups))
	answers := inParallel(ctx, apps, func(ctx context.Context, a *app) (answer map[id.UserID]map[id.DeviceID]map[string]json.RawMessage) {
		query := map[id.UserID]map[id.DeviceID][]string{}
		for user, devices := range groups[a] {
			query[user] = map[id.DeviceID][]string{}
			for device, algorithm := range devices {
				query[user][device] = []string{algorithm}
			}
		}
		r.askForKeys(ctx, a, keysClaimPath, query, &answer)
		return answer
	})
	for i, answer := range answers {
		for user, devices := range answer {
			maps.DeleteFunc(devices, func(device id.DeviceID, keys map[string]json.RawMessage) bool {
				return groups[apps[i]][user][device] == "" || len(keys) != 1
			})
			if len(devices) > 0 {
				out[user] = devices
			}
		}
	}
	return out
}

// askForKeys sends a question about keys, and decodes the answer. If there is none, answer stays as it is.
func (r *Registry) askForKeys(ctx context.Context, a *app, path string, question, answer any) {
	ctx, cancel := context.WithTimeout(ctx, maxKeyTime)
	defer cancel()
	body, err := json.Marshal(question)
	var raw []byte
	if err == nil {
		raw, err = r.do(ctx, a, call{method: "POST", path: path, body: body})
	}
	if err == nil {
		err = json.Unmarshal(raw, answer)
	}
	var refused *statusError
	switch {
	case errors.As(err, &refused) && refused.unknownPath():
		a.wire.letRest(path, r.now().Add(unknownPause))
	case err != nil:
		a.wire.letRest(path, r.now().Add(failedPause))
		r.log.InfoContext(ctx, "an application service does not answer for keys of its users", "appservice", a.ID, "err", err)
	}
}
