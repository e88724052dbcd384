package fedclient

import (
	"strings"
	"testing"
)

func TestXMatrixOfOtherImplementationsIsParsed(t *testing.T) {
	want := XMatrix{Origin: "a.test:8448", Destination: "b.test", Key: "ed25519:k", Signature: "c2ln"}
	for _, header := range []string{
		`X-Matrix origin="a.test:8448",destination="b.test",key="ed25519:k",sig="c2ln"`,
		`X-Matrix origin=a.test:8448,destination=b.test,key=ed25519:k,sig=c2ln`,
		`x-matrix  sig="c2ln" , KEY="ed25519:k",	Origin="a.test:8448", destination="b.test", future="x"`,
		`X-Matrix origin="a.t\est:8448",destination="b.test",key="ed25519:k",sig="c2ln"`,
	} {
		if got, err := ParseXMatrix(header); err != nil || got != want {
			t.Errorf("%s: %+v %v", header, got, err)
		}
	}
	if got, err := ParseXMatrix(want.String()); err != nil || got != want {
		t.Errorf("its own form: %+v %v", got, err)
	}
	old, err := ParseXMatrix(`X-Matrix origin=a.test,key="ed25519:k",sig="c2ln"`)
	if err != nil || old.Destination != "" {
		t.Errorf("without destination: %+v %v", old, err)
	}
}

func TestMalformedXMatrixIsRefused(t *testing.T) {
	for _, header := range []string{
		"", "X-Matrix", "X-Matrix ", "Bearer abc", `X-Matrix origin="a"`, `X-Matrix origin="a",key="k"`, `X-Matrix origin="",key="k",sig="s"`,
		`X-Matrix origin="a,key="k",sig="s"`, `X-Matrix origin="a" key="k" sig="s"`, `X-Matrix origin="a",key="k",sig="s`, `X-Matrix origin="a",key="k",sig="s\`,
		`X-Matrix ="a",origin="a",key="k",sig="s"`, `X-Matrix origin`, `X-MatrixX origin="a",key="k",sig="s"`,
		`X-Matrix origin="a",origin="b",key="k",sig="s"`, `X-Matrix origin="a",key="k",sig="s",destination="x",destination="y"`,
		`X-Matrix origin="a",key="k",sig="` + strings.Repeat("s", maxAuthHeader) + `"`,
	} {
		if got, err := ParseXMatrix(header); err == nil {
			t.Errorf("%.100s: %+v", header, got)
		}
	}
}

// FuzzXMatrix checks that a parsed header, written and parsed again, stays the same.
func FuzzXMatrix(f *testing.F) {
	f.Add(`X-Matrix origin="a.test:8448",destination="b.test",key="ed25519:k",sig="c2ln"`)
	f.Add(`X-Matrix origin=a,key=k,sig=s`)
	f.Add(`X-Matrix origin="a\"b",key="\\",sig="s"`)
	f.Add("X-Matrix \x00=\"")
	f.Fuzz(func(t *testing.T, header string) {
		x, err := ParseXMatrix(header)
		if err != nil {
			return
		}
		if x.Origin == "" || x.Key == "" || x.Signature == "" {
			t.Fatalf("%q: %+v", header, x)
		}
		if again, err := ParseXMatrix(x.String()); len(x.String()) <= maxAuthHeader && (err != nil || again != x) {
			t.Errorf("%q: %+v is written as %s and read as %+v %v", header, x, x, again, err)
		}
	})
}
