// Package ldap checks passwords that an LDAP directory keeps, by a simple bind over TLS. It knows nothing of accounts:
// package accounts decides whose passwords the directory has, and limits how often they can be guessed.
//
// Every check uses a connection of its own, because a bind changes the identity of a connection.
package ldap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-ldap/ldap/v3"
)

const (
	// maxConnections bounds the connections to the directory.
	maxConnections = 16
	// maxName is the maximum length of a user name in bytes.
	maxName = 255
	// maxPassword is the maximum length of a password in bytes.
	maxPassword = 512
	// maxValue is the maximum length in bytes of an attribute that is used.
	maxValue = 1024
)

// ErrUnavailable means that the directory cannot be asked. The error that wraps it says why.
var ErrUnavailable = errors.New("the directory cannot be asked")

// place is the placeholder for the user name in Options.UserDN and Options.Filter.
const place = "{name}"

// Options are the settings of a Directory.
type Options struct {
	URL      string         // ldaps://HOST[:PORT] or ldap://HOST[:PORT]
	StartTLS bool           // whether an ldap:// connection is encrypted before anything is sent
	Roots    *x509.CertPool // certificate authorities; nil means those of the system

	UserDN string // the DN of a user's entry, with {name}; or "" to search below Base
	Base   string
	Filter string // matches the entry of a user, with {name}

	SearchDN, SearchPassword string // with which a search binds; "" for an anonymous search

	Name, DisplayName, Email string        // attributes; the last two may be ""
	Timeout                  time.Duration // of a check
}

// Directory is an LDAP directory. It is safe for concurrent use.
type Directory struct {
	opts  Options
	tls   *tls.Config
	slots chan struct{} // one for each connection
}

// New returns a Directory. It does not connect.
func New(o Options) (*Directory, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, err
	}
	if _, err := ldap.CompileFilter(strings.ReplaceAll(o.Filter, place, "name")); err != nil {
		return nil, fmt.Errorf("the filter %s is not valid: %w", o.Filter, err)
	}
	for _, dn := range []string{strings.ReplaceAll(o.UserDN, place, "name"), o.Base, o.SearchDN} {
		if _, err := ldap.ParseDN(dn); err != nil {
			return nil, fmt.Errorf("%q is not a distinguished name: %w", dn, err)
		}
	}
	return &Directory{opts: o, slots: make(chan struct{}, maxConnections), tls: &tls.Config{ServerName: u.Hostname(), RootCAs: o.Roots, MinVersion: tls.VersionTLS12}}, nil
}

// Person is a user of the directory.
type Person struct {
	Name        string // the value of the name attribute
	DisplayName string // "" if the entry has none
	Email       string // "" if the entry has none
}

// Check reports whether a name and a password are those of a user of the directory, and returns the user. An unknown
// name costs as many requests as a wrong password.
//
// Errors: ErrUnavailable.
func (d *Directory) Check(ctx context.Context, name, password string) (p Person, ok bool, err error) {
	// Without a password, a bind is anonymous and succeeds.
	if !usable(name, maxName) || password == "" || len(password) > maxPassword {
		return Person{}, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.opts.Timeout)
	defer cancel()
	select {
	case d.slots <- struct{}{}:
		defer func() { <-d.slots }()
	case <-ctx.Done():
		return Person{}, false, fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	}
	c, err := d.connect(ctx)
	if err != nil {
		return Person{}, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _ = c.Close() }() // nothing more is sent
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	if d.opts.UserDN != "" {
		return d.checkAt(c, name, password)
	}
	return d.checkFound(c, name, password)
}

// usable reports whether text is neither empty nor too long and has no control characters.
func usable(text string, longest int) bool {
	return text != "" && len(text) <= longest && utf8.ValidString(text) && !strings.ContainsFunc(text, unicode.IsControl)
}

// connect opens a connection and encrypts it.
func (d *Directory) connect(ctx context.Context) (*ldap.Conn, error) {
	deadline, _ := ctx.Deadline()
	c, err := ldap.DialURL(d.opts.URL, ldap.DialWithDialer(&net.Dialer{Deadline: deadline}), ldap.DialWithTLSConfig(d.tls))
	if err != nil {
		return nil, err
	}
	c.SetTimeout(d.opts.Timeout)
	if strings.HasPrefix(d.opts.URL, "ldap:") && d.opts.StartTLS {
		stop := context.AfterFunc(ctx, func() { _ = c.Close() })
		defer stop()
		if err := c.StartTLS(d.tls); err != nil {
			_ = c.Close() // the first error is returned
			return nil, fmt.Errorf("StartTLS: %w", err)
		}
	}
	return c, nil
}

