package e2ee

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// UploadKeys is the request body of /keys/upload.
type UploadKeys struct {
	DeviceKeys   json.RawMessage            `json:"device_keys"`
	OneTimeKeys  map[string]json.RawMessage `json:"one_time_keys"`
	FallbackKeys map[string]json.RawMessage `json:"fallback_keys"`
	// FallbackKeysUnstable has the name from MSC2732, which some clients still use.
	FallbackKeysUnstable map[string]json.RawMessage `json:"org.matrix.msc2732.fallback_keys"`
}

// Upload stores a device's keys and returns the number of its unclaimed one-time keys by algorithm.
//
// Errors: M_INVALID_PARAM for keys of another device, or for a key ID that is in use for another key; M_BAD_JSON;
// M_TOO_LARGE.
// Spec: client-server-api#post_matrixclientv3keysupload
func (s *Service) Upload(ctx context.Context, d ident.Requester, up UploadKeys) (counts map[string]int64, err error) {
	oneTime, err := parseKeys(up.OneTimeKeys)
	if err != nil {
		return nil, err
	}
	fallback, err := parseKeys(orElse(up.FallbackKeys, up.FallbackKeysUnstable))
	if err != nil {
		return nil, err
	}
	if isNull(up.DeviceKeys) {
		up.DeviceKeys = nil
	} else if err := checkDeviceKeys(d, up.DeviceKeys); err != nil {
		return nil, err
	}
	if up.DeviceKeys == nil && len(oneTime) == 0 && len(fallback) == 0 {
		return s.OneTimeKeyCounts(ctx, d.DeviceNID)
	}
	err = s.write(ctx, func(tx *storage.Tx) (committed func(), err error) {
		committed, err = s.storeKeys(tx, d, up.DeviceKeys, oneTime, fallback)
		if err == nil {
			counts, err = oneTimeKeyCounts(tx, d.DeviceNID)
		}
		return committed, err
	})
	return counts, err
}

