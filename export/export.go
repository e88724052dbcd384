// Package export gives people what the server stores about them, as a zip archive of JSON files and media.
//
// Start queues an export, which is built in the background, one at a time, and streamed into an encrypted file. Only
// this process knows its key: after a restart, nobody can read what is left of a file, nor a copy of it in a backup,
// and the exports that had not ended are built again. Every message is compared with the clock when it is written. An
// export ends when the first message in it expires, when one of its events or files is redacted, purged or deleted,
// with the account, and after Lifetime; whoever downloads it then gets no more of it.
//
// The archive has a manifest with the hash of every file, signed with the key of the audit log (package archive).
package export

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/audit"
	"ebb/history"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/storage"
)

const (
	// Lifetime is how long an export can be downloaded at most.
	Lifetime = 24 * time.Hour
	// maxExports bounds the exports at the same time, and maxSize the size in bytes of each.
	maxExports = 20
	maxSize    = 16 << 30
	// maxBuilds is how often an archive is written if something in it is redacted or deleted meanwhile.
	maxBuilds = 3
	// sweepInterval is how often exports that have ended are removed from disk.
	sweepInterval = time.Minute
)

// Files opens uploads.
type Files interface {
	// OpenUpload opens an upload if it may be shown.
	//
	// Errors: M_NOT_FOUND.
	OpenUpload(ctx context.Context, mediaID string) (io.ReadCloser, error)
}

// Options are the dependencies of a Service.
type Options struct {
	Dir     string // where the files are; nothing else may be there
	Server  string
	DB      *storage.DB
	Rooms   *rooms.Service
	Commits *rooms.Commits
	History *history.Service
	Files   Files
	Audit   *audit.Log
	Now     func() time.Time
	Log     *slog.Logger

	size int64 // instead of maxSize
}

// State is the state of an export.
type State string

// The states. An export that has ended is in none: it does not exist any more.
const (
	Building State = "building" // or queued
	Ready    State = "ready"
	Failed   State = "failed"
)

// Status describes an export.
type Status struct {
	State   State     `json:"state"`
	Started time.Time `json:"started"`
	Expires time.Time `json:"expires"` // zero unless it is ready
	Size    int64     `json:"size"`    // bytes that are written
	LeftOut int64     `json:"left_out"`
	Key     string    `json:"key"` // verifies the signature
	Problem string    `json:"problem,omitempty"`

	Conversations bool `json:"conversations"` // what others have written and the user may read is in it
}

// Owner identifies an export: each user has at most one of their own and one that administrators have asked for.
type Owner struct {
	User  ident.UserNID
	Admin bool // an administrator has asked for it
}

// Service builds exports. It is safe for concurrent use.
type Service struct {
	opts   Options
	ctx    context.Context // ends with the service
	cancel context.CancelFunc
	jobs   sync.WaitGroup
	turn   chan struct{} // holds a value while an export is built

	// mu guards exports; it is taken before contents.mu.
	mu      sync.Mutex
	exports map[Owner]*export
}

// export is an export. Its status is guarded by Service.mu.
type export struct {
	owner    Owner
	user     id.UserID
	status   Status
	path     string
	file     *secretFile
	contents contents
	cancel   context.CancelFunc // stops building
	ended    bool
}

// New returns a Service. It removes the files of a former run.
func New(o Options) (*Service, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.size == 0 {
		o.size = maxSize
	}
	if err := os.RemoveAll(o.Dir); err != nil {
		return nil, fmt.Errorf("remove exports of a former run: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Service{opts: o, ctx: ctx, cancel: cancel, turn: make(chan struct{}, 1), exports: map[Owner]*export{}}
	if o.Commits != nil {
		o.Commits.Subscribe(s.committed)
	}
	return s, nil
}

// committed is the Listener that ends exports with events that are gone.
func (s *Service) committed(c *rooms.Commit) {
	if c.Room == nil || len(c.Redacted)+len(c.Purged)+len(c.Rejected) == 0 && !c.Rejudged {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.exports) == 0 {
		return
	}
	gone := slices.Concat(c.Purged, c.Rejected)
	for _, r := range c.Redacted {
		gone = append(gone, r.Pos)
	}
	for _, e := range s.exports {
		e.contents.spoil(c.Room.NID(), gone, c.Rejudged)
	}
}

var errTooLarge = errors.New("export: the archive is larger than allowed")

// Start begins an export, unless there is one that is being built or can be downloaded. conversations says whether it
// has what others have written and the user may read; an export that differs in that is replaced.
//
// Errors: M_LIMIT_EXCEEDED.
func (s *Service) Start(ctx context.Context, o Owner, user id.UserID, conversations bool) (Status, error) {
	if err := s.Sweep(ctx); err != nil {
		return Status{}, err
	}
	if st := s.Status(o); st.State != "" && st.Conversations != conversations {
		s.Drop(o)
	}
	e, err := s.enter(o, user, conversations)
	if err != nil || e == nil {
		return s.Status(o), err
	}
	err = s.opts.DB.Write(ctx, func(tx *storage.Tx) error {
		if err := tx.PutExportRequest(e.request()); err != nil {
			return err
		}
		return s.opts.Audit.Add(ctx, tx, "export of an account begun", "user", user, "by_administrator", o.Admin, "conversations", conversations)
	})
	if err != nil {
		s.remove(e)
		return Status{}, err
	}
	s.launch(e)
	return s.Status(o), nil
}

// launch builds an export in the background.
func (s *Service) launch(e *export) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.ended {
		return
	}
	building, cancel := context.WithCancel(s.ctx)
	e.cancel = cancel
	s.jobs.Go(func() {
		defer cancel()
		s.run(building, e)
	})
}

// enter adds a new export. It returns nil if there is one that has not failed.
func (s *Service) enter(o Owner, user id.UserID, conversations bool) (*export, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, s.ctx.Err()
	}
	if e := s.exports[o]; e != nil && e.status.State != Failed {
		return nil, nil
	}
	if len(s.exports) >= maxExports && s.exports[o] == nil {
		return nil, mxerr.LimitExceeded(sweepInterval)
	}
	e := &export{owner: o, user: user, path: filepath.Join(s.opts.Dir, rand.Text()), status: Status{State: Building, Started: s.opts.Now(), Conversations: conversations}}
	s.exports[o] = e
	return e, nil
}

