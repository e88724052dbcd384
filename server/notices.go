package server

import (
	"context"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/config"
	"ebb/notices"
)

// noticeSender returns the user who sends server notices, or "" if notices are not sent to rooms.
func noticeSender(cfg *config.Config) id.UserID {
	if cfg.Notices.Localpart == "" {
		return ""
	}
	return id.NewUserID(cfg.Notices.Localpart, cfg.ServerName)
}

// openNotices creates the service that sends notices, and checks that its account belongs to nobody else.
func (s *services) openNotices(ctx context.Context, cfg *config.Config, o Options) error {
	options := notices.Options{
		DB: s.db, Rooms: s.rooms, Server: cfg.ServerName, Localpart: cfg.Notices.Localpart, RoomName: cfg.Notices.RoomName, PublicURL: cfg.PublicURL,
		Alerts: notices.Alerts(cfg.Alerts), KeepNetworks: time.Duration(cfg.Audit.Addresses), Now: o.Now, Timer: o.Timer, Log: o.Log,
	}
	if s.mail != nil {
		options.Mail = s.mail
	}
	s.notices = notices.New(options)
	return s.notices.Check(ctx)
}
