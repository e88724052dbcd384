package adminapi

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"slices"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/storage"
)

// SigningKey is a signing key of this server as returned by the keys commands.
type SigningKey struct {
	KeyID   id.KeyID   `json:"key_id"`
	Public  string     `json:"public_key"`        // unpadded base64
	Expired *time.Time `json:"expired,omitempty"` // when a former key ceased to be used
}

// keysList lists the current key first, then the former ones, the newest first.
func (a *API) keysList(context.Context, struct{}) (any, error) {
	return Page[SigningKey]{Items: a.signingKeys()}, nil
}

func (a *API) signingKeys() []SigningKey {
	now := a.Signing.Current()
	list := []SigningKey{{KeyID: now.KeyID, Public: fedclient.EncodeKey(now)}}
	for _, key := range slices.Backward(a.Signing.Old()) {
		expired := time.UnixMilli(key.Expired)
		list = append(list, SigningKey{key.KeyID, publicKey(key.Key), &expired})
	}
	return list
}

func publicKey(key ed25519.PublicKey) string { return base64.RawStdEncoding.EncodeToString(key) }

// keysRotate generates a new key, which is used from now on, and returns all keys.
func (a *API) keysRotate(ctx context.Context, _ struct{}) (any, error) {
	if err := a.Signing.Rotate(a.Now()); err != nil {
		return nil, err
	}
	a.Log.InfoContext(ctx, "signing key changed", "key_id", a.Signing.Current().KeyID)
	// If this fails, the next start does it, because the key stored in the database is among the former ones.
	now := storage.Identity{ServerName: a.Config.ServerName, SigningKey: fedclient.PublicLine(a.Signing.Current())}
	if err := a.DB.Write(ctx, func(tx *storage.Tx) error { return tx.SetIdentity(now) }); err != nil {
		return nil, err
	}
	return a.signingKeys(), nil
}
