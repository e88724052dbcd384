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

// These constants bound lookups in third-party networks.
const (
	maxLookupTime   = 10 * time.Second // how long a request waits for all application services together
	protocolTime    = 10 * time.Minute // how long the description of a protocol is cached
	maxProtocols    = 1000             // cached descriptions
	maxFound        = 500              // users or locations accepted from one application service
	maxLookupFields = 20               // fields of one lookup
)

// Protocol describes a third-party network to clients.
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

// Protocols returns the third-party networks that application services reach, by name. Unless only is empty, it returns
// only the network with that name. It leaves out networks whose application service does not answer.
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
			r.log.InfoContext(ctx, "an application service did not describe its protocol", "appservice", k.app, "protocol", k.protocol, "err", err)
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
		if merged, known := out[name]; known { // each of several bridges to one network adds its instances
			merged.Instances = append(slices.Clone(merged.Instances), p.Instances...)
			out[name] = merged
			continue
		}
		out[name] = *p
	}
	return out
}

// errNoApp means that the application service is no longer registered.
var errNoApp = errors.New("the application service is no longer registered")

// protocol asks an application service for the description of one of its protocols.
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
		return nil, errors.New("the description of the protocol is not valid")
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

// instanceID returns the ID with which clients select a network in the room directory.
func instanceID(app, network string) string { return app + "|" + network }

func thirdPartyCall(path string, query url.Values) call {
	return call{method: "GET", path: "/_matrix/app/v1/thirdparty" + path, legacy: "/_matrix/app/unstable/thirdparty" + path, query: query}
}

// These are the kinds of objects that can be looked up in a third-party network.
const (
	Locations = "location"
	Users     = "user"
)

// ByProtocol finds users or locations in a third-party network by the given fields.
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
		return nil, mxerr.NotFound("This server has no bridge to the network %.100q", protocol)
	}
	return found, nil
}

// ByID finds the users or locations in third-party networks that a user ID or an alias represents.
// Spec: client-server-api#get_matrixclientv3thirdpartyuser
func (r *Registry) ByID(ctx context.Context, kind, name, value string) []json.RawMessage {
	return r.lookUp(ctx, kind, "/"+kind, url.Values{name: {value}}, func(a *app) bool { return len(a.Protocols) > 0 })
}

// lookUp asks several application services in parallel and returns everything that they find. An application service
// that does not answer in time contributes nothing.
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
			return nil // 404 also stands for no result
		}
		list = slices.DeleteFunc(list, func(one json.RawMessage) bool { return !isFound(kind, one) })
		return list[:min(len(list), maxFound)]
	})
	return append([]json.RawMessage{}, slices.Concat(answers...)...) // not nil, which would be encoded as null
}

// isFound reports whether an element of an answer has the fields that clients require.
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

// inParallel calls f for all keys in parallel, for at most maxLookupTime.
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
