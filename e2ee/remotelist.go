package e2ee

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// deviceList is the device list of a remote user as received from the user's server. It has no malformed keys and no
// keys of other users.
type deviceList struct {
	streamID     int64 // unknownStream if the response has none
	devices      []storage.UserDeviceKeys
	crossSigning map[string]string // by usage
}

// unknownStream is the stream ID of a list that came without one. No update follows it, so the next update makes the
// list stale.
const unknownStream = -1

// parseKeysAnswer parses the response of /user/keys/query. It ignores users who were not asked for, because a server
// may only answer for its own users.
func parseKeysAnswer(raw json.RawMessage, asked []id.UserID) (map[id.UserID]deviceList, error) {
	var answer struct {
		DeviceKeys      map[id.UserID]map[string]json.RawMessage `json:"device_keys"`
		MasterKeys      map[id.UserID]json.RawMessage            `json:"master_keys"`
		SelfSigningKeys map[id.UserID]json.RawMessage            `json:"self_signing_keys"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("response of /user/keys/query: %w", err)
	}
	lists := make(map[id.UserID]deviceList, len(asked))
	for _, user := range asked {
		list := deviceList{streamID: unknownStream, crossSigning: remoteCrossSigning(user, answer.MasterKeys[user], answer.SelfSigningKeys[user])}
		for _, name := range slices.Sorted(maps.Keys(answer.DeviceKeys[user])) {
			list.add(user, name, "", answer.DeviceKeys[user][name])
		}
		lists[user] = list
	}
	return lists, nil
}

// parseUserDevices parses the response of /user/devices.
func parseUserDevices(raw json.RawMessage, user id.UserID) (deviceList, error) {
	var answer struct {
		UserID   id.UserID `json:"user_id"`
		StreamID int64     `json:"stream_id"`
		Devices  []struct {
			DeviceID    string          `json:"device_id"`
			Keys        json.RawMessage `json:"keys"`
			DisplayName json.RawMessage `json:"device_display_name"`
		} `json:"devices"`
		MasterKey      json.RawMessage `json:"master_key"`
		SelfSigningKey json.RawMessage `json:"self_signing_key"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return deviceList{}, fmt.Errorf("response of /user/devices: %w", err)
	}
	if answer.UserID != user {
		return deviceList{}, fmt.Errorf("response of /user/devices for %s is about %.255q", user, string(answer.UserID))
	}
	list := deviceList{streamID: answer.StreamID, crossSigning: remoteCrossSigning(user, answer.MasterKey, answer.SelfSigningKey)}
	for _, d := range answer.Devices {
		list.add(user, d.DeviceID, displayName(d.DisplayName), d.Keys)
	}
	return list, nil
}

// displayName returns a device's display name, or "" if it is not a string or is too long.
func displayName(raw json.RawMessage) string {
	name, ok := canonjson.Unquote(raw)
	if !ok || len(name) > maxRemoteName || strings.ContainsRune(name, 0) {
		return ""
	}
	return strings.ToValidUTF8(name, "\uFFFD")
}

// add adds a device to the list unless clients would be unable to read its keys.
func (l *deviceList) add(user id.UserID, deviceID, name string, keys json.RawMessage) {
	if len(l.devices) < maxRemoteDevices && checkRemoteDevice(user, deviceID, keys) == nil {
		l.devices = append(l.devices, storage.UserDeviceKeys{DeviceID: deviceID, DisplayName: name, JSON: string(keys)})
	}
}

// checkRemoteDevice returns an error if identity keys from another server are malformed.
func checkRemoteDevice(user id.UserID, deviceID string, keys json.RawMessage) error {
	if deviceID == "" || len(deviceID) > maxKeyID || strings.ContainsRune(deviceID, 0) {
		return mxerr.InvalidParam("A device ID must have 1 to %d bytes", maxKeyID)
	}
	if err := checkDeviceKeys(ident.Requester{UserID: user, DeviceID: id.DeviceID(deviceID)}, keys); err != nil {
		return err
	}
	return checkReadable(keys)
}

// checkReadable returns an error for JSON that has no canonical form, or has a NUL in a string. Strict clients would
// reject a whole response because of it.
func checkReadable(raw json.RawMessage) error {
	canonical, err := canonjson.Canonical(raw, true)
	if err != nil || strings.Contains(string(canonical), `\u0000`) {
		return mxerr.BadJSON("The keys cannot be written as canonical JSON")
	}
	return nil
}

