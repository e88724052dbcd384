package notices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/accounts/gate"
	"ebb/ident"
	"ebb/mail"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

const (
	// page is how many notices are read at a time.
	page = 100
	// noticeWrites is the number of writes for a notice: one creates the room, and one sends the message.
	noticeWrites = 2
	// retryAfter is the time after which a notice that could not be sent to a room is tried again.
	retryAfter = 30 * time.Second
	// mailPause is the time after which an e-mail is tried again, and mailTime after which it is given up.
	mailPause = 5 * time.Minute
	mailTime  = 24 * time.Hour
	// pruneEvery is how often expired links and networks are deleted. One write deletes pruneChunk of each.
	pruneEvery = time.Hour
	pruneChunk = 500
	// LinkLifetime is how long the link of an alert works.
	LinkLifetime = 7 * 24 * time.Hour
)

// LinkPath is the path of the page behind the link of an alert. Its query has the token.
const LinkPath = "/_ebb/account/notme"

// Run delivers notices until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	var both sync.WaitGroup
	both.Go(func() { s.runRooms(ctx) })
	both.Go(func() { s.runMail(ctx) })
	both.Wait()
	return nil
}

// runRooms sends notices to rooms, and deletes what has expired.
func (s *Service) runRooms(ctx context.Context) {
	var pruned time.Time
	for ctx.Err() == nil {
		pause := pruneEvery
		if err := s.Deliver(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Error("Cannot send server notices now; trying again later", "err", err)
			pause = retryAfter
		}
		if now := s.opts.Now(); now.Sub(pruned) >= pruneEvery || now.Before(pruned) {
			pruned = now
			if err := s.Prune(ctx); err != nil && ctx.Err() == nil {
				s.opts.Log.Error("Cannot delete expired links and networks", "err", err)
			}
		}
		s.wait(ctx, s.toRooms, pause)
	}
}

// runMail sends notices by e-mail.
func (s *Service) runMail(ctx context.Context) {
	for s.opts.Mail != nil && ctx.Err() == nil {
		pause, err := s.SendMail(ctx)
		if err != nil && ctx.Err() == nil {
			s.opts.Log.Error("Cannot read the notices that are to be sent by e-mail; trying again later", "err", err)
		}
		s.wait(ctx, s.toMail, pause)
	}
}

// wait returns when woken, after a pause, or when ctx ends.
func (s *Service) wait(ctx context.Context, woken <-chan struct{}, pause time.Duration) {
	timer, stop := s.opts.Timer(pause)
	defer stop()
	select {
	case <-ctx.Done():
	case <-woken:
	case <-timer:
	}
}

// Prune deletes links that have expired, networks that no longer count as known, and the IP addresses and user agents
// of devices that have not been seen for the same time.
func (s *Service) Prune(ctx context.Context) error {
	for more := true; more; {
		err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
			links, err := tx.ExpireDisavowals(pruneChunk)
			if err != nil {
				return err
			}
			networks, err := tx.ExpireNetworks(s.knownSince(), pruneChunk)
			if err != nil {
				return err
			}
			devices, err := tx.ForgetClients(s.knownSince(), pruneChunk)
			more = links == pruneChunk || networks == pruneChunk || devices == pruneChunk
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Deliver sends all notices that wait to be sent to rooms, with rests while others write: when many people sign in at
// once, each gets an alert and a room for it. If a notice fails, the later ones of the same user wait too, so that they
// stay in order.
func (s *Service) Deliver(ctx context.Context) error {
	if err := s.addBursts(ctx); err != nil {
		return err
	}
	if err := s.opts.DB.Flush(ctx); err != nil { // the write that has woken Run
		return err
	}
	var errs []error
	late := map[ident.UserNID]bool{} // users with a notice that has failed
	for after := (storage.Notice{Priority: -1}); ; {
		var rows []storage.Notice
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			rows, err = tx.NoticesForRooms(after, page)
			return err
		})
		if err != nil || len(rows) == 0 {
			return errors.Join(append(errs, err)...)
		}
		for i := range rows {
			if late[rows[i].User] {
				continue
			}
			done := s.pace.Measure()
			err := s.deliver(ctx, &rows[i])
			done()
			if err != nil {
				errs, late[rows[i].User] = append(errs, err), true
			}
			s.pace.Rest(ctx, noticeWrites, true)
		}
		after = rows[len(rows)-1]
	}
}

// errSent means that a notice is in the room already.
var errSent = errors.New("notices: the notice was sent already")

// deliver sends a notice to the user's room. The write of the message also removes the notice from the queue.
func (s *Service) deliver(ctx context.Context, n *storage.Notice) error {
	if n.Deactivated {
		return s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.ForgetNotices(n.User) })
	}
	err := s.sendToRoom(ctx, n)
	var final *mxerr.Error
	switch {
	case err == nil, errors.Is(err, errSent):
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &final) && final.Status < 500 && final.Code != mxerr.CodeLimitExceeded:
		s.opts.Log.Error("A server notice cannot be sent to the room", "user", n.UserID, "kind", n.Kind, "err", err)
		return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
			_, err := tx.NoticeSent(n.NID)
			return err
		})
	}
	return fmt.Errorf("send a notice to %s: %w", n.UserID, err)
}

