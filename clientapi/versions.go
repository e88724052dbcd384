package clientapi

import "ebb/httpapi"

func (a *API) versionsRoutes() []httpapi.Route {
	return []httpapi.Route{{Method: "GET", Path: "/_matrix/client/versions", OperationID: "getVersions", File: "versions.yaml", Auth: httpapi.Optional, Handler: a.getVersions}}
}

// specVersions are the versions of the specification whose changes for clients are served. Every one is listed, since
// clients look for the one that brought a feature. A single operation that is missing answers 404 M_UNRECOGNIZED, which
// clients understand, and stands as No in docs/spec-index.txt. Not listed, because no 404 takes the promise back: v1.17,
// which drops push rules that Ebb keeps by default (push/defaults.go), and v1.18, by which account data blocks invites.
var specVersions = []string{
	"v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16",
}

// unstableFeatures are the proposals by whose flag clients find what is served under an unstable name.
var unstableFeatures = map[string]bool{
	"org.matrix.e2e_cross_signing": true, // before r0.6.1; some clients still look
	"uk.tcpip.msc4133":             true, // profile fields
	"uk.tcpip.msc4133.stable":      true,
	"org.matrix.msc4222":           true, // state_after in /sync
	"org.matrix.msc1763":           true, // retention
	"org.matrix.msc3814":           true, // dehydrated devices
	"org.matrix.msc2432":           true, // aliases of rooms
	"org.matrix.msc3440.stable":    true, // threads
	"org.matrix.msc3771":           true, // receipts of threads
	"org.matrix.msc3773":           true, // notifications of threads
	"org.matrix.msc2285.stable":    true, // private receipts
}

// getVersions tells what clients can rely on.
// Spec: client-server-api#get_matrixclientversions
func (a *API) getVersions(*httpapi.Request) (any, error) {
	return map[string]any{"versions": specVersions, "unstable_features": unstableFeatures}, nil
}
