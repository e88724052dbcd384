package e2ee

import (
	"sync"

	"maunium.net/go/mautrix/id"

	"ebb/storage"
)

// maxDeviceNames bounds the short names of devices in memory: 50,000 take some 8 MB.
const maxDeviceNames = 50_000

// deviceNames remembers the short names of devices of this server's users, for writes: a message between devices names one,
// and the look-up was a sixth of what it cost. Only the committer asks and forgets, one write after the other, so a device
// that is deleted is forgotten before the next write asks. What a write that may yet fail has made is not remembered.
type deviceNames struct {
	mu    sync.Mutex // guards known; a leaf in docs/locks.md
	known map[deviceName]deviceNIDs
}

type deviceName struct {
	user   id.UserID
	device id.DeviceID
}

type deviceNIDs struct{ user, device int64 }

// find looks a device up in a write; device is 0 for one that there is not.
func (n *deviceNames) find(tx *storage.Tx, name deviceName) (nids deviceNIDs, found bool, err error) {
	n.mu.Lock()
	nids, found = n.known[name]
	n.mu.Unlock()
	if found {
		return nids, true, nil
	}
	nids.user, nids.device, found, err = tx.LookupDevice(string(name.user), string(name.device))
	if err != nil || nids.device == 0 || storage.Pos(nids.device) > tx.Settled() {
		return nids, found, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil || len(n.known) >= maxDeviceNames {
		n.known = map[deviceName]deviceNIDs{}
	}
	n.known[name] = nids
	return nids, true, nil
}

// forget is for a device that is deleted.
func (n *deviceNames) forget(device int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for name, nids := range n.known {
		if nids.device == device {
			delete(n.known, name)
		}
	}
}
