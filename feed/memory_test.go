package feed

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"ebb/internal/heaptest"
	"ebb/keyed"
)

func TestParsedFiltersInMemoryAreBoundedInBytes(t *testing.T) {
	for name, types := range map[string]int{"small": 0, "large": 1000} {
		t.Run(name, func(t *testing.T) {
			const bound = 1 << 20
			c := newFilterCache(bound)
			heaptest.Bounded(t, bound, 30_000/(1+types), func(i int) {
				var list strings.Builder
				for n := range types {
					fmt.Fprintf(&list, `,"%d"`, n)
				}
				text := []byte(fmt.Sprintf(`{"room":{"timeline":{"limit":%d,"types":[%s]}}}`, i, strings.TrimPrefix(list.String(), ",")))
				f, err := ParseFilter(text)
				if err != nil {
					t.Fatal(err)
				}
				c.put(string(text), f, text)
			})
		})
	}
}

func TestParsedListsOfSlidingSyncInMemoryAreBoundedInBytes(t *testing.T) {
	for name, elements := range map[string]int{"small": 1, "large": maxRequiredState} {
		t.Run(name, func(t *testing.T) {
			const bound = maxSlidingAsks
			s := &Service{sliding: newSlidingMemory(Options{Cache: keyed.UsualBudget, Now: time.Now})}
			heaptest.Bounded(t, bound, 100_000/elements, func(i int) {
				var state strings.Builder
				for n := range elements {
					fmt.Fprintf(&state, `,["a","%d"]`, n)
				}
				q := &slidingQuery{SlidingRequest: SlidingRequest{Body: SlidingBody{Lists: []byte(fmt.Sprintf(`{"l%d":{"ranges":[[0,9]],"required_state":[%s]}}`, i, state.String()[1:]))}}}
				if _, err := s.sharedAsk(q, askKeyOf(&q.SlidingRequest)); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}
