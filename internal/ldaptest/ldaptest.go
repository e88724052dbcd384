// Package ldaptest runs an LDAP server with a few people in tests: slapd, if it is installed, or one inside the test.
package ldaptest

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Names of the directory.
const (
	Base           = "ou=people,dc=example,dc=org"
	SearchDN       = "cn=reader,dc=example,dc=org" // may read all entries
	SearchPassword = "reader secret"
)

// Person is an entry below Base.
type Person struct{ UID, Name, Mail, Password string }

// DN returns the name of the entry.
func (p Person) DN() string { return "uid=" + escapeDN(p.UID) + "," + Base }

func escapeDN(text string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`, `+`, `\+`, `"`, `\"`, `<`, `\<`, `>`, `\>`, `;`, `\;`, `=`, `\=`).Replace(text)
}

// People are the users of the directory. Two of them share an address.
var People = []Person{
	{"alice", "Alice Example", "alice@example.org", "alice secret"},
	{"Bob", "Bob Example", "bob@example.org", "bob secret"},
	{"carol1", "Carol", "carol@example.org", "carol secret"},
	{"carol2", "Carol", "carol@example.org", "carol secret"},
	{"s*r(x),y", "Star", "star@example.org", "star secret"},
}

// Kinds are the servers that can be started.
var Kinds = map[string]func(testing.TB) *Server{"slapd": startSlapd, "gldap": startGLDAP}

// Server is a running LDAP server.
type Server struct {
	Plain  string // its ldap:// URL, which offers StartTLS
	Secure string // its ldaps:// URL
	CA     []byte // PEM
	Stop   func() // stops it before the test ends
	cert   tls.Certificate
}

// Roots returns the certificate authorities to trust.
func (s *Server) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA)
	return pool
}

// newServer returns a server with a certificate for 127.0.0.1.
func newServer() *Server {
	h := httptest.NewTLSServer(nil)
	defer h.Close()
	return &Server{cert: h.TLS.Certificates[0], CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})}
}

// freePort returns a port of 127.0.0.1 on which nobody listens at the moment.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// maxTries bounds how often a server is started on other ports, which another process may have taken in the meantime.
const maxTries = 5

// answers waits until a port accepts connections. It returns false if the server ends or does not begin to.
func answers(port int, ended <-chan struct{}) bool {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second); err == nil { //nolint:noctx // it has a timeout
			_ = c.Close()
			return true
		}
		select {
		case <-ended:
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
	return false
}
