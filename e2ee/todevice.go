package e2ee

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"slices"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// allDevices is the device ID that addresses every device of a user.
const allDevices id.DeviceID = "*"

// SendToDevice queues messages for devices. It does so only once for the same device, path and transaction ID.
// Spec: client-server-api#put_matrixclientv3sendtodeviceeventtypetxnid
func (s *Service) SendToDevice(ctx context.Context, d ident.Requester, path, txn, eventType string, messages messages) error {
	if err := checkMessages(eventType, messages); err != nil {
		return err
	}
	local, remote, err := split(s, messages)
	if err != nil {
		return err
	}
	if local, _, err = s.receivers(ctx, d.UserID, local); err != nil {
		return err
	}
	hash := s.opts.DB.IDHash(path + "\x00" + txn)
	from, bound := s.local(d)
	var queued int64
	err = s.write(ctx, func(tx *storage.Tx) (func(), error) {
		first, err := tx.ClaimTxn(d.Transactions(), hash, s.opts.Now().UnixMilli())
		if err != nil || !first {
			return nil, err
		}
		m := delivery{names: s.names, backlogs: &s.backlogs, sender: d.UserID, eventType: eventType}
		m.from = from
		err = m.deliver(tx, local)
		if queued = m.cost; err != nil {
			return nil, err
		}
		servers, err := s.sendToServers(tx, d.UserID, eventType, remote)
		return func() {
			s.opts.Hub.Users(m.receivers...)
			s.kickAll(servers)
		}, err
	})
	if err == nil {
		s.boundSender(ctx, sender{origin: from.Origin}, queued, bound)
	}
	return err
}

// local returns how messages of a local sender count, and the bound of the origin. All users of an application service
// have one bound in common: it can make any number of them.
func (s *Service) local(d ident.Requester) (from storage.ToDeviceFrom, bound int64) {
	from.Sender = s.opts.DB.IDHash(string(d.UserID))
	if from.Origin = from.Sender; d.AppService == "" {
		return from, s.sums.user
	}
	from.Origin = s.opts.DB.IDHash("application service " + d.AppService) // neither a user ID nor a server name
	return from, s.sums.appservice
}

// messages maps user → device → content.
type messages = map[id.UserID]map[id.DeviceID]json.RawMessage

// checkMessages returns an error for messages that are malformed or too large.
func checkMessages(eventType string, messages messages) error {
	n := 0
	for _, devices := range messages {
		n += len(devices)
		for _, content := range devices {
			if len(content) == 0 || content[0] != '{' { // content is valid JSON, since it is part of a decoded request
				return mxerr.BadJSON("content must be an object")
			}
			if err := bounded("content of a message", len(content), maxToDeviceContent); err != nil {
				return err
			}
		}
	}
	if len(eventType) > maxKeyID {
		return mxerr.InvalidParam("An event type must not be longer than %d bytes", maxKeyID)
	}
	return bounded("messages of one request", n, maxToDeviceTargets)
}

// directToDevice is the content of m.direct_to_device.
type directToDevice struct {
	Sender    id.UserID `json:"sender"`
	Type      string    `json:"type"`
	MessageID string    `json:"message_id"`
	Messages  messages  `json:"messages"`
}

// sendToServers queues messages for remote devices and returns the servers. It splits them into EDUs that are small
// enough for every server. It works in the write of the request, so that a repeated request sends nothing twice.
func (s *Service) sendToServers(tx *storage.Tx, sender id.UserID, eventType string, remote map[string]messages) (servers []string, err error) {
	if s.opts.Outgoing == nil {
		return nil, nil
	}
	for _, server := range slices.Sorted(maps.Keys(remote)) {
		if !pdu.ValidServerName(server) {
			continue
		}
		for _, part := range parts(remote[server]) {
			message, err := edu(eduDirectToDevice, directToDevice{Sender: sender, Type: eventType, MessageID: rand.Text(), Messages: part})
			if err != nil {
				return nil, err
			}
			if err := s.opts.Outgoing.AddEDU(tx, server, sender, message); err != nil {
				return nil, err
			}
		}
		servers = append(servers, server)
	}
	return servers, nil
}

