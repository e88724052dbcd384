package fedclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"ebb/netguard"
)

const (
	dialTime      = 10 * time.Second
	headerTime    = 2 * time.Minute // a server may take long to answer a join
	idleTime      = 90 * time.Second
	maxIdleConns  = 1000
	maxConns      = 16 // per server, with HTTP/1.1
	maxHeaderSize = 64 << 10
)

// serverKey is the context key for the server name of a request.
type serverKey struct{}

// poolHost returns a host name, for URLs, that is unique to a server name. It makes net/http pool connections by
// server.
func poolHost(server string) string {
	return url.PathEscape(strings.NewReplacer("[", "", "]", "-", ":", "_").Replace(server))
}

func newTransport(o Options, r *resolver, dialer *netguard.Dialer) *http.Transport {
	return &http.Transport{
		DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			server, _ := ctx.Value(serverKey{}).(string)
			return dialServer(ctx, o, r, dialer, network, server)
		},
		ForceAttemptHTTP2: true, MaxIdleConns: maxIdleConns, MaxConnsPerHost: maxConns, IdleConnTimeout: idleTime,
		ResponseHeaderTimeout: headerTime, MaxResponseHeaderBytes: maxHeaderSize, DisableCompression: true,
	}
}

// dialServer tries the addresses of a server name in order.
func dialServer(ctx context.Context, o Options, r *resolver, dialer *netguard.Dialer, network, server string) (net.Conn, error) {
	t, err := r.resolve(ctx, server)
	if err != nil {
		return nil, err
	}
	for _, address := range t.addresses {
		var conn net.Conn
		if conn, err = dialTLS(ctx, o, dialer, network, address, t.tlsName); err == nil {
			return conn, nil
		}
	}
	r.forget(server)
	return nil, err
}

func dialTLS(ctx context.Context, o Options, dialer *netguard.Dialer, network, address, name string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	raw, err := dialer.DialContext(ctx, network, address)
	if errors.Is(err, netguard.ErrPrivateAddress) {
		return nil, fmt.Errorf("%w; federation.allow_private_addresses would allow it", err)
	}
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, tlsConfig(o, name))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the error of the handshake is returned
		return nil, err
	}
	return conn, nil
}

// tlsConfig returns the configuration for connecting to a server that must present a certificate for name, which may be
// an IP address.
func tlsConfig(o Options, name string) *tls.Config {
	c := &tls.Config{RootCAs: o.Roots, ServerName: name, MinVersion: tls.VersionTLS12, Time: o.Now}
	if name != "" {
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	return c
}
