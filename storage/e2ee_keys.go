package storage

import (
	"slices"

	"ebb/ident"
)

// KeyJSON is an uploaded key with its algorithm and ID.
type KeyJSON struct {
	Algorithm string
	KeyID     string // the part after the colon
	JSON      string // verbatim
	Fallback  bool
}

const setDeviceKeysQuery = `INSERT INTO device_keys (device_nid, user_nid, json) VALUES ($1, $2, $3)
ON CONFLICT (device_nid) DO UPDATE SET json = excluded.json`

// SetDeviceKeys stores the identity keys of a device.
func (tx *Tx) SetDeviceKeys(device ident.DeviceNID, user ident.UserNID, json string) error {
	_, err := tx.exec(setDeviceKeysQuery, int64(device), int64(user), json)
	return err
}

// DeviceKeys returns the JSON of a device's identity keys.
func (tx *Tx) DeviceKeys(device ident.DeviceNID) (string, bool, error) {
	return one(tx, scanString, `SELECT json FROM device_keys WHERE device_nid = $1`, int64(device))
}

// UserDeviceKeys holds the identity keys of one device.
type UserDeviceKeys struct {
	DeviceID    string
	DisplayName string
	JSON        string
}

const userDeviceKeysQuery = `SELECT k.user_nid, d.device_id, coalesce(d.display_name, ''), k.json
FROM device_keys k JOIN devices d ON d.nid = k.device_nid WHERE k.user_nid IN `

// UserDeviceKeys lists the devices of a user that have identity keys.
func (tx *Tx) UserDeviceKeys(user ident.UserNID) ([]UserDeviceKeys, error) {
	all, err := tx.UserDeviceKeysOf([]ident.UserNID{user})
	return all[user], err
}

// UserDeviceKeysOf is like UserDeviceKeys for several users. It uses the index device_keys_by_user.
func (tx *Tx) UserDeviceKeysOf(users []ident.UserNID) (map[ident.UserNID][]UserDeviceKeys, error) {
	return tx.deviceKeys(users, userDeviceKeysQuery, ` ORDER BY k.device_nid`)
}

