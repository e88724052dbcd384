package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// SignatureFailures maps user → key → error object.
type SignatureFailures map[id.UserID]map[string]map[string]any

// UploadSignatures stores signatures by the user's keys on other keys: on the user's own devices and master key, and on
// other users' master keys. It returns an error for each key whose signatures it rejects.
// Spec: client-server-api#post_matrixclientv3keyssignaturesupload
func (s *Service) UploadSignatures(ctx context.Context, d ident.Requester, signed map[id.UserID]map[string]json.RawMessage) (SignatureFailures, error) {
	n := 0
	for _, keys := range signed {
		n += len(keys)
	}
	if err := bounded("signed objects of one upload", n, maxSignatureObjects); err != nil {
		return nil, err
	}
	failures := SignatureFailures{}
	err := s.write(ctx, func(tx *storage.Tx) (func(), error) {
		up, err := newSignatureUpload(tx, d)
		if err != nil {
			return nil, err
		}
		for user, keys := range signed {
			for key, raw := range keys {
				if err := up.add(tx, user, key, raw); err != nil {
					var refused *mxerr.Error
					if !errors.As(err, &refused) {
						return nil, err
					}
					failures.add(user, key, refused)
				}
			}
		}
		return s.signaturesStored(tx, up)
	})
	return failures, err
}

func (f SignatureFailures) add(user id.UserID, key string, err *mxerr.Error) {
	if f[user] == nil {
		f[user] = map[string]map[string]any{}
	}
	f[user][key] = map[string]any{"errcode": err.Code, "error": err.Msg}
}

// signaturesStored records the changes for device lists. A signature on the signer's own key is visible to everybody,
// but one on another user's key only to the signer.
func (s *Service) signaturesStored(tx *storage.Tx, up *signatureUpload) (committed func(), err error) {
	committed = s.wakeUsers(up.d.UserNID)
	for target := range up.signed {
		if target == up.d.UserNID {
			if committed, err = s.DevicesChanged(tx, target, up.changed...); err != nil {
				return nil, err
			}
		} else if err := tx.KeySignatureChanged(up.d.UserNID, target); err != nil {
			return nil, err
		}
	}
	return committed, nil
}

// signatureUpload is one upload in progress, with the keys of the signer.
type signatureUpload struct {
	d      ident.Requester
	keys   map[string]string      // the signer's cross-signing keys by usage
	signed map[ident.UserNID]bool // users with newly signed keys

	changed []string // the signer's own devices with new signatures, or crossSigningChanged
}

func newSignatureUpload(tx *storage.Tx, d ident.Requester) (*signatureUpload, error) {
	keys, err := tx.CrossSigningKeys(d.UserNID)
	return &signatureUpload{d: d, keys: keys, signed: map[ident.UserNID]bool{}}, err
}

// add checks and stores the signer's signatures on one key.
func (up *signatureUpload) add(tx *storage.Tx, user id.UserID, key string, raw json.RawMessage) error {
	if len(raw) > maxKeyJSON || len(key) > maxKeyID {
		return mxerr.TooLarge("This key is too large")
	}
	target, found, err := tx.LookupUser(string(user))
	if err != nil {
		return err
	}
	if !found {
		return mxerr.NotFound("There is no such key")
	}
	stored, targetKey, signers, err := up.target(tx, target, key)
	if err != nil {
		return err
	}
	if !sameKey(stored, raw) {
		return mxerr.InvalidParam("This key differs from the one that was uploaded")
	}
	if err := up.store(tx, target, targetKey, raw, signers); err != nil || target != up.d.UserNID {
		return err
	}
	if targetKey == publicPart(up.keys[usageMaster]) {
		targetKey = crossSigningChanged
	}
	up.changed = append(up.changed, targetKey)
	return nil
}

// target finds the signed key and determines which of the signer's keys may sign it (key ID → public key).
func (up *signatureUpload) target(tx *storage.Tx, nid ident.UserNID, key string) (stored, targetKey string, signers map[string]string, err error) {
	if nid != up.d.UserNID { // another user's master key, signed by the user-signing key
		theirs, err := tx.CrossSigningKeys(nid)
		if err != nil {
			return "", "", nil, err
		}
		if master := theirs[usageMaster]; master != "" && publicPart(master) == bare(key) {
			return master, bare(key), up.signer(usageUserSigning), nil
		}
		return "", "", nil, mxerr.NotFound("There is no such key")
	}
	// the signer's own master key, signed by the signer's devices
	if master := up.keys[usageMaster]; master != "" && publicPart(master) == bare(key) {
		signers, err = deviceSigners(tx, nid)
		return master, bare(key), signers, err
	}
	rows, err := tx.UserDeviceKeys(nid)
	for _, r := range rows {
		if r.DeviceID == key { // one of the signer's devices, signed by the self-signing key
			return r.JSON, key, up.signer(usageSelfSigning), err
		}
	}
	if err == nil {
		err = mxerr.NotFound("There is no such key")
	}
	return "", "", nil, err
}

// bare removes the algorithm, if any, from a key ID.
func bare(key string) string { return strings.TrimPrefix(key, "ed25519:") }

func (up *signatureUpload) signer(usage string) map[string]string {
	public := publicPart(up.keys[usage])
	return map[string]string{"ed25519:" + public: public}
}

func deviceSigners(tx *storage.Tx, user ident.UserNID) (map[string]string, error) {
	rows, err := tx.UserDeviceKeys(user)
	signers := map[string]string{}
	for _, r := range rows {
		var keys struct {
			Keys map[string]string `json:"keys"`
		}
		if json.Unmarshal([]byte(r.JSON), &keys) == nil {
			keyID := "ed25519:" + r.DeviceID
			signers[keyID] = keys.Keys[keyID]
		}
	}
	return signers, err
}

func (up *signatureUpload) store(tx *storage.Tx, target ident.UserNID, targetKey string, raw json.RawMessage, signers map[string]string) error {
	var signed struct {
		Signatures map[id.UserID]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(raw, &signed); err != nil {
		return mxerr.BadJSON("This key is malformed")
	}
	stored := 0
	for keyID, signature := range signed.Signatures[up.d.UserID] {
		public, may := signers[keyID]
		if !may {
			continue // such as the signature that the device made on itself
		}
		if !verify(raw, up.d.UserID, keyID, public) {
			return mxerr.New(400, mxerr.CodeInvalidSignature, "The signature with %s is not valid", keyID)
		}
		s := storage.KeySignature{TargetKey: targetKey, Signer: up.d.UserNID, KeyID: keyID, Signature: signature}
		if err := tx.AddKeySignature(target, s); err != nil {
			return err
		}
		stored++
	}
	if stored == 0 {
		return mxerr.New(400, mxerr.CodeInvalidSignature, "The key has no signature by a key that may sign it")
	}
	up.signed[target] = true
	return nil
}

// sameKey reports whether keys are equal apart from signatures and unsigned.
func sameKey(stored string, raw json.RawMessage) bool {
	if stored == string(raw) {
		return true
	}
	a, errA := canonjson.Canonical(canonjson.Without([]byte(stored), "signatures", "unsigned"), false)
	b, errB := canonjson.Canonical(canonjson.Without(raw, "signatures", "unsigned"), false)
	return errA == nil && errB == nil && string(a) == string(b)
}
