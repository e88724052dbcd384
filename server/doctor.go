package server

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/config"
	"ebb/fedclient"
	"ebb/netguard"
	"ebb/storage"
)

// Finding is the result of one check made by Diagnose.
type Finding struct {
	Check  string `json:"check"`
	Status string `json:"status"` // ok, warning, failed
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"` // how to fix the problem
}

// Values of Finding.Status.
const (
	fine    = "ok"
	warning = "warning"
	failed  = "failed"
)

// doctor checks, from this machine, whether other servers can reach this server.
type doctor struct {
	cfg      *config.Config
	now      func() time.Time
	client   *fedclient.Client
	keys     *fedclient.SigningKeys
	findings []Finding
}

func (d *doctor) say(check, status, fix, format string, args ...any) {
	d.findings = append(d.findings, Finding{check, status, fmt.Sprintf(format, args...), fix})
}

// doctorName is the server name under which the doctor sends its requests. It differs from the configured name because
// a client sends no requests to its own server. The doctor's requests need no signature.
const doctorName = "doctor.invalid"

// Diagnose checks whether other servers can reach this one under its name. Each finding about a problem says how to fix
// it. If with is the name of another server, Diagnose also asks that server for the keys of this one and for the time.
// Diagnose returns an error only if the checks could not run at all.
func Diagnose(ctx context.Context, cfg *config.Config, o Options, with string) ([]Finding, error) {
	roots, err := cfg.Authorities()
	if err != nil {
		return nil, fmt.Errorf("federation.trusted_ca_file: %w", err)
	}
	keys, err := fedclient.LoadSigningKeys(cfg.KeyFile(), cfg.ServerName)
	if err != nil {
		return nil, err
	}
	o.setDefaults()
	d := &doctor{cfg: cfg, now: o.Now, keys: keys}
	d.client = fedclient.New(fedclient.Options{
		Server: doctorName, Signer: keys, Now: o.Now, Roots: roots, AllowPrivate: true, Resolver: o.Resolver, Dial: o.Dial, UserAgent: "Ebb/" + o.Version,
	})
	defer d.client.Close()
	d.configuration()
	d.holds(ctx)
	d.messageKeys(ctx)
	if cfg.Federation.Enabled {
		d.resolve(ctx)
		d.outside(ctx, with)
	}
	return d.findings, nil
}

// configuration checks the configuration; it sends no requests.
func (d *doctor) configuration() {
	serves := slices.ContainsFunc(d.cfg.Listen, func(l config.Listener) bool { return slices.Contains(l.Serve, "federation") })
	switch {
	case !d.cfg.Federation.Enabled && serves:
		d.say("configuration", failed, "set federation.enabled to true, or remove federation from the addresses in listen", "an address serves federation, but federation.enabled is false")
	case !d.cfg.Federation.Enabled:
		d.say("configuration", warning, "to communicate with other servers, set federation.enabled to true and add federation to serve of an address in listen", "federation is off")
	case !serves:
		d.say("configuration", failed, "add federation to serve of an address in listen", "no address serves federation")
	default:
		d.say("configuration", fine, "", "federation is on; the server name is %s and the signing key %s", d.cfg.ServerName, d.keys.Current().KeyID)
	}
}

// holds warns of legal holds that were to be reviewed by now.
func (d *doctor) holds(ctx context.Context) {
	const check = "holds"
	overdue, err := storage.PeekOverdueHolds(ctx, d.cfg.DSN(), d.now().UnixMilli())
	switch {
	case err != nil:
		d.say(check, warning, "", "legal holds cannot be read: %v", err)
	case overdue > 0:
		d.say(check, warning, "decide about them: see ebb hold list, then ebb hold review or ebb hold lift", "%d legal holds are past their review date", overdue)
	}
}

// resolve resolves the server name and checks each address that it resolves to.
func (d *doctor) resolve(ctx context.Context) {
	route, err := d.client.Trace(ctx, d.cfg.ServerName)
	d.wellKnown(route)
	if err != nil {
		d.say("name", failed, "fix the problem reported above", "%s cannot be resolved: %v", d.cfg.ServerName, err)
		return
	}
	reached := false
	for _, address := range route.Addresses {
		reached = d.address(ctx, address, route.TLSName) || reached
	}
	if reached {
		d.ownKey(ctx)
	}
}

func (d *doctor) wellKnown(r fedclient.Route) {
	const check = ".well-known"
	switch {
	case r.WellKnown != "":
		d.say(check, fine, "", "delegates to %s", r.WellKnown)
	case r.WellKnownErr == nil:
		d.say(check, fine, "", "not used, because %s is an IP address or has a port", d.cfg.ServerName)
	case d.cfg.WellKnown.Server != "":
		d.say(check, failed, fmt.Sprintf("forward https://%s/.well-known/matrix/server to this server, or serve {\"m.server\": %q} there", d.cfg.ServerName, d.cfg.WellKnown.Server),
			"well_known.server is %s, but other servers cannot read it: %v", d.cfg.WellKnown.Server, r.WellKnownErr)
	default:
		d.say(check, fine, "", "no delegation (%v)", r.WellKnownErr)
	}
}

// renewal is how long before it expires a certificate should have been renewed.
const renewal = 14 * 24 * time.Hour

