package directory

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// localAlias returns an error if alias is not a valid alias of this server.
func (s *Service) localAlias(alias id.RoomAlias) error {
	if !pdu.ValidRoomAlias(alias) {
		return mxerr.InvalidParam("The alias is not valid; aliases have the form #name:server")
	}
	if ident.ServerOf(alias) != s.server {
		return mxerr.InvalidParam("The alias must end in :%s", s.server)
	}
	return nil
}

// CreateAlias creates an alias for a room that the sender has joined.
// Spec: client-server-api#put_matrixclientv3directoryroomroomalias
func (s *Service) CreateAlias(ctx context.Context, sender ident.Requester, alias id.RoomAlias, room id.RoomID) error {
	if err := s.localAlias(alias); err != nil {
		return err
	}
	if s.apps != nil {
		if err := s.apps.MayUseAlias(sender, alias); err != nil {
			return err
		}
	}
	r, err := s.rooms.Room(ctx, room)
	if err != nil {
		return err
	}
	if r.Membership(sender.UserID) != rooms.Join {
		return errNotInRoom()
	}
	return s.rooms.ChangeAliases(ctx, room, func(tx *storage.Tx) error {
		existing, err := tx.RoomAliases(r.NID(), rooms.MaxAliases)
		if err != nil {
			return err
		}
		if len(existing) >= rooms.MaxAliases {
			return mxerr.InvalidParam("A room must not have more than %d aliases", rooms.MaxAliases)
		}
		ok, err := tx.InsertAlias(storage.Alias{Alias: string(alias), Room: r.NID(), Creator: sender.UserNID})
		if err == nil && !ok {
			return mxerr.New(http.StatusConflict, mxerr.CodeUnknown, "The alias %s is already in use", alias)
		}
		return err
	})
}

// DeleteAlias deletes an alias. The sender must have created it, be an administrator of the server or an application
// service with the alias in its namespaces, or have the power level to change the room's canonical alias. In the last
// case the alias is also removed from the room's m.room.canonical_alias.
// Spec: client-server-api#delete_matrixclientv3directoryroomroomalias
func (s *Service) DeleteAlias(ctx context.Context, sender ident.Requester, alias id.RoomAlias) error {
	row, err := s.findAlias(ctx, alias)
	if err != nil {
		return err
	}
	r, err := s.rooms.RoomByNID(ctx, row.Room)
	if err != nil {
		return err
	}
	mayCanonical := mayChangeAlias(r, sender.UserID)
	if err := s.mayDeleteAlias(ctx, sender, row, mayCanonical); err != nil {
		return err
	}
	if err := s.rooms.ChangeAliases(ctx, r.ID(), func(tx *storage.Tx) error { return tx.DeleteAlias(string(alias)) }); err != nil || !mayCanonical {
		return err
	}
	return s.rooms.RemoveCanonicalAlias(ctx, sender, r.ID(), alias)
}

// mayDeleteAlias returns an error if the sender may not delete an alias. mayCanonical says whether the sender may
// change the room's canonical alias.
func (s *Service) mayDeleteAlias(ctx context.Context, sender ident.Requester, row storage.Alias, mayCanonical bool) error {
	alias := id.RoomAlias(row.Alias)
	if s.apps != nil {
		if err := s.apps.MayUseAlias(sender, alias); err != nil {
			return s.orAdministrator(ctx, sender, err)
		}
		if s.apps.ManagesAlias(sender, alias) {
			return nil
		}
	}
	if row.Creator == sender.UserNID || mayCanonical {
		return nil
	}
	return s.orAdministrator(ctx, sender, mxerr.Forbidden("Only the creator of the alias, and users who may change the room's canonical alias, can delete it"))
}

// errNoAlias returns the error for an alias that does not exist on this server.
func errNoAlias(alias id.RoomAlias) error {
	return mxerr.NotFound("The alias %s does not exist", alias)
}

