package media

import (
	"time"

	"ebb/mxerr"
)

// Query reads the parameters of a request; httpapi.Request implements it.
type Query interface {
	Query(name string) string
	QueryInt(name string, byDefault, lowest, highest int64) (int64, error)
	QueryBool(name string, byDefault bool) (bool, error)
	QueryMillis(name string, byDefault, highest time.Duration) (time.Duration, error)
}

// ReadWait returns how long a request waits for an upload: 20 s by default, and a minute at most.
//
// Errors: M_INVALID_PARAM.
// Spec: client-server-api#get_matrixclientv1mediadownloadservernamemediaid
func ReadWait(q Query) (time.Duration, error) {
	return q.QueryMillis("timeout_ms", 20*time.Second, time.Minute)
}

// ReadSize returns the thumbnail that a request asks for.
//
// Errors: M_MISSING_PARAM, M_INVALID_PARAM.
// Spec: client-server-api#get_matrixclientv1mediathumbnailservernamemediaid
func ReadSize(q Query) (size Size, err error) {
	const largest = 1 << 20 // larger than any picture; a larger request gets the largest thumbnail
	for _, side := range []struct {
		name string
		to   *int
	}{{"width", &size.Width}, {"height", &size.Height}} {
		if q.Query(side.name) == "" {
			return size, mxerr.MissingParam("A thumbnail needs a %s", side.name)
		}
		n, err := q.QueryInt(side.name, 0, 1, largest)
		if err != nil {
			return size, err
		}
		*side.to = int(n)
	}
	switch q.Query("method") {
	case "crop":
		size.Crop = true
	case "", "scale":
	default:
		return size, mxerr.InvalidParam("method must be crop or scale")
	}
	size.Animated, err = q.QueryBool("animated", false)
	return size, err
}
