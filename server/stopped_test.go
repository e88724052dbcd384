package server_test

import (
	"context"
	"testing"

	"ebb/config"
	"ebb/internal/testserver"
	"ebb/server"
)

func TestAServerThatIsStoppedWhileItStartsEndsWithoutAnError(t *testing.T) {
	var cfg *config.Config
	first := testserver.New(t, func(c *config.Config) { cfg = c })
	ok(t, first.Close())
	s, err := server.New(t.Context(), cfg, server.Options{})
	ok(t, err)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	ok(t, s.Run(ctx))
}
