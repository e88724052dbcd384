package fedclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"ebb/keyed"
	"ebb/netguard"
	"ebb/rooms/pdu"
)

// Resolver resolves the names of servers; *net.Resolver implements it.
type Resolver interface {
	netguard.Resolver
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, records []*net.SRV, err error)
}

// target is the result of resolving a server name.
type target struct {
	host      string   // value of the Host header
	tlsName   string   // the name or IP address that the certificate must be valid for
	addresses []string // HOST:PORT, in the order in which they are tried
}

// These constants bound the size, redirects and lifetime of .well-known responses.
const (
	wellKnownTime      = 10 * time.Second
	maxWellKnown       = 50 << 10 // bytes
	maxWellKnownHops   = 5        // redirects
	minWellKnownLife   = 5 * time.Minute
	usualWellKnownLife = 24 * time.Hour
	maxWellKnownLife   = 48 * time.Hour
	maxWellKnownRetry  = time.Hour
	// targetLife is how long DNS results are cached. Servers move rarely, and a name is resolved again if its addresses
	// fail.
	targetLife = 5 * time.Minute
	// maxTargets bounds the cached names and addresses, and maxDelegations the cached .well-known responses, in bytes.
	// The usual ones take 300 and 200.
	maxTargets     = 6 << 20
	maxDelegations = 4 << 20
)

// wellKnownBackoff determines when .well-known is requested again for a name that had no valid response.
var wellKnownBackoff = keyed.Backoff{First: time.Minute, Max: maxWellKnownRetry}

// resolver resolves server names and caches the results.
// Spec: server-server-api#resolving-server-names
type resolver struct {
	lookup Resolver
	now    func() time.Time
	http   *http.Client // for requesting .well-known

	targets   *keyed.Memo[string, target]
	wellKnown *keyed.Map[string, delegation]
}

// delegation is the .well-known response of a name, and the time at which it is requested again.
type delegation struct {
	server string // empty if there is none
	retry  keyed.Retry
}

// sizeOfDelegation and sizeOfTarget estimate the memory that a cached entry takes.
func sizeOfDelegation(name string, d delegation) int64 { return int64(192 + len(name) + len(d.server)) }

func sizeOfTarget(name string, t target) int64 {
	size := 160 + len(name) + len(t.host) + len(t.tlsName)
	for _, address := range t.addresses {
		size += 16 + len(address)
	}
	return int64(size)
}

func newResolver(o Options, dialer *netguard.Dialer) *resolver {
	r := &resolver{
		lookup: o.Resolver, now: o.Now, wellKnown: keyed.NewSizedMap(o.Cache.Bytes(maxDelegations), sizeOfDelegation),
		targets: keyed.NewMemo(keyed.Options[string, target]{Bytes: o.Cache.Bytes(maxTargets), Size: sizeOfTarget, Lifetime: targetLife, Now: o.Now}),
	}
	r.http = netguard.NewClient(netguard.ClientOptions{
		Dialer: dialer, Roots: o.Roots, Now: o.Now, Timeout: wellKnownTime, MaxBody: maxWellKnown, MaxRedirects: maxWellKnownHops,
	})
	return r
}

// resolve returns the target for a server name.
func (r *resolver) resolve(ctx context.Context, server string) (target, error) {
	return r.targets.Get(ctx, server, func(ctx context.Context) (target, error) {
		ctx, cancel := context.WithTimeout(ctx, usualTime)
		defer cancel()
		return r.find(ctx, server)
	})
}

// forget drops the cached target of a name because none of its addresses responded.
func (r *resolver) forget(server string) { r.targets.Forget(server) }

func (r *resolver) find(ctx context.Context, server string) (target, error) {
	host, port := splitName(server)
	if t, ok := literal(server, host, port); ok { // 1. an IP address
		return t, nil
	}
	if server[0] == '[' {
		return target{}, fmt.Errorf("%s is not a valid IP address", server)
	}
	if port != "" { // 2. a name with a port
		return target{host: server, tlsName: host, addresses: []string{net.JoinHostPort(host, port)}}, nil
	}
	if delegated := r.delegation(ctx, host); delegated != "" { // 3. a .well-known delegation
		dhost, dport := splitName(delegated)
		if t, ok := literal(delegated, dhost, dport); ok { // 3.1
			return t, nil
		}
		if delegated[0] == '[' {
			return target{}, fmt.Errorf("%s is delegated to %s, which is not a valid IP address", server, delegated)
		}
		if dport != "" { // 3.2
			return target{host: delegated, tlsName: dhost, addresses: []string{net.JoinHostPort(dhost, dport)}}, nil
		}
		return r.byDNS(ctx, dhost), nil // 3.3 to 3.5
	}
	return r.byDNS(ctx, host), nil // 4. to 6.
}