func orElse(a, b map[string]json.RawMessage) map[string]json.RawMessage {
	if a == nil {
		return b
	}
	return a
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func (s *Service) storeKeys(tx *storage.Tx, d ident.Requester, identity json.RawMessage, oneTime, fallback []storage.KeyJSON) (committed func(), err error) {
	committed = s.wakeUsers(d.UserNID)
	if identity != nil {
		changed, err := setDeviceKeys(tx, d, identity)
		if err != nil {
			return nil, err
		}
		if changed {
			if committed, err = s.DevicesChanged(tx, d.UserNID, string(d.DeviceID)); err != nil {
				return nil, err
			}
		}
	}
	if err := addOneTimeKeys(tx, d.DeviceNID, oneTime); err != nil {
		return nil, err
	}
	return committed, setFallbackKeys(tx, d.DeviceNID, fallback)
}

func setFallbackKeys(tx *storage.Tx, device ident.DeviceNID, keys []storage.KeyJSON) error {
	if len(keys) == 0 {
		return nil
	}
	for _, k := range keys {
		old, found, err := tx.FallbackKey(device, k.Algorithm)
		if err != nil {
			return err
		}
		if err := tx.SetFallbackKey(device, k, found && old.KeyID == k.KeyID && sameKey(old.JSON, json.RawMessage(k.JSON))); err != nil {
			return err
		}
	}
	n, err := tx.CountFallbackKeys(device) // a key replaces that of its algorithm, so they are counted last
	if err != nil {
		return err
	}
	return bounded("fallback keys of a device", int(n), maxAlgorithms)
}

// setDeviceKeys stores identity keys and reports whether they differ from the stored ones.
func setDeviceKeys(tx *storage.Tx, d ident.Requester, identity json.RawMessage) (changed bool, err error) {
	old, found, err := tx.DeviceKeys(d.DeviceNID)
	if err != nil || found && old == string(identity) {
		return false, err
	}
	return true, tx.SetDeviceKeys(d.DeviceNID, d.UserNID, string(identity))
}

func addOneTimeKeys(tx *storage.Tx, device ident.DeviceNID, keys []storage.KeyJSON) error {
	if len(keys) == 0 {
		return nil
	}
	counts, err := oneTimeKeyCounts(tx, device)
	if err != nil {
		return err
	}
	total := len(keys)
	for _, n := range counts {
		total += int(n)
	}
	if err := bounded("one-time keys of a device", total, maxOneTimeKeys); err != nil {
		return err
	}
	for _, k := range keys {
		old, found, err := tx.OneTimeKey(device, k.Algorithm, k.KeyID)
		switch {
		case err != nil:
			return err
		case found && !sameKey(old, json.RawMessage(k.JSON)):
			return mxerr.InvalidParam("There is already a different one-time key with the ID %s:%s", k.Algorithm, k.KeyID)
		case found:
			err = tx.ReplaceOneTimeKey(device, k) // it may have newer signatures
		default:
			err = tx.AddOneTimeKey(device, k)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkDeviceKeys returns an error if identity keys name another device, or are malformed in a way that might make
// other servers reject them.
func checkDeviceKeys(d ident.Requester, raw json.RawMessage) error {
	if err := bounded("device_keys", len(raw), maxKeyJSON); err != nil {
		return err
	}
	var keys struct {
		UserID     string                       `json:"user_id"`
		DeviceID   string                       `json:"device_id"`
		Algorithms []string                     `json:"algorithms"`
		Keys       map[string]string            `json:"keys"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(raw, &keys); err != nil || misspelled(raw, "user_id", "device_id", "algorithms", "keys", "signatures") {
		return mxerr.BadJSON("device_keys is malformed")
	}
	if keys.UserID != string(d.UserID) || keys.DeviceID != string(d.DeviceID) {
		return mxerr.InvalidParam("user_id and device_id in device_keys must be your own")
	}
	if keys.Algorithms == nil || keys.Keys == nil || keys.Signatures == nil {
		return mxerr.BadJSON("device_keys must have algorithms, keys and signatures")
	}
	return nil
}

// parseKeys parses one-time or fallback keys, ordered by their IDs.
func parseKeys(in map[string]json.RawMessage) ([]storage.KeyJSON, error) {
	if err := bounded("keys of one upload", len(in), maxOneTimeKeys); err != nil {
		return nil, err
	}
	out := make([]storage.KeyJSON, 0, len(in))
	for _, name := range slices.Sorted(maps.Keys(in)) {
		algorithm, keyID, ok := strings.Cut(name, ":")
		if !ok || algorithm == "" || keyID == "" || len(name) > maxKeyID {
			return nil, mxerr.InvalidParam("%q is not a key ID", name)
		}
		if err := checkKey(name, in[name]); err != nil {
			return nil, err
		}
		out = append(out, storage.KeyJSON{Algorithm: algorithm, KeyID: keyID, JSON: string(in[name])})
	}
	return out, nil
}

// checkKey returns an error unless a key is a string, or an object with a string "key".
func checkKey(name string, raw json.RawMessage) error {
	if err := bounded(name, len(raw), maxKeyJSON); err != nil {
		return err
	}
	var plain string
	if json.Unmarshal(raw, &plain) == nil && raw[0] == '"' {
		return nil
	}
	var signed struct {
		Key        *string                      `json:"key"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(raw, &signed); err != nil || signed.Key == nil {
		return mxerr.BadJSON("The key %s is malformed", name)
	}
	return nil
}

// OneTimeKeyCounts returns the number of a device's unclaimed one-time keys by algorithm. signed_curve25519 is always
// included, because clients take its absence to mean "no change".
func (s *Service) OneTimeKeyCounts(ctx context.Context, device ident.DeviceNID) (counts map[string]int64, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		counts, err = oneTimeKeyCounts(tx, device)
		return err
	})
	return counts, err
}

func oneTimeKeyCounts(tx *storage.Tx, device ident.DeviceNID) (map[string]int64, error) {
	rows, err := tx.CountOneTimeKeys(device)
	counts := map[string]int64{"signed_curve25519": 0}
	for _, r := range rows {
		counts[r.Algorithm] = r.Count
	}
	return counts, err
}

// Claims maps user → device → "algorithm:key ID" → key.
type Claims map[id.UserID]map[id.DeviceID]map[string]json.RawMessage

// Failures maps each server that could not be reached to an error object.
type Failures map[string]json.RawMessage

// Claim claims a one-time key of the requested algorithm from each device: the oldest one, or the fallback key if none
// is left. It waits for other servers for at most timeout; 0 means ten seconds.
// Spec: client-server-api#post_matrixclientv3keysclaim
func (s *Service) Claim(ctx context.Context, wanted map[id.UserID]map[id.DeviceID]string, timeout time.Duration) (Claims, Failures, error) {
	if err := bounded("users of one claim", len(wanted), maxQueryUsers); err != nil {
		return nil, nil, err
	}
	local, remote, err := split(s, wanted)
	if err != nil {
		return nil, nil, err
	}
	claims, err := s.claimLocal(ctx, local)
	if err != nil || len(remote) == 0 {
		return claims, Failures{}, err
	}
	return claims, s.claimOfServers(ctx, remote, timeout, claims), nil
}

// claimLocal claims keys of local users. It tries stored one-time keys first, then keys held by an application service
// (MSC3983), then fallback keys.
func (s *Service) claimLocal(ctx context.Context, wanted map[id.UserID]map[id.DeviceID]string) (Claims, error) {
	claims, missing := Claims{}, map[id.UserID]map[id.DeviceID]string{}
	for user, devices := range wanted {
		if s.opts.Apps != nil && s.opts.Apps.MayClaim(user) {
			missing[user] = devices
		}
	}
	err := s.claimStored(ctx, wanted, claims, func(user id.UserID) bool { return missing[user] != nil })
	for user, devices := range missing {
		if missing[user] = without(devices, claims[user]); len(missing[user]) == 0 {
			delete(missing, user)
		}
	}
	if err != nil || len(missing) == 0 {
		return claims, err
	}
	for user, devices := range s.opts.Apps.ClaimKeys(ctx, missing) {
		claims.add(user, devices)
		missing[user] = without(missing[user], devices)
	}
	return claims, s.claimStored(ctx, missing, claims, func(id.UserID) bool { return false })
}

// without returns the devices for which no key was found.
func without(devices map[id.DeviceID]string, found map[id.DeviceID]map[string]json.RawMessage) map[id.DeviceID]string {
	rest := maps.Clone(devices)
	maps.DeleteFunc(rest, func(device id.DeviceID, _ string) bool { return found[device] != nil })
	return rest
}

// add adds the claimed keys of a user.
func (c Claims) add(user id.UserID, devices map[id.DeviceID]map[string]json.RawMessage) {
	if c[user] == nil {
		c[user] = map[id.DeviceID]map[string]json.RawMessage{}
	}
	maps.Copy(c[user], devices)
}

// claimStored claims stored keys and adds them to claims. If spare returns true for a user, it claims only one-time
// keys of that user and no fallback keys.
func (s *Service) claimStored(ctx context.Context, wanted map[id.UserID]map[id.DeviceID]string, claims Claims, spare func(id.UserID) bool) error {
	wanted, err := s.ofExisting(ctx, wanted)
	if err != nil || len(wanted) == 0 {
		return err
	}
	found := Claims{}
	err = s.write(ctx, func(tx *storage.Tx) (func(), error) {
		var used []ident.UserNID // owners whose key counts changed
		for _, user := range slices.Sorted(maps.Keys(wanted)) {
			owner, taken, err := s.claimOfUser(tx, user, wanted[user], !spare(user))
			if err != nil {
				return nil, wrap("claim keys of "+string(user), err)
			}
			if len(taken) > 0 {
				found[user] = taken
				used = append(used, owner)
			}
		}
		return s.wakeUsers(used...), nil
	})
	for user, devices := range found {
		claims.add(user, devices)
	}
	return err
}

// ofExisting returns the claims of keys of users that exist. It is called before the write, which delays all others:
// anybody can name thousands of users.
func (s *Service) ofExisting(ctx context.Context, wanted map[id.UserID]map[id.DeviceID]string) (map[id.UserID]map[id.DeviceID]string, error) {
	existing := map[id.UserID]map[id.DeviceID]string{}
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		nids, err := lookUp(tx, wanted)
		for user := range nids {
			existing[user] = wanted[user]
		}
		return err
	})
	return existing, err
}

func (f Failures) add(server string) {
	f[server] = json.RawMessage(`{"errcode":"M_UNREACHABLE","error":"This server cannot be asked"}`)
}

// claimOfUser claims keys of one user. If there is no one-time key for a device and fallback is set, it uses the
// device's fallback key.
func (s *Service) claimOfUser(tx *storage.Tx, user id.UserID, wanted map[id.DeviceID]string, fallback bool) (owner ident.UserNID, taken map[id.DeviceID]map[string]json.RawMessage, err error) {
	owner, devices, found, err := candidates(s.names, tx, user, wanted)
	if err != nil || !found {
		return 0, nil, err
	}
	taken = map[id.DeviceID]map[string]json.RawMessage{}
	for _, dev := range devices {
		algorithm, asked := wanted[id.DeviceID(dev.ID)]
		if !asked {
			continue
		}
		k, found, err := tx.ClaimOneTimeKey(dev.NID, algorithm)
		if err == nil && !found && fallback {
			k, found, err = tx.UseFallbackKey(dev.NID, algorithm)
		}
		if err != nil {
			return 0, nil, err
		}
		if found {
			taken[id.DeviceID(dev.ID)] = map[string]json.RawMessage{k.Algorithm + ":" + k.KeyID: markFallback(k)}
		}
	}
	return owner, taken, nil
}

// markFallback adds "fallback": true to a fallback key, if the key is an object without that field.
func markFallback(k storage.KeyJSON) json.RawMessage {
	if !k.Fallback {
		return json.RawMessage(k.JSON)
	}
	m, err := object("key", json.RawMessage(k.JSON))
	if err != nil || m["fallback"] != nil {
		return json.RawMessage(k.JSON)
	}
	m["fallback"] = json.RawMessage("true")
	out, err := json.Marshal(m)
	if err != nil {
		return json.RawMessage(k.JSON)
	}
	return out
}
