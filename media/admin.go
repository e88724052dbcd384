package media

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"ebb/deletions"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// ParseURI returns the media that an mxc URI names.
//
// Errors: M_INVALID_PARAM.
func (s *Service) ParseURI(uri string) (storage.MediaName, error) {
	server, mediaID, found := strings.Cut(strings.TrimPrefix(uri, "mxc://"), "/")
	if !strings.HasPrefix(uri, "mxc://") || !found || !validID(mediaID) || !pdu.ValidServerName(server) {
		return storage.MediaName{}, mxerr.InvalidParam("%q is not an mxc URI, such as mxc://%s/abc", uri, s.opts.Server)
	}
	if server == s.opts.Server {
		server = ""
	}
	return storage.MediaName{Server: server, ID: mediaID}, nil
}

func (s *Service) uri(m storage.MediaName) string {
	if m.Server == "" {
		m.Server = s.opts.Server
	}
	return fmt.Sprintf("mxc://%s/%s", m.Server, m.ID)
}

// Info describes media to an administrator.
type Info struct {
	URI         string
	Uploader    ident.UserNID // 0 for media of another server
	ContentType string
	Filename    string
	Size        int64
	Created     time.Time // when it was uploaded or fetched
	Referenced  bool      // of uploads only
	Quarantined bool      // of uploads only
	Waiting     bool      // the upload is unused and waits for its deletion
}

// Filter selects media for List.
type Filter struct {
	User    ident.UserNID // 0: all
	Room    ident.RoomNID // 0: all; an event of the room refers to the media
	Age     time.Duration // uploaded or fetched at least so long ago
	MinSize int64
	Remote  bool // cached files of other servers in place of uploads
}

// List returns a page of media, the oldest first: at most limit of those that a filter selects and that come after the
// given ones. Of the latter only the URI and the time matter.
func (s *Service) List(ctx context.Context, f Filter, after Info, limit int) (list []Info, err error) {
	row := storage.MediaFilter{User: f.User, Room: f.Room, Before: s.opts.Now().Add(-f.Age).UnixMilli() + 1, MinSize: f.MinSize}
	var name storage.MediaName
	var created int64 // before all others
	if after.URI != "" {
		if name, err = s.ParseURI(after.URI); err != nil {
			return nil, err
		}
		created = after.Created.UnixMilli()
	}
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		if f.Remote {
			rows, err := tx.ListRemoteMedia(row, storage.RemoteMedia{Server: name.Server, ID: name.ID, Fetched: created}, limit)
			for _, m := range rows {
				list = append(list, Info{URI: s.uri(storage.MediaName{Server: m.Server, ID: m.ID}), ContentType: m.ContentType, Filename: m.Filename, Size: m.Size, Created: time.UnixMilli(m.Fetched)})
			}
			return err
		}
		rows, err := tx.ListMedia(row, storage.Media{ID: name.ID, Created: created}, limit)
		for _, m := range rows {
			list = append(list, Info{
				URI: s.uri(storage.MediaName{ID: m.ID}), Uploader: m.User, ContentType: m.ContentType, Filename: m.Filename, Size: m.Size, Created: time.UnixMilli(m.Created),
				Referenced: m.Referenced, Quarantined: m.Quarantined, Waiting: m.Unused > 0 && !m.Referenced,
			})
		}
		return err
	})
	return list, err
}

// maxShownRefs is how many of the texts that refer to media are shown to an administrator.
const maxShownRefs = 100

// References returns the texts that refer to media, at most maxShownRefs.
func (s *Service) References(ctx context.Context, m storage.MediaName) (refs []storage.MediaRef, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		refs, err = tx.MediaRefs(m, storage.FirstMediaRef, maxShownRefs)
		return err
	})
	return refs, err
}

// Delete deletes media, whatever refers to them, and lifts their quarantine. A file of another server can be fetched
// again afterwards, unless it is put into quarantine.
//
// Errors: M_NOT_FOUND; M_FORBIDDEN if a legal hold covers them.
func (s *Service) Delete(ctx context.Context, m storage.MediaName) error {
	err := s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		hold, held, err := tx.HoldOnMedia(m)
		if err != nil {
			return err
		}
		if held {
			return mxerr.Forbidden("These media are under legal hold %d and cannot be deleted until it is lifted; put them into quarantine to withdraw them", hold)
		}
		deleted, err := s.deleteRow(tx, m)
		if err != nil {
			return err
		}
		if deleted {
			if err := s.opts.Deletions.Count(tx, 0, deletions.Media, 0, 1); err != nil {
				return err
			}
		}
		lifted, err := tx.QuarantineMedia(m, false)
		if err == nil && !deleted && !lifted {
			err = errGone()
		}
		return err
	})
	return errors.Join(err, s.unlinkAll(ctx))
}

func (s *Service) deleteRow(tx *storage.Tx, m storage.MediaName) (deleted bool, err error) {
	if m.Server == "" {
		return tx.DeleteMedia(m.ID)
	}
	_, found, err := tx.RemoteMedia(m.Server, m.ID)
	if err != nil || !found {
		return false, err
	}
	return true, tx.DeleteRemoteMedia(m.Server, m.ID)
}

// Quarantine withdraws media, or lifts that: nobody gets them, and they are not deleted even when the last message that
// refers to them is. Media of other servers may be withdrawn before they are fetched; they are not fetched then.
//
// Errors: M_NOT_FOUND if there is no such upload, or nothing to lift.
func (s *Service) Quarantine(ctx context.Context, m storage.MediaName, on bool) error {
	return s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if on && m.Server == "" {
			if _, found, err := tx.Media(m.ID); err != nil || !found {
				return errors.Join(err, errGone())
			}
		}
		changed, err := tx.QuarantineMedia(m, on)
		if err == nil && !changed && !on {
			err = mxerr.NotFound("These media are not in quarantine")
		}
		return err
	})
}

// Stored is a file that is stored, whether it is shown or not.
type Stored struct {
	*File
	Uploader    ident.UserNID // 0 for media of another server
	Created     time.Time     // when it was uploaded or fetched
	Quarantined bool
}

// OpenStored opens media as they are stored, also those that nobody gets any more because a message expired, was
// redacted, or they are in quarantine. It is for the export of what a legal hold covers.
//
// Errors: M_NOT_FOUND if they are not stored here.
func (s *Service) OpenStored(ctx context.Context, m storage.MediaName) (out Stored, err error) {
	var row storage.Media
	found := false
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if out.Quarantined, err = tx.MediaQuarantined(m); err != nil {
			return err
		}
		if m.Server == "" {
			row, found, err = tx.Media(m.ID)
			return err
		}
		remote, cached, err := tx.RemoteMedia(m.Server, m.ID)
		row, found = asMedia(remote), cached
		row.Created = remote.Fetched
		return err
	})
	if err == nil && (!found || row.Blob == "") {
		err = errGone()
	}
	if err != nil {
		return out, err
	}
	out.Uploader, out.Created = row.User, time.UnixMilli(row.Created)
	if out.File, err = s.openBlob(row); errors.Is(err, errDamaged) {
		err = s.lost(row, err)
	}
	return out, err
}
