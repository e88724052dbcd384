package e2ee

import (
	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/keyed"
	"ebb/storage"
)

// maxDeviceNames bounds the cached device numbers; 50,000 take about 8 MB.
const maxDeviceNames = 50_000

// deviceNames caches the NIDs of local devices for writes. Every to-device message needs the NID of a device, and
// looking it up took a sixth of the time of a message. Only the committer uses the cache, in one write after the other,
// so a deleted device is removed before the next write looks it up. Devices created in a write are not cached, since
// the write may still fail.
type deviceNames struct {
	known *keyed.Map[deviceName, deviceNIDs]
}

type deviceName struct {
	user   id.UserID
	device id.DeviceID
}

type deviceNIDs struct {
	user   ident.UserNID
	device ident.DeviceNID
}

func newDeviceNames(entries int) *deviceNames {
	return &deviceNames{keyed.NewMap[deviceName, deviceNIDs](entries)}
}

// find returns the NIDs of a device and its user, for use in a write. The NID of the device is 0 if there is no such
// device. found is false if there is no such user.
func (n *deviceNames) find(tx *storage.Tx, name deviceName) (nids deviceNIDs, found bool, err error) {
	if nids, found = n.known.Get(name); found {
		return nids, true, nil
	}
	nids.user, nids.device, found, err = tx.LookupDevice(string(name.user), string(name.device))
	if err != nil || nids.device == 0 || storage.Pos(nids.device) > tx.Settled() {
		return nids, found, err
	}
	n.known.Put(name, nids)
	return nids, true, nil
}

// forget removes a deleted device from the cache.
func (n *deviceNames) forget(device ident.DeviceNID) {
	n.known.ForgetFunc(func(_ deviceName, nids deviceNIDs) bool { return nids.device == device })
}