// parts splits messages into parts of at most maxEDUMessages bytes. A larger message gets a part of its own.
func parts(all messages) (out []messages) {
	size := 0
	for _, user := range slices.Sorted(maps.Keys(all)) {
		for _, device := range slices.Sorted(maps.Keys(all[user])) {
			content := all[user][device]
			if len(out) == 0 || size+len(content) > maxEDUMessages {
				out, size = append(out, messages{}), 0
			}
			part := out[len(out)-1]
			if part[user] == nil {
				part[user] = map[id.DeviceID]json.RawMessage{}
			}
			part[user][device] = content
			size += len(content) + len(user) + len(device)
		}
	}
	return out
}

// ReceiveDirectToDevice processes an m.direct_to_device from another server. It delivers the messages to local users,
// in the order in which they were sent, and only once.
// Spec: server-server-api#mdirect_to_device-schema
func (s *Service) ReceiveDirectToDevice(ctx context.Context, origin string, content json.RawMessage) error {
	var in directToDevice
	if err := json.Unmarshal(content, &in); err != nil {
		return mxerr.BadJSON("m.direct_to_device is malformed")
	}
	if err := fromOrigin(origin, in.Sender); err != nil {
		return err
	}
	if in.MessageID == "" || len(in.MessageID) > maxMessageID {
		return mxerr.InvalidParam("message_id must have 1 to %d bytes", maxMessageID)
	}
	if err := checkMessages(in.Type, in.Messages); err != nil {
		return err
	}
	local, _, err := split(s, in.Messages)
	if err != nil {
		return err
	}
	local, strangers, err := s.receivers(ctx, in.Sender, local)
	if err != nil || len(local) == 0 {
		return err
	}
	if len(strangers) == len(local) && !s.strangers.allow(origin, s.opts.Now()) {
		return mxerr.LimitExceeded(strangerWindow)
	}
	from := storage.ToDeviceFrom{Origin: s.opts.DB.IDHash(origin), Sender: s.opts.DB.IDHash(string(in.Sender))}
	var queued, queuedForStrangers int64
	err = s.write(ctx, func(tx *storage.Tx) (func(), error) {
		m := delivery{names: s.names, backlogs: &s.backlogs, sender: in.Sender, strangers: strangers, eventType: in.Type, from: from}
		if first, err := tx.ClaimMessage(origin, in.MessageID); err != nil || !first {
			return nil, err
		}
		err := m.deliver(tx, local)
		queued, queuedForStrangers = m.cost, m.strangersCost
		return s.wakeUsers(m.receivers...), err
	})
	if err == nil {
		s.boundSender(ctx, sender{origin: from.Origin}, queued, s.sums.server)
		s.boundSender(ctx, sender{origin: from.Origin, stranger: true}, queuedForStrangers, s.sums.strangers)
	}
	return err
}

// receivers returns the messages to local users that exist and, for a remote sender, those of them who share no room
// with the sender. It is called before the write, which delays all others: anybody can name thousands of users.
func (s *Service) receivers(ctx context.Context, sender id.UserID, local messages) (existing messages, strangers map[id.UserID]bool, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		nids, err := lookUp(tx, local)
		if err != nil {
			return err
		}
		existing = make(messages, len(nids))
		for user := range nids {
			existing[user] = local[user]
		}
		if ident.ServerOf(sender) != s.opts.Server {
			strangers, err = strangersAmong(tx, sender, nids)
		}
		return err
	})
	return existing, strangers, err
}

// delivery adds messages of one sender to the queues of local users' devices.
type delivery struct {
	names     *deviceNames
	backlogs  *backlogs
	sender    id.UserID
	strangers map[id.UserID]bool // receivers who share no room with the sender; empty for local senders
	from      storage.ToDeviceFrom
	eventType string
	receivers []ident.UserNID
	messages  int
	bytes     int
	// cost is what the queued messages count, apart from those to strangers, which strangersCost has.
	cost, strangersCost int64
}

