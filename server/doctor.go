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
)

// Finding is the result of one check of Diagnose.
type Finding struct {
	Check  string `json:"check"`
	Status string `json:"status"` // ok, warning, failed
	Detail string `json:"detail"`
	Mend   string `json:"mend,omitempty"` // what to do about it
}

// The outcomes of a check.
const (
	fine    = "ok"
	warning = "warning"
	failed  = "failed"
)

// doctor checks this server as another one would see it, from inside.
type doctor struct {
	cfg      *config.Config
	now      func() time.Time
	client   *fedclient.Client
	keys     *fedclient.SigningKeys
	findings []Finding
}

func (d *doctor) say(check, status, mend, format string, args ...any) {
	d.findings = append(d.findings, Finding{check, status, fmt.Sprintf(format, args...), mend})
}

// doctorName is the server name that the doctor uses, because a client sends no requests to its own name. The doctor's
// requests need no signature.
const doctorName = "doctor.invalid"

// Diagnose checks whether other servers can reach this one under its name. Each failed check says what to do about it.
// with is a server that is asked how it sees this one and what time it is, or "" for none. The error says why nothing
// could be checked.
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
	if cfg.Federation.Enabled {
		d.way(ctx)
		d.outside(ctx, with)
	}
	return d.findings, nil
}

// configuration checks the configuration, without any request.
func (d *doctor) configuration() {
	serves := slices.ContainsFunc(d.cfg.Listen, func(l config.Listener) bool { return slices.Contains(l.Serve, "federation") })
	switch {
	case !d.cfg.Federation.Enabled && serves:
		d.say("configuration", failed, "set federation.enabled to true, or take federation off listen", "an address serves federation, but federation.enabled is false")
	case !d.cfg.Federation.Enabled:
		d.say("configuration", warning, "to speak with other servers, set federation.enabled to true and add federation to serve of an address", "federation is off")
	case !serves:
		d.say("configuration", failed, "add federation to serve of an address in listen", "no address serves federation")
	default:
		d.say("configuration", fine, "", "federation is on as %s, signing with %s", d.cfg.ServerName, d.keys.Current().KeyID)
	}
}

// way resolves the name and checks each address that it leads to.
func (d *doctor) way(ctx context.Context) {
	route, err := d.client.Trace(ctx, d.cfg.ServerName)
	d.wellKnown(route)
	if err != nil {
		d.say("name", failed, "see the step before", "%s leads nowhere: %v", d.cfg.ServerName, err)
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
		d.say(check, fine, "", "is not asked for: %s is an IP address or has a port", d.cfg.ServerName)
	case d.cfg.WellKnown.Server != "":
		d.say(check, failed, fmt.Sprintf("let https://%s/.well-known/matrix/server reach this server, or serve there {\"m.server\": %q}", d.cfg.ServerName, d.cfg.WellKnown.Server),
			"well_known.server is %s, but others do not see it: %v", d.cfg.WellKnown.Server, r.WellKnownErr)
	default:
		d.say(check, fine, "", "delegates to nobody (%v)", r.WellKnownErr)
	}
}

// renewal is how long before its expiry a certificate should have been renewed.
const renewal = 14 * 24 * time.Hour

// address checks one address that the name resolves to: DNS, connection, certificate.
func (d *doctor) address(ctx context.Context, address, name string) bool {
	ips, err := d.client.LookUp(ctx, address)
	if err != nil {
		d.say("DNS", failed, "add an A or AAAA record for that name, or mend the SRV record or .well-known that names it", "%s: %v", address, err)
		return false
	}
	for _, ip := range ips {
		if !netguard.IsPublic(ip) {
			d.say("DNS", warning, "fine where this machine sees other names than the rest of the world; otherwise publish the public address", "%s is %s, which nobody outside can reach", address, ip)
		}
	}
	cert, err := d.client.Certificate(ctx, address, name)
	if err != nil {
		d.say("TLS", failed, mendTLS(err, name), "%s: %v", address, err)
		return false
	}
	if left := cert.NotAfter.Sub(d.now()); left < renewal {
		d.say("TLS", warning, "renew it; ebb reads a new file by itself", "%s: the certificate ends at %s", address, cert.NotAfter.Format(time.RFC3339))
		return true
	}
	d.say("TLS", fine, "", "%s (%s) shows a certificate for %s until %s", address, joined(ips), name, cert.NotAfter.Format(time.DateOnly))
	return true
}

