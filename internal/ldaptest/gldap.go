package ldaptest

import (
	"crypto/tls"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/jimlambrt/gldap"
)

// startGLDAP starts a server inside the test, which speaks LDAP by a library but decides itself who is found.
func startGLDAP(t testing.TB) *Server {
	t.Helper()
	s := newServer()
	plain, stopPlain := s.listen(t, false)
	secure, stopSecure := s.listen(t, true)
	s.Plain, s.Secure = fmt.Sprintf("ldap://127.0.0.1:%d", plain), fmt.Sprintf("ldaps://127.0.0.1:%d", secure)
	s.Stop = sync.OnceFunc(func() {
		stopPlain()
		stopSecure()
	})
	t.Cleanup(s.Stop)
	return s
}

func (s *Server) listen(t testing.TB, implicit bool) (port int, stop func()) {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{s.cert}, MinVersion: tls.VersionTLS12}
	var options []gldap.Option
	if implicit {
		options = append(options, gldap.WithTLSConfig(config))
	}
	for range maxTries {
		server, err := gldap.NewServer()
		if err != nil {
			t.Fatal(err)
		}
		if err := server.Router(newPeople(t, config, implicit)); err != nil {
			t.Fatal(err)
		}
		port = freePort(t)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = server.Run(fmt.Sprintf("127.0.0.1:%d", port), options...) // it is stopped in the end, or the port is in use
		}()
		stop = func() {
			_ = server.Stop() // it may have ended
			<-ended
		}
		if answers(port, ended) {
			return port, stop
		}
		stop()
	}
	t.Fatal("the LDAP server does not start")
	return 0, nil
}

// people answers requests.
type people struct {
	mu     sync.Mutex
	bound  map[int]string // DNs by connection
	secure map[int]bool   // connections that are encrypted
	all    bool           // whether every connection is encrypted
}

func newPeople(t testing.TB, config *tls.Config, implicit bool) *gldap.Mux {
	t.Helper()
	p := &people{bound: map[int]string{}, secure: map[int]bool{}, all: implicit}
	mux, err := gldap.NewMux()
	if err != nil {
		t.Fatal(err)
	}
	startTLS := func(w *gldap.ResponseWriter, r *gldap.Request) {
		resp := r.NewExtendedResponse(gldap.WithResponseCode(gldap.ResultSuccess))
		resp.SetResponseName(gldap.ExtendedOperationStartTLS)
		_ = w.Write(resp) // the client notices
		if r.StartTLS(config) == nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.secure[r.ConnectionID()] = true
		}
	}
	for _, err := range []error{mux.Bind(p.bind), mux.Search(p.search), mux.ExtendedOperation(startTLS, gldap.ExtendedOperationStartTLS)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return mux
}

func (p *people) bind(w *gldap.ResponseWriter, r *gldap.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	code := gldap.ResultInvalidCredentials
	m, err := r.GetSimpleBindMessage()
	switch {
	case err != nil:
		code = gldap.ResultProtocolError
	case !p.all && !p.secure[r.ConnectionID()]:
		code = gldap.ResultConfidentialityRequired
	case m.Password == "": // anonymous, whatever the DN says
		code = gldap.ResultSuccess
		p.bound[r.ConnectionID()] = ""
	case m.UserName == SearchDN && m.Password == SearchPassword:
		code = gldap.ResultSuccess
		p.bound[r.ConnectionID()] = SearchDN
	default:
		for _, one := range People {
			if strings.EqualFold(unescape(one.DN()), unescape(m.UserName)) && string(m.Password) == one.Password {
				code = gldap.ResultSuccess
				p.bound[r.ConnectionID()] = one.DN()
			}
		}
	}
	_ = w.Write(r.NewBindResponse(gldap.WithResponseCode(code))) // the client notices
}

// The escapes of DNs and filters.
var escaped = regexp.MustCompile(`\\([0-9a-fA-F]{2}|.)`)

func unescape(text string) string {
	return escaped.ReplaceAllStringFunc(text, func(e string) string {
		var c int
		if n, err := fmt.Sscanf(e[1:], "%02x", &c); len(e) == 3 && n == 1 && err == nil {
			return string(rune(c))
		}
		return e[1:]
	})
}

// equality matches a filter that compares one attribute with a value without wildcards.
var equality = regexp.MustCompile(`^\((uid|mail)=([^()*]+)\)$`)

func (p *people) search(w *gldap.ResponseWriter, r *gldap.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	code := gldap.ResultSuccess
	m, err := r.GetSearchMessage()
	if err != nil {
		_ = w.Write(r.NewSearchDoneResponse(gldap.WithResponseCode(gldap.ResultProtocolError))) // the client notices
		return
	}
	f := equality.FindStringSubmatch(m.Filter)
	found := int64(0)
	for _, one := range People {
		self := strings.EqualFold(unescape(p.bound[r.ConnectionID()]), unescape(one.DN()))
		at := m.BaseDN == Base || strings.EqualFold(unescape(m.BaseDN), unescape(one.DN()))
		if f == nil || !at || !self && p.bound[r.ConnectionID()] != SearchDN || !strings.EqualFold(unescape(f[2]), map[string]string{"uid": one.UID, "mail": one.Mail}[f[1]]) {
			continue
		}
		if found++; found > m.SizeLimit {
			code = gldap.ResultSizeLimitExceeded
			break
		}
		e := r.NewSearchResponseEntry(one.DN())
		e.AddAttribute("uid", []string{one.UID})
		e.AddAttribute("cn", []string{one.Name})
		e.AddAttribute("mail", []string{one.Mail})
		_ = w.Write(e) // the client notices
	}
	_ = w.Write(r.NewSearchDoneResponse(gldap.WithResponseCode(code)))
}
