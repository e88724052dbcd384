package feed

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"ebb/ident"
	"ebb/mxerr"
	"ebb/storage"
)

// maxStoredFilters bounds the stored filters of one user. Beyond it the oldest are deleted; a client whose filter is
// unknown stores it again.
const maxStoredFilters = 500

// DefineFilter stores a filter verbatim and returns its ID.
// Spec: client-server-api#post_matrixclientv3useruseridfilter
func (s *Service) DefineFilter(ctx context.Context, user ident.UserNID, raw []byte) (string, error) {
	if _, err := ParseFilter(raw); err != nil {
		return "", mxerr.BadJSON("%v", err)
	}
	var nid int64
	err := s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
		nid, err = tx.AddSyncFilter(user, string(raw), maxStoredFilters)
		return err
	})
	return strconv.FormatInt(nid, 10), err
}

// errNoFilter is returned for a filter that the user has not defined.
var errNoFilter error = mxerr.NotFound("There is no such filter")

// StoredFilter returns a filter's JSON as it was stored. Errors: M_NOT_FOUND.
// Spec: client-server-api#get_matrixclientv3useruseridfilterfilterid
func (s *Service) StoredFilter(ctx context.Context, user ident.UserNID, filterID string) ([]byte, error) {
	nid, err := strconv.ParseInt(filterID, 10, 64)
	if err != nil {
		return nil, errNoFilter
	}
	var raw string
	var found bool
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		raw, found, err = tx.SyncFilter(user, nid)
		return err
	})
	if err == nil && !found {
		err = errNoFilter
	}
	return []byte(raw), err
}

// filterOf returns the filter that a request names by ID or contains as JSON.
func (s *Service) filterOf(ctx context.Context, who ident.Requester, text string) (*cachedFilter, error) {
	inline := text == "" || strings.HasPrefix(text, "{")
	key := text
	if !inline {
		key = fmt.Sprintf("%d/%s", who.UserNID, text)
	}
	if f := s.filters.get(key); f != nil {
		return f, nil
	}
	raw := []byte(text)
	switch {
	case text == "":
		raw = []byte("{}")
	case !inline:
		var err error
		if raw, err = s.StoredFilter(ctx, who.UserNID, text); err != nil {
			// An unknown filter is the client's mistake here, not a missing page.
			if errors.Is(err, errNoFilter) {
				return nil, mxerr.InvalidParam("Unknown filter %.32q", text)
			}
			return nil, err
		}
	}
	f, err := ParseFilter(raw)
	if err != nil {
		return nil, mxerr.InvalidParam("Invalid filter: %v", err)
	}
	return s.filters.put(key, f, raw), nil
}