func joined[T fmt.Stringer](list []T) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = v.String()
	}
	return strings.Join(words, ", ")
}

// mendTLS says what to do about a failed TLS connection.
func mendTLS(err error, name string) string {
	var (
		wrongName x509.HostnameError
		unknown   x509.UnknownAuthorityError
		invalid   x509.CertificateInvalidError
	)
	switch {
	case errors.As(err, &wrongName):
		return "get a certificate for " + name
	case errors.As(err, &unknown):
		return "serve the whole chain with the intermediate certificates (fullchain.pem), from an authority that others trust"
	case errors.As(err, &invalid):
		return "renew the certificate"
	}
	return "open the port in the firewall, forward it to this machine, and see that the server or its proxy listens there; a router may refuse the way from inside alone, which --with tells"
}

// ownKey checks that the server that answers under the name is this one.
func (d *doctor) ownKey(ctx context.Context) {
	raw, err := d.client.ServerKeys(ctx, d.cfg.ServerName)
	if err != nil {
		d.say("signing key", failed, "let the proxy pass /_matrix/key and /_matrix/federation on to an address that serves federation", "/_matrix/key/v2/server does not answer: %v", err)
		return
	}
	if why := d.strange(raw); why != "" {
		d.say("signing key", failed, "another server, or an older copy of this one, answers under the name: send its traffic here, or restore its signing.key", "%s", why)
		return
	}
	d.say("signing key", fine, "", "%s is told as it is", d.keys.Current().KeyID)
}

func validUntil(raw json.RawMessage) int64 {
	var answer struct {
		ValidUntil int64 `json:"valid_until_ts"`
	}
	_ = json.Unmarshal(raw, &answer) // 0 counts as expired long ago
	return answer.ValidUntil
}

// strange describes what is wrong with a key answer that should be this server's, or returns "".
func (d *doctor) strange(raw json.RawMessage) string {
	var answer struct {
		ServerName string `json:"server_name"`
		VerifyKeys map[string]struct {
			Key string `json:"key"`
		} `json:"verify_keys"`
	}
	now := d.keys.Current()
	switch err := json.Unmarshal(raw, &answer); {
	case err != nil:
		return "the answer is not that of a Matrix server"
	case answer.ServerName != d.cfg.ServerName:
		return fmt.Sprintf("a server that calls itself %.100q answers", answer.ServerName)
	case answer.VerifyKeys[string(now.KeyID)].Key != fedclient.EncodeKey(now):
		return fmt.Sprintf("the answer does not contain the key %s", now.KeyID)
	}
	return ""
}

// maxSkew is how far the clock may be off before the check fails.
const maxSkew = 30 * time.Second

// outside asks another server how it sees this one.
func (d *doctor) outside(ctx context.Context, with string) {
	if with == "" {
		d.say("from outside", warning, "run ebb doctor --with SERVER, a server that you trust to answer", "was not checked, and neither was the clock")
		return
	}
	date, err := d.client.Date(ctx, with)
	if err != nil {
		d.say("from outside", failed, "see whether this machine reaches the internet, and try another server", "%s: %v", with, err)
		return
	}
	if theirs, err := http.ParseTime(date); err == nil {
		if skew := d.now().Sub(theirs).Abs(); skew > maxSkew {
			d.say("clock", failed, "synchronise the machine's clock with NTP", "differs from that of %s by %s", with, skew.Round(time.Second))
		} else {
			d.say("clock", fine, "", "agrees with that of %s", with)
		}
	}
	// An answer that it fetched more than an hour ago is too old, so it has to ask this server again.
	until := d.now().Add(fedclient.KeyLife - time.Hour).UnixMilli()
	answers, err := d.client.QueryKeys(ctx, with, map[string]map[id.KeyID]int64{d.cfg.ServerName: {d.keys.Current().KeyID: until}})
	seen := slices.ContainsFunc(answers, func(raw json.RawMessage) bool { return d.strange(raw) == "" && validUntil(raw) >= until })
	switch {
	case err != nil:
		d.say("from outside", warning, "try another server", "%s did not answer: %v", with, err)
	case !seen:
		d.say("from outside", failed, "what works from inside fails from there: look at the firewall, at port forwarding, and at what DNS says outside", "%s does not get this server's key", with)
	default:
		d.say("from outside", fine, "", "%s gets this server's key", with)
	}
}
