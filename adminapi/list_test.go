package adminapi

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"ebb/accounts"
	"ebb/mxerr"
)

// page runs a list command and returns the page.
func page[T any](t *testing.T, a *API, name string, args ListArgs) Page[T] {
	t.Helper()
	raw, err := json.Marshal(args)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := a.Run(t.Context(), name, raw)
	if err != nil {
		t.Fatal(err)
	}
	return answer.(Page[T])
}

func TestTokensAreListedPageByPage(t *testing.T) {
	d := newDesk(t, "")
	make := func(name string) {
		t.Helper()
		d.now = d.now.Add(time.Second)
		if _, err := d.api.Accounts.CreateToken(t.Context(), accounts.RegistrationToken{Token: name}); err != nil {
			t.Fatal(err)
		}
	}
	var want []string
	for i := range maxListPage + 2 {
		want = append(want, fmt.Sprintf("a.token-%d", maxListPage+2-i))
		make(want[i])
	}
	var got []string
	add := func(p Page[Token]) string {
		for _, token := range p.Items {
			got = append(got, token.Token)
		}
		return p.Next
	}
	next := add(page[Token](t, d.api, "token list", ListArgs{Limit: 2 * maxListPage}))
	if len(got) != maxListPage || next == "" {
		t.Fatalf("the first page has %d tokens, and then comes %q", len(got), next)
	}
	if err := d.api.Accounts.RevokeToken(t.Context(), got[maxListPage-1]); err != nil { // the item after which the second page begins
		t.Fatal(err)
	}
	make("last")
	want = append(want, "last")
	next = add(page[Token](t, d.api, "token list", ListArgs{After: next, Limit: 2}))
	if next == "" {
		t.Fatal("a full page has no next one")
	}
	if next = add(page[Token](t, d.api, "token list", ListArgs{After: next, Limit: 1})); next != "" || !slices.Equal(got, want) {
		t.Errorf("the tokens are %v, then comes %q", got, next)
	}
}

func TestAccountsAreListedPageByPage(t *testing.T) {
	d := newDesk(t, "")
	for _, name := range []string{"carol", "alice", "bob"} {
		if _, err := d.api.Accounts.Create(t.Context(), accounts.NewAccount{Username: name, Password: "some secret"}); err != nil {
			t.Fatal(err)
		}
	}
	first := page[User](t, d.api, "user list", ListArgs{Limit: 2})
	rest := page[User](t, d.api, "user list", ListArgs{Limit: 2, After: first.Next})
	if len(first.Items) != 2 || first.Items[1].User != "@bob:here" || len(rest.Items) != 1 || rest.Items[0].User != "@carol:here" || rest.Next != "" {
		t.Errorf("%+v and then %+v", first, rest)
	}
}

func TestPagesThatCannotBeAreRefused(t *testing.T) {
	d := newDesk(t, "")
	for _, c := range []struct{ command, args string }{
		{"user list", `{"limit":-1}`}, {"token list", `{"after":"x"}`}, {"token list", `{"after":"x.token"}`}, {"room list", `{"after":"x"}`},
	} {
		if _, err := d.api.Run(t.Context(), c.command, json.RawMessage(c.args)); mxerr.Code(err) != mxerr.CodeInvalidParam {
			t.Errorf("%s %s: %v", c.command, c.args, err)
		}
	}
}