// checkAt checks the password of a user whose entry has a known DN.
func (d *Directory) checkAt(c *ldap.Conn, name, password string) (Person, bool, error) {
	dn := strings.ReplaceAll(d.opts.UserDN, place, ldap.EscapeDN(name))
	if ok, err := bind(c, dn, password); err != nil || !ok {
		return Person{}, false, err
	}
	e, found, err := d.find(c, dn, ldap.ScopeBaseObject, name)
	if err != nil || !found {
		return Person{}, false, err
	}
	return d.person(e)
}

// checkFound checks the password of a user whose entry must be searched for first.
func (d *Directory) checkFound(c *ldap.Conn, name, password string) (Person, bool, error) {
	if d.opts.SearchDN != "" {
		if err := c.Bind(d.opts.SearchDN, d.opts.SearchPassword); err != nil {
			return Person{}, false, fmt.Errorf("%w: bind as %s: %w", ErrUnavailable, d.opts.SearchDN, err)
		}
	}
	e, found, err := d.find(c, d.opts.Base, ldap.ScopeWholeSubtree, name)
	if err != nil {
		return Person{}, false, err
	}
	if !found { // a bind that must fail, so that the response takes as long
		_, err := bind(c, "cn=nobody,"+d.opts.Base, password)
		return Person{}, false, err
	}
	if ok, err := bind(c, e.DN, password); err != nil || !ok {
		return Person{}, false, err
	}
	return d.person(e)
}

// find returns the entry that the filter matches. If it matches several, find returns none of them, because a name must
// not stand for different people.
func (d *Directory) find(c *ldap.Conn, base string, scope int, name string) (*ldap.Entry, bool, error) {
	attributes := []string{d.opts.Name}
	for _, more := range []string{d.opts.DisplayName, d.opts.Email} {
		if more != "" {
			attributes = append(attributes, more)
		}
	}
	filter := strings.ReplaceAll(d.opts.Filter, place, ldap.EscapeFilter(name))
	const limit = 2
	r, err := c.Search(ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, limit, int(d.opts.Timeout.Seconds())+1, false, filter, attributes, nil))
	switch {
	case ldap.IsErrorAnyOf(err, ldap.LDAPResultSizeLimitExceeded, ldap.LDAPResultNoSuchObject):
		return nil, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("%w: search: %w", ErrUnavailable, err)
	case len(r.Entries) != 1 || r.Entries[0].DN == "": // a bind with an empty DN is anonymous
		return nil, false, nil
	}
	return r.Entries[0], true, nil
}

// bind reports whether a bind with a DN and a password succeeds. A directory that refuses it for another reason, such
// as an account that is locked there, counts as a wrong password.
func bind(c *ldap.Conn, dn, password string) (bool, error) {
	err := c.Bind(dn, password)
	var e *ldap.Error
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &e) && e.ResultCode < ldap.ErrorNetwork && !ldap.IsErrorAnyOf(err, ldap.LDAPResultBusy, ldap.LDAPResultUnavailable, ldap.LDAPResultOperationsError, ldap.LDAPResultConfidentialityRequired, ldap.LDAPResultOther):
		return false, nil
	}
	return false, fmt.Errorf("%w: bind: %w", ErrUnavailable, err)
}

// person returns the user whom an entry describes. The entry must have exactly one name.
func (d *Directory) person(e *ldap.Entry) (Person, bool, error) {
	value := func(attribute string) string {
		if v := e.GetEqualFoldAttributeValue(attribute); attribute != "" && usable(v, maxValue) {
			return v
		}
		return ""
	}
	names := e.GetEqualFoldAttributeValues(d.opts.Name)
	if len(names) != 1 || !usable(names[0], maxName) {
		return Person{}, false, fmt.Errorf("%w: the entry %s does not have exactly one value of %s", ErrUnavailable, e.DN, d.opts.Name)
	}
	return Person{Name: names[0], DisplayName: value(d.opts.DisplayName), Email: value(d.opts.Email)}, true, nil
}
