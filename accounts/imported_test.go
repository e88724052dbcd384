package accounts

import (
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"ebb/mxerr"
	"ebb/storage"
)

func TestImportedHashesSignInAndAreReplaced(t *testing.T) {
	each(t, Options{}, func(t *testing.T, s *Service, _ *clock) {
		for name, password := range map[string]string{"alice": goodPassword, "bob": "\ufb01sch und caf\u00e9", "carol": strings.Repeat("long ", 20)} {
			normal := map[string]string{"bob": "fisch und caf\u00e9"}[name]
			if normal == "" {
				normal = password
			}
			hash, err := bcrypt.GenerateFromPassword([]byte(normal)[:min(len(normal), 72)], bcrypt.MinCost)
			if err != nil {
				t.Fatal(err)
			}
			out, err := s.Create(t.Context(), NewAccount{Username: name, NoPassword: true})
			if err != nil {
				t.Fatal(err)
			}
			if err := s.SetPasswordHash(t.Context(), out.User, string(hash)); err != nil {
				t.Fatal(err)
			}
			refused(t, name+" with a wrong password", login(t, s, name, "wrong", home), mxerr.CodeForbidden)
			refused(t, name+" without one", login(t, s, name, "", home), mxerr.CodeForbidden)
			for range 2 {
				if err := login(t, s, name, password, home); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			stored := ""
			err = s.opts.DB.Read(t.Context(), func(tx *storage.Tx) error {
				a, _, err := tx.AccountByLocalpart(name)
				stored = a.Password
				return err
			})
			if err != nil || !strings.HasPrefix(stored, "$argon2id$") {
				t.Errorf("%s has the hash %s, %v", name, stored, err)
			}
		}
	})
}

func TestOnlyBcryptHashesOfBearableCostAreImported(t *testing.T) {
	s := &Service{}
	for _, bad := range []string{"", "password", "$2b$12$short", "$argon2id$v=19$m=19456,t=2,p=1$AAAA$AAAA",
		"$2b$31$" + strings.Repeat("a", 53), "$2b$15$" + strings.Repeat("a", 53), "$9b$12$" + strings.Repeat("a", 53)} {
		refused(t, bad, s.SetPasswordHash(t.Context(), "@alice:here", bad), mxerr.CodeInvalidParam)
	}
}
