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

// SigningKey describes a signing key of this server in the results of the keys commands.
type SigningKey struct {
	KeyID   id.KeyID   `json:"key_id"`
	Public  string     `json:"public_key"`        // unpadded base64
	Expired *time.Time `json:"expired,omitempty"` // when the key was replaced; nil for the current key
}

// keysList lists the current key, followed by the former keys, newest first.
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

// keysRotate generates a new signing key and a new key for secrets, which are used from now on, and returns all signing
// keys.
func (a *API) keysRotate(ctx context.Context, _ struct{}) (any, error) {
	if err := a.Signing.Rotate(a.Now()); err != nil {
		return nil, err
	}
	a.Log.InfoContext(ctx, "signing key changed", "key_id", a.Signing.Current().KeyID)
	if err := a.Secrets.Rotate(); err != nil {
		return nil, err
	}
	a.Log.InfoContext(ctx, "key of the secrets changed", "key_id", a.Secrets.Current())
	// If this write fails, the next start makes up for it, because the keys that the database then names are among the
	// former keys in the key files.
	now := storage.Identity{ServerName: a.Config.ServerName, SigningKey: fedclient.PublicLine(a.Signing.Current())}
	err := a.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := tx.SetIdentity(now); err != nil {
			return err
		}
		return tx.SetSecretsKey(a.Secrets.Current())
	})
	if err != nil {
		return nil, err
	}
	if err := a.Deletions.Rotate(ctx); err != nil {
		return nil, err
	}
	if err := a.Factors.Reseal(ctx); err != nil {
		return nil, err
	}
	if err := a.Media.Reseal(ctx); err != nil {
		return nil, err
	}
	return a.signingKeys(), nil
}
