package history

import (
	"strconv"
	"strings"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/graph"
)

// maxToken bounds the length of pagination tokens; those of /sync are the longest.
const maxToken = 200

// TimelineToken returns the pagination token for the point just after the event with the given order. A client that
// pages backwards from it gets that event first; one that pages forwards gets the next event first. Order 0 is the
// start of every room.
func TimelineToken(order ident.Order) string { return "t" + strconv.FormatInt(int64(order), 10) }

// ParseToken parses a token of a timeline or of /sync (next_batch). The token stands for a point between two events of
// a timeline: ParseToken returns the highest order that an event before this point can have. /sync tokens begin with
// s1_ and a stream position, from which the order of a live event is derived.
func ParseToken(text string) (order ident.Order, err error) {
	number, isTimeline := strings.CutPrefix(text, "t")
	limit := int64(1<<63 - 1)
	if !isTimeline {
		var ok bool
		if number, ok = strings.CutPrefix(text, "s1_"); !ok || len(text) > maxToken {
			return 0, errToken(text)
		}
		number, _, _ = strings.Cut(number, "_")
		limit /= graph.OrderStep
	}
	n, err := strconv.ParseUint(number, 10, 63)
	if err != nil || int64(n) > limit {
		return 0, errToken(text)
	}
	if isTimeline {
		return ident.Order(n), nil
	}
	// Everything that the client got with the token is at or below its position.
	return ident.Order(n) * graph.OrderStep, nil
}

func errToken(text string) error {
	return mxerr.InvalidParam("Unknown pagination token %q", text[:min(len(text), 40)])
}

// window is a part of a timeline: the orders greater than after, up to and including upTo.
type window struct{ after, upTo ident.Order }

// everything returns the window of the whole timeline.
func everything() window { return window{after: 0, upTo: 1<<63 - 1} }

// parseWindow returns the part of the timeline between the tokens from and to. An empty token means that the part has
// no bound on that side.
func parseWindow(from, to string, backwards bool) (window, error) {
	w := everything()
	for _, t := range []struct {
		text  string
		upper bool
	}{{from, backwards}, {to, !backwards}} {
		if t.text == "" {
			continue
		}
		order, err := ParseToken(t.text)
		switch {
		case err != nil:
			return w, err
		case t.upper:
			w.upTo = order
		default:
			w.after = order
		}
	}
	return w, nil
}

// start returns the order at which a walk through the window begins: the upper end if it goes backwards.
func (w window) start(backwards bool) ident.Order {
	if backwards {
		return w.upTo
	}
	return w.after
}

// shrink removes from the window what a walk has passed when it has reached the event with the given order.
func (w *window) shrink(order ident.Order, backwards bool) {
	if backwards {
		w.upTo = order - 1
	} else {
		w.after = order
	}
}

func (w window) empty() bool { return w.after >= w.upTo }
