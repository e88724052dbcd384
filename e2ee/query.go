package e2ee

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/mxerr"
	"ebb/storage"
)

// Keys is the answer of /keys/query.
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

// Query gives the identity keys of users' devices and their cross-signing keys, with the signatures that the viewer may
// see. An empty device list means all devices. Other servers are asked where the cache does not have their users, and
// waited for no longer than timeout (0: ten seconds).
// Spec: client-server-api#post_matrixclientv3keysquery
func (s *Service) Query(ctx context.Context, viewer Device, wanted map[id.UserID][]id.DeviceID, timeout time.Duration) (*Keys, error) {
	if err := bounded("users of one query", len(wanted), maxQueryUsers); err != nil {
		return nil, err
	}
	local, remote, err := split(s, wanted)
	if err != nil {
		return nil, err
	}
	out := newKeys()
	err = s.DB.Read(ctx, func(tx *storage.Tx) error {
		for user, devices := range local {
			if err := out.addUser(tx, viewer, user, devices); err != nil {
				return wrap("query keys of "+string(user), err)
			}
		}
		return nil
	})
	if err == nil && len(remote) > 0 {
		s.queryServers(ctx, viewer, remote, timeout, out)
	}
	return out, err
}

// split tells the users of this server from those of others, which it sorts by server.
func split[T any](s *Service, wanted map[id.UserID]T) (local map[id.UserID]T, remote map[string]map[id.UserID]T, err error) {
	local, remote = map[id.UserID]T{}, map[string]map[id.UserID]T{}
	for user, what := range wanted {
		_, server, err := user.Parse()
		switch {
		case err != nil:
			return nil, nil, mxerr.InvalidParam("%q is not a user id", string(user))
		case server == s.Server:
			local[user] = what
		case remote[server] == nil:
			remote[server] = map[id.UserID]T{user: what}
		default:
			remote[server][user] = what
		}
	}
	return local, remote, nil
}

func (k *Keys) addUser(tx *storage.Tx, viewer Device, user id.UserID, devices []id.DeviceID) error {
	nid, found, err := tx.LookupUser(string(user))
	if err != nil || !found {
		return err
	}
	rows, err := tx.UserDeviceKeys(nid)
	if err != nil {
		return err
	}
	keys, err := tx.CrossSigningKeys(nid)
	if err != nil {
		return err
	}
	return k.add(tx, viewer, user, nid, rows, keys, devices)
}

// add adds those of a user's devices that are asked for, and the cross-signing keys by usage, with signatures.
func (k *Keys) add(tx *storage.Tx, viewer Device, user id.UserID, nid int64, rows []storage.UserDeviceKeys, keys map[string]string, devices []id.DeviceID) error {
	signatures, err := signaturesOn(tx, nid, viewer.UserNID)
	if err != nil {
		return err
	}
	byDevice := map[id.DeviceID]json.RawMessage{}
	for _, r := range rows {
		if len(devices) == 0 || slices.Contains(devices, id.DeviceID(r.DeviceID)) {
			byDevice[id.DeviceID(r.DeviceID)] = decorate(r.JSON, signatures[r.DeviceID], r.DisplayName)
		}
	}
	k.DeviceKeys[user] = byDevice
	k.addCrossSigning(viewer, user, nid, keys, signatures)
	return nil
}

func (k *Keys) addCrossSigning(viewer Device, user id.UserID, nid int64, keys map[string]string, signatures map[string]signatureSet) {
	for usage, raw := range keys {
		signed := decorate(raw, signatures[publicPart(raw)], "")
		switch usage {
		case usageMaster:
			k.MasterKeys[user] = signed
		case usageSelfSigning:
			k.SelfSigningKeys[user] = signed
		case usageUserSigning:
			if nid == viewer.UserNID { // its owner only
				k.UserSigningKeys[user] = signed
			}
		}
	}
}

// signatureSet maps signer → key id → signature, as in "signatures" of a signed object.
type signatureSet map[string]map[string]string

func (s signatureSet) add(signer, keyID, signature string) {
	if s[signer] == nil {
		s[signer] = map[string]string{}
	}
	s[signer][keyID] = signature
}

// signaturesOn reads the signatures on a user's keys by target key.
func signaturesOn(tx *storage.Tx, target, viewer int64) (map[string]signatureSet, error) {
	rows, err := tx.KeySignatures(target, viewer)
	out := map[string]signatureSet{}
	for _, r := range rows {
		if out[r.TargetKey] == nil {
			out[r.TargetKey] = signatureSet{}
		}
		out[r.TargetKey].add(r.SignerID, r.KeyID, r.Signature)
	}
	return out, err
}

// decorate adds signatures and the device's display name to a stored key; members it does not know stay as they are.
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