// remoteCrossSigning returns the well-formed keys among a user's cross-signing keys. It includes the self-signing key
// only if the master key has signed it.
func remoteCrossSigning(user id.UserID, master, selfSigning json.RawMessage) map[string]string {
	out := map[string]string{}
	m := crossSigningKey{usage: usageMaster, raw: master}
	if isNull(master) || m.check(user) != nil || checkReadable(master) != nil {
		return out
	}
	out[usageMaster] = string(master)
	k := crossSigningKey{usage: usageSelfSigning, raw: selfSigning}
	if !isNull(selfSigning) && k.check(user) == nil && checkReadable(selfSigning) == nil && signedBy(selfSigning, user, m.public) {
		out[usageSelfSigning] = string(selfSigning)
	}
	return out
}

// store replaces the stored list and reports whether it changed. asked is the stream position at which this server
// requested the list. If the other server has sent an update since then, the list is marked stale at once.
func (l deviceList) store(tx *storage.Tx, nid ident.UserNID, asked storage.Pos) (changed bool, err error) {
	told, err := tx.DeviceListPosition(nid)
	if err != nil {
		return false, err
	}
	if told > asked {
		asked = 0
	}
	devicesChanged, err := l.storeDevices(tx, nid)
	if err != nil {
		return false, err
	}
	keysChanged, err := storeRemoteCrossSigning(tx, nid, l.crossSigning)
	if err != nil {
		return false, err
	}
	return devicesChanged || keysChanged, tx.SetRemoteList(storage.RemoteList{User: nid, StreamID: l.streamID, Asked: asked})
}

func (l deviceList) storeDevices(tx *storage.Tx, nid ident.UserNID) (changed bool, err error) {
	all, err := tx.RemoteDevices([]ident.UserNID{nid})
	if err != nil {
		return false, err
	}
	gone := make(map[string]storage.UserDeviceKeys, len(all[nid]))
	for _, r := range all[nid] {
		gone[r.DeviceID] = r
	}
	for _, d := range l.devices {
		before := gone[d.DeviceID]
		delete(gone, d.DeviceID)
		if before == d {
			continue
		}
		changed = true
		if err := tx.SetRemoteDevice(nid, d); err != nil {
			return false, err
		}
	}
	for name := range gone {
		if err := tx.DeleteRemoteDevice(nid, name); err != nil {
			return false, err
		}
	}
	return changed || len(gone) > 0, nil
}

// storeRemoteCrossSigning stores the master key and the self-signing key of a remote user.
func storeRemoteCrossSigning(tx *storage.Tx, nid ident.UserNID, keys map[string]string) (changed bool, err error) {
	before, err := tx.CrossSigningKeys(nid)
	if err != nil {
		return false, err
	}
	for _, usage := range []string{usageMaster, usageSelfSigning} {
		if before[usage] == keys[usage] {
			continue
		}
		changed = true
		if keys[usage] == "" {
			err = tx.DeleteCrossSigningKey(nid, usage)
		} else {
			err = tx.SetCrossSigningKey(nid, usage, keys[usage])
		}
		if old := publicPart(before[usage]); err == nil && old != "" && old != publicPart(keys[usage]) {
			err = tx.DeleteKeySignatures(nid, old)
		}
		if err != nil {
			return false, err
		}
	}
	return changed, nil
}

// parseClaims parses the response of /user/keys/claim. It returns one key of the requested algorithm for each requested
// device.
func parseClaims(raw json.RawMessage, wanted map[id.UserID]map[id.DeviceID]string) (Claims, error) {
	var answer struct {
		OneTimeKeys map[id.UserID]map[id.DeviceID]map[string]json.RawMessage `json:"one_time_keys"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return nil, fmt.Errorf("response of /user/keys/claim: %w", err)
	}
	claims := Claims{}
	for user, devices := range wanted {
		taken := map[id.DeviceID]map[string]json.RawMessage{}
		for device, algorithm := range devices {
			if name, key := claimedKey(answer.OneTimeKeys[user][device], algorithm); name != "" {
				taken[device] = map[string]json.RawMessage{name: key}
			}
		}
		if len(taken) > 0 {
			claims[user] = taken
		}
	}
	return claims, nil
}

// claimedKey returns a key of the given algorithm that clients can read, or "" if there is none.
func claimedKey(keys map[string]json.RawMessage, algorithm string) (string, json.RawMessage) {
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		of, keyID, _ := strings.Cut(name, ":")
		if of == algorithm && keyID != "" && len(name) <= maxKeyID && checkKey(name, keys[name]) == nil && checkReadable(keys[name]) == nil {
			return name, keys[name]
		}
	}
	return "", nil
}
