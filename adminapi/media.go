package adminapi

import (
	"context"
	"strconv"
	"strings"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/media"
	"ebb/mxerr"
	"ebb/storage"
)

// MediaListArgs are the arguments of the command "media list". Those that are zero select everything.
type MediaListArgs struct {
	ListArgs
	User    string `json:"user,omitempty"`
	Room    string `json:"room,omitempty"`
	Age     int64  `json:"age_ms,omitempty"`
	MinSize int64  `json:"min_size,omitempty"` // bytes
	Remote  bool   `json:"remote,omitempty"`   // cached files of other servers
}

// Media describes a file in the result of the command "media list".
type Media struct {
	URI         string    `json:"uri"`
	User        id.UserID `json:"user,omitempty"`
	ContentType string    `json:"content_type"`
	Filename    string    `json:"filename,omitempty"`
	Size        int64     `json:"size"`
	Created     time.Time `json:"created"`
	Referenced  bool      `json:"referenced"`
	Quarantined bool      `json:"quarantined"`
	Waiting     bool      `json:"waiting"` // unused; it is deleted within a day
}

// mediaList lists uploads, or cached files of other servers, the oldest first. The key of an item is its time, a dot
// and its URI.
func (a *API) mediaList(ctx context.Context, args MediaListArgs) (any, error) {
	filter, err := a.mediaFilter(ctx, args)
	if err != nil {
		return nil, err
	}
	var after media.Info
	if args.After != "" {
		created, uri, _ := strings.Cut(args.After, ".")
		ms, err := strconv.ParseInt(created, 10, 64)
		if err != nil {
			return nil, badAfter()
		}
		after.Created, after.URI = time.UnixMilli(ms), uri
	}
	var names map[ident.UserNID]string
	read := func(limit int) (list []media.Info, err error) {
		if list, err = a.Media.List(ctx, filter, after, limit); err == nil {
			names, err = a.uploaders(ctx, list)
		}
		return list, err
	}
	key := func(m media.Info) string { return strconv.FormatInt(m.Created.UnixMilli(), 10) + "." + m.URI }
	return pageOf(args.ListArgs, read, key, func(m media.Info) Media {
		return Media{
			URI: m.URI, User: id.UserID(names[m.Uploader]), ContentType: m.ContentType, Filename: m.Filename, Size: m.Size, Created: m.Created,
			Referenced: m.Referenced, Quarantined: m.Quarantined, Waiting: m.Waiting,
		}
	})
}

func (a *API) mediaFilter(ctx context.Context, args MediaListArgs) (f media.Filter, err error) {
	f = media.Filter{Age: time.Duration(args.Age) * time.Millisecond, MinSize: args.MinSize, Remote: args.Remote}
	if args.Age < 0 || args.MinSize < 0 {
		return f, mxerr.InvalidParam("age_ms and min_size must not be negative")
	}
	if args.User != "" {
		user, err := a.userID(args.User)
		if err != nil {
			return f, err
		}
		if f.User, err = a.userNID(ctx, user); err != nil {
			return f, err
		}
	}
	if args.Room != "" {
		roomID, err := a.roomID(ctx, args.Room)
		if err != nil {
			return f, err
		}
		room, err := a.Rooms.Room(ctx, roomID)
		if err != nil {
			return f, mxerr.NotFound("There is no room %s", roomID).Because(err)
		}
		f.Room = room.NID()
	}
	return f, nil
}

func (a *API) userNID(ctx context.Context, user id.UserID) (nid ident.UserNID, err error) {
	err = a.DB.Read(ctx, func(tx *storage.Tx) error {
		var found bool
		nid, found, err = tx.LookupUser(string(user))
		if err == nil && !found {
			err = mxerr.NotFound("There is no user %s", user)
		}
		return err
	})
	return nid, err
}

// uploaders returns the user IDs of the uploaders of media.
func (a *API) uploaders(ctx context.Context, list []media.Info) (map[ident.UserNID]string, error) {
	names := map[ident.UserNID]string{}
	var nids []ident.UserNID
	for _, m := range list {
		if _, known := names[m.Uploader]; !known && m.Uploader != 0 {
			names[m.Uploader] = ""
			nids = append(nids, m.Uploader)
		}
	}
	if len(nids) == 0 {
		return names, nil
	}
	err := a.DB.Read(ctx, func(tx *storage.Tx) error {
		ids, err := tx.UserIDs(nids)
		for i, user := range ids {
			names[nids[i]] = user
		}
		return err
	})
	return names, err
}

