package adminapi

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/storage"
)

// SigningKey is a signing key of this server as the keys commands tell it.
type SigningKey struct {
	KeyID   id.KeyID   `json:"key_id"`
	Public  string     `json:"public_key"`        // unpadded base64
	Expired *time.Time `json:"expired,omitempty"` // of a former key: when it ceased to be used
}

// keysList tells the present key first, then the former ones, the newest first.
func (a *API) keysList(context.Context, struct{}) (any, error) {
	now := a.Signing.Current()
	list := []SigningKey{{KeyID: now.KeyID, Public: fedclient.EncodeKey(now)}}
	old := a.Signing.Old()
	for i := len(old) - 1; i >= 0; i-- {
		expired := time.UnixMilli(old[i].Expired)
		list = append(list, SigningKey{old[i].KeyID, publicKey(old[i].Key), &expired})
	}
	return list, nil
}

func publicKey(key ed25519.PublicKey) string { return base64.RawStdEncoding.EncodeToString(key) }

// keysRotate makes a new key, which is used from here on, and lists all.
func (a *API) keysRotate(ctx context.Context, _ struct{}) (any, error) {
	if err := a.Signing.Rotate(a.Now()); err != nil {
		return nil, err
	}
	a.Log.InfoContext(ctx, "signing key changed", "key_id", a.Signing.Current().KeyID)
	// Should this fail, the next start does it: the database's key is among the former ones.
	now := storage.Identity{ServerName: a.Config.ServerName, SigningKey: fedclient.PublicLine(a.Signing.Current())}
	if err := a.DB.Write(ctx, func(tx *storage.Tx) error { return tx.SetIdentity(now) }); err != nil {
		return nil, err
	}
	return a.keysList(ctx, struct{}{})
}
