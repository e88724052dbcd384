package accounts

import (
	"context"
	"slices"

	"ebb/ident"
	"ebb/mxerr"
)

// stage is one kind of proof in user-interactive authentication. To add one, add it to stages.
// Spec: client-server-api#authentication-types
type stage struct {
	name string
	// use says what the stage is to the flows of an operation.
	use func(s *Service, operation string) use
	// params returns what clients need to know for the stage; nil: nothing.
	params func(s *Service) any
	// check checks an attempt; nil: sending the stage is enough. If the attempt fails, refused is what the client is told beside the flows.
	check func(s *Service, ctx context.Context, at tried) (p proof, refused *mxerr.Error, err error)
}

// use is what a stage is to the flows of an operation: each flow is one sufficient stage and all required ones.
type use uint8

const (
	unused use = iota
	sufficient
	required
)

// tried is what a client sends for a stage.
type tried struct {
	auth    auth
	who     ident.Requester // unset at registration
	network string          // of the client, at registration
}

// proof is what a stage leaves behind: for m.login.registration_token, the token, and whether it can be used while pending other
// registrations hold it.
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

// registering is the operation of a registration; other operations have the ids of the specification.
const registering = "register"

// stages are all stages, in the order in which flows name them.
var stages = []stage{
	{name: stagePassword, use: confirms, check: (*Service).checkOwn},
	{name: stageToken, use: registers(func(s *Service) use { return useIf(s.opts.Registration == WithToken, sufficient) }), check: (*Service).checkRegistrationToken},
	{name: stageDummy, use: registers(func(s *Service) use { return useIf(s.opts.Registration != WithToken, sufficient) })},
	{name: stageTerms, use: registers(func(s *Service) use { return useIf(len(s.opts.Terms) > 0, required) }), params: (*Service).policies},
}

// confirms is the use of a stage by which users confirm any request of theirs.
func confirms(_ *Service, operation string) use { return useIf(operation != registering, sufficient) }

// registers limits a use to registration.
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

// form derives the flows of an operation from the stages.
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
