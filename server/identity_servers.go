package server

import (
	"fmt"
	"time"

	"ebb/config"
	"ebb/identity"
	"ebb/netguard"
)

const (
	identityTime      = 20 * time.Second // limit for one request to an identity server
	maxIdentityAnswer = 64 << 10         // bytes
)

// newIdentity returns the client for identity servers.
func (s *services) newIdentity(cfg *config.Config, o Options) (*identity.Client, error) {
	roots, err := cfg.Authorities()
	if err != nil {
		return nil, fmt.Errorf("federation.trusted_ca_file: %w", err)
	}
	client := netguard.NewClient(netguard.ClientOptions{
		Dialer:  netguard.NewDialer(netguard.DialerOptions{Resolver: o.Resolver, Dial: o.Dial, AllowPrivate: cfg.Federation.AllowPrivateAddresses}),
		Roots:   roots,
		Timeout: identityTime, MaxBody: maxIdentityAnswer,
	})
	return identity.New(identity.Options{HTTP: client, Servers: cfg.Identity.Servers, Signer: s.remote}), nil
}
