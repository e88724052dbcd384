package clientapi

import (
	"encoding/json"
	"strings"

	"ebb/httpapi"
	"ebb/mxerr"
	"ebb/pushrules"
)

func (a *API) pushrulesRoutes() []httpapi.Route {
	const base = "/pushrules"
	const rule = base + "/global/{kind}/{ruleId}"
	route := func(method, path, operation string, h func(*httpapi.Request) (any, error), aliases ...string) httpapi.Route {
		r := roomRoute(method, path, operation, "pushrules.yaml", rateOf(method), h)
		for _, alias := range aliases {
			r.Aliases = append(append(r.Aliases, clientV3+alias), oldNames(clientV3+alias)...)
		}
		return r
	}
	return append([]httpapi.Route{
		route("GET", base+"/", "getPushRules", a.getPushRules, base),
		route("GET", base+"/global/", "getPushRulesGlobal", a.getPushRulesGlobal, base+"/global"),
		route("GET", rule, "getPushRule", a.getPushRule),
		route("PUT", rule, "setPushRule", a.setPushRule),
		route("DELETE", rule, "deletePushRule", a.deletePushRule),
		route("GET", rule+"/enabled", "isPushRuleEnabled", a.isPushRuleEnabled),
		route("PUT", rule+"/enabled", "setPushRuleEnabled", a.setPushRuleEnabled),
		route("GET", rule+"/actions", "getPushRuleActions", a.getPushRuleActions),
		route("PUT", rule+"/actions", "setPushRuleActions", a.setPushRuleActions),
	}, a.pushrulesPartRoutes()...)
}

// pushrulesPartRoutes returns routes for the rules of one kind, for incomplete paths and for scopes other than global.
// They are not in the specification, but other homeservers serve them.
func (a *API) pushrulesPartRoutes() (routes []httpapi.Route) {
	const base = "/pushrules"
	add := func(method, operation string, h func(*httpapi.Request) (any, error), paths ...string) {
		for _, path := range paths {
			r := roomRoute(method, path, operation, "", rateOf(method), h)
			if !strings.HasSuffix(path, "/{ruleId}") && !strings.HasSuffix(path, "/enabled") && !strings.HasSuffix(path, "/actions") {
				r.Aliases = append(append(r.Aliases, r.Path+"/"), oldNames(r.Path+"/")...)
			}
			routes = append(routes, r)
		}
	}
	const scope, kind, rule = base + "/{scope}", base + "/{scope}/{kind}", base + "/{scope}/{kind}/{ruleId}"
	add("GET", "getPushRulesOfKind", a.getPushRulesOfKind, base+"/global/{kind}")
	add("PUT", "putPartOfPushRules", a.putPartOfPushRules, base, scope, kind, base+"/global/{kind}")
	add("GET", "getPushRulesOfScope", a.unknownScope, scope, kind, rule, rule+"/enabled", rule+"/actions")
	add("PUT", "putPushRuleOfScope", a.unknownScope, rule, rule+"/enabled", rule+"/actions")
	add("DELETE", "deletePushRuleOfScope", a.unknownScope, rule)
	return routes
}

// getPushRulesOfKind returns the rules of one kind.
func (a *API) getPushRulesOfKind(r *httpapi.Request) (any, error) {
	kind, err := ruleKind(r)
	if err != nil {
		return nil, err
	}
	set, err := a.Push.Rules(r.Context(), r.UserNID, r.UserID)
	if err != nil {
		return nil, err
	}
	return *set.List(kind), nil
}

// putPartOfPushRules returns the error for requests to replace a whole set of rules.
func (a *API) putPartOfPushRules(*httpapi.Request) (any, error) {
	return nil, mxerr.InvalidParam("The path must name the scope, kind and ID of a rule")
}

// unknownScope returns the error for scopes other than global, which has its own routes.
func (a *API) unknownScope(r *httpapi.Request) (any, error) {
	return nil, mxerr.InvalidParam("%q is not a scope of push rules: use global", r.Var("scope"))
}

// getPushRules returns all rule sets.
// Spec: client-server-api#get_matrixclientv3pushrules
func (a *API) getPushRules(r *httpapi.Request) (any, error) {
	set, err := a.Push.Rules(r.Context(), r.UserNID, r.UserID)
	return map[string]any{"global": set}, err
}

