package accounts

import (
	"context"
	"slices"

	"ebb/ident"
	"ebb/mxerr"
)

// stage is an authentication type of user-interactive authentication. All of them are listed in stages.
// Spec: client-server-api#authentication-types
type stage struct {
	name string
	// use returns how the flows for a purpose use the stage.
	use func(s *Service, p purpose) use
	// params returns the parameters that clients need for the stage, or nil.
	params func(s *Service, p purpose) any
	// check checks an attempt. If check is nil, submitting the stage is enough. If the attempt fails, refused is the
	// error to return with the flows.
	check func(s *Service, ctx context.Context, at tried) (p proof, refused *mxerr.Error, err error)
}

// purpose is what a client authenticates for. It determines the stages.
type purpose struct {
	operation string
	oauth     bool   // whether the access token was obtained by OAuth 2.0
	page      string // address of the page on which the user approves the request; "" for stages that the client submits
}

// use says whether a stage is sufficient, required or optional for an operation, or not used. Each flow of an operation
// consists of one sufficient stage and all required ones, with and without the optional ones.
type use uint8

const (
	unused use = iota
	sufficient
	required
	optional
)

// tried is a client's attempt at a stage.
type tried struct {
	operation string
	auth      auth
	who       ident.Requester // unset for a client without an access token
	network   string          // the client's network, if it has no access token
}

// proof is the result of a stage. For m.login.registration_token it has the token, and a function that reports whether
// the token can still be used given a number of other pending registrations. For m.login.email.identity it has the
// verified address.
type proof struct {
	token  string
	usable func(pending int64) bool
	email  *Verified
}

// The names of the stages.
const (
	stagePassword = "m.login.password"
	stageDummy    = "m.login.dummy"
	stageTerms    = "m.login.terms"
	stageToken    = "m.login.registration_token"
	stageEmail    = "m.login.email.identity"
	stageSSO      = "m.login.sso"
	stageOAuth    = "m.oauth"
	// oldStageOAuth is the name of m.oauth before it was specified, which deployed clients still look for.
	// Spec: MSC4312
	oldStageOAuth = "org.matrix.cross_signing_reset"
)

// Operations that are authenticated differently from those of logged-in users. The latter are identified by the
// operation IDs of the specification.
const (
	registering = "register"
	resetting   = "resetPassword" // changePassword without an access token
)

// resettingKeys is the only operation that sessions of OAuth 2.0 can authenticate for.
// Spec: client-server-api#oauth-authentication
const resettingKeys = "uploadCrossSigningKeys"

// administering stands for all acts of an administrator, which Administer authenticates together. It is no operation of
// the specification.
const administering = "administration"

// stages lists all stages in the order in which flows list them.
var stages = []stage{
	{name: stagePassword, use: confirms(func(p purpose) bool { return p.page == "" }), check: (*Service).checkOwn},
	{name: stageSSO, use: confirms(func(p purpose) bool { return p.page != "" && !p.oauth })},
	{name: stageOAuth, use: confirms(isApproved), params: approveAt},
	{name: oldStageOAuth, use: confirms(resetsKeys), params: approveAt},
	{name: stageToken, use: registers(func(s *Service) use { return useIf(s.opts.Registration == WithToken, sufficient) }), check: (*Service).checkRegistrationToken},
	{name: stageDummy, use: registers(func(s *Service) use { return useIf(s.opts.Registration != WithToken, sufficient) })},
	{name: stageEmail, use: (*Service).useOfEmail, check: (*Service).checkEmail},
	{name: stageTerms, use: registers(func(s *Service) use { return useIf(len(s.opts.Terms) > 0, required) }), params: (*Service).policies},
}

// confirms returns the use function of a stage that alone is sufficient to confirm operations of a logged-in user, if
// the function of allows it.
func confirms(of func(purpose) bool) func(*Service, purpose) use {
	return func(_ *Service, p purpose) use {
		return useIf(p.operation != registering && p.operation != resetting && of(p), sufficient)
	}
}

// isApproved reports whether a session of OAuth 2.0 asks for something that the user approves on the account page.
// Deviation: the specification has m.oauth only for cross-signing keys, and no authentication of administrators.
func isApproved(p purpose) bool { return resetsKeys(p) || p.oauth && p.operation == administering }

// resetsKeys reports whether a session of OAuth 2.0 replaces cross-signing keys.
func resetsKeys(p purpose) bool { return p.oauth && p.operation == resettingKeys }

// approveAt returns the parameters of m.oauth.
// Spec: client-server-api#oauth-authentication
func approveAt(_ *Service, p purpose) any { return map[string]string{"url": p.page} }

// useOfEmail returns how m.login.email.identity is used for a purpose.
func (s *Service) useOfEmail(p purpose) use {
	switch {
	case p.operation == resetting:
		return useIf(s.HasEmail(), sufficient)
	case p.operation != registering:
		return unused
	}
	return map[EmailUse]use{EmailOptional: optional, EmailRequired: required}[s.registrationEmail()]
}

// registers returns a use function for a stage that only registration uses. The function of determines how.
func registers(of func(*Service) use) func(*Service, purpose) use {
	return func(s *Service, p purpose) use {
		if p.operation != registering {
			return unused
		}
		return of(s)
	}
}

func useIf(condition bool, u use) use {
	if condition {
		return u
	}
	return unused
}

// form returns the description of the flows for a purpose.
func (s *Service) form(p purpose) challengeForm {
	var always, also []string
	form := challengeForm{params: map[string]any{}, page: p.page}
	for _, st := range stages {
		u := st.use(s, p)
		switch u {
		case sufficient:
			form.flows = append(form.flows, []string{st.name})
		case required:
			always, also = append(always, st.name), append(also, st.name)
		case optional:
			also = append(also, st.name)
		}
		if u != unused && st.params != nil {
			form.params[st.name] = st.params(s, p)
		}
	}
	single := form.flows
	form.flows = nil
	for _, flow := range single {
		form.flows = append(form.flows, slices.Concat(flow, always))
		if len(also) > len(always) {
			form.flows = append(form.flows, slices.Concat(flow, also))
		}
	}
	return form
}

// try checks an attempt at one stage of a form.
func (s *Service) try(ctx context.Context, ch challenge, form challengeForm, at tried) (proof, error) {
	i := slices.IndexFunc(stages, func(st stage) bool { return st.name == at.auth.Type })
	if i < 0 || !form.offers(at.auth.Type) {
		return proof{}, form.unmet(ch, errUnknownStage(at.auth.Type))
	}
	if stages[i].check == nil {
		return proof{}, nil
	}
	p, refused, err := stages[i].check(s, ctx, at)
	if err != nil {
		return p, err
	}
	if refused != nil {
		return p, form.unmet(ch, refused)
	}
	return p, nil
}
