package keyed

// UsualBudget is the default of cache.size. The bounds of caches are stated for this budget.
const UsualBudget Budget = 256 << 20

// Budget is the memory for all caches of a process, in bytes. Each cache has a bound on its number of entries, stated
// for the usual budget, which scales with the actual budget. The zero Budget means the usual one.
type Budget int64

// Entries converts a bound stated for the usual budget to this budget.
func (b Budget) Entries(usual int) int {
	if b == 0 {
		return usual
	}
	return max(2, int(int64(b)>>20*int64(usual)/int64(UsualBudget>>20)))
}
