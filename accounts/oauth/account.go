package oauth

import (
	"context"
	"encoding/json"
	"fmt"

	"maunium.net/go/mautrix/id"

	"ebb/accounts"
	"ebb/ident"
	"ebb/storage"
)

// accountActions returns the actions of the account page under the names of the specification. The page also accepts
// the names that three of them had before, but these are not listed: the specification's list is closed, and clients
// that use them do not read it.
// Spec: client-server-api#account-management-url-actions
func accountActions() []string {
	return []string{
		accounts.ActionProfile, accounts.ActionDevices, accounts.ActionDevice, accounts.ActionSignOut, accounts.ActionDeactivate, accounts.ActionReset,
	}
}

// ClientsOf returns the clients with which devices of a user were signed in.
func (s *Service) ClientsOf(ctx context.Context, user ident.UserNID) (map[id.DeviceID]Metadata, error) {
	var rows []storage.OAuthDeviceClient
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		rows, err = tx.OAuthClientsOf(user, accounts.MaxDevices)
		return err
	})
	clients := make(map[id.DeviceID]Metadata, len(rows))
	for _, r := range rows {
		var m Metadata
		if err := json.Unmarshal([]byte(r.Metadata), &m); err != nil {
			return nil, fmt.Errorf("read the client of a device: %w", err)
		}
		clients[id.DeviceID(r.DeviceID)] = m
	}
	return clients, err
}
