package e2ee

import (
	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/keyed"
	"ebb/storage"
)

// maxDeviceNames bounds the short names of devices in memory: 50,000 take some 8 MB.
const maxDeviceNames = 50_000

// deviceNames remembers the short names of devices of this server's users, for writes: a message between devices names one,
// and the look-up was a sixth of its cost. Only the committer asks and forgets, one write after the other, so a device that is
// deleted is forgotten before the next write asks. The names that a write makes are not remembered, since it may yet fail.
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

// find looks a device up in a write. The device's number is 0 if there is no such device.
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

// forget removes a device that is deleted.
func (n *deviceNames) forget(device ident.DeviceNID) {
	n.known.ForgetFunc(func(_ deviceName, nids deviceNIDs) bool { return nids.device == device })
}