// deviceKeys runs a query for device keys that ends in a list of users.
func (tx *Tx) deviceKeys(users []ident.UserNID, query, order string) (map[ident.UserNID][]UserDeviceKeys, error) {
	out := map[ident.UserNID][]UserDeviceKeys{}
	for part := range slices.Chunk(users, maxIn) {
		list, args := In(1, part)
		err := tx.each(func(r Row) error {
			var user ident.UserNID
			var k UserDeviceKeys
			err := r.Scan(&user, &k.DeviceID, &k.DisplayName, &k.JSON)
			out[user] = append(out[user], k)
			return err
		}, query+list+order, args...)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

const oneTimeKeyQuery = `SELECT json FROM one_time_keys WHERE device_nid = $1 AND algorithm = $2 AND key_id = $3`

// OneTimeKey returns a key that has not been claimed yet.
func (tx *Tx) OneTimeKey(device ident.DeviceNID, algorithm, keyID string) (string, bool, error) {
	return one(tx, scanString, oneTimeKeyQuery, int64(device), algorithm, keyID)
}

const addOneTimeKeyQuery = `INSERT INTO one_time_keys (nid, device_nid, algorithm, key_id, json) VALUES ($1, $2, $3, $4, $5)`

// AddOneTimeKey adds a key, to be claimed after the device's earlier ones.
func (tx *Tx) AddOneTimeKey(device ident.DeviceNID, k KeyJSON) error {
	_, err := tx.exec(addOneTimeKeyQuery, int64(tx.NextPos()), int64(device), k.Algorithm, k.KeyID, k.JSON)
	return err
}

const replaceOneTimeKeyQuery = `UPDATE one_time_keys SET json = $4 WHERE device_nid = $1 AND algorithm = $2 AND key_id = $3`

// ReplaceOneTimeKey replaces the JSON of an unclaimed key, which keeps its place in the order of claims.
func (tx *Tx) ReplaceOneTimeKey(device ident.DeviceNID, k KeyJSON) error {
	_, err := tx.exec(replaceOneTimeKeyQuery, int64(device), k.Algorithm, k.KeyID, k.JSON)
	return err
}

const claimOneTimeKeyQuery = `DELETE FROM one_time_keys WHERE nid = (
    SELECT nid FROM one_time_keys WHERE device_nid = $1 AND algorithm = $2 ORDER BY nid LIMIT 1) RETURNING key_id, json`

// ClaimOneTimeKey deletes and returns the oldest key of an algorithm. It uses the index one_time_keys_by_age.
func (tx *Tx) ClaimOneTimeKey(device ident.DeviceNID, algorithm string) (KeyJSON, bool, error) {
	k := KeyJSON{Algorithm: algorithm}
	_, found, err := one(tx, func(r Row) (struct{}, error) { return struct{}{}, r.Scan(&k.KeyID, &k.JSON) }, claimOneTimeKeyQuery, int64(device), algorithm)
	return k, found, err
}

const setFallbackKeyQuery = `INSERT INTO fallback_keys (device_nid, algorithm, key_id, json, used) VALUES ($1, $2, $3, $4, 0)
ON CONFLICT (device_nid, algorithm) DO UPDATE SET
    used = fallback_keys.used * $5, key_id = excluded.key_id, json = excluded.json`

// SetFallbackKey replaces the fallback key of an algorithm. If again is set, the key is the one that is stored already:
// if that was used, it stays marked as used.
func (tx *Tx) SetFallbackKey(device ident.DeviceNID, k KeyJSON, again bool) error {
	_, err := tx.exec(setFallbackKeyQuery, int64(device), k.Algorithm, k.KeyID, k.JSON, again)
	return err
}

const fallbackKeyQuery = `SELECT key_id, json FROM fallback_keys WHERE device_nid = $1 AND algorithm = $2`

// FallbackKey returns the fallback key of an algorithm.
func (tx *Tx) FallbackKey(device ident.DeviceNID, algorithm string) (KeyJSON, bool, error) {
	k := KeyJSON{Algorithm: algorithm, Fallback: true}
	_, found, err := one(tx, func(r Row) (struct{}, error) { return struct{}{}, r.Scan(&k.KeyID, &k.JSON) }, fallbackKeyQuery, int64(device), algorithm)
	return k, found, err
}

// UseFallbackKey returns the fallback key of an algorithm and marks it as used.
func (tx *Tx) UseFallbackKey(device ident.DeviceNID, algorithm string) (KeyJSON, bool, error) {
	k, found, err := tx.FallbackKey(device, algorithm)
	if err != nil || !found {
		return k, false, err
	}
	_, err = tx.exec(`UPDATE fallback_keys SET used = 1 WHERE device_nid = $1 AND algorithm = $2 AND used = 0`, int64(device), algorithm)
	return k, true, err
}

// KeyCount is the number of unclaimed one-time keys of an algorithm.
type KeyCount struct {
	Algorithm string
	Count     int64
}

const countOneTimeKeysQuery = `SELECT algorithm, count(*) FROM one_time_keys WHERE device_nid = $1 GROUP BY algorithm`

// CountOneTimeKeys counts a device's unclaimed keys by algorithm.
func (tx *Tx) CountOneTimeKeys(device ident.DeviceNID) ([]KeyCount, error) {
	return collect(tx, func(r Row) (c KeyCount, err error) { err = r.Scan(&c.Algorithm, &c.Count); return c, err }, countOneTimeKeysQuery, int64(device))
}

// CountFallbackKeys counts a device's fallback keys, used or not.
func (tx *Tx) CountFallbackKeys(device ident.DeviceNID) (n int64, err error) {
	n, _, err = one(tx, scanNumber[int64], `SELECT count(*) FROM fallback_keys WHERE device_nid = $1`, int64(device))
	return n, err
}

// UnusedFallbackKeys lists the algorithms whose fallback key was never claimed.
func (tx *Tx) UnusedFallbackKeys(device ident.DeviceNID) ([]string, error) {
	return collect(tx, scanString, `SELECT algorithm FROM fallback_keys WHERE device_nid = $1 AND used = 0`, int64(device))
}

// DeleteDeviceKeys deletes the identity keys of a device that is being deleted. DeleteLeftovers deletes its other keys.
func (tx *Tx) DeleteDeviceKeys(device ident.DeviceNID, user ident.UserNID, deviceID string) error {
	if _, err := tx.exec(`DELETE FROM device_keys WHERE device_nid = $1`, int64(device)); err != nil {
		return err
	}
	return tx.DeleteKeySignatures(user, deviceID)
}

const setCrossSigningKeyQuery = `INSERT INTO cross_signing_keys (user_nid, usage, json) VALUES ($1, $2, $3)
ON CONFLICT (user_nid, usage) DO UPDATE SET json = excluded.json`

// SetCrossSigningKey stores or replaces one of a user's three cross-signing keys.
func (tx *Tx) SetCrossSigningKey(user ident.UserNID, usage, json string) error {
	_, err := tx.exec(setCrossSigningKeyQuery, int64(user), usage, json)
	return err
}

// CrossSigningKeys returns the JSON of a user's cross-signing keys by usage.
func (tx *Tx) CrossSigningKeys(user ident.UserNID) (map[string]string, error) {
	all, err := tx.CrossSigningKeysOf([]ident.UserNID{user})
	return all[user], err
}

// CrossSigningKeysOf is like CrossSigningKeys for several users.
func (tx *Tx) CrossSigningKeysOf(users []ident.UserNID) (map[ident.UserNID]map[string]string, error) {
	out := map[ident.UserNID]map[string]string{}
	for part := range slices.Chunk(users, maxIn) {
		list, args := In(1, part)
		err := tx.each(func(r Row) error {
			var user ident.UserNID
			var usage, json string
			err := r.Scan(&user, &usage, &json)
			if out[user] == nil {
				out[user] = map[string]string{}
			}
			out[user][usage] = json
			return err
		}, `SELECT user_nid, usage, json FROM cross_signing_keys WHERE user_nid IN `+list, args...)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// KeySignature is a signature that was uploaded for a key.
type KeySignature struct {
	TargetKey string
	Signer    ident.UserNID
	SignerID  string // user ID of Signer
	KeyID     string
	Signature string
}

const addKeySignatureQuery = `INSERT INTO key_signatures (target_nid, target_key, signer_nid, key_id, signature) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (target_nid, target_key, signer_nid, key_id) DO UPDATE SET signature = excluded.signature`

// AddKeySignature stores a signature of a key of target.
func (tx *Tx) AddKeySignature(target ident.UserNID, s KeySignature) error {
	_, err := tx.exec(addKeySignatureQuery, int64(target), s.TargetKey, int64(s.Signer), s.KeyID, s.Signature)
	return err
}

const keySignaturesQuery = `SELECT s.target_nid, s.target_key, s.signer_nid, u.user_id, s.key_id, s.signature
FROM key_signatures s JOIN users u ON u.nid = s.signer_nid
WHERE s.signer_nid IN (s.target_nid, $1) AND s.target_nid IN `

// KeySignatures lists the signatures of the keys of the given users (targets) that viewer may see: those made by the
// key's owner and those made by viewer. The result is keyed by target.
func (tx *Tx) KeySignatures(viewer ident.UserNID, targets []ident.UserNID) (map[ident.UserNID][]KeySignature, error) {
	out := map[ident.UserNID][]KeySignature{}
	for part := range slices.Chunk(targets, maxIn) {
		list, args := In(2, part)
		err := tx.each(func(r Row) error {
			var target ident.UserNID
			var s KeySignature
			err := r.Scan(&target, &s.TargetKey, &s.Signer, &s.SignerID, &s.KeyID, &s.Signature)
			out[target] = append(out[target], s)
			return err
		}, keySignaturesQuery+list+` ORDER BY s.target_key, s.signer_nid, s.key_id`, append([]any{int64(viewer)}, args...)...)
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// DeleteKeySignatures deletes the signatures of a key that is replaced.
func (tx *Tx) DeleteKeySignatures(target ident.UserNID, targetKey string) error {
	_, err := tx.exec(`DELETE FROM key_signatures WHERE target_nid = $1 AND target_key = $2`, int64(target), targetKey)
	return err
}
