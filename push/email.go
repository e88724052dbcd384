package push

import (
	"context"
	"errors"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/mail"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

// Mailer sends e-mail; mail.Sender implements it.
type Mailer interface {
	Send(ctx context.Context, m mail.Message) error
}

// EmailOptions are the settings of e-mail notifications.
type EmailOptions struct {
	Mailer   Mailer        // nil disables e-mail notifications
	Delay    time.Duration // how long a message must be unread before an e-mail is sent
	Interval time.Duration // the minimum time between two e-mails to a user
	Server   string        // the name of this server, shown in the text
}

const (
	// emailAppID is the app_id of every e-mail pusher.
	// Spec: client-server-api#post_matrixclientv3pushersset
	emailAppID = "m.email"
	// emailEvery is the interval between two checks for due e-mails.
	emailEvery = time.Minute
	// maxDigest bounds the messages in one e-mail; later ones follow in the next e-mail.
	maxDigest = 50
	// maxEmailFailures bounds the failures in a row. After that many the SMTP server is considered broken, and the
	// other users' e-mails wait for the next check.
	maxEmailFailures = 3
)

// codeNotOwnAddress is the error code for an e-mail pusher whose address does not belong to the user's account.
const codeNotOwnAddress = "M_THREEPID_NOT_FOUND"

// checkAddress returns an error if the address of an e-mail pusher does not belong to the user's account.
func (s *Service) checkAddress(tx *storage.Tx, user ident.UserNID, pushkey string) error {
	_, own, err := s.address(tx, user, pushkey)
	if err == nil && !own {
		err = mxerr.New(400, codeNotOwnAddress, "pushkey must be one of the e-mail addresses of your account")
	}
	return err
}

// address returns the canonical form of an e-mail pusher's address, and reports whether it belongs to the user's
// account.
func (s *Service) address(tx *storage.Tx, user ident.UserNID, pushkey string) (address string, own bool, err error) {
	if address, err = mail.ParseAddress(pushkey); err != nil {
		return "", false, nil //nolint:nilerr // an invalid address belongs to nobody
	}
	row, found, err := tx.Email(address)
	return address, found && row.User == user, err
}

// sendEmails sends due e-mails at every tick until ctx ends.
func (s *Service) sendEmails(ctx context.Context) {
	next := time.Time{}
	for {
		select {
		case <-s.emailTick:
		case <-ctx.Done():
			return
		}
		if now := s.now(); !now.Before(next) {
			next = now.Add(emailEvery)
			s.sendDue(ctx)
		}
	}
}

// sendDue sends the e-mail of every e-mail pusher for which one is due.
func (s *Service) sendDue(ctx context.Context) {
	s.mu.Lock()
	emailers := make([]ident.PusherNID, 0, len(s.emailers))
	for nid := range s.emailers {
		emailers = append(emailers, nid)
	}
	s.mu.Unlock()
	failures := 0
	for _, nid := range emailers {
		if ctx.Err() != nil || failures == maxEmailFailures {
			return
		}
		if err := s.sendDigest(ctx, nid); err != nil {
			failures++
			s.log.WarnContext(ctx, "Cannot send an e-mail notification; trying again", "err", err)
		} else {
			failures = 0
		}
	}
}

// emailPusher is an e-mail pusher with the events for its next e-mail.
type emailPusher struct {
	storage.PusherRow
	address string
	found   []storage.Notifying
	reached storage.Pos // the events up to here have been read from the database
}

// sendDigest sends one e-mail about the messages that a user has not read, if it is due.
func (s *Service) sendDigest(ctx context.Context, nid ident.PusherNID) error {
	now := s.now() // the interval is between the beginnings of two e-mails, however long the SMTP server takes
	p, err := s.emailPusher(ctx, nid)
	if err != nil || p == nil {
		return err
	}
	d := digest{server: s.opts.Email.Server, to: p.address, countsOnly: s.opts.EventIDOnly}
	var oldest int64
	for _, n := range p.found {
		room, e, err := s.unreadEvent(ctx, p, n)
		if err != nil {
			return err
		}
		if e == nil {
			continue
		}
		if d.add(room, e, s.senderName(room, e)); oldest == 0 {
			oldest = e.ReceivedTS
		}
	}
	progress := storage.PusherProgress{Delivered: p.reached, RetryTS: p.RetryTS}
	switch {
	case d.messages == 0 && len(p.found) == 0:
		return nil
	case d.messages == 0: // all of them have been read
	case now.Sub(time.UnixMilli(oldest)) < s.opts.Email.Delay:
		return nil
	default:
		if err = s.opts.Email.Mailer.Send(ctx, d.message()); err != nil {
			progress = storage.PusherProgress{Delivered: p.Delivered, Failures: p.Failures + 1, RetryTS: s.now().Add(pusherBackoff.Delay(p.Failures)).UnixMilli()}
			break
		}
		emails.Inc()
		progress.RetryTS = now.Add(s.opts.Email.Interval).UnixMilli()
	}
	return errors.Join(err, s.db.Write(context.WithoutCancel(ctx), func(tx *storage.Tx) error { return tx.SetPusherProgress(nid, progress) }))
}

// emailPusher returns an e-mail pusher with the events that notified its user since the last e-mail. It returns nil if
// no e-mail may be sent yet. It deletes the pusher if the address no longer belongs to the account.
func (s *Service) emailPusher(ctx context.Context, nid ident.PusherNID) (*emailPusher, error) {
	p := &emailPusher{}
	var found, own bool
	err := s.db.Read(ctx, func(tx *storage.Tx) (err error) {
		if p.PusherRow, found, err = tx.Pusher(nid); err != nil || !found || p.RetryTS > s.now().UnixMilli() {
			return err
		}
		if p.address, own, err = s.address(tx, p.User, p.Pushkey); err != nil || !own {
			return err
		}
		p.found, p.reached, err = tx.NotifyingAfter(p.User, p.Delivered, tx.Settled(), maxDigest)
		return err
	})
	switch {
	case err != nil || found && p.Locked || found && p.RetryTS > s.now().UnixMilli():
		return nil, err
	case !found || !own:
		return nil, s.change(ctx, func(tx *storage.Tx, c *changes) error {
			c.removed = []ident.PusherNID{nid}
			return tx.DeletePusher(nid)
		})
	}
	return p, nil
}

// unreadEvent returns an event that notified a user. It returns nil if the user has read the event or may not see it
// any more.
func (s *Service) unreadEvent(ctx context.Context, p *emailPusher, n storage.Notifying) (*rooms.Room, *rooms.Event, error) {
	r, err := s.opts.Rooms.RoomByNID(ctx, n.Room)
	if err != nil {
		return nil, nil, err
	}
	class, _, _, err := s.opts.History.UnreadEvent(ctx, p.User, n.Room, n.Position)
	if err != nil || class == 0 {
		return nil, nil, err
	}
	e, err := s.event(ctx, r, n.Position)
	if err != nil || e == nil {
		return nil, nil, err
	}
	to := ident.Requester{UserID: id.UserID(p.UserID), UserNID: p.User}
	visible, err := s.opts.History.Visible(ctx, nil, r, to, []*rooms.Event{e})
	if err != nil || len(visible) == 0 {
		return nil, nil, err
	}
	return r, e, nil
}

// senderName returns the display name of an event's sender, or the user ID if there is none.
func (s *Service) senderName(r *rooms.Room, e *rooms.Event) string {
	if name := (state{s, r, e}).DisplayName(e.Sender()); name != "" {
		return name
	}
	return string(e.Sender())
}
