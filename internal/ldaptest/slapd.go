package ldaptest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// startSlapd starts OpenLDAP's server in a folder of its own. It skips the test if slapd is not installed.
func startSlapd(t testing.TB) *Server {
	t.Helper()
	program, err := exec.LookPath("slapd")
	if err != nil {
		program = "/usr/sbin/slapd"
	}
	if _, err := os.Stat(program); err != nil {
		t.Skip("slapd is not installed: apt-get install slapd")
	}
	s, dir := newServer(), t.TempDir()
	configure(t, s, dir)
	for range maxTries {
		plain, secure := freePort(t), freePort(t)
		s.Plain, s.Secure = fmt.Sprintf("ldap://127.0.0.1:%d", plain), fmt.Sprintf("ldaps://127.0.0.1:%d", secure)
		var out bytes.Buffer
		//nolint:gosec // all arguments are made here
		cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, "-d", "0", "-f", filepath.Join(dir, "slapd.conf"), "-h", s.Plain+" "+s.Secure)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			_ = cmd.Wait() // it is killed in the end
			close(ended)
		}()
		s.Stop = sync.OnceFunc(func() {
			_ = cmd.Process.Kill() // it may have ended
			<-ended
		})
		if answers(plain, ended) && answers(secure, ended) {
			t.Cleanup(s.Stop)
			return s
		}
		s.Stop()
		t.Log(out.String())
	}
	t.Fatal("slapd does not start")
	return nil
}

// configure writes the configuration and the entries of slapd.
func configure(t testing.TB, s *Server, dir string) {
	t.Helper()
	write := func(name string, content []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key, err := x509.MarshalPKCS8PrivateKey(s.cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write("cert.pem", s.CA)
	write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	if err := os.Mkdir(filepath.Join(dir, "db"), 0o700); err != nil {
		t.Fatal(err)
	}
	write("slapd.conf", []byte(strings.ReplaceAll(`include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile DIR/pid
TLSCACertificateFile DIR/cert.pem
TLSCertificateFile DIR/cert.pem
TLSCertificateKeyFile DIR/key.pem
security simple_bind=128
database mdb
suffix "dc=example,dc=org"
directory DIR/db
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="`+SearchDN+`" read by self read by * none
`, "DIR", dir)))
	write("people.ldif", entries())
	//nolint:gosec // all arguments are made here
	if out, err := exec.CommandContext(t.Context(), "/usr/sbin/slapadd", "-f", filepath.Join(dir, "slapd.conf"), "-l", filepath.Join(dir, "people.ldif")).CombinedOutput(); err != nil {
		t.Fatalf("slapadd: %v %s", err, out)
	}
}

// entries returns the entries as LDIF.
func entries() []byte {
	var out bytes.Buffer
	out.WriteString("dn: dc=example,dc=org\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n\n" +
		"dn: " + Base + "\nobjectClass: organizationalUnit\nou: people\n\n" +
		"dn: " + SearchDN + "\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: reader\nuserPassword: " + SearchPassword + "\n\n")
	for _, p := range People {
		fmt.Fprintf(&out, "dn:: %s\nobjectClass: inetOrgPerson\nuid: %s\ncn: %s\nsn: Example\nmail: %s\nuserPassword: %s\n\n",
			base64.StdEncoding.EncodeToString([]byte(p.DN())), p.UID, p.Name, p.Mail, p.Password)
	}
	return out.Bytes()
}
