package directory

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/internal/heaptest"
)

func TestRemoteSpacesInMemoryAreBoundedInBytes(t *testing.T) {
	for name, children := range map[string]int{"without children": 0, "with many children": 500} {
		t.Run(name, func(t *testing.T) {
			const bound = 4 << 20
			memo := newSpaces(bound, time.Now)
			heaptest.Bounded(t, bound, 20_000/(1+children), func(i int) {
				room := id.RoomID(fmt.Sprintf("!%d:x", i))
				_, err := memo.Get(t.Context(), spaceKey{server: "x", room: room}, func(context.Context) (*remoteSpace, error) {
					var list, gone strings.Builder
					for n := range children {
						fmt.Fprintf(&list, `,{"room_id":"!%d:c","num_joined_members":1,"guest_can_join":false,"world_readable":true}`, n)
						fmt.Fprintf(&gone, `,"!%d:g"`, n)
					}
					return readSpace(json.RawMessage(fmt.Sprintf(`{"room":{"room_id":%q},"children":[%s],"inaccessible_children":[%s]}`,
						room, strings.TrimPrefix(list.String(), ","), strings.TrimPrefix(gone.String(), ","))), room)
				})
				if err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}