func (o *delivery) deliver(tx *storage.Tx, local messages) error {
	for _, user := range slices.Sorted(maps.Keys(local)) {
		if err := o.deliverTo(tx, user, local[user]); err != nil {
			return wrap("send to devices of "+string(user), err)
		}
	}
	return nil
}

func (o *delivery) deliverTo(tx *storage.Tx, user id.UserID, messages map[id.DeviceID]json.RawMessage) error {
	nid, devices, found, err := candidates(o.names, tx, user, messages)
	if err != nil || !found {
		return err
	}
	o.receivers = append(o.receivers, nid)
	o.from.Stranger = o.strangers[user]
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
		if err := o.add(tx, dev.NID, o.event(content)); err != nil {
			return err
		}
	}
	return nil
}

// add queues a message for a device. If the queue may have become too long, it drops messages from it.
func (o *delivery) add(tx *storage.Tx, device ident.DeviceNID, event string) error {
	if _, err := tx.AddToDevice(device, event, o.from); err != nil {
		return err
	}
	cost := int64(len(event)) + messageCost
	if o.from.Stranger {
		o.strangersCost += cost
	} else {
		o.cost += cost
	}
	if !o.backlogs.add(device, cost, o.from.Stranger) {
		return nil
	}
	return o.backlogs.trim(tx, device)
}

// strangersAmong returns the receivers who share no room with a remote sender.
func strangersAmong(tx *storage.Tx, sender id.UserID, receivers map[id.UserID]ident.UserNID) (map[id.UserID]bool, error) {
	strangers := map[id.UserID]bool{}
	from, known, err := tx.LookupUser(string(sender))
	for user, nid := range receivers {
		shares := false
		if err == nil && known {
			shares, err = tx.SharesRoom(from, nid)
		}
		if err != nil {
			return nil, err
		}
		if !shares {
			strangers[user] = true
		}
	}
	return strangers, nil
}

// count adds a message to the totals of the request, and returns an error if there are too many messages or bytes. The
// totals have bounds because a small request to "*" (all devices) could become millions of rows.
func (o *delivery) count(size int) error {
	o.messages++
	o.bytes += size
	if err := bounded("messages of one request", o.messages, maxToDeviceTargets); err != nil {
		return err
	}
	return bounded("bytes of the messages of one request", o.bytes, maxToDeviceBytes)
}

// candidates returns the devices of a user that may be among the named ones. It returns false if there is no such user.
// If only one device is named, as in most requests, it looks up that device; otherwise it returns all devices of the
// user.
func candidates[T any](names *deviceNames, tx *storage.Tx, user id.UserID, named map[id.DeviceID]T) (nid ident.UserNID, devices []storage.DeviceRef, found bool, err error) {
	if _, all := named[allDevices]; len(named) == 1 && !all {
		for name := range named {
			var nids deviceNIDs
			if nids, found, err = names.find(tx, deviceName{user, name}); nids.device != 0 {
				devices = []storage.DeviceRef{{NID: nids.device, ID: string(name)}}
			}
			nid = nids.user
		}
		return nid, devices, found, err
	}
	if nid, found, err = tx.LookupUser(string(user)); err != nil || !found {
		return 0, nil, false, err
	}
	devices, err = tx.DeviceRefs(nid)
	return nid, devices, true, err
}

// event returns the message in the form for the receiving client.
func (o *delivery) event(content json.RawMessage) string {
	b := make([]byte, 0, len(content)+len(o.sender)+len(o.eventType)+48)
	b = append(append(b, `{"content":`...), content...)
	b = canonjson.AppendString(append(b, `,"sender":`...), string(o.sender))
	b = canonjson.AppendString(append(b, `,"type":`...), o.eventType)
	return string(append(b, '}'))
}
