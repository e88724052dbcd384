package accounts

import (
	"context"
	"slices"

	"ebb/ident"
	"ebb/mxerr"
)

// stage is an authentication type of user-interactive authentication. To add one, add it to stages.
// Spec: client-server-api#authentication-types
type stage struct {
	name string
	// use returns how the stage is used in the flows of an operation.
	use func(s *Service, operation string) use
	// params returns the parameters that clients need for the stage, or nil.
	params func(s *Service) any
	// check checks an attempt; nil: submitting the stage is enough. If the attempt fails, refused is the error returned
	// with the flows.
	check func(s *Service, ctx context.Context, at tried) (p proof, refused *mxerr.Error, err error)
}

// use is how a stage is used in the flows of an operation: each flow is one sufficient stage and all required ones.
type use uint8

const (
	unused use = iota
	sufficient
	required
)

// tried is a client's attempt at a stage.
type tried struct {
	auth    auth
	who     ident.Requester // unset at registration
	network string          // of the client, at registration
}

// proof is the result of a stage: for m.login.registration_token, the token and a function that reports whether it is
// still usable with a number of other pending registrations.
type proof struct {
	token  string
	usable func(pending int64) bool
}

// The names of the stages.
const (
	stagePassword = "m.login.password"
	stageDummy    = "m.login.dummy"
	stageTerms    = "m.login.terms"
	stageToken    = "m.login.registration_token"
)

// registering is the operation of a registration; other operations have the operation IDs of the specification.
const registering = "register"

// stages are all stages, in the order in which flows list them.
var stages = []stage{
	{name: stagePassword, use: confirms, check: (*Service).checkOwn},
	{name: stageToken, use: registers(func(s *Service) use { return useIf(s.opts.Registration == WithToken, sufficient) }), check: (*Service).checkRegistrationToken},
	{name: stageDummy, use: registers(func(s *Service) use { return useIf(s.opts.Registration != WithToken, sufficient) })},
	{name: stageTerms, use: registers(func(s *Service) use { return useIf(len(s.opts.Terms) > 0, required) }), params: (*Service).policies},
}

// confirms makes a stage sufficient for all operations except registration.
func confirms(_ *Service, operation string) use { return useIf(operation != registering, sufficient) }

// registers restricts a stage to registration.
func registers(of func(*Service) use) func(*Service, string) use {
	return func(s *Service, operation string) use {
		if operation != registering {
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

// form returns the flows of an operation.
func (s *Service) form(operation string) challengeForm {
	var always []string
	form := challengeForm{params: map[string]any{}}
	for _, st := range stages {
		u := st.use(s, operation)
		switch u {
		case sufficient:
			form.flows = append(form.flows, []string{st.name})
		case required:
			always = append(always, st.name)
		}
		if u != unused && st.params != nil {
			form.params[st.name] = st.params(s)
		}
	}
	for i := range form.flows {
		form.flows[i] = append(form.flows[i], always...)
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
