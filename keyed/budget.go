package keyed

// UsualBudget is the default of cache.size. The bounds of caches are stated for this budget.
const UsualBudget Budget = 256 << 20

// Budget is the memory for all caches of a process together, in bytes. Each cache states how many entries it may have
// if the budget is UsualBudget; with another budget it may have proportionally more or fewer. The zero Budget means
// UsualBudget.
type Budget int64

// Entries returns how many entries a cache may have under this budget. usual is the number for UsualBudget.
func (b Budget) Entries(usual int) int {
	if b == 0 {
		return usual
	}
	return max(2, int(int64(b)>>20*int64(usual)/int64(UsualBudget>>20)))
}

// Bytes is like Entries, for a cache that is bounded by the size of its entries.
func (b Budget) Bytes(usual int64) int64 { return int64(b.Entries(int(usual))) }
