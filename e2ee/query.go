package e2ee

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// Keys is the response of /keys/query.
type Keys struct {
	DeviceKeys      map[id.UserID]map[id.DeviceID]json.RawMessage `json:"device_keys"`
	MasterKeys      map[id.UserID]json.RawMessage                 `json:"master_keys"`
	SelfSigningKeys map[id.UserID]json.RawMessage                 `json:"self_signing_keys"`
	UserSigningKeys map[id.UserID]json.RawMessage                 `json:"user_signing_keys"`
	Failures        Failures                                      `json:"failures"`
}

func newKeys() *Keys {
	return &Keys{
		DeviceKeys: map[id.UserID]map[id.DeviceID]json.RawMessage{}, MasterKeys: map[id.UserID]json.RawMessage{},
		SelfSigningKeys: map[id.UserID]json.RawMessage{}, UserSigningKeys: map[id.UserID]json.RawMessage{}, Failures: Failures{},
	}
}

// Query returns the identity keys of users' devices and their cross-signing keys, with the signatures that the viewer
// may see. An empty device list means all devices. An application service's answer about its users (MSC3984) takes
// precedence over stored keys. The keys of remote users that are not cached are requested from their servers, for at
// most timeout; 0 means ten seconds.
// Spec: client-server-api#post_matrixclientv3keysquery
func (s *Service) Query(ctx context.Context, viewer ident.Requester, wanted map[id.UserID][]id.DeviceID, timeout time.Duration) (*Keys, error) {
	if err := bounded("users of one query", len(wanted), maxQueryUsers); err != nil {
		return nil, err
	}
	local, remote, err := split(s, wanted)
	if err != nil {
		return nil, err
	}
	out := newKeys()
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		return wrap("query keys", out.addLocal(tx, viewer, local))
	})
	if err == nil && s.opts.Apps != nil {
		for user, devices := range s.opts.Apps.QueryKeys(ctx, local) {
			if out.DeviceKeys[user] == nil {
				out.DeviceKeys[user] = map[id.DeviceID]json.RawMessage{}
			}
			maps.Copy(out.DeviceKeys[user], devices)
		}
	}
	if err == nil && len(remote) > 0 {
		s.queryServers(ctx, viewer, remote, timeout, out)
	}
	return out, err
}

// split separates local users from remote users. It groups the remote users by server.
func split[T any](s *Service, wanted map[id.UserID]T) (local map[id.UserID]T, remote map[string]map[id.UserID]T, err error) {
	local, remote = map[id.UserID]T{}, map[string]map[id.UserID]T{}
	for user, what := range wanted {
		_, server, err := user.Parse()
		switch {
		case err != nil:
			return nil, nil, mxerr.InvalidParam("%q is not a user ID", string(user))
		case server == s.opts.Server:
			local[user] = what
		case remote[server] == nil:
			remote[server] = map[id.UserID]T{user: what}
		default:
			remote[server][user] = what
		}
	}
	return local, remote, nil
}

// userKeys holds the known keys of one user.
type userKeys struct {
	nid          ident.UserNID // 0 if the user has no number
	devices      []storage.UserDeviceKeys
	crossSigning map[string]string // by usage
}

// addLocal adds the keys of local users.
func (k *Keys) addLocal(tx *storage.Tx, viewer ident.Requester, wanted map[id.UserID][]id.DeviceID) error {
	nids, err := lookUp(tx, wanted)
	if err != nil {
		return err
	}
	users := slices.Collect(maps.Values(nids))
	devices, err := tx.UserDeviceKeysOf(users)
	if err != nil {
		return err
	}
	keys, err := tx.CrossSigningKeysOf(users)
	if err != nil {
		return err
	}
	found := make(map[id.UserID]userKeys, len(nids))
	for user, nid := range nids {
		found[user] = userKeys{nid, devices[nid], keys[nid]}
	}
	return k.add(tx, viewer, found, wanted)
}

