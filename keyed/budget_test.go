package keyed_test

import (
	"testing"

	"ebb/keyed"
)

func TestBudgetScalesTheEntriesOfCaches(t *testing.T) {
	for b, want := range map[keyed.Budget]int{
		0: 20_000, keyed.UsualBudget: 20_000, keyed.UsualBudget / 2: 10_000, 4 * keyed.UsualBudget: 80_000, 1 << 20: 78, 1: 2,
		1 << 50: 20_000 << 22,
	} {
		if got := b.Entries(20_000); got != want {
			t.Errorf("%d bytes: %d entries, want %d", b, got, want)
		}
	}
}
