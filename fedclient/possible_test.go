package fedclient

import (
	"errors"
	"strings"
	"testing"

	"ebb/mxerr"
)

func TestImpossibleServerNamesAreNotLookedUp(t *testing.T) {
	l := newLab(t)
	c := l.client("me.test", nil)
	for name, possible := range map[string]bool{
		"a.test": true, "a": true, "a.test:1": true, "a.test:65535": true, "A-b.test": true, "a.test.": true, "xn--nxasmq6b.test": true, "1a.test": true,
		"1.2.3.4": true, "1.2.3.4:8448": true, "[2001:db8::1]": true, "[2001:db8::1]:8448": true, "123.test": true, strings.Repeat("a", 63) + ".test": true,
		"": false, "a..test": false, ".": false, ".a": false, "-a.test": false, "a-.test": false, "a.test:0": false, "a.test:65536": false, "a.test:99999": false,
		"a.test:": false, "1.2.3.999": false, "1.2.3": false, "1": false, "1.2.3.4.5": false, "[::::]": false, "[1.2.3.4]": false, "[::1]:0": false, "[::1": false,
		"a_b.test": false, "a b": false, "a/b": false, "user@a.test": false, strings.Repeat("a", 64) + ".test": false, strings.Repeat("a.", 130) + "b": false,
	} {
		_, _, err := c.QueryDirectory(t.Context(), name, "#a:b")
		if errors.Is(err, ErrNoServer) == possible {
			t.Errorf("%q: %v", name, err)
		}
		if told := mxerr.Code(Relay(err)); !possible && told != mxerr.CodeNotFound {
			t.Errorf("%q: clients are told %s", name, told)
		}
	}
}
