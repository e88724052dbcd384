package keyed

// UsualBudget is the default of cache.size. Bounds of caches are stated for it.
const UsualBudget Budget = 256 << 20

// Budget is the memory for all caches of a process, in bytes. Caches are bounded by numbers of entries that are stated
// for the usual budget and scale with the actual one. The zero Budget is the usual one.
type Budget int64

// Entries scales the number of entries that a cache may have with the usual budget.
func (b Budget) Entries(usual int) int {
	if b == 0 {
		return usual
	}
	return max(2, int(int64(b)>>20*int64(usual)/int64(UsualBudget>>20)))
}
