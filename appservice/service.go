package appservice

import (
	"context"
	"errors"
	"log/slog"

	"maunium.net/go/mautrix/id"

	"ebb/config"
	"ebb/ident"
	"ebb/mxerr"
)

// Accounts are the local users; accounts.Service implements it.
type Accounts interface {
	// Assume returns the requester for a user and, unless device is "", one of the user's devices.
	Assume(ctx context.Context, user id.UserID, device id.DeviceID, addr, userAgent string) (ident.Requester, error)
	// EnsureUser creates a user unless it exists.
	EnsureUser(ctx context.Context, localpart string) error
}

// Options are the dependencies of a Service.
type Options struct {
	*Registry
	Accounts Accounts
	Log      *slog.Logger
}

// Service implements the package. It is safe for concurrent use.
type Service struct {
	opts Options
	*Registry
}

// New returns a Service. It creates the senders of the application services.
func New(ctx context.Context, o Options) (*Service, error) {
	s := &Service{opts: o, Registry: o.Registry}
	return s, s.ensureSenders(ctx)
}

// Reload replaces the registrations by those that a configuration names. If one of them has a mistake, nothing changes.
func (s *Service) Reload(ctx context.Context, cfg *config.Config) error {
	if err := s.load(cfg); err != nil {
		return err
	}
	return s.ensureSenders(ctx)
}

func (s *Service) ensureSenders(ctx context.Context) (err error) {
	for _, a := range s.all() {
		err = errors.Join(err, s.opts.Accounts.EnsureUser(ctx, a.SenderLocalpart))
	}
	return err
}

// Assertion is the identity that an application service asserts with a request.
// Spec: application-service-api#identity-assertion
type Assertion struct {
	User   id.UserID   // "": the sender of the registration
	Device id.DeviceID // "": no device
	Addr   string      // the client's address
	Agent  string      // its User-Agent
}

// Authenticate returns the requester for the access token of an application service, which acts as one of its users. It
// returns false if the token belongs to no application service.
//
// Errors: M_FORBIDDEN if the user does not exist or is outside the namespaces, M_USER_DEACTIVATED, M_UNKNOWN_DEVICE.
func (s *Service) Authenticate(ctx context.Context, token string, as Assertion) (who ident.Requester, ok bool, err error) {
	a := s.byToken(token)
	if a == nil {
		return who, false, nil
	}
	if as.User == "" {
		as.User = a.sender
	}
	if !a.owns(as.User) {
		return who, true, mxerr.Forbidden("The application service cannot act as %s, who is outside its namespaces", as.User)
	}
	if who, err = s.opts.Accounts.Assume(ctx, as.User, as.Device, as.Addr, as.Agent); err != nil {
		return ident.Requester{}, true, err
	}
	who.AppService, who.RateLimited = a.ID, a.RateLimited && as.User != a.sender
	return who, true, nil
}
