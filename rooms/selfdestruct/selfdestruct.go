// Package selfdestruct reads when a message asks to be destroyed (MSC2228). It is pure.
package selfdestruct

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"

	"ebb/canonjson"
)

const (
	// maxAfterRead is the longest time after reading, in milliseconds, as MSC2228 has it: 24 days.
	maxAfterRead = math.MaxInt32
	// minLifetime is how long a message lives at least after its arrival, in milliseconds, whatever time it states, so
	// that it reaches those who are waiting for messages.
	minLifetime = 1000
)

// Never is the time of a message that is not destroyed at a certain time.
const Never = int64(math.MaxInt64)

// Wish says when a message is to be destroyed.
type Wish struct {
	At        int64 // ms; Never: at no certain time
	AfterRead int64 // ms after everybody in the room has read it; -1: not because of that
}

var mark = []byte("self_destruct")

// Parse reads the wish of a message that arrived at receivedTS (ms). It returns false if the message has none, and an
// error, whose text may be shown to clients, if a value is invalid. Valid values count nevertheless.
func Parse(content json.RawMessage, receivedTS int64) (w Wish, ok bool, err error) {
	w = Wish{At: Never, AfterRead: -1}
	if !bytes.Contains(content, mark) {
		return w, false, nil
	}
	bad := canonjson.Each(content, func(key string, raw []byte) error {
		most := int64(canonjson.MaxInt)
		switch key {
		case "m.self_destruct", "org.matrix.msc2228.self_destruct":
			most = maxAfterRead
		case "m.self_destruct_after", "org.matrix.msc2228.self_destruct_after", "org.matrix.self_destruct_after":
		default:
			return nil
		}
		n, isInt := canonjson.Int(raw)
		switch {
		case string(raw) == "null":
		case !isInt || n < 0 || n > most:
			err = fmt.Errorf("%s must be null or an integer from 0 to %d", key, most)
		case most == maxAfterRead:
			w.AfterRead = n
		default:
			w.At = min(w.At, max(n, receivedTS+minLifetime))
		}
		return nil
	})
	if bad != nil {
		err = bad
	}
	return w, w.At != Never || w.AfterRead >= 0, err
}
