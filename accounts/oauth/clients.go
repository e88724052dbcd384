package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// sessionOf returns the OAuth 2.0 session of a device.
func (s *Service) sessionOf(tx *storage.Tx, device ident.DeviceNID, err error) ([]storage.OAuthSession, error) {
	if err != nil {
		return nil, err
	}
	return some(tx.OAuthSession(device))
}

// Bounds of the registered clients.
const (
	maxClients   = 10_000             // clients; identical ones count once
	maxMetadata  = 8 << 10            // bytes of the metadata of one; Element's has 600
	clientUnused = 7 * 24 * time.Hour // after which a client without sessions is removed
	clientDay    = 24 * time.Hour     // how old the stored time of a client's last use may be
)

// Registered is a client with its ID.
type Registered struct {
	ID string `json:"client_id"`
	Metadata
}

// Register registers a client by its metadata, in JSON. Clients with identical metadata share a client ID. For metadata
// that is new, it calls admit, whose error it returns.
// Spec: client-server-api#client-registration
//
// Errors: invalid_client_metadata, invalid_redirect_uri, invalid_request, M_LIMIT_EXCEEDED.
func (s *Service) Register(ctx context.Context, body []byte, admit func() error) (Registered, error) {
	m, err := s.rules.parseMetadata(body)
	if err != nil {
		return Registered{}, err
	}
	text, err := json.Marshal(m)
	if err == nil && len(text) > maxMetadata {
		err = invalid(errMetadata, "The metadata must not have more than %d bytes", maxMetadata)
	}
	if err != nil {
		return Registered{}, err
	}
	hash := gate.KeyOf(string(text)).String()
	var known storage.OAuthClient
	var found bool
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		known, found, err = tx.OAuthClientByHash(hash)
		return err
	})
	if err == nil && found && !s.stale(known) {
		return Registered{known.ID, m}, nil
	}
	if err == nil && !found {
		err = admit()
	}
	if err == nil {
		err = s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
			known, err = s.register(tx, string(text), hash)
			return err
		})
	}
	return Registered{known.ID, m}, err
}

// register stores a client, or returns the stored client with the same metadata.
func (s *Service) register(tx *storage.Tx, text, hash string) (storage.OAuthClient, error) {
	known, found, err := tx.OAuthClientByHash(hash)
	if err != nil {
		return known, err
	}
	if found {
		return known, tx.OAuthClientUsed(known.ID, tx.Now().UnixMilli())
	}
	n, err := tx.CountOAuthClients()
	if err != nil {
		return known, err
	}
	if n >= maxClients {
		dropped, err := tx.DropOAuthClients(tx.Now().UnixMilli(), 1)
		if err != nil {
			return known, err
		}
		if dropped == 0 {
			return known, mxerr.LimitExceeded(time.Hour)
		}
	}
	c := storage.OAuthClient{ID: gate.Secret("", 16), Metadata: text, UsedTS: tx.Now().UnixMilli()}
	_, err = tx.AddOAuthClient(c, hash)
	return c, err
}

func (s *Service) stale(c storage.OAuthClient) bool {
	return s.opts.Now().Sub(time.UnixMilli(c.UsedTS)) >= clientDay
}

// used records that a client was used now, unless it was recorded less than clientDay ago.
func (s *Service) used(tx *storage.Tx, clientID string) error {
	c, found, err := tx.OAuthClient(clientID)
	switch {
	case err != nil:
		return err
	case !found:
		return noClient()
	case s.stale(c):
		return tx.OAuthClientUsed(clientID, tx.Now().UnixMilli())
	}
	return nil
}

// client returns the metadata of a client.
//
// Errors: invalid_client.
func (s *Service) client(ctx context.Context, clientID string) (m Metadata, err error) {
	var c storage.OAuthClient
	var found bool
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		c, found, err = tx.OAuthClient(clientID)
		return err
	})
	if err == nil && !found {
		err = noClient()
	}
	if err == nil {
		err = json.Unmarshal([]byte(c.Metadata), &m)
	}
	if err == nil {
		err = s.rules.checkURIs(m) // oauth.clients may have changed
	}
	return m, err
}

// tidyBatch is how many rows one write removes, so that writes stay short.
const tidyBatch = 500

// Tidy removes what has expired: codes, sessions, replaced keys and unused clients.
func (s *Service) Tidy(ctx context.Context) error {
	now := s.opts.Now()
	err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		_, err := tx.DropOAuthClients(now.Add(-clientUnused).UnixMilli(), tidyBatch)
		return errors.Join(err, tx.DropOAuthCodes(now.Add(-codeKept).UnixMilli(), tidyBatch), tx.DropOAuthDeviceCodes(now.Add(-codeKept).UnixMilli(), tidyBatch),
			tx.DropOAuthKeys(now.Add(-idKeyKept).UnixMilli()))
	})
	for _, kind := range []struct {
		lifetime time.Duration
		list     func(tx *storage.Tx, since int64, limit int) ([]storage.OAuthSession, error)
	}{{s.opts.IdleLifetime, (*storage.Tx).IdleOAuthSessions}, {s.opts.SessionLifetime, (*storage.Tx).OldOAuthSessions}} {
		for n := tidyBatch; err == nil && kind.lifetime > 0 && n == tidyBatch && ctx.Err() == nil; {
			n, err = s.opts.Accounts.EndSessions(ctx, "session expired", func(tx *storage.Tx) ([]storage.OAuthSession, error) {
				return kind.list(tx, now.Add(-kind.lifetime).UnixMilli(), tidyBatch)
			})
		}
	}
	return err
}

// Run calls Tidy every hour until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		if err := s.Tidy(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Error("Cannot remove expired OAuth sessions and codes; the next try is in an hour", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
