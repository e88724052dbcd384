package clientapi

import (
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/e2ee"
	"ebb/httpapi"
)

// maxSignaturesBody is the maximum size of the body of an upload of signatures in bytes: 2,000 objects of 4 KiB.
const maxSignaturesBody = 8 << 20

func (a *API) crossSigningRoutes() []httpapi.Route {
	const file = "cross_signing.yaml"
	return []httpapi.Route{
		{Method: "POST", Path: "/_matrix/client/v3/keys/device_signing/upload", Aliases: []string{"/_matrix/client/unstable/keys/device_signing/upload"}, OperationID: "uploadCrossSigningKeys", File: file, Auth: httpapi.User, Rate: httpapi.Sends, Handler: a.uploadCrossSigningKeys},
		{Method: "POST", Path: "/_matrix/client/v3/keys/signatures/upload", Aliases: []string{"/_matrix/client/unstable/keys/signatures/upload"}, OperationID: "uploadCrossSigningSignatures", File: file, Auth: httpapi.User, Rate: httpapi.Sends, MaxBody: maxSignaturesBody, Handler: a.uploadCrossSigningSignatures},
	}
}

// uploadCrossSigningSignatures stores signatures on keys.
// Spec: client-server-api#post_matrixclientv3keyssignaturesupload
func (a *API) uploadCrossSigningSignatures(r *httpapi.Request) (any, error) {
	var body map[id.UserID]map[string]json.RawMessage
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	failures, err := a.E2EE.UploadSignatures(r.Context(), r.Requester, body)
	return map[string]any{"failures": failures}, err
}

// uploadCrossSigningKeys stores the cross-signing keys of the user. Replacing keys requires user-interactive
// authentication.
// Spec: client-server-api#post_matrixclientv3keysdevice_signingupload
func (a *API) uploadCrossSigningKeys(r *httpapi.Request) (any, error) {
	var body e2ee.UploadCrossSigning
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	needed, err := a.E2EE.NeedsAuth(r.Context(), r.Requester, body)
	if err != nil {
		return nil, err
	}
	if needed {
		if err := a.interactiveAuth(r, "uploadCrossSigningKeys"); err != nil {
			return nil, err
		}
	}
	return nil, a.E2EE.UploadCrossSigning(r.Context(), r.Requester, body)
}
