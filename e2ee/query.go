package e2ee

import (
	"context"
	"encoding/json"
	"slices"

	"maunium.net/go/mautrix/id"

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

// Query gives the identity keys of users' devices and their cross-signing keys, with the signatures that the viewer may
// see. An empty device list means all devices.
// Spec: client-server-api#post_matrixclientv3keysquery
func (s *Service) Query(ctx context.Context, viewer Device, wanted map[id.UserID][]id.DeviceID) (*Keys, error) {
	if err := bounded("users of one query", len(wanted), maxQueryUsers); err != nil {
		return nil, err
	}
	out := &Keys{
		DeviceKeys: map[id.UserID]map[id.DeviceID]json.RawMessage{}, MasterKeys: map[id.UserID]json.RawMessage{},
		SelfSigningKeys: map[id.UserID]json.RawMessage{}, UserSigningKeys: map[id.UserID]json.RawMessage{}, Failures: Failures{},
	}
	err := s.DB.Read(ctx, func(tx *storage.Tx) error {
		for user, devices := range wanted {
			here, err := s.isLocal(user)
			if err != nil {
				return err
			}
			if !here {
				out.Failures.add(user)
				continue
			}
			if err := out.addUser(tx, viewer, user, devices); err != nil {
				return wrap("query keys of "+string(user), err)
			}
		}
		return nil
	})
	return out, err
}

func (k *Keys) addUser(tx *storage.Tx, viewer Device, user id.UserID, devices []id.DeviceID) error {
	nid, found, err := tx.LookupUser(string(user))
	if err != nil || !found {
		return err
	}
	signatures, err := signaturesOn(tx, nid, viewer.UserNID)
	if err != nil {
		return err
	}
	rows, err := tx.UserDeviceKeys(nid)
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
	return k.addCrossSigning(tx, viewer, user, nid, signatures)
}

func (k *Keys) addCrossSigning(tx *storage.Tx, viewer Device, user id.UserID, nid int64, signatures map[string]signatureSet) error {
	keys, err := tx.CrossSigningKeys(nid)
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
	return err
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
