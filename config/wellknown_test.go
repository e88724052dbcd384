package config

import (
	"strings"
	"testing"
)

func TestClientExtraMayHaveAnyJSONExceptMembersSetByEbb(t *testing.T) {
	c, err := Parse([]byte("server_name: a.example\nwell_known:\n  client_extra:\n    org.example.list: [{url: \"https://x\", on: true}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	list, _ := c.WellKnown.ClientExtra["org.example.list"].([]any)
	if len(list) != 1 || list[0].(map[string]any)["url"] != "https://x" {
		t.Errorf("client_extra is %v", c.WellKnown.ClientExtra)
	}
	for text, want := range map[string]string{
		"well_known: {client_extra: {m.homeserver: {base_url: \"https://evil\"}}}": "m.homeserver cannot be added",
		"well_known: {client_extra: {io.element.e2ee: {}}}":                        "io.element.e2ee cannot be added",
		"well_known: {client_extra: [a]}":                                          "must be a group",
		"well_known: {client_extra: {a: .nan}}":                                    "JSON can express",
		"well_known: {client_extra: {a: {1: b}}}":                                  "JSON can express",
		"well_known: {policy_key: short}":                                          "well_known.policy_key",
	} {
		c, err := Parse([]byte("server_name: a.example\n" + text))
		if err == nil {
			err = c.Validate()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
