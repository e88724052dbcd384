package server

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"ebb/accounts"
	"ebb/config"
	"ebb/fedclient"
	"ebb/mail"
)

// newMail returns the sender of e-mail, or nil if none is configured.
func newMail(cfg *config.Config, o Options) (*mail.Sender, error) {
	s := cfg.Email.SMTP
	if s.Host == "" {
		return nil, nil
	}
	roots, err := cfg.Authorities()
	if err != nil {
		return nil, fmt.Errorf("federation.trusted_ca_file: %w", err)
	}
	sender, err := mail.New(mail.Options{
		Host: s.Host, Port: s.Port, TLS: mail.TLS(s.TLS), Username: s.Username, Password: s.Password, From: s.From,
		Hello: helloName(cfg.ServerName), Timeout: time.Duration(s.Timeout), Roots: roots, Now: o.Now,
	})
	if err != nil {
		return nil, fmt.Errorf("email.smtp.from: %w", err)
	}
	return sender, nil
}

// helloName returns the name that Ebb gives when it greets an SMTP server (RFC 5321, section 4.1.3).
func helloName(server string) string {
	host := fedclient.HostOf(server)
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return "localhost"
	}
	return host
}

// emails returns the settings for the e-mail addresses of accounts.
func (s *services) emails(cfg *config.Config) accounts.EmailOptions {
	return accounts.EmailOptions{
		Sender: s.mail, Registration: accounts.EmailUse(cfg.Registration.Email), Domains: cfg.Email.AllowedDomains,
		Reveal: cfg.Email.RevealAddresses, PublicURL: cfg.PublicURL,
	}
}
