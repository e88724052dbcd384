package wake

import "time"

// Timer starts a timer of the real clock. The channel receives a value after d unless stop is called first. Services
// whose tests have a clock of their own take a function of this form as an option.
func Timer(d time.Duration) (c <-chan time.Time, stop func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}
