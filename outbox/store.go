package outbox

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"ebb/history"
	"ebb/ident"
	"ebb/storage"
)

// load reads what was pending when the service stopped.
func (s *Service) load(ctx context.Context) error {
	s.mu.Lock()
	begun := s.loading
	s.loading = true
	s.mu.Unlock()
	if begun {
		return nil
	}
	var destinations []storage.Destination
	var behind []storage.DestinationRoom
	var backlogs []storage.EDUBacklog
	err := s.opts.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if destinations, err = tx.Destinations(); err != nil {
			return err
		}
		if behind, err = tx.DestinationRooms(); err != nil {
			return err
		}
		backlogs, err = tx.EDUBacklogs()
		return err
	})
	s.mu.Lock()
	if err != nil {
		s.loading = false // the next caller tries again
		s.mu.Unlock()
		return fmt.Errorf("read what is pending for other servers: %w", err)
	}
	for _, row := range destinations {
		s.destination(row.Server).read(row)
	}
	for _, row := range behind {
		s.stamp++
		s.destination(row.Server).behind[row.Room] = s.stamp
	}
	for _, row := range backlogs {
		s.destination(row.Server).kicked++
	}
	s.mu.Unlock()
	return s.requeue(ctx)
}

func (d *destination) read(row storage.Destination) {
	d.delivered, d.failures = row.Delivered, row.Failures
	if row.FailingSince != 0 {
		d.since, d.retry = time.UnixMilli(row.FailingSince), time.UnixMilli(row.RetryTS)
	}
	if row.ReachedTS != 0 {
		d.reached = time.UnixMilli(row.ReachedTS)
	}
}

// outboxPage is the number of rows that are read at a time.
const outboxPage = 1000

// requeue adds to the queues the events that were pending when the service stopped, and those committed since then.
func (s *Service) requeue(ctx context.Context) error {
	in := residents{s, map[ident.RoomNID][]history.ServerPeriod{}}
	for after, more := storage.Pos(0), true; more; {
		rows, err := s.page(ctx, after)
		if err != nil {
			return err
		}
		for _, row := range rows {
			servers, err := in.serversOf(ctx, row)
			if err != nil {
				return err
			}
			after = row.Position
			s.requeueOne(row, servers)
		}
		more = len(rows) == outboxPage || !s.finishLoading(after)
	}
	return nil
}

// finishLoading ends the loading and returns true if the table has been read up to the newest event. Until then, new
// events are only in the table; from then on, queueEvent adds them to the queues.
func (s *Service) finishLoading(after storage.Pos) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.announced > after {
		return false
	}
	s.loaded, s.top = true, max(s.top, after)
	return true
}

func (s *Service) requeueOne(row storage.OutboxRow, servers []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.top = max(s.top, row.Position)
	s.rows++
	for _, server := range servers {
		if d := s.destination(server); row.Position > d.delivered {
			s.enqueue(d, queued{row.Position, row.Room})
		}
	}
}

func (s *Service) page(ctx context.Context, after storage.Pos) (rows []storage.OutboxRow, err error) {
	err = s.opts.DB.Read(ctx, func(tx *storage.Tx) error {
		rows, err = tx.Outbox(after, outboxPage)
		return err
	})
	if err != nil {
		err = fmt.Errorf("read the outbox: %w", err)
	}
	return rows, err
}

// residents caches, for one pass over the table, which servers were in which room and when.
type residents struct {
	s     *Service
	rooms map[ident.RoomNID][]history.ServerPeriod
}

// serversOf returns the servers to which the event of a row is sent: those that were in the room, and the server of the
// user that the event is about, such as an invited user.
func (r *residents) serversOf(ctx context.Context, row storage.OutboxRow) ([]string, error) {
	stays, known := r.rooms[row.Room]
	if !known {
		var err error
		if stays, err = r.s.opts.History.ServersSince(ctx, row.Room, row.Position-1); err != nil {
			return nil, err
		}
		r.rooms[row.Room] = stays
	}
	var servers []string
	for _, stay := range stays {
		if stay.From <= row.Position && (stay.To == 0 || row.Position <= stay.To) && !slices.Contains(servers, stay.Server) {
			servers = append(servers, stay.Server)
		}
	}
	if about := ident.ServerOf(row.About); about != "" && about != r.s.opts.Server && !slices.Contains(servers, about) {
		servers = append(servers, about)
	}
	return servers, nil
}

