package accounts

import (
	"reflect"
	"testing"
)

func TestFlowsFollowTheSettings(t *testing.T) {
	terms := []Term{{ID: "privacy", Name: "Privacy", URL: "https://example.org/privacy"}}
	for _, c := range []struct {
		name         string
		registration Mode
		terms        []Term
		operation    string
		flows        [][]string
	}{
		{"confirming is by password", WithToken, terms, "deleteDevice", [][]string{{stagePassword}}},
		{"open registration", Open, nil, registering, [][]string{{stageDummy}}},
		{"open registration with terms", Open, terms, registering, [][]string{{stageDummy, stageTerms}}},
		{"registration by token", WithToken, nil, registering, [][]string{{stageToken}}},
		{"registration by token with terms", WithToken, terms, registering, [][]string{{stageToken, stageTerms}}},
	} {
		s := &Service{opts: Options{Registration: c.registration, Terms: c.terms}}
		form := s.form(purpose{operation: c.operation})
		if !reflect.DeepEqual(form.flows, c.flows) {
			t.Errorf("%s: %v, want %v", c.name, form.flows, c.flows)
		}
		if _, asked := form.params[stageTerms]; asked != (c.operation == registering && c.terms != nil) || len(form.params) > 1 {
			t.Errorf("%s: parameters %v", c.name, form.params)
		}
	}
}
