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

// Some application services hold the keys of their users themselves and are asked for them. An application service that
// does not answer is not asked again for a while.
const (
	maxKeyTime   = 5 * time.Second // how long a request waits for keys
	unknownPause = time.Hour       // after an answer that the path is not supported
	failedPause  = time.Minute     // after any other failure
)

// These are the paths of MSC3984 and MSC3983.
const (
	keysQueryPath = "/_matrix/app/unstable/org.matrix.msc3984/keys/query"
	keysClaimPath = "/_matrix/app/unstable/org.matrix.msc3983/keys/claim"
)

// pausedUntil returns the time before which no request with the given path is sent to the application service.
func (w *compat) pausedUntil(path string) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.paused[path]
}

func (w *compat) pauseUntil(path string, until time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paused == nil {
		w.paused = map[string]time.Time{}
	}
	w.paused[path] = until
}

// keyHolder returns the application service that may hold the keys of a user, who must be in one of its exclusive
// namespaces. It returns nil if there is none or if requests with the given path are paused.
func (r *Registry) keyHolder(user id.UserID, path string) *app {
	if ident.ServerOf(user) != r.server {
		return nil
	}
	for _, a := range r.all() {
		if a.URL != "" && a.reservesUser(user) && !r.now().Before(a.compat.pausedUntil(path)) {
			return a
		}
	}
	return nil
}

// byKeyHolder groups users by the application service that may hold their keys.
func byKeyHolder[V any](r *Registry, wanted map[id.UserID]V, path string) map[*app]map[id.UserID]V {
	out := map[*app]map[id.UserID]V{}
	if !r.Any() {
		return out
	}
	for user, what := range wanted {
		if a := r.keyHolder(user, path); a != nil {
			if out[a] == nil {
				out[a] = map[id.UserID]V{}
			}
			out[a][user] = what
		}
	}
	return out
}

// MayClaim reports whether an application service may hold one-time keys of a user.
func (r *Registry) MayClaim(user id.UserID) bool {
	return r.Any() && r.keyHolder(user, keysClaimPath) != nil
}

// QueryKeys asks application services for the identity keys of their users' devices.
// Spec: MSC3984
func (r *Registry) QueryKeys(ctx context.Context, wanted map[id.UserID][]id.DeviceID) map[id.UserID]map[id.DeviceID]json.RawMessage {
	out := map[id.UserID]map[id.DeviceID]json.RawMessage{}
	groups := byKeyHolder(r, wanted, keysQueryPath)
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

// ClaimKeys claims one-time keys of application services' users from the application services that hold them.
// Spec: MSC3983
func (r *Registry) ClaimKeys(ctx context.Context, wanted map[id.UserID]map[id.DeviceID]string) map[id.UserID]map[id.DeviceID]map[string]json.RawMessage {
	out := map[id.UserID]map[id.DeviceID]map[string]json.RawMessage{}
	groups := byKeyHolder(r, wanted, keysClaimPath)
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

// askForKeys sends a query about keys and decodes the answer. If the query fails, answer is left unchanged.
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
		a.compat.pauseUntil(path, r.now().Add(unknownPause))
	case err != nil:
		a.compat.pauseUntil(path, r.now().Add(failedPause))
		r.log.InfoContext(ctx, "an application service did not answer a query for keys", "appservice", a.ID, "err", err)
	}
}
