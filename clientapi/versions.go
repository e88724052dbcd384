package clientapi

import (
	"maps"
	"slices"

	"ebb/httpapi"
)

func (a *API) versionsRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/_matrix/client/versions", OperationID: "getVersions", File: "versions.yaml", Auth: httpapi.Optional, Handler: a.getVersions}}
}

// specVersions lists the supported versions of the client-server API. It lists every version, because clients look for
// the one that introduced a feature. Without oauth.enabled, the operations of OAuth 2.0 and single sign-on return 404
// M_UNRECOGNIZED, which clients understand. The push rules that v1.17 removed
// are kept by default for deployed clients, see docs/quirks.md.
var specVersions = []string{
	"v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16",
	"v1.17", "v1.18", "v1.19",
}

// unstableFeatures holds the flags by which clients detect features that have unstable names.
var unstableFeatures = map[string]bool{
	"org.matrix.e2e_cross_signing":  true, // before r0.6.1; some clients still check it
	"uk.tcpip.msc4133":              true, // profile fields
	"uk.tcpip.msc4133.stable":       true,
	"org.matrix.msc4222":            true, // state_after in /sync
	"org.matrix.simplified_msc3575": true, // sliding sync
	"org.matrix.msc1763":            true, // retention
	"org.matrix.msc4380":            true, // invite blocking
	"org.matrix.msc4380.stable":     true,
	"org.matrix.msc4155":            true, // invite filtering
	"org.matrix.msc3814":            true, // dehydrated devices
	"org.matrix.msc2432":            true, // room aliases
	"org.matrix.msc2228":            true, // messages that destroy themselves
	"org.matrix.msc3440.stable":     true, // threads
	"org.matrix.msc3771":            true, // threaded receipts
	"org.matrix.msc3773":            true, // thread notifications
	"org.matrix.msc2285.stable":     true, // private receipts
	"uk.timedout.msc4323":           true, // suspending and locking accounts
	"org.matrix.msc3030":            true, // event by timestamp
	"org.matrix.msc3030.stable":     true,
	"org.matrix.msc3391":            true, // deletion of account data
	"org.matrix.msc3715":            true, // dir of relations
	"org.matrix.msc3715.stable":     true,
	"org.matrix.msc3827.stable":     true, // room types in the room directory
	"org.matrix.msc3856":            true, // lists of threads
	"org.matrix.msc3856.stable":     true,
	"org.matrix.msc3874":            true, // filters of /messages by relation
	"org.matrix.msc3890":            true, // settings for local notifications go with their device
	"org.matrix.msc3912":            true, // redaction with related events
	"org.matrix.msc3916.stable":     true, // media for signed-in users
	"org.matrix.msc3981":            true, // recursive relations
	"org.matrix.msc4026":            true, // access tokens at /versions
	"org.matrix.msc4262":            true, // changed profile fields in sliding sync
	"org.matrix.msc4306":            true, // subscriptions to threads
	"org.matrix.msc4354":            true, // sticky events
	"org.matrix.msc4429":            true, // changed profile fields in /sync
	"org.matrix.msc4429.stable":     true,
	"org.matrix.msc3881":            true, // managing the pushers of other devices

	"org.matrix.msc3952_intentional_mentions": true, // m.mentions

	"dev.ebb.message_lifetime": true, // users choose after what time their messages are redacted

	"uk.half-shot.msc2666.query_mutual_rooms":        true, // rooms shared with another user
	"uk.half-shot.msc2666.query_mutual_rooms.stable": true,
}

// getVersions returns the supported versions and unstable features.
// Spec: client-server-api#get_matrixclientversions
func (a *API) getVersions(*httpapi.Request) (any, error) {
	features := maps.Clone(unstableFeatures)
	features["org.matrix.msc4140"] = a.Delayed.Enabled()         // delayed events
	features["org.matrix.msc4028"] = a.Config.Push.AllEncrypted  // notifications of all encrypted events
	features["fi.mau.msc2815"] = a.Config.Retention.Redacted > 0 // moderators read redacted events
	features["org.matrix.msc4143"] = a.Config.Calls.RTCTransports != ""
	features["org.matrix.msc4108"] = a.OAuth != nil && a.OAuth.OffersDeviceGrant() // signing in by a QR code
	for preset, kind := range map[string]string{"public": "public", "private": "private", "trusted_private": "direct"} {
		features["io.element.e2ee_forced."+preset] = slices.Contains(a.Config.Encryption.Force, kind)
	}
	return map[string]any{"versions": specVersions, "unstable_features": features}, nil
}