// findAlias reads an alias of this server from the database.
func (s *Service) findAlias(ctx context.Context, alias id.RoomAlias) (row storage.Alias, err error) {
	if !pdu.ValidRoomAlias(alias) {
		return row, mxerr.InvalidParam("The alias is not valid; aliases have the form #name:server")
	}
	found := false
	if ident.ServerOf(alias) == s.server {
		err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
			row, found, err = tx.AliasByName(string(alias))
			return err
		})
	}
	if err == nil && !found {
		err = errNoAlias(alias)
	}
	return row, err
}

// maxAliasServers bounds the servers that are returned with an alias.
const maxAliasServers = 50

// ResolveAlias returns the room that an alias points to, and servers through which the room can be joined. It sends a
// request to another server if the alias belongs to that server.
// Spec: client-server-api#get_matrixclientv3directoryroomroomalias
func (s *Service) ResolveAlias(ctx context.Context, alias id.RoomAlias) (room id.RoomID, servers []string, err error) {
	if pdu.ValidRoomAlias(alias) && ident.ServerOf(alias) != s.server && s.remote != nil {
		room, servers, err = s.remote.QueryDirectory(ctx, ident.ServerOf(alias), alias)
		if err != nil {
			return "", nil, fedclient.Relay(err)
		}
		if len(room) > pdu.MaxIDLength || !strings.HasPrefix(string(room), "!") {
			return "", nil, fedclient.Relay(fedclient.ErrBadAnswer)
		}
		servers = slices.DeleteFunc(servers, func(server string) bool { return !pdu.ValidServerName(server) })
		return room, servers[:min(len(servers), maxAliasServers)], nil
	}
	return s.ResolveLocalAlias(ctx, alias)
}

// ResolveLocalAlias is like ResolveAlias, but finds only aliases of this server. If an application service has an
// unknown alias in its namespaces, it is asked to create the alias.
func (s *Service) ResolveLocalAlias(ctx context.Context, alias id.RoomAlias) (room id.RoomID, servers []string, err error) {
	row, err := s.findAlias(ctx, alias)
	if mxerr.Code(err) == mxerr.CodeNotFound && ident.ServerOf(alias) == s.server && s.apps != nil && s.apps.QueryAlias(ctx, alias) {
		row, err = s.findAlias(ctx, alias)
	}
	if err != nil {
		return "", nil, err
	}
	r, err := s.rooms.RoomByNID(ctx, row.Room)
	if err != nil {
		return "", nil, err
	}
	servers = []string{s.server}
	for server := range r.EachServer() {
		if server != s.server && len(servers) < maxAliasServers {
			servers = append(servers, server)
		}
	}
	return r.ID(), servers, nil
}

// ResolveRoom parses a room ID or resolves an alias. For an alias it also returns servers through which the room can be
// joined.
func (s *Service) ResolveRoom(ctx context.Context, idOrAlias string) (room id.RoomID, servers []string, err error) {
	if strings.HasPrefix(idOrAlias, "#") {
		return s.ResolveAlias(ctx, id.RoomAlias(idOrAlias))
	}
	if !strings.HasPrefix(idOrAlias, "!") || len(idOrAlias) > 255 {
		return "", nil, mxerr.InvalidParam("The path must contain a room ID or a room alias")
	}
	return id.RoomID(idOrAlias), nil, nil
}

// LocalAliases returns the aliases of a room on this server. The sender must have joined the room unless everybody may
// read it.
// Spec: client-server-api#get_matrixclientv3roomsroomidaliases
func (s *Service) LocalAliases(ctx context.Context, sender ident.Requester, room id.RoomID) ([]id.RoomAlias, error) {
	r, err := s.rooms.Room(ctx, room)
	if err != nil {
		if errors.Is(err, rooms.ErrNoRoom) { // does not reveal whether the room exists
			err = errNotInRoom().Because(err)
		}
		return nil, err
	}
	if r.Membership(sender.UserID) != rooms.Join && r.HistoryVisibility() != "world_readable" {
		return nil, errNotInRoom()
	}
	aliases := []id.RoomAlias{}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.RoomAliases(r.NID(), rooms.MaxAliases)
		for _, row := range rows {
			aliases = append(aliases, id.RoomAlias(row.Alias))
		}
		return err
	})
	return aliases, err
}

func errNotInRoom() *mxerr.Error { return mxerr.Forbidden("You are not in this room") }