// run builds an export when it is its turn.
func (s *Service) run(ctx context.Context, e *export) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return
	}
	begun := s.opts.Now()
	err := s.buildUnspoilt(ctx, e)
	s.mu.Lock()
	var useless *secretFile
	failed := false
	switch {
	case ctx.Err() != nil || e.ended:
		useless = e.detach()
	case err != nil:
		e.status.State, e.status.Problem = Failed, problemOf(err)
		useless, failed = e.detach(), true
		s.opts.Log.Error("Cannot export an account", "user", e.user, "err", err)
	default:
		e.status.State, e.status.Size = Ready, e.file.at
		s.opts.Log.Info("An export of an account can be downloaded", "user", e.user, "bytes", e.file.at, "took", s.opts.Now().Sub(begun))
	}
	s.mu.Unlock()
	s.discard(useless)
	if failed {
		s.forget(e.owner)
	}
	if _, err := s.check(ctx, e); err != nil && ctx.Err() == nil { // which also determines when it ends
		s.opts.Log.Error("Cannot check an export", "user", e.user, "err", err)
	}
}

// buildUnspoilt writes the archive. It writes it again if something in it was redacted or deleted meanwhile.
func (s *Service) buildUnspoilt(ctx context.Context, e *export) error {
	for n := 1; ; n++ {
		err := s.build(ctx, e)
		if err != nil || n == maxBuilds || !e.contents.isBroken() {
			return err
		}
		s.mu.Lock()
		useless := e.detach()
		s.mu.Unlock()
		s.discard(useless)
		e.contents.reset()
	}
}

// problemOf says to the user why an export has failed.
func problemOf(err error) string {
	switch {
	case errors.Is(err, errTooLarge):
		return fmt.Sprintf("There is more than %d GB of data. Ask the administrator of this server for it.", maxSize>>30)
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, storage.ErrFull):
		return "The server's disk is full. Try again later."
	}
	return "It failed; the administrator finds the reason in the server's log. Try again later."
}

// detach takes the file from an export, so that it is not read any more. The caller holds Service.mu.
func (e *export) detach() *secretFile {
	f := e.file
	e.file = nil
	return f
}

