package appservice

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"sync"
	"time"

	"ebb/keyed"
	"ebb/mxerr"
)

// Bounds of lookups in third-party networks.
const (
	maxLookupTime   = 10 * time.Second // how long somebody waits for all application services
	protocolTime    = 10 * time.Minute // how long what an application service says of a protocol is kept
	maxProtocols    = 1000             // descriptions that are kept
	maxFound        = 500              // users or locations that one application service finds
	maxLookupFields = 20               // fields of a search
)

// Protocol is a third-party network, as clients get it.
// Spec: client-server-api#get_matrixclientv3thirdpartyprotocols
type Protocol struct {
	UserFields     json.RawMessage              `json:"user_fields"`
	LocationFields json.RawMessage              `json:"location_fields"`
	Icon           json.RawMessage              `json:"icon"`
	FieldTypes     json.RawMessage              `json:"field_types"`
	Instances      []map[string]json.RawMessage `json:"instances"`
}

type protocolKey struct{ app, protocol string }

func newProtocols(now func() time.Time) *keyed.Memo[protocolKey, *Protocol] {
	return keyed.NewMemo(keyed.Options[protocolKey, *Protocol]{Entries: maxProtocols, Lifetime: protocolTime, Now: now})
}

// Protocols returns the third-party networks that application services reach, by name, or only the named one. Those
// whose application service does not answer are left out.
func (r *Registry) Protocols(ctx context.Context, only string) map[string]Protocol {
	if !r.Any() {
		return map[string]Protocol{}
	}
	var asked []protocolKey
	for _, a := range r.all() {
		for _, name := range a.Protocols {
			if a.URL != "" && (only == "" || only == name) {
				asked = append(asked, protocolKey{a.ID, name})
			}
		}
	}
	answers := inParallel(ctx, asked, func(ctx context.Context, k protocolKey) *Protocol {
		p, err := r.protocols.Get(ctx, k, func(ctx context.Context) (*Protocol, error) { return r.protocol(ctx, k) })
		if err != nil {
			r.log.InfoContext(ctx, "an application service does not describe its protocol", "appservice", k.app, "protocol", k.protocol, "err", err)
			return nil
		}
		return p
	})
	out := map[string]Protocol{}
	for i, p := range answers {
		if p == nil {
			continue
		}
		name := asked[i].protocol
		if merged, known := out[name]; known { // several bridges to one network have an instance each
			merged.Instances = append(slices.Clone(merged.Instances), p.Instances...)
			out[name] = merged
			continue
		}
		out[name] = *p
	}
	return out
}

// errNoApp means that an application service is not registered any more.
var errNoApp = errors.New("the application service is not registered any more")

// protocol asks an application service for one of its protocols.
// Spec: application-service-api#get_matrixappv1thirdpartyprotocolprotocol
func (r *Registry) protocol(ctx context.Context, k protocolKey) (*Protocol, error) {
	a := r.apps.Load().byID[k.app]
	if a == nil {
		return nil, errNoApp
	}
	raw, err := r.do(ctx, a, thirdPartyCall("/protocol/"+url.PathEscape(k.protocol), nil))
	if err != nil {
		return nil, err
	}
	p := &Protocol{}
	if err := json.Unmarshal(raw, p); err != nil {
		return nil, errors.New("the description does not have the documented shape")
	}
	for member, empty := range map[*json.RawMessage]string{&p.UserFields: "[]", &p.LocationFields: "[]", &p.Icon: `""`, &p.FieldTypes: "{}"} {
		if *member == nil {
			*member = json.RawMessage(empty)
		}
	}
	if p.Instances == nil {
		p.Instances = []map[string]json.RawMessage{}
	}
	for _, instance := range p.Instances {
		var network string
		if json.Unmarshal(instance["network_id"], &network) == nil {
			instance["instance_id"], _ = json.Marshal(instanceID(a.ID, network)) // a string always encodes
		}
	}
	return p, nil
}

// instanceID returns the ID by which clients name the room directory of a network.
func instanceID(app, network string) string { return app + "|" + network }

func thirdPartyCall(path string, query url.Values) call {
	return call{method: "GET", path: "/_matrix/app/v1/thirdparty" + path, legacy: "/_matrix/app/unstable/thirdparty" + path, query: query}
}

// The kinds of what is looked up in a third-party network.
const (
	Locations = "location"
	Users     = "user"
)

// ByProtocol finds users or locations of a third-party network by the fields of a search.
// Spec: client-server-api#get_matrixclientv3thirdpartyuserprotocol
//
// Errors: M_NOT_FOUND if no application service reaches the network, M_INVALID_PARAM.
func (r *Registry) ByProtocol(ctx context.Context, kind, protocol string, fields url.Values) ([]json.RawMessage, error) {
	if len(fields) > maxLookupFields {
		return nil, mxerr.InvalidParam("A search must not have more than %d fields", maxLookupFields)
	}
	known := false
	found := r.lookUp(ctx, kind, "/"+kind+"/"+url.PathEscape(protocol), fields, func(a *app) bool {
		reaches := slices.Contains(a.Protocols, protocol)
		known = known || reaches
		return reaches
	})
	if !known {
		return nil, mxerr.NotFound("No bridge of this server reaches the network %.100q", protocol)
	}
	return found, nil
}

// ByID finds the users or locations that a user ID or an alias stands for.
// Spec: client-server-api#get_matrixclientv3thirdpartyuser
func (r *Registry) ByID(ctx context.Context, kind, name, value string) []json.RawMessage {
	return r.lookUp(ctx, kind, "/"+kind, url.Values{name: {value}}, func(a *app) bool { return len(a.Protocols) > 0 })
}

// lookUp asks application services at the same time and returns all that they find. Those that do not answer in time
// find nothing.
func (r *Registry) lookUp(ctx context.Context, kind, path string, query url.Values, concerned func(*app) bool) []json.RawMessage {
	var asked []*app
	for _, a := range r.all() {
		if concerned(a) && a.URL != "" {
			asked = append(asked, a)
		}
	}
	answers := inParallel(ctx, asked, func(ctx context.Context, a *app) []json.RawMessage {
		raw, err := r.do(ctx, a, thirdPartyCall(path, query))
		var list []json.RawMessage
		if err != nil || json.Unmarshal(raw, &list) != nil {
			return nil // 404 for nothing, too
		}
		list = slices.DeleteFunc(list, func(one json.RawMessage) bool { return !isFound(kind, one) })
		return list[:min(len(list), maxFound)]
	})
	return append([]json.RawMessage{}, slices.Concat(answers...)...) // never nil, which would be null in JSON
}

// isFound reports whether an element of an answer has the members that clients need.
func isFound(kind string, raw json.RawMessage) bool {
	var one struct {
		Alias    string          `json:"alias"`
		User     string          `json:"userid"`
		Protocol string          `json:"protocol"`
		Fields   json.RawMessage `json:"fields"`
	}
	if json.Unmarshal(raw, &one) != nil || one.Protocol == "" || !bytes.HasPrefix(one.Fields, []byte("{")) {
		return false
	}
	return kind == Locations && one.Alias != "" || kind == Users && one.User != ""
}

// inParallel calls f for all keys at the same time, for maxLookupTime at most.
func inParallel[K, V any](ctx context.Context, keys []K, f func(context.Context, K) V) []V {
	ctx, cancel := context.WithTimeout(ctx, maxLookupTime)
	defer cancel()
	out := make([]V, len(keys))
	var wg sync.WaitGroup
	for i, k := range keys {
		wg.Go(func() { out[i] = f(ctx, k) })
	}
	wg.Wait()
	return out
}