// lookUp returns the NIDs of those users that have one.
func lookUp[T any](tx *storage.Tx, users map[id.UserID]T) (map[id.UserID]ident.UserNID, error) {
	names := make([]string, 0, len(users))
	for user := range users {
		names = append(names, string(user))
	}
	found, err := tx.LookupUsers(names)
	nids := make(map[id.UserID]ident.UserNID, len(found))
	for user, nid := range found {
		nids[id.UserID(user)] = nid
	}
	return nids, err
}

// add adds the requested devices of the users, and their cross-signing keys by usage, with signatures.
func (k *Keys) add(tx *storage.Tx, viewer ident.Requester, found map[id.UserID]userKeys, wanted map[id.UserID][]id.DeviceID) error {
	nids := make([]ident.UserNID, 0, len(found))
	for _, u := range found {
		nids = append(nids, u.nid)
	}
	all, err := tx.KeySignatures(viewer.UserNID, nids)
	if err != nil {
		return err
	}
	for user, u := range found {
		signatures := byTarget(all[u.nid])
		k.DeviceKeys[user] = map[id.DeviceID]json.RawMessage{}
		for _, r := range u.devices {
			if device := id.DeviceID(r.DeviceID); len(wanted[user]) == 0 || slices.Contains(wanted[user], device) {
				k.DeviceKeys[user][device] = decorate(r.JSON, signatures[r.DeviceID], r.DisplayName)
			}
		}
		k.addCrossSigning(viewer, user, u.nid, u.crossSigning, signatures)
	}
	return nil
}

func (k *Keys) addCrossSigning(viewer ident.Requester, user id.UserID, nid ident.UserNID, keys map[string]string, signatures map[string]signatureSet) {
	for usage, raw := range keys {
		signed := decorate(raw, signatures[publicPart(raw)], "")
		switch usage {
		case usageMaster:
			k.MasterKeys[user] = signed
		case usageSelfSigning:
			k.SelfSigningKeys[user] = signed
		case usageUserSigning:
			if nid == viewer.UserNID { // only the owner may see it
				k.UserSigningKeys[user] = signed
			}
		}
	}
}

// signatureSet maps signer → key ID → signature, as in the field "signatures" of a signed object.
type signatureSet map[string]map[string]string

func (s signatureSet) add(signer, keyID, signature string) {
	if s[signer] == nil {
		s[signer] = map[string]string{}
	}
	s[signer][keyID] = signature
}

// byTarget groups signatures by the signed key.
func byTarget(rows []storage.KeySignature) map[string]signatureSet {
	out := map[string]signatureSet{}
	for _, r := range rows {
		if out[r.TargetKey] == nil {
			out[r.TargetKey] = signatureSet{}
		}
		out[r.TargetKey].add(r.SignerID, r.KeyID, r.Signature)
	}
	return out
}

// decorate adds signatures and the device's display name to a stored key. It leaves all other fields as they are.
func decorate(stored string, more signatureSet, displayName string) json.RawMessage {
	if len(more) == 0 && displayName == "" {
		return json.RawMessage(stored)
	}
	m, err := object("key", json.RawMessage(stored))
	if err != nil {
		return json.RawMessage(stored)
	}
	if len(more) > 0 {
		m["signatures"] = mergeSignatures(m["signatures"], more)
	}
	if displayName != "" {
		unsigned, err := object("unsigned", m["unsigned"])
		if err != nil {
			unsigned = map[string]json.RawMessage{}
		}
		unsigned["device_display_name"], _ = json.Marshal(displayName) // a string always encodes
		m["unsigned"], _ = json.Marshal(unsigned)                      // so does a map of valid JSON
	}
	out, err := json.Marshal(m)
	if err != nil {
		return json.RawMessage(stored)
	}
	return out
}

func mergeSignatures(own json.RawMessage, more signatureSet) json.RawMessage {
	all := signatureSet{}
	if json.Unmarshal(own, &all) != nil || all == nil {
		all = signatureSet{}
	}
	for signer, keys := range more {
		for keyID, signature := range keys {
			all.add(signer, keyID, signature)
		}
	}
	out, err := json.Marshal(all)
	if err != nil {
		return own
	}
	return out
}