// refill reads further missed events of a server from the table if its queue is empty.
func (s *Service) refill(ctx context.Context, d *destination) error {
	s.mu.Lock()
	needed, after := d.missed > 0 && len(d.queue) == 0 && d.unanswered == nil, d.seen
	s.mu.Unlock()
	if !needed {
		return nil
	}
	in := residents{s, map[ident.RoomNID][]history.ServerPeriod{}}
	for more := true; more; {
		s.mu.Lock()
		top := s.top // everything up to here has been committed, so the page contains it
		s.mu.Unlock()
		rows, err := s.page(ctx, after)
		if err != nil {
			return err
		}
		var found []queued
		for _, row := range rows {
			servers, err := in.serversOf(ctx, row)
			if err != nil {
				return err
			}
			if after = row.Position; slices.Contains(servers, d.server) {
				found = append(found, queued{row.Position, row.Room})
			}
		}
		if more = len(rows) == outboxPage; !more {
			after = max(after, top)
		}
		more = s.refilled(d, after, found) && more
	}
	return nil
}

// refilled adds the events found on a page of the table to the queue of a server. more reports whether the server needs
// another page and the queue has room for it.
func (s *Service) refilled(d *destination, seen storage.Pos, found []queued) (more bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.missed == 0 { // skip was called in the meantime
		return false
	}
	d.queue = append(d.queue, slices.DeleteFunc(found, func(q queued) bool { return d.behind[q.room] != 0 })...)
	d.seen = seen
	if seen >= s.top { // the table has been read to its end, so new events go into the queue
		d.missed = 0
		clear(d.missedRooms)
		return false
	}
	d.missed = max(d.missed-int64(len(found)), 1)
	return len(d.queue) < maxQueue
}

// store stores the progress of all servers, and deletes rows that are no longer needed.
func (s *Service) store(ctx context.Context) error {
	c := s.changes()
	if len(c.rows) == 0 && len(c.removed) == 0 {
		return nil
	}
	var pruned int64
	err := s.opts.DB.Write(ctx, func(tx *storage.Tx) (err error) {
		if err := c.write(tx); err != nil {
			return err
		}
		pruned, err = tx.PruneOutbox(c.prune)
		return err
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rows -= pruned; err == nil {
		return nil
	}
	for _, row := range c.rows { // they are deleted next time
		d := s.destination(row.Server)
		d.dirty = true
		for _, room := range c.added[row.Server] {
			d.newly[room] = d.behind[room] != 0
		}
	}
	return err
}

// changes collects what has to be stored.
type changes struct {
	rows           []storage.Destination
	added, removed map[string][]ident.RoomNID // rows of destination_rooms
	prune          storage.Pos
}

func (s *Service) changes() *changes {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &changes{added: map[string][]ident.RoomNID{}, removed: map[string][]ident.RoomNID{}, prune: s.top}
	now := s.opts.Now()
	failing := 0
	for server, d := range s.known {
		if d.failures > 0 && d.hasWork() {
			failing++
		}
		if d.failures > 0 && (s.rows > maxRows || now.Sub(d.since) > maxPatience) && (len(d.queue) > 0 || d.missed > 0) {
			s.skip(d)
		}
		if oldest, waits := d.oldest(); waits {
			c.prune = min(c.prune, oldest)
		} else if d.dirty {
			d.delivered = max(d.delivered, s.top)
		}
		// Nothing is stored for a server that never responded and has nothing pending.
		if !d.dirty || !d.hasWork() && d.reached.IsZero() {
			continue
		}
		d.dirty = false
		c.rows = append(c.rows, d.row())
		for room, still := range d.newly {
			if still {
				c.added[server] = append(c.added[server], room)
			}
		}
		clear(d.newly)
	}
	for server, gone := range s.gone {
		c.removed[server] = slices.Collect(maps.Keys(gone))
	}
	clear(s.gone)
	failingServers.Set(float64(failing))
	s.forgetIdle(now)
	return c
}

func (d *destination) row() storage.Destination {
	row := storage.Destination{Server: d.server, Delivered: d.delivered, Failures: d.failures}
	if d.failures > 0 {
		row.FailingSince, row.RetryTS = d.since.UnixMilli(), max(d.retry.UnixMilli(), 0)
	}
	if !d.reached.IsZero() {
		row.ReachedTS = d.reached.UnixMilli()
	}
	return row
}

func (c *changes) write(tx *storage.Tx) error {
	for _, row := range c.rows {
		if err := tx.PutDestination(row); err != nil {
			return err
		}
	}
	for server, list := range c.removed {
		for _, room := range list {
			if err := tx.DeleteDestinationRoom(server, room); err != nil {
				return err
			}
		}
	}
	for server, list := range c.added {
		for _, room := range list {
			if err := tx.AddDestinationRoom(server, room); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxIdle bounds the servers in memory that have nothing pending.
const maxIdle = 10_000

// forgetIdle drops the state of servers that have nothing pending. A failing server then starts without a delay the
// next time. The caller holds mu.
func (s *Service) forgetIdle(now time.Time) {
	if len(s.known) < maxIdle {
		return
	}
	for server, d := range s.known {
		if !d.hasWork() && !d.running && (!d.dirty || d.reached.IsZero()) && !now.Before(d.retry) {
			delete(s.known, server)
		}
	}
}