// getPushRulesGlobal returns the global rule set, which is the only one.
// Spec: client-server-api#get_matrixclientv3pushrulesglobal
func (a *API) getPushRulesGlobal(r *httpapi.Request) (any, error) {
	return a.Push.Rules(r.Context(), r.UserNID, r.UserID)
}

func ruleKind(r *httpapi.Request) (pushrules.Kind, error) {
	k := pushrules.Kind(r.Var("kind"))
	if !k.Valid() {
		return k, mxerr.InvalidParam("%q is not a kind of push rules", r.Var("kind"))
	}
	return k, nil
}

func (a *API) pushRule(r *httpapi.Request) (*pushrules.Rule, error) {
	kind := pushrules.Kind(r.Var("kind"))
	if !kind.Valid() { // clients probe for newer kinds of rules in this way
		return nil, mxerr.NotFound("There are no push rules of the kind %q", r.Var("kind"))
	}
	set, err := a.Push.Rules(r.Context(), r.UserNID, r.UserID)
	if err != nil {
		return nil, err
	}
	rule, found := set.Find(kind, r.Var("ruleId"))
	if !found {
		return nil, mxerr.NotFound("There is no such push rule")
	}
	return rule, nil
}

// getPushRule returns one rule.
// Spec: client-server-api#get_matrixclientv3pushrulesglobalkindruleid
func (a *API) getPushRule(r *httpapi.Request) (any, error) {
	rule, err := a.pushRule(r)
	if err != nil {
		return nil, err
	}
	return rule, nil
}

// setPushRule adds or replaces one of the user's own rules.
// Spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleid
func (a *API) setPushRule(r *httpapi.Request) (any, error) {
	kind, err := ruleKind(r)
	if err != nil {
		return nil, err
	}
	rule := pushrules.NewRule{Before: r.Query("before"), After: r.Query("after")}
	if err := r.Decode(&rule); err != nil {
		return nil, err
	}
	return nil, a.Push.Put(r.Context(), r.UserNID, r.UserID, kind, r.Var("ruleId"), rule)
}

// deletePushRule removes one of the user's own rules.
// Spec: client-server-api#delete_matrixclientv3pushrulesglobalkindruleid
func (a *API) deletePushRule(r *httpapi.Request) (any, error) {
	kind, err := ruleKind(r)
	if err != nil {
		return nil, err
	}
	return nil, a.Push.Delete(r.Context(), r.UserNID, r.UserID, kind, r.Var("ruleId"))
}

// isPushRuleEnabled reports whether a rule is enabled.
// Spec: client-server-api#get_matrixclientv3pushrulesglobalkindruleidenabled
func (a *API) isPushRuleEnabled(r *httpapi.Request) (any, error) {
	rule, err := a.pushRule(r)
	if err != nil {
		return nil, err
	}
	return map[string]bool{"enabled": rule.Enabled}, nil
}

// setPushRuleEnabled enables or disables a rule.
// Spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleidenabled
func (a *API) setPushRuleEnabled(r *httpapi.Request) (any, error) {
	kind, err := ruleKind(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		Enabled *bool `json:"enabled"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	if body.Enabled == nil {
		return nil, missing("enabled")
	}
	return nil, a.Push.SetEnabled(r.Context(), r.UserNID, r.UserID, kind, r.Var("ruleId"), *body.Enabled)
}

// getPushRuleActions returns the actions of a rule.
// Spec: client-server-api#get_matrixclientv3pushrulesglobalkindruleidactions
func (a *API) getPushRuleActions(r *httpapi.Request) (any, error) {
	rule, err := a.pushRule(r)
	if err != nil {
		return nil, err
	}
	return map[string]any{"actions": listed(rule.Actions)}, nil
}

// setPushRuleActions replaces the actions of a rule.
// Spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleidactions
func (a *API) setPushRuleActions(r *httpapi.Request) (any, error) {
	kind, err := ruleKind(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		Actions []json.RawMessage `json:"actions"`
	}
	if err := r.Decode(&body); err != nil {
		return nil, err
	}
	return nil, a.Push.SetActions(r.Context(), r.UserNID, r.UserID, kind, r.Var("ruleId"), body.Actions)
}
