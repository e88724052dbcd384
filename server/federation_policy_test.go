package server_test

import (
	"errors"
	"testing"

	"ebb/config"
	"ebb/fedclient"
	"ebb/internal/testserver"
)

func TestDeniedServersAreNeitherContactedNorAnswered(t *testing.T) {
	for name, change := range map[string]func(*config.Config){
		"denied":      func(c *config.Config) { c.Federation.DeniedServers = []string{"hs2.*"} },
		"not allowed": func(c *config.Config) { c.Federation.AllowedServers = []string{"HS3.test", "*.example.org"} },
	} {
		t.Run(name, func(t *testing.T) {
			w := testserver.Federation(t, 3, func(i int, c *config.Config) {
				if i == 0 {
					change(c)
				}
			})
			closed, out, in := w.Servers[0], w.Servers[1], w.Servers[2]
			closed.Register("alice")
			if _, _, err := closed.Remote().Version(t.Context(), out.Name()); !errors.Is(err, fedclient.ErrKeptOut) {
				t.Errorf("a request to a denied server returns %v, want ErrKeptOut", err)
			}
			var remote *fedclient.RemoteError
			if _, err := out.Remote().UserDevices(t.Context(), closed.Name(), "@alice:hs1.test"); !errors.As(err, &remote) || remote.Status != 403 || remote.Code != "M_FORBIDDEN" {
				t.Errorf("a denied server gets %v, want 403 M_FORBIDDEN", err)
			}
			if _, err := in.Remote().UserDevices(t.Context(), closed.Name(), "@alice:hs1.test"); err != nil {
				t.Errorf("a server that is not denied gets %v", err)
			}
		})
	}
}
