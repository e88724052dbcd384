//go:build goolm

package sdk

import (
	"os/exec"
	"syscall"
	"testing"

	"ebb/test/process"
)

// TestOAuthOfMatrixJSSDK signs in with the OAuth 2.0 code of two versions of matrix-js-sdk: 41 requires an ID token and
// the published keys, 43 uses the stable scopes, the device grant, and
// both ends of QR codes.
func TestOAuthOfMatrixJSSDK(t *testing.T) {
	b := binary(t)
	server := process.Start(t, b, process.Options{Config: "registration: {mode: open}\nrate_limits: {enabled: false}\noauth: {enabled: true}"})
	server.Register(t, "alice")
	for _, version := range []string{"41", "43", "qr"} {
		t.Run(version, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), node, "oauth.mjs", version, server.URL, "alice", "a password of alice", b.Path(), server.Config)
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}