// discard closes and removes a file, which takes a while if it is large.
func (s *Service) discard(f *secretFile) {
	if f == nil {
		return
	}
	if err := errors.Join(f.file.Close(), os.Remove(f.file.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.opts.Log.Warn("Cannot remove the file of an export; the next start tries again", "err", err)
	}
}

// remove ends an export until the next start of the server.
func (s *Service) remove(e *export) {
	s.mu.Lock()
	if s.exports[e.owner] == e {
		delete(s.exports, e.owner)
	}
	e.ended = true
	if e.cancel != nil {
		e.cancel()
	}
	var file *secretFile
	if e.status.State != Building { // otherwise run removes the file
		file = e.detach()
	}
	s.mu.Unlock()
	s.discard(file)
}

// Status describes an export. Its state is "" if there is none.
func (s *Service) Status(o Owner) (st Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.exports[o]; e != nil {
		st = e.status
	}
	return st
}

// Drop ends an export, if there is one.
func (s *Service) Drop(o Owner) {
	s.mu.Lock()
	e := s.exports[o]
	s.mu.Unlock()
	if e != nil {
		s.end(e)
	}
}

// end ends an export for good.
func (s *Service) end(e *export) {
	s.forget(e.owner)
	s.remove(e)
}

// DropUser ends all exports of a user.
func (s *Service) DropUser(user ident.UserNID) {
	s.Drop(Owner{User: user})
	s.Drop(Owner{User: user, Admin: true})
}

// Sweep ends the exports that may not be given out any more.
func (s *Service) Sweep(ctx context.Context) error {
	s.mu.Lock()
	var ready []*export
	for _, e := range s.exports {
		if e.status.State != Building {
			ready = append(ready, e)
		}
	}
	s.mu.Unlock()
	for _, e := range ready {
		if _, err := s.check(ctx, e); err != nil {
			return err
		}
	}
	return nil
}

// check ends an export if it may not be given out any more. It reports whether it may, and updates when it ends.
func (s *Service) check(ctx context.Context, e *export) (ok bool, err error) {
	until, err := s.until(ctx, e)
	if errors.Is(err, rooms.ErrNoRoom) { // it was removed from this server
		until, err = time.Time{}, nil
	}
	if err != nil {
		return false, err
	}
	ok = !e.contents.isBroken() && s.opts.Now().Before(until)
	if ok {
		ok, err = s.stillStored(ctx, e)
	}
	switch {
	case err != nil:
		return false, err
	case !ok:
		s.end(e)
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.status.State == Ready {
		e.status.Expires = until
	}
	return e.status.State == Ready && !e.ended, nil
}

// until returns when an export ends at the latest under the current policies.
func (s *Service) until(ctx context.Context, e *export) (time.Time, error) {
	until := e.status.Started.Add(Lifetime)
	if end := e.contents.ends(); !end.IsZero() && end.Before(until) {
		until = end
	}
	for _, o := range e.contents.oldest() {
		r, err := s.opts.Rooms.RoomByNID(ctx, o.room)
		if err != nil {
			return until, err
		}
		if at, found := o.expiry(r.Retention()); found && at.Before(until) {
			until = at
		}
	}
	return until, nil
}

// stillStored reports whether the account is active and all uploads of an export may still be shown.
func (s *Service) stillStored(ctx context.Context, e *export) (ok bool, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		a, found, err := tx.Account(e.owner.User)
		if ok = found && a.DeactivatedTS == 0; err != nil || !ok {
			return err
		}
		for part := range slices.Chunk(e.contents.uploads(), page) {
			n, err := tx.ShownUploads(part)
			if ok = n == len(part); err != nil || !ok {
				return err
			}
		}
		return nil
	})
	return ok, err
}

// Download is an export that is being downloaded.
type Download struct {
	*io.SectionReader
	Name string
	Key  string
}

// Open opens an export that is ready.
//
// Errors: M_NOT_FOUND.
func (s *Service) Open(ctx context.Context, o Owner) (*Download, error) {
	none := mxerr.NotFound("There is no export to download: it is not ready, or it has ended. Start a new one")
	s.mu.Lock()
	e := s.exports[o]
	if e == nil || e.status.State != Ready {
		s.mu.Unlock()
		return nil, none
	}
	s.mu.Unlock()
	if ok, err := s.check(ctx, e); err != nil || !ok {
		return nil, errors.Join(err, errIf(err == nil, none))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := &guarded{s: s, e: e, until: e.status.Expires}
	name := fmt.Sprintf("%s-%s.zip", s.opts.Server, e.status.Started.UTC().Format("2006-01-02"))
	return &Download{SectionReader: io.NewSectionReader(at, 0, e.status.Size), Name: name, Key: e.status.Key}, nil
}

func errIf(is bool, err error) error {
	if is {
		return err
	}
	return nil
}

// guarded reads from the file of an export until the export ends.
type guarded struct {
	s     *Service
	e     *export
	until time.Time
}

var errEnded = errors.New("export: the export has ended during the download")

// ReadAt implements io.ReaderAt.
func (g *guarded) ReadAt(p []byte, off int64) (int, error) {
	g.s.mu.Lock()
	file := g.e.file
	ended := g.e.ended || file == nil || !g.s.opts.Now().Before(g.until)
	g.s.mu.Unlock()
	if ended || g.e.contents.isBroken() {
		return 0, errEnded
	}
	return file.ReadAt(p, off)
}

// Run begins to build the exports again that had not ended when the server stopped, and removes those that have ended,
// until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	if err := s.Resume(ctx); err != nil && ctx.Err() == nil {
		s.opts.Log.Error("Cannot build exports again", "err", err)
	}
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.opts.Log.Error("Cannot check exports", "err", err)
		}
	}
}

// Close ends all exports until the next start, and waits until they are not built any more.
func (s *Service) Close() {
	s.mu.Lock()
	s.cancel()
	list := make([]*export, 0, len(s.exports))
	for _, e := range s.exports {
		list = append(list, e)
	}
	s.mu.Unlock()
	for _, e := range list {
		s.remove(e)
	}
	s.jobs.Wait()
}
