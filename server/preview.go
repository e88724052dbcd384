package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"ebb/config"
	"ebb/netguard"
	"ebb/preview"
	"ebb/pushrules"
	"ebb/storage"
)

// maxPreviewRedirects bounds the redirects of one request for a page or an image.
const maxPreviewRedirects = 5

// newPreviews returns the service for link previews, or nil if they are off.
func (s *services) newPreviews(cfg *config.Config, o Options) (*preview.Service, error) {
	c := cfg.Media.URLPreviews
	if !c.Enabled {
		return nil, nil
	}
	roots, err := cfg.Authorities()
	if err != nil {
		return nil, fmt.Errorf("federation.trusted_ca_file: %w", err)
	}
	client := netguard.NewClient(netguard.ClientOptions{
		Dialer: netguard.NewDialer(netguard.DialerOptions{Resolver: o.Resolver, Dial: o.Dial, AllowPrivate: c.AllowPrivateAddresses}),
		Roots:  roots, Now: o.Now, AllowHTTP: true, MaxBody: max(int64(c.MaxImageSize), preview.MaxPage) + 1, MaxRedirects: maxPreviewRedirects,
	})
	return preview.New(preview.Options{
		DB: s.db, Media: s.media, Server: cfg.ServerName, Client: client, Allowed: allowedHosts(c.AllowedHosts, c.DeniedHosts),
		Languages: strings.Join(c.Languages, ", "), Lifetime: time.Duration(c.Lifetime), MaxImage: int64(c.MaxImageSize), Now: o.Now, Log: o.Log,
	}), nil
}

// allowedHosts returns a function that reports whether the configuration allows previews of pages on a host. It returns
// nil if all hosts are allowed.
func allowedHosts(allowed, denied []string) func(host string) bool {
	if len(allowed)+len(denied) == 0 {
		return nil
	}
	compile := func(patterns []string) (globs []pushrules.Glob) {
		for _, p := range patterns {
			globs = append(globs, pushrules.CompileGlob(p))
		}
		return globs
	}
	allow, deny := compile(allowed), compile(denied)
	return func(host string) bool {
		matches := func(g pushrules.Glob) bool { return g.Match(host) }
		return !slices.ContainsFunc(deny, matches) && (len(allow) == 0 || slices.ContainsFunc(allow, matches))
	}
}

// prunePreviews deletes expired previews. It does so even if previews are switched off now.
func (s *Server) prunePreviews(ctx context.Context) error {
	now := s.opt.Now().UnixMilli()
	return s.svc.db.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteExpiredURLPreviews(now) })
}