// address checks one address that the server name resolves to: its DNS entry, the connection and the certificate.
func (d *doctor) address(ctx context.Context, address, name string) bool {
	ips, err := d.client.LookUp(ctx, address)
	if err != nil {
		d.say("DNS", failed, "add an A or AAAA record for that name, or correct the SRV record or .well-known file that refers to it", "%s: %v", address, err)
		return false
	}
	for _, ip := range ips {
		if !netguard.IsPublic(ip) {
			d.say("DNS", warning, "this is fine if DNS gives this machine other addresses than the rest of the world; otherwise publish the public address", "%s has the address %s, which other servers cannot reach", address, ip)
		}
	}
	cert, err := d.client.Certificate(ctx, address, name)
	if err != nil {
		d.say("TLS", failed, fixTLS(err, name), "%s: %v", address, err)
		return false
	}
	if left := cert.NotAfter.Sub(d.now()); left < renewal {
		d.say("TLS", warning, "renew the certificate; ebb reads the new file by itself", "%s: the certificate expires at %s", address, cert.NotAfter.Format(time.RFC3339))
		return true
	}
	d.say("TLS", fine, "", "%s (%s) has a certificate for %s that is valid until %s", address, joined(ips), name, cert.NotAfter.Format(time.DateOnly))
	return true
}

func joined[T fmt.Stringer](list []T) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = v.String()
	}
	return strings.Join(words, ", ")
}

// fixTLS returns advice on fixing a failed TLS connection.
func fixTLS(err error, name string) string {
	var (
		wrongName x509.HostnameError
		unknown   x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &wrongName):
		return "get a certificate for " + name
	case errors.As(err, &unknown):
		return "use a certificate from an authority that other servers trust, and serve the complete chain with the intermediate certificates (fullchain.pem)"
	case errors.As(err, &invalid):
		return "renew the certificate"
	}
	return "open the port in the firewall, forward it to this machine, and check that the server or its proxy listens on it; if only connections from inside the network fail, which some routers cause, --with shows that the port can be reached from outside"
}

// ownKey checks that it is this server that answers requests for the server name.
func (d *doctor) ownKey(ctx context.Context) {
	raw, err := d.client.ServerKeys(ctx, d.cfg.ServerName)
	if err != nil {
		d.say("signing key", failed, "configure the proxy to forward /_matrix/key and /_matrix/federation to an address that serves federation", "the request to /_matrix/key/v2/server failed: %v", err)
		return
	}
	if why := d.wrongKeys(raw); why != "" {
		d.say("signing key", failed, "another server, or an older copy of this one, answers for the server name: direct the traffic to this server, or restore its signing.key", "%s", why)
		return
	}
	d.say("signing key", fine, "", "the server publishes its key %s", d.keys.Current().KeyID)
}

func validUntil(raw json.RawMessage) int64 {
	var answer struct {
		ValidUntil int64 `json:"valid_until_ts"`
	}
	_ = json.Unmarshal(raw, &answer) // a malformed answer yields 0, which counts as expired
	return answer.ValidUntil
}

// wrongKeys describes how a key response differs from the one this server would give. It returns "" if the response is
// right.
func (d *doctor) wrongKeys(raw json.RawMessage) string {
	var answer struct {
		ServerName string `json:"server_name"`
		VerifyKeys map[string]struct {
			Key string `json:"key"`
		} `json:"verify_keys"`
	}
	now := d.keys.Current()
	switch err := json.Unmarshal(raw, &answer); {
	case err != nil:
		return "the response is not that of a Matrix server"
	case answer.ServerName != d.cfg.ServerName:
		return fmt.Sprintf("the server that answers calls itself %.100q", answer.ServerName)
	case answer.VerifyKeys[string(now.KeyID)].Key != fedclient.EncodeKey(now):
		return fmt.Sprintf("the response does not contain the key %s", now.KeyID)
	}
	return ""
}

// maxSkew is the clock difference beyond which the check of the clock fails.
const maxSkew = 30 * time.Second

// outside asks another server for this server's key and for the time.
func (d *doctor) outside(ctx context.Context, with string) {
	if with == "" {
		d.say("from outside", warning, "run ebb doctor --with SERVER, where SERVER is another homeserver that you trust", "neither reachability from outside nor the clock was checked")
		return
	}
	date, err := d.client.Date(ctx, with)
	if err != nil {
		d.say("from outside", failed, "check that this machine can reach the internet, or try another server", "%s: %v", with, err)
		return
	}
	if theirs, err := http.ParseTime(date); err == nil {
		if skew := d.now().Sub(theirs).Abs(); skew > maxSkew {
			d.say("clock", failed, "synchronise the machine's clock with NTP", "the clocks of this server and %s differ by %s", with, skew.Round(time.Second))
		} else {
			d.say("clock", fine, "", "the clocks of this server and %s agree", with)
		}
	}
	// A copy of the key that the other server fetched more than an hour ago does not count, so that the server has to
	// connect to this one again.
	until := d.now().Add(fedclient.KeyLife - time.Hour).UnixMilli()
	answers, err := d.client.QueryKeys(ctx, with, map[string]map[id.KeyID]int64{d.cfg.ServerName: {d.keys.Current().KeyID: until}})
	seen := slices.ContainsFunc(answers, func(raw json.RawMessage) bool { return d.wrongKeys(raw) == "" && validUntil(raw) >= until })
	switch {
	case err != nil:
		d.say("from outside", warning, "try another server", "%s did not answer: %v", with, err)
	case !seen:
		d.say("from outside", failed, "if the checks from this machine pass, check the firewall, the port forwarding and what DNS returns outside this network", "%s cannot fetch this server's key", with)
	default:
		d.say("from outside", fine, "", "%s can fetch this server's key", with)
	}
}
