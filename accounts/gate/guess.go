package gate

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"ebb/ident"
	"ebb/mxerr"
)

// Budget limits attempts by a key. Take records an attempt. If the budget is used up, it records nothing and returns
// how long to wait. Return removes one attempt.
type Budget interface {
	Take(key string) (wait time.Duration)
	Return(key string)
}

// Budgets limits how often secrets can be guessed. Only wrong guesses count, except for Networks. A nil budget is
// unlimited.
type Budgets struct {
	// Guesses counts wrong passwords by account and network (or by session for logged-in users), and wrong tokens by
	// kind and network. Clients in other networks cannot use up the budget of an account's owner.
	Guesses Budget
	// Networks counts password comparisons by network or session, whether right or wrong: each comparison costs 20 ms,
	// and one network may try many accounts. It also counts wrong tokens of all kinds, and wrong codes of second
	// factors of all accounts, by network.
	Networks Budget
	// Accounts counts wrong passwords for one account from all networks in which the account has no device.
	Accounts Budget
	// Server counts wrong passwords for all accounts from all networks, since an attacker may try one password for each
	// account from many networks. It does not count guesses from networks in which the account has a device. It also
	// counts wrong codes of second factors, and each kind of token that can be guessed.
	Server Budget
}

// Guess is an attempt to guess a secret, which counts as wrong until Right is called.
type Guess struct{ counted []counted }

type counted struct {
	budget Budget
	key    string
}

// Take also counts the attempt in b. If that budget is used up, the attempt is removed from all budgets.
//
// Errors: M_LIMIT_EXCEEDED.
func (a *Guess) Take(b Budget, key string) error {
	if b == nil {
		return nil
	}
	if wait := b.Take(key); wait > 0 {
		a.Right()
		return mxerr.LimitExceeded(wait)
	}
	a.counted = append(a.counted, counted{b, key})
	return nil
}

// Right removes the attempt from all budgets.
func (a *Guess) Right() {
	for _, c := range a.counted {
		c.budget.Return(c.key)
	}
	a.counted = nil
}

// GuessPassword counts an attempt at an account's password from a network without an access token. known reports
// whether the account has a device in that network. If it does, the owner is likely to be there, and must not be locked
// out by a distributed attack from elsewhere.
//
// Errors: M_LIMIT_EXCEEDED.
func (g *Gate) GuessPassword(localpart, network string, known func() (bool, error)) (*Guess, error) {
	at := &Guess{}
	for _, b := range []struct {
		Budget
		key string
	}{{g.opts.Budgets.Accounts, localpart}, {g.opts.Budgets.Server, ""}} {
		full := at.Take(b.Budget, b.key)
		if full == nil {
			continue
		}
		if yes, err := known(); err != nil || !yes {
			return nil, cmp.Or(err, full)
		}
	}
	return g.compare(at, "password\x00"+localpart+"\x00"+network, network)
}

// GuessOwn counts an attempt of a logged-in user at the password of their own account. Each session counts separately,
// so that neither strangers nor a stolen session can keep the owner from changing the password.
//
// Errors: M_LIMIT_EXCEEDED.
func (g *Gate) GuessOwn(who ident.Requester) (*Guess, error) {
	session := "session\x00" + strconv.FormatInt(int64(who.DeviceNID), 10)
	return g.compare(&Guess{}, session, session)
}

// compare counts the guess for a key, and the comparison for a network or session.
func (g *Gate) compare(at *Guess, key, network string) (*Guess, error) {
	if err := at.Take(g.opts.Budgets.Guesses, key); err != nil {
		return nil, err
	}
	var comparison Guess // never removed
	if err := comparison.Take(g.opts.Budgets.Networks, network); err != nil {
		at.Right()
		return nil, err
	}
	return at, nil
}

// Kind is a kind of token that belongs to no account that the client names.
type Kind string

// The kinds of tokens.
const (
	LoginTokens        Kind = "login token"
	JSONWebTokens      Kind = "jwt"
	UserCodes          Kind = "user code"
	RegistrationTokens Kind = "registration token"
	SharedSecrets      Kind = "shared secret"
	UpstreamCodes      Kind = "upstream code" // which a provider checks, so each attempt costs a request to it
)

// guessable has the kinds of tokens that are short, or chosen by people. Wrong ones are also counted for the whole
// server. The others have at least 128 bits or a signature: nobody guesses them from many networks, and such a limit
// would only let strangers block everybody who signs in with one.
var guessable = map[Kind]bool{UserCodes: true, RegistrationTokens: true, SharedSecrets: true}

// GuessToken counts an attempt to guess a token from a network: for its kind, for all kinds together and, if somebody
// could guess it from many networks, for the whole server.
//
// Errors: M_LIMIT_EXCEEDED.
func (g *Gate) GuessToken(kind Kind, network string) (*Guess, error) {
	at := &Guess{}
	if err := at.Take(g.opts.Budgets.Guesses, string(kind)+"\x00"+network); err != nil {
		return nil, err
	}
	if err := at.Take(g.opts.Budgets.Networks, "tokens\x00"+network); err != nil {
		return nil, err
	}
	if !guessable[kind] {
		return at, nil
	}
	return at, at.Take(g.opts.Budgets.Server, string(kind))
}

// Bounds of codes.
const (
	maxCodes        = 5                // wrong codes of one kind for one account from all networks within codeWindow; one one-time code in a million is right
	codeWindow      = 15 * time.Minute // long enough for guessing to take years
	maxCodeAccounts = 100_000          // accounts whose codes of one kind are counted, about 100 bytes each
)

// GuessCode counts an attempt at a code of an account, which is TOTP or RecoveryCode: for the account, for the network
// and, since somebody may have the passwords of many accounts, for the whole server. The two kinds count separately for
// the account only, so that wrong one-time codes do not keep the owner from using a recovery code. That gives an
// attacker no more tries that matter: nobody guesses a recovery code, which has 80 bits.
//
// Errors: M_LIMIT_EXCEEDED.
func (g *Gate) GuessCode(kind Evidence, user ident.UserNID, network string) (*Guess, error) {
	at := &Guess{}
	if err := at.Take(codeBudget{g, codesOf{user, kind}}, ""); err != nil {
		return nil, err
	}
	if err := at.Take(g.opts.Budgets.Networks, "codes\x00"+network); err != nil {
		return nil, err
	}
	return at, at.Take(g.opts.Budgets.Server, "codes")
}

// codesOf are the codes of one kind of an account.
type codesOf struct {
	user ident.UserNID
	kind Evidence
}

// codeBudget is the Budget for the codes of one kind of an account.
type codeBudget struct {
	g     *Gate
	codes codesOf
}

// Take implements Budget. It allows exactly maxCodes in any codeWindow, which a token bucket would not.
func (b codeBudget) Take(string) (wait time.Duration) {
	now := b.g.opts.Now()
	b.g.codes.Update(b.codes, func(tried []time.Time, _ bool) []time.Time {
		tried = slices.DeleteFunc(slices.Clone(tried), func(t time.Time) bool { return now.Sub(t) >= codeWindow })
		if len(tried) >= maxCodes {
			wait = tried[0].Add(codeWindow).Sub(now)
			return tried
		}
		return append(tried, now)
	})
	return wait
}

// Return implements Budget.
func (b codeBudget) Return(string) {
	b.g.codes.Update(b.codes, func(tried []time.Time, _ bool) []time.Time { return slices.Clone(tried[:max(len(tried)-1, 0)]) })
}
