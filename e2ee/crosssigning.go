package e2ee

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/canonjson"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/notices"
	"ebb/storage"
)

// These are the usages of cross-signing keys.
const (
	usageMaster      = "master"
	usageSelfSigning = "self_signing"
	usageUserSigning = "user_signing"
)

// UploadCrossSigning is the request body of /keys/device_signing/upload, without auth.
type UploadCrossSigning struct {
	Master      json.RawMessage `json:"master_key"`
	SelfSigning json.RawMessage `json:"self_signing_key"`
	UserSigning json.RawMessage `json:"user_signing_key"`
}

// crossSigningKey is an uploaded key that was found to be well-formed.
type crossSigningKey struct {
	usage  string
	raw    json.RawMessage
	public string // unpadded base64
}

// keys returns the uploaded keys, the master key first.
func (up UploadCrossSigning) keys(owner id.UserID) ([]crossSigningKey, error) {
	var out []crossSigningKey
	for _, k := range []crossSigningKey{{usage: usageMaster, raw: up.Master}, {usage: usageSelfSigning, raw: up.SelfSigning}, {usage: usageUserSigning, raw: up.UserSigning}} {
		if isNull(k.raw) {
			continue
		}
		if err := k.check(owner); err != nil {
			return nil, err
		}
		out = append(out, k)
	}
	return out, nil
}

func (k *crossSigningKey) check(owner id.UserID) error {
	if err := bounded(k.usage+" key", len(k.raw), maxKeyJSON); err != nil {
		return err
	}
	var key struct {
		UserID     id.UserID                    `json:"user_id"`
		Usage      []string                     `json:"usage"`
		Keys       map[string]string            `json:"keys"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	if err := json.Unmarshal(k.raw, &key); err != nil || misspelled(k.raw, "user_id", "usage", "keys", "signatures") {
		return mxerr.BadJSON("The %s key is malformed", k.usage)
	}
	if key.UserID != owner || !slices.Contains(key.Usage, k.usage) {
		return mxerr.InvalidParam("The %s key must name you as its user and %[1]s as its usage", k.usage)
	}
	k.public = publicPart(string(k.raw))
	if len(key.Keys) != 1 || len(decodeKey(k.public)) != ed25519.PublicKeySize {
		return mxerr.InvalidParam("The %s key must hold exactly one ed25519 public key, named by itself", k.usage)
	}
	return nil
}

// publicPart returns the public key of a cross-signing key, in base64. It returns "" unless the object has exactly
// one key, whose ID is the algorithm and the key itself.
func publicPart(raw string) string {
	var key struct {
		Keys map[string]string `json:"keys"`
	}
	if json.Unmarshal([]byte(raw), &key) != nil || len(key.Keys) != 1 {
		return ""
	}
	for name, value := range key.Keys {
		if name == "ed25519:"+value {
			return value
		}
	}
	return ""
}

func decodeKey(b64 string) ed25519.PublicKey {
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(b64, "="))
	if err != nil {
		return nil
	}
	return raw
}

// NeedsAuth reports whether an upload of cross-signing keys needs user-interactive authentication. Replacing keys needs
// it; the first upload and the repetition of an upload do not.
// Spec: client-server-api#post_matrixclientv3keysdevice_signingupload (MSC3967)
func (s *Service) NeedsAuth(ctx context.Context, d ident.Requester, up UploadCrossSigning) (needed bool, err error) {
	keys, err := up.keys(d.UserID)
	if err != nil {
		return false, err
	}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		stored, err := tx.CrossSigningKeys(d.UserNID)
		if _, has := stored[usageMaster]; !has {
			return err
		}
		for _, k := range keys {
			if publicPart(stored[k.usage]) != k.public {
				needed = true
			}
		}
		return err
	})
	return needed, err
}

// UploadCrossSigning stores a user's cross-signing keys. The caller must have authenticated the user if NeedsAuth
// requires it.
//
// Errors: M_INVALID_PARAM, M_MISSING_PARAM without a master key, M_INVALID_SIGNATURE if the master key has not signed
// the others.
func (s *Service) UploadCrossSigning(ctx context.Context, d ident.Requester, up UploadCrossSigning) error {
	keys, err := up.keys(d.UserID)
	if err != nil || len(keys) == 0 {
		return err
	}
	changed, replaced := false, false
	err = s.write(ctx, func(tx *storage.Tx) (func(), error) {
		stored, err := tx.CrossSigningKeys(d.UserNID)
		if err != nil {
			return nil, err
		}
		changed, err = storeCrossSigning(tx, d, stored, keys)
		if err != nil || !changed {
			return nil, err
		}
		if replaced = len(stored) > 0; replaced {
			if err := s.alertReset(tx, d, stored); err != nil {
				return nil, err
			}
		}
		return s.DevicesChanged(tx, d.UserNID, crossSigningChanged)
	})
	if err == nil && changed {
		s.opts.Log.InfoContext(ctx, "cross-signing keys changed", "user", d.UserID, "replaced", replaced)
	}
	return err
}

// alertReset alerts a user whose master key was replaced.
func (s *Service) alertReset(tx *storage.Tx, d ident.Requester, before map[string]string) error {
	now, err := tx.CrossSigningKeys(d.UserNID)
	if err != nil || before[usageMaster] == "" || publicPart(now[usageMaster]) == publicPart(before[usageMaster]) {
		return err
	}
	return s.opts.Notices.Add(tx, notices.Notice{User: d.UserNID, Kind: notices.CrossSigningReset, Device: d.DeviceNID, Details: notices.Details{Device: string(d.DeviceID)}})
}

func storeCrossSigning(tx *storage.Tx, d ident.Requester, stored map[string]string, keys []crossSigningKey) (changed bool, err error) {
	master := publicPart(stored[usageMaster])
	if keys[0].usage == usageMaster {
		master = keys[0].public
	}
	if master == "" {
		return false, mxerr.MissingParam("Upload a master key first, or together with these keys")
	}
	for _, k := range keys {
		if k.usage != usageMaster && !signedBy(k.raw, d.UserID, master) {
			return false, mxerr.New(400, mxerr.CodeInvalidSignature, "The %s key is not signed by the master key", k.usage)
		}
		if stored[k.usage] == string(k.raw) {
			continue
		}
		changed = true
		if old := publicPart(stored[k.usage]); old != "" && old != k.public {
			if err := tx.DeleteKeySignatures(d.UserNID, old); err != nil {
				return false, err
			}
		}
		if err := tx.SetCrossSigningKey(d.UserNID, k.usage, string(k.raw)); err != nil {
			return false, err
		}
	}
	return changed, nil
}

// signedBy reports whether a JSON object has a valid signature by a user's ed25519 key whose key ID is the public key
// itself.
func signedBy(raw json.RawMessage, signer id.UserID, public string) bool {
	return verify(raw, signer, "ed25519:"+public, public)
}

// verify reports whether one signature on a JSON object is valid. Spec: appendices#checking-for-a-signature
func verify(raw json.RawMessage, signer id.UserID, keyID, public string) bool {
	key := decodeKey(public)
	if len(key) != ed25519.PublicKeySize {
		return false
	}
	var signed struct {
		Signatures map[id.UserID]map[string]string `json:"signatures"`
	}
	if json.Unmarshal(raw, &signed) != nil {
		return false
	}
	signature, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(signed.Signatures[signer][keyID], "="))
	if err != nil {
		return false
	}
	message, err := canonjson.Canonical(canonjson.Without(raw, "signatures", "unsigned"), false)
	return err == nil && ed25519.Verify(key, message, signature)
}
