package keyed

// UsualBudget is cache.size where the configuration does not say otherwise. Bounds of caches are stated for it.
const UsualBudget Budget = 256 << 20

// Budget is the memory for all caches of a process, in bytes. Caches are bounded by numbers of entries that take their share of
// the usual budget, and grow and shrink with it. The zero Budget is the usual one.
type Budget int64

// Entries returns how many entries a cache may have that has usual many with the usual budget.
func (b Budget) Entries(usual int) int {
	if b == 0 {
		return usual
	}
	return max(2, int(int64(b)>>20*int64(usual)/int64(UsualBudget>>20)))
}
