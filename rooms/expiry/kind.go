package expiry

// Defaults are the server's policies for rooms of certain kinds that have no policy of their own. A nil field means
// that the kind has no policy.
type Defaults struct{ Direct, Private, Public, Encrypted *Policy }

// Kind says what kind of room a room is. A room that is not public is private.
type Kind struct {
	Public    bool // anybody can join
	Direct    bool // not public, and with at most MaxDirect members
	Encrypted bool
}

// MaxDirect is the largest number of members, including invited users, of a direct conversation.
const MaxDirect = 2

// For returns the default policy for a room. If a room is of several kinds, the first of public, direct, encrypted and
// private that has a policy applies. If none has, the policy for all rooms does.
func (d Defaults) For(k Kind, all Policy) Policy {
	switch {
	case k.Public && d.Public != nil:
		return *d.Public
	case !k.Public && k.Direct && d.Direct != nil:
		return *d.Direct
	case k.Encrypted && d.Encrypted != nil:
		return *d.Encrypted
	case !k.Public && d.Private != nil:
		return *d.Private
	}
	return all
}

// Any reports whether any kind has a policy.
func (d Defaults) Any() bool {
	return d.Direct != nil || d.Private != nil || d.Public != nil || d.Encrypted != nil
}