// MediaArgs are the arguments of the commands "media delete" and "media quarantine".
type MediaArgs struct {
	URI  string `json:"uri"`
	Lift bool   `json:"lift,omitempty"` // for media quarantine: ends it
}

// MediaResult is the result of the commands "media delete" and "media quarantine".
type MediaResult struct {
	URI        string         `json:"uri"`
	References []MediaUse     `json:"references"` // what refers to the media, at most 100 texts
	Kinds      map[string]int `json:"kinds"`      // the same by kind
}

// MediaUse is a text that refers to media.
type MediaUse struct {
	Kind  string     `json:"kind"` // message, delayed event, state event, profile, account data
	Room  id.RoomID  `json:"room,omitempty"`
	Event id.EventID `json:"event,omitempty"`
	User  id.UserID  `json:"user,omitempty"`
}

var mediaKinds = map[storage.MediaRefKind]string{
	storage.MessageMedia: "message", storage.DelayedMedia: "delayed event", storage.StateMedia: "state event", storage.ProfileMedia: "profile", storage.AccountDataMedia: "account data",
}

func (a *API) mediaDelete(ctx context.Context, args MediaArgs) (any, error) {
	return a.changeMedia(ctx, args, a.Media.Delete)
}

func (a *API) mediaQuarantine(ctx context.Context, args MediaArgs) (any, error) {
	return a.changeMedia(ctx, args, func(ctx context.Context, m storage.MediaName) error { return a.Media.Quarantine(ctx, m, !args.Lift) })
}

// changeMedia changes media and returns what refers to them.
func (a *API) changeMedia(ctx context.Context, args MediaArgs, change func(context.Context, storage.MediaName) error) (any, error) {
	name, err := a.Media.ParseURI(args.URI)
	if err != nil {
		return nil, err
	}
	refs, err := a.Media.References(ctx, name)
	if err != nil {
		return nil, err
	}
	result := MediaResult{URI: args.URI, References: []MediaUse{}, Kinds: map[string]int{}}
	err = a.DB.Read(ctx, func(tx *storage.Tx) error {
		for _, ref := range refs {
			use := MediaUse{Kind: mediaKinds[ref.Kind], Event: id.EventID(ref.EventID)}
			if err := nameOwner(tx, ref, &use); err != nil {
				return err
			}
			result.Kinds[use.Kind]++
			result.References = append(result.References, use)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return result, change(ctx, name)
}

// nameOwner sets the room of an event, or the user of a profile or of account data.
func nameOwner(tx *storage.Tx, ref storage.MediaRef, use *MediaUse) error {
	if ref.Kind == storage.ProfileMedia || ref.Kind == storage.AccountDataMedia {
		user, err := tx.UserID(ident.UserNID(ref.Owner))
		use.User = id.UserID(user)
		return err
	}
	if ref.Room == 0 {
		return nil
	}
	row, _, err := tx.RoomByNID(ref.Room)
	use.Room = id.RoomID(row.RoomID)
	return err
}

// MediaGCArgs are the arguments of the command "media gc".
type MediaGCArgs struct {
	DryRun bool `json:"dry_run,omitempty"`
}

// MediaGC is the result of the command "media gc".
type MediaGC struct {
	DryRun     bool       `json:"dry_run"`
	Deleted    MediaCount `json:"deleted"`    // unused for long enough; in a dry run they would be deleted
	Waiting    MediaCount `json:"waiting"`    // unused; they are deleted after a day
	Young      MediaCount `json:"young"`      // not older than media.unused_lifetime
	Undeclared MediaCount `json:"undeclared"` // they may be used in encrypted rooms
}

// MediaCount is a number of files and their size.
type MediaCount struct {
	Files int   `json:"files"`
	Bytes int64 `json:"bytes"`
}

func (a *API) mediaGC(ctx context.Context, args MediaGCArgs) (any, error) {
	u, err := a.Media.CollectUnused(ctx, args.DryRun)
	return MediaGC{
		DryRun: args.DryRun, Deleted: MediaCount(u.Deleted), Waiting: MediaCount(u.Waiting), Young: MediaCount(u.Young), Undeclared: MediaCount(u.Undeclared),
	}, err
}
