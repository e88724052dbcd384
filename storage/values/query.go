package values

import (
	"strconv"
	"strings"
)

// Lite returns a query in SQLite's syntax. It replaces $n by ?n, because SQLite numbers $n by order of appearance,
// and renames greatest() and least(). Text between quotes stays as it is.
func Lite(query string) string {
	var b strings.Builder
	for i, part := range strings.Split(query, "'") {
		if i%2 == 1 {
			b.WriteString("'" + part + "'")
			continue
		}
		b.WriteString(liteNames.Replace(part))
	}
	return b.String()
}

var liteNames = strings.NewReplacer("$", "?", "greatest(", "max(", "least(", "min(")

// In returns the placeholders for a list of values, numbered from first, and the list, padded by repeating its last
// value. The length is padded to a power of two so that there are few distinct statements. An empty list matches
// nothing.
func In[T any](first int, list []T) (placeholders string, args []any) {
	n := 1
	for n < len(list) {
		n *= 2
	}
	text := make([]byte, 0, 8*n)
	args = make([]any, n)
	for i := range n {
		text = strconv.AppendInt(append(text, ",$"...), int64(first+i), 10)
		if len(list) > 0 {
			args[i] = argument(list[min(i, len(list)-1)])
		}
	}
	text[0] = '('
	return string(append(text, ')')), args
}

// argument converts a value to an argument of a statement. It converts numbers to int64 itself; if the function value
// did so later, they would be allocated twice.
func argument[T any](v T) any {
	if n, ok := Number(v); ok {
		return n
	}
	return v
}
