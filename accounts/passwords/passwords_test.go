package passwords

import (
	"strings"
	"testing"
)

var strict = Policy{MinLength: 8, RefuseCommon: true}

func TestCommonPasswordsAreRefused(t *testing.T) {
	for _, password := range []string{
		"password", "Password", "PASSWORD1", "password123", "P@ssw0rd", "p4ssw0rd!", "Passw0rd2024!", "!!password!!", "passwordpassword",
		"12345678", "123456789", "1234567890", "87654321", "11111111", "00000000", "12121212", "123123123", "147258369", "31.12.1999", "19991231", "2024-12-31",
		"qwertyui", "qwerty123", "Qwertz1234", "asdfghjk", "asdf1234", "1q2w3e4r", "1qaz2wsx", "q1w2e3r4t5", "zaq12wsx", "abcdefgh", "abcd1234", "qwerasdf", "poiuytrewq",
		"aaaaaaaa", "abcabcabc", "AbcAbcAbc", "iloveyou", "ILoveYou2", "sunshine1", "welcome1", "Welcome2024", "letmein1", "l3tm31n!", "trustno1", "football7", "dragon12",
		"admin123", "adminadmin", "administrator", "changeme", "Sommer2024", "Summer2023!", "michael1", "superman99", "secret12", "testtest", "test1234", "princess!",
		"hello123", "Hallo1234", "passwort1", "motdepasse", "1111aaaa", "  password  ", "        ", strings.Repeat("ab", 60),
	} {
		if strict.Check(password) == "" {
			t.Errorf("%q is accepted", password)
		}
	}
}

func TestGoodPasswordsAreAccepted(t *testing.T) {
	for _, password := range []string{
		"correct horse battery", "kx7!Qm2z", "Tr0ub4dor&3", "donaudampfschiff", "vielen dank für die blumen", "jgh38fhq", "8263940175528", "пароль-для-всех", "münchner freiheit",
		"blue unicorn drinks tea", strings.Repeat("x7", 3) + "kq93mz", "mY-sist3r-k33ps-bees", "gluten allergy parade", "monkey dragon", "pw-alice1",
	} {
		if why := strict.Check(password, "alice", "example.org"); why != "" {
			t.Errorf("%q is refused: %s", password, why)
		}
	}
}

func TestShortPasswordsAreRefused(t *testing.T) {
	for password, accepted := range map[string]bool{"kx7!Qm2": false, "": false, "münchne": false, "kx7!Qm2z": true} {
		why := strict.Check(password)
		if accepted != (why == "") || !accepted && !strings.Contains(why, "at least 8 characters") {
			t.Errorf("%q: %q", password, why)
		}
	}
}

func TestPasswordsLikeTheUserNameAreRefused(t *testing.T) {
	for _, password := range []string{"rumpelstilz", "Rumpelstilz1", "rumpelstilz2024", "123rumpelstilz!", "rump3lst1lz"} {
		if why := strict.Check(password, "rumpelstilz"); !strings.Contains(why, "user name") {
			t.Errorf("%q: %q", password, why)
		}
	}
	if why := strict.Check("rumpelstilz lives in the forest", "rumpelstilz", "x", ""); why != "" {
		t.Error(why)
	}
}

func TestTheZeroPolicyAcceptsEverything(t *testing.T) {
	if why := (Policy{}).Check("a", "a"); why != "" {
		t.Error(why)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add("p@ssw0rd\xff", "al")
	f.Fuzz(func(_ *testing.T, password, name string) { strict.Check(password, name) })
}
