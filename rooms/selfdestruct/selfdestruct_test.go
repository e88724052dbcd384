package selfdestruct_test

import (
	"encoding/json"
	"testing"

	"ebb/rooms/selfdestruct"
)

func TestWhenAMessageIsToBeDestroyed(t *testing.T) {
	const arrival, never = 1_000_000, selfdestruct.Never
	for content, want := range map[string]struct {
		wish    selfdestruct.Wish
		invalid bool
	}{
		`{}`: {selfdestruct.Wish{At: never, AfterRead: -1}, false},
		`{"body":"self_destruct","m.self_destruct_x":1}`:                         {selfdestruct.Wish{At: never, AfterRead: -1}, false},
		`{"m.self_destruct":0}`:                                                  {selfdestruct.Wish{At: never, AfterRead: 0}, false},
		`{"m.self_destruct":2147483647}`:                                         {selfdestruct.Wish{At: never, AfterRead: 2147483647}, false},
		`{"m.self_destruct":null}`:                                               {selfdestruct.Wish{At: never, AfterRead: -1}, false},
		`{"m.self_destruct":2147483648}`:                                         {selfdestruct.Wish{At: never, AfterRead: -1}, true},
		`{"m.self_destruct":-1}`:                                                 {selfdestruct.Wish{At: never, AfterRead: -1}, true},
		`{"m.self_destruct":true}`:                                               {selfdestruct.Wish{At: never, AfterRead: -1}, true},
		`{"m.self_destruct":1.5,"org.matrix.self_destruct_after":2000000}`:       {selfdestruct.Wish{At: 2_000_000, AfterRead: -1}, true},
		`{"m.self_destruct_after":2000000,"org.matrix.msc2228.self_destruct":7}`: {selfdestruct.Wish{At: 2_000_000, AfterRead: 7}, false},
		`{"m.self_destruct_after":0}`:                                            {selfdestruct.Wish{At: arrival + 1000, AfterRead: -1}, false},
		`{"m.self_destruct_after":9007199254740991}`:                             {selfdestruct.Wish{At: 9007199254740991, AfterRead: -1}, false},
		`{"m.self_destruct_after":9007199254740992}`:                             {selfdestruct.Wish{At: never, AfterRead: -1}, true},
		`{"m.self_destruct_after":3000000,"org.matrix.self_destruct_after":2e6}`: {selfdestruct.Wish{At: 3_000_000, AfterRead: -1}, true},
		`{"m.new_content":{"m.self_destruct":1}}`:                                {selfdestruct.Wish{At: never, AfterRead: -1}, false},
	} {
		got, ok, err := selfdestruct.Parse(json.RawMessage(content), arrival)
		if got != want.wish || ok != (want.wish.At != never || want.wish.AfterRead >= 0) || (err != nil) != want.invalid {
			t.Errorf("%s: %+v, %v, %v", content, got, ok, err)
		}
	}
}

func TestMessagesWithoutAWishCostNothing(t *testing.T) {
	content := json.RawMessage(`{"body":"hello","msgtype":"m.text"}`)
	if n := testing.AllocsPerRun(100, func() { _, _, _ = selfdestruct.Parse(content, 0) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
