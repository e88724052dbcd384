package accountdata

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/internal/heaptest"
)

func TestIgnoreListsInMemoryAreBoundedInBytes(t *testing.T) {
	for name, users := range map[string]int{"empty": 0, "short": 3, "long": 5000} {
		t.Run(name, func(t *testing.T) {
			const bound = 1 << 20
			var c ignoreCache
			c.init(bound)
			heaptest.Bounded(t, bound, 40_000/(1+users), func(i int) {
				_, err := c.lists.Get(t.Context(), ident.UserNID(i), func(context.Context) (map[id.UserID]struct{}, error) {
					var list strings.Builder
					for n := range users {
						fmt.Fprintf(&list, `,"@%d:%d.x":{}`, n, i)
					}
					return parseIgnored(json.RawMessage(`{"ignored_users":{` + strings.TrimPrefix(list.String(), ",") + `}}`)), nil
				})
				if err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}
