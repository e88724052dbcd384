package server

import (
	"testing"

	"ebb/config"
	"ebb/keyed"
)

// docs/limits.md states the bounds of caches for the default value of cache.size.
func TestBoundsOfCachesAreStatedForTheDefaultSize(t *testing.T) {
	if size := keyed.Budget(config.Default().Cache.Size); size != keyed.UsualBudget {
		t.Errorf("cache.size is %d, keyed.UsualBudget %d", size, keyed.UsualBudget)
	}
}