// splitName splits a server name into host and port. It removes the brackets of an IPv6 address.
func splitName(server string) (host, port string) {
	if strings.HasPrefix(server, "[") {
		address, rest, _ := strings.Cut(server[1:], "]")
		return address, strings.TrimPrefix(rest, ":")
	}
	host, port, _ = strings.Cut(server, ":")
	return host, port
}

// HostOf returns a server name without its port. It keeps the brackets of an IPv6 address.
func HostOf(server string) string {
	if end := strings.LastIndexByte(server, ':'); end >= 0 && end > strings.LastIndexByte(server, ']') {
		return server[:end]
	}
	return server
}

// fedPort is the default federation port.
const fedPort = "8448"

func literal(server, host, port string) (target, bool) {
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return target{}, false
	}
	if port == "" {
		port = fedPort
	}
	return target{host: server, tlsName: addr.String(), addresses: []string{net.JoinHostPort(addr.String(), port)}}, true
}

// byDNS returns the targets of the SRV records in their order. It uses the deprecated service only if the current one
// has no records. If there are no SRV records, it returns the host with port 8448.
func (r *resolver) byDNS(ctx context.Context, host string) target {
	t := target{host: host, tlsName: host}
	for _, service := range []string{"matrix-fed", "matrix"} {
		_, records, err := r.lookup.LookupSRV(ctx, service, "tcp", host)
		if err != nil {
			continue
		}
		for _, srv := range records[:min(len(records), maxSRV)] {
			name := strings.TrimSuffix(srv.Target, ".")
			if name != "" {
				t.addresses = append(t.addresses, net.JoinHostPort(name, strconv.Itoa(int(srv.Port))))
			}
		}
		if len(t.addresses) > 0 {
			return t
		}
	}
	t.addresses = []string{net.JoinHostPort(host, fedPort)}
	return t
}

// maxSRV bounds the SRV records that are tried for one name.
const maxSRV = 8

// delegation returns the server that a name's .well-known delegates to, or "" if there is none.
// Spec: server-server-api#getwell-knownmatrixserver
func (r *resolver) delegation(ctx context.Context, host string) string {
	d, _ := r.wellKnown.Get(host)
	if !d.retry.Due(r.now()) {
		return d.server
	}
	server, life, err := r.fetchWellKnown(ctx, host)
	switch {
	case err == nil:
		d.server = server
		d.retry.Succeeded(r.now(), life)
	case d.retry.Failures > 0: // the last success is too long ago
		d.server = ""
		fallthrough
	default:
		d.retry.Failed(r.now(), wellKnownBackoff)
	}
	r.wellKnown.Put(host, d)
	return d.server
}

func (r *resolver) fetchWellKnown(ctx context.Context, host string) (server string, life time.Duration, err error) {
	hr, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/.well-known/matrix/server", http.NoBody)
	if err != nil {
		return "", 0, err
	}
	resp, err := r.http.Do(hr)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", 0, fmt.Errorf("status %d", resp.StatusCode)
	}
	body, err := readAtMost(resp.Body, maxWellKnown)
	if err != nil {
		return "", 0, err
	}
	var said struct {
		Server string `json:"m.server"`
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return "", 0, err
	}
	if !pdu.ValidServerName(said.Server) {
		return "", 0, fmt.Errorf("%.100q is not a valid server name", said.Server)
	}
	return said.Server, lifeOf(resp.Header, r.now()), nil
}

// lifeOf returns how long a response may be cached according to its headers, within bounds.
func lifeOf(h http.Header, now time.Time) time.Duration {
	life := usualWellKnownLife
	if expires, err := http.ParseTime(h.Get("Expires")); err == nil {
		life = expires.Sub(now)
	}
	for _, d := range strings.Split(h.Get("Cache-Control"), ",") {
		d = strings.ToLower(strings.TrimSpace(d))
		if d == "no-store" || d == "no-cache" {
			life = 0
		}
		if age, ok := strings.CutPrefix(d, "max-age="); ok {
			if seconds, err := strconv.Atoi(age); err == nil && seconds >= 0 {
				life = time.Second * time.Duration(min(seconds, int(maxWellKnownLife.Seconds())))
			}
		}
	}
	return min(max(life, minWellKnownLife), maxWellKnownLife)
}
