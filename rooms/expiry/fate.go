package expiry

// Facts are the reasons for and against removing a message.
type Facts struct {
	Held      bool // it is under a legal hold
	WithinMin bool // its min_lifetime is not over
	Erased    bool // its sender asked for it to be erased
	Redacted  bool // it was redacted, and the time for which originals are kept is over
	Expired   bool // its max_lifetime is over
}

// Fate is what happens to the stored content of a message.
type Fate int

// The fates, which say which of the Facts decided.
const (
	Stays Fate = iota
	StaysHeld
	StaysWithinMin
	GoesErased
	GoesRedacted
	GoesExpired
)

// Gone reports whether the content is removed.
func (f Fate) Gone() bool { return f >= GoesErased }

// FateOf returns what happens to a message. A legal hold takes precedence over min_lifetime, which takes precedence
// over erasure, redaction and max_lifetime, in this order.
func FateOf(f Facts) Fate {
	switch {
	case f.Held:
		return StaysHeld
	case f.WithinMin:
		return StaysWithinMin
	case f.Erased:
		return GoesErased
	case f.Redacted:
		return GoesRedacted
	case f.Expired:
		return GoesExpired
	}
	return Stays
}
