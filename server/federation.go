package server

import "ebb/federation"

// edus returns the handlers for the EDUs of other servers.
func (s *services) edus() map[string]federation.EDU {
	return map[string]federation.EDU{
		"m.device_list_update": s.e2ee.ReceiveDeviceListUpdate,
		"m.signing_key_update": s.e2ee.ReceiveSigningKeyUpdate,
		"m.direct_to_device":   s.e2ee.ReceiveDirectToDevice,
		"m.receipt":            s.receipts.Receive,
		"m.typing":             s.feed.ReceiveTyping,
		"m.presence":           s.feed.ReceivePresence,
	}
}
