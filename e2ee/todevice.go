package e2ee

import (
	"context"
	"encoding/json"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/mxerr"
	"ebb/storage"
)

// allDevices is the device id that stands for every device of a user.
const allDevices id.DeviceID = "*"

// SendToDevice queues messages for devices, once per transaction: path and txn name the request, per sending device.
// Spec: client-server-api#put_matrixclientv3sendtodeviceeventtypetxnid
func (s *Service) SendToDevice(ctx context.Context, d Device, path, txn, eventType string, messages map[id.UserID]map[id.DeviceID]json.RawMessage) error {
	n := 0
	for _, devices := range messages {
		n += len(devices)
		for _, content := range devices {
			if len(content) == 0 || content[0] != '{' { // it is JSON: it was part of some
				return mxerr.BadJSON("content is not an object")
			}
			if err := bounded("content of a message", len(content), maxToDeviceContent); err != nil {
				return err
			}
		}
	}
	if err := bounded("messages of one request", n, maxToDeviceTargets); err != nil {
		return err
	}
	if len(eventType) > maxKeyID {
		return mxerr.InvalidParam("An event type has at most %d bytes", maxKeyID)
	}
	hash := s.DB.IDHash(path + "\x00" + txn)
	return s.write(ctx, func(tx *storage.Tx) (func(), error) {
		first, err := tx.ClaimTxn(d.DeviceNID, hash, s.Now().UnixMilli())
		if err != nil || !first {
			return nil, err
		}
		m := outgoing{service: s, sender: d.User, eventType: eventType}
		for _, user := range slices.Sorted(maps.Keys(messages)) {
			if err := m.send(tx, user, messages[user]); err != nil {
				return nil, wrap("send to devices of "+string(user), err)
			}
		}
		return s.wakeUsers(m.receivers...), nil
	})
}

// trimEvery: looking for the end of a backlog costs a walk over it, so one message in 64, by chance, does it.
const trimEvery = 64

// outgoing is one request in progress.
type outgoing struct {
	service   *Service
	sender    id.UserID
	eventType string
	receivers []int64
	messages  int
	bytes     int
}

func (o *outgoing) send(tx *storage.Tx, user id.UserID, messages map[id.DeviceID]json.RawMessage) error {
	if here, err := o.service.isLocal(user); err != nil || !here {
		return err // other servers: with federation
	}
	nid, devices, found, err := candidates(tx, user, messages)
	if err != nil || !found {
		return err
	}
	o.receivers = append(o.receivers, nid)
	for _, dev := range devices {
		content, wanted := messages[id.DeviceID(dev.ID)]
		if !wanted {
			content, wanted = messages[allDevices]
		}
		if !wanted {
			continue
		}
		if err := o.count(len(content)); err != nil {
			return err
		}
		pos, err := tx.AddToDevice(dev.NID, o.event(content))
		if err != nil {
			return err
		}
		if pos%trimEvery != 0 {
			continue
		}
		if err := tx.TrimToDevice(dev.NID, maxToDeviceBacklog); err != nil {
			return err
		}
	}
	return nil
}

// count keeps one small request from becoming millions of rows by way of "*".
func (o *outgoing) count(size int) error {
	o.messages++
	o.bytes += size
	if err := bounded("messages of one request", o.messages, maxToDeviceTargets); err != nil {
		return err
	}
	return bounded("bytes of the messages of one request", o.bytes, maxToDeviceBytes)
}

// candidates are the devices of a user among which are those that named names; false where there is no such user. Most
// requests name one device, for which one query does.
func candidates[T any](tx *storage.Tx, user id.UserID, named map[id.DeviceID]T) (nid int64, devices []storage.DeviceRef, found bool, err error) {
	if _, all := named[allDevices]; len(named) == 1 && !all {
		for name := range named {
			var device int64
			if nid, device, found, err = tx.LookupDevice(string(user), string(name)); device != 0 {
				devices = []storage.DeviceRef{{NID: device, ID: string(name)}}
			}
		}
		return nid, devices, found, err
	}
	if nid, found, err = tx.LookupUser(string(user)); err != nil || !found {
		return 0, nil, false, err
	}
	devices, err = tx.DeviceRefs(nid)
	return nid, devices, true, err
}

// event is the message as the receiving client gets it.
func (o *outgoing) event(content json.RawMessage) string {
	b := make([]byte, 0, len(content)+len(o.sender)+len(o.eventType)+48)
	b = append(append(b, `{"content":`...), content...)
	b = canonjson.AppendString(append(b, `,"sender":`...), string(o.sender))
	b = canonjson.AppendString(append(b, `,"type":`...), o.eventType)
	return string(append(b, '}'))
}