func (s *Service) sendToRoom(ctx context.Context, n *storage.Notice) error {
	sender, room, err := s.senderAndRoom(ctx, n)
	if err != nil {
		return err
	}
	link := s.newLink(n)
	content, err := json.Marshal(map[string]string{"msgtype": "m.server_notice", "server_notice_type": noticeType(Kind(n.Kind)), "body": s.body(n, link.url)})
	if err != nil {
		return err
	}
	_, err = s.opts.Rooms.Send(ctx, rooms.NewEvent{
		Room: room, Sender: sender, Type: "m.room.message", Content: content,
		Also: func(tx *storage.Tx, _ id.EventID) error {
			first, err := tx.NoticeSent(n.NID)
			if err == nil && !first {
				err = errSent
			}
			if err != nil {
				return err
			}
			return link.store(tx)
		},
	})
	return err
}

// noticeType returns the server_notice_type of a kind.
func noticeType(k Kind) string {
	if k == Announcement {
		return "ebb.announcement"
	}
	return "ebb.alert." + string(k)
}

// link is the link of an alert; the zero link means that there is none.
type link struct {
	url, hash string
	row       storage.Disavowal
}

// newLink returns the link for a notice. Its token is stored as a hash only.
func (s *Service) newLink(n *storage.Notice) link {
	if k := Kind(n.Kind); k == Announcement || k == Recovered || s.opts.PublicURL == "" {
		return link{}
	}
	token := gate.Secret("ebb_n_", 32)
	return link{
		url:  strings.TrimSuffix(s.opts.PublicURL, "/") + LinkPath + "?" + url.Values{"token": {token}}.Encode(),
		hash: gate.KeyOf(token).String(),
		row: storage.Disavowal{
			Notice: n.NID, User: n.User, Kind: n.Kind, Details: n.Details, Device: n.Device, SinceTS: n.CreatedTS, ExpiresTS: s.opts.Now().Add(LinkLifetime).UnixMilli(),
		},
	}
}

func (l link) store(tx *storage.Tx) error {
	if l.hash == "" {
		return nil
	}
	return tx.AddDisavowal(l.hash, l.row)
}

// SendMail sends the notices that are to be sent by e-mail now. It returns when it should be called again.
func (s *Service) SendMail(ctx context.Context) (pause time.Duration, err error) {
	if err := s.opts.DB.Flush(ctx); err != nil {
		return mailPause, err
	}
	for {
		var rows []storage.Notice
		next, waiting := int64(0), false
		err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
			if rows, err = tx.NoticesForMail(page); err != nil {
				return err
			}
			next, waiting, err = tx.NextNoticeMail()
			return err
		})
		if err != nil {
			return mailPause, err
		}
		if len(rows) == 0 {
			if !waiting {
				return mailTime, nil
			}
			return max(time.Second, time.UnixMilli(next).Sub(s.opts.Now())), nil
		}
		for i := range rows {
			if err := s.mail(ctx, &rows[i]); err != nil {
				return mailPause, err
			}
		}
	}
}

// mail sends a notice to the first of its addresses, and stores the addresses that remain.
func (s *Service) mail(ctx context.Context, n *storage.Notice) error {
	address, rest, _ := strings.Cut(n.MailTo, " ")
	now := s.opts.Now()
	if n.Deactivated || now.Sub(time.UnixMilli(n.CreatedTS)) >= mailTime {
		return s.opts.DB.Write(ctx, func(tx *storage.Tx) error { return tx.NoticeMailed(n.NID, "", 0) })
	}
	link := s.newLink(n)
	if err := s.opts.DB.Write(ctx, link.store); err != nil {
		return err
	}
	err := s.opts.Mail.Send(ctx, s.message(n, address, link.url))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	failed := err != nil && !errors.Is(err, mail.ErrRefused)
	if err != nil {
		s.opts.Log.Warn("An alert cannot be sent by e-mail", "user", n.UserID, "kind", n.Kind, "again", failed, "err", err)
	}
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if err != nil {
			if err := tx.DropDisavowal(link.hash); err != nil {
				return err
			}
		}
		if failed {
			return tx.NoticeMailed(n.NID, n.MailTo, now.Add(mailPause).UnixMilli())
		}
		return tx.NoticeMailed(n.NID, rest, now.UnixMilli())
	})
}

// sender returns the account that sends notices. The first call creates it. It has no password, so that nobody can sign
// in to it.
func (s *Service) sender(ctx context.Context) (ident.Requester, error) {
	who := ident.Requester{UserID: id.NewUserID(s.opts.Localpart, s.opts.Server)}
	found := false
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if who.UserNID, found, err = tx.LookupUser(string(who.UserID)); err == nil && found {
			found, err = tx.IsNoticeSender(who.UserNID)
		}
		return err
	})
	if err != nil || found {
		return who, err
	}
	return who, s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
		if who.UserNID, err = tx.UserNID(string(who.UserID)); err != nil {
			return err
		}
		row := storage.AccountRow{NID: who.UserNID, Localpart: s.opts.Localpart, CreatedTS: tx.Now().UnixMilli()}
		if _, err := tx.AddAccount(row, ""); err != nil {
			return err
		}
		name, err := json.Marshal(s.opts.RoomName)
		if err != nil {
			return err
		}
		if err := tx.SetProfileField(who.UserNID, storage.ProfileField{Name: "displayname", Value: string(name)}); err != nil {
			return err
		}
		return tx.MarkNoticeSender(who.UserNID)
	})
}
