package rooms

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"maunium.net/go/mautrix/id"

	"ebb/fedclient"
	"ebb/ident"
	"ebb/mxerr"
	"ebb/rooms/pdu"
	"ebb/storage"
)

// maxAliases bounds the aliases of a room.
const maxAliases = 250

// validAlias tells whether s is a room alias: #localpart:server, at most 255 bytes, without control characters.
// Spec: appendices#room-aliases
func validAlias(s string) bool {
	if len(s) > 255 || len(s) < 2 || s[0] != '#' || !utf8.ValidString(s) {
		return false
	}
	localpart, server, found := strings.Cut(s[1:], ":")
	return found && localpart != "" && pdu.ValidServerName(server) && !strings.ContainsFunc(localpart, func(r rune) bool { return r <= ' ' || r == 0x7f })
}

// localAlias checks an alias that is to be made or looked up here.
func (s *Service) localAlias(alias id.RoomAlias) error {
	if !validAlias(string(alias)) {
		return mxerr.InvalidParam("That is not a room alias")
	}
	if serverOf(string(alias)) != s.opts.Server {
		return mxerr.InvalidParam("The alias must end in :%s", s.opts.Server)
	}
	return nil
}

// CreateAlias makes an alias lead to a room that the user is in.
// Spec: client-server-api#put_matrixclientv3directoryroomroomalias
func (s *Service) CreateAlias(ctx context.Context, sender ident.Requester, alias id.RoomAlias, room id.RoomID) error {
	if err := s.localAlias(alias); err != nil {
		return err
	}
	r, err := s.Room(ctx, room)
	if err != nil {
		return err
	}
	if r.Membership(sender.UserID) != Join {
		return mxerr.Forbidden("You are not in this room")
	}
	return s.db.Write(ctx, func(tx *storage.Tx) error {
		existing, err := tx.RoomAliases(r.nid, maxAliases)
		if err != nil {
			return err
		}
		if len(existing) >= maxAliases {
			return mxerr.InvalidParam("A room must not have more than %d aliases", maxAliases)
		}
		ok, err := tx.InsertAlias(storage.Alias{Alias: string(alias), Room: r.nid, Creator: sender.UserNID})
		if err == nil && !ok {
			return mxerr.New(http.StatusConflict, mxerr.CodeUnknown, "The alias %s is already in use", alias)
		}
		return err
	})
}

// DeleteAlias removes an alias. The sender must have created it, be an administrator of the server, or have the power level
// to change the room's canonical alias; in the last case a canonical alias event that names the alias is changed too.
// Spec: client-server-api#delete_matrixclientv3directoryroomroomalias
func (s *Service) DeleteAlias(ctx context.Context, sender ident.Requester, alias id.RoomAlias) error {
	row, err := s.findAlias(ctx, alias)
	if err != nil {
		return err
	}
	r, err := s.RoomByNID(ctx, row.Room)
	if err != nil {
		return err
	}
	levels := r.Levels()
	mayCanonical := r.Membership(sender.UserID) == Join && levels.UserLevel(sender.UserID) >= levels.EventLevel(typeCanonicalAlias, true)
	if row.Creator != sender.UserNID && !mayCanonical && !sender.IsAdmin {
		return mxerr.Forbidden("Only the creator of the alias, and users who may change the room's canonical alias, can delete it")
	}
	if err := s.db.Write(ctx, func(tx *storage.Tx) error { return tx.DeleteAlias(string(alias)) }); err != nil || !mayCanonical {
		return err
	}
	return s.dropCanonicalAlias(ctx, sender, r, string(alias))
}

// dropCanonicalAlias takes a deleted alias out of the room's m.room.canonical_alias.
func (s *Service) dropCanonicalAlias(ctx context.Context, sender ident.Requester, r *Room, alias string) error {
	return s.change(ctx, r.id, func(b *batch) error {
		e, err := b.room.provisionalState(typeCanonicalAlias, "")
		if err != nil || e == nil {
			return err
		}
		content, changed := withoutAlias(e.Content(), alias)
		if !changed {
			return nil
		}
		empty := ""
		_, err = b.add(proto{typ: typeCanonicalAlias, stateKey: &empty, sender: sender, content: content})
		return err
	})
}

// withoutAlias takes an alias out of the content of m.room.canonical_alias; false where it is not in there.
func withoutAlias(content []byte, alias string) ([]byte, bool) {
	fields := map[string]json.RawMessage{}
	var names aliasContent
	if json.Unmarshal(content, &fields) != nil || json.Unmarshal(content, &names) != nil {
		return nil, false
	}
	changed := false
	if names.Alias == alias {
		delete(fields, "alias")
		changed = true
	}
	var keep []string
	for _, a := range names.AltAliases {
		if a != alias {
			keep = append(keep, a)
		}
	}
	if len(keep) < len(names.AltAliases) {
		changed = true
		delete(fields, "alt_aliases")
		if len(keep) > 0 {
			fields["alt_aliases"], _ = json.Marshal(keep) // strings always marshal
		}
	}
	out, err := json.Marshal(fields)
	return out, changed && err == nil
}

func (s *Service) findAlias(ctx context.Context, alias id.RoomAlias) (row storage.Alias, err error) {
	if !validAlias(string(alias)) {
		return row, mxerr.InvalidParam("That is not a room alias")
	}
	found := false
	if serverOf(string(alias)) == s.opts.Server {
		err = s.db.Read(ctx, func(tx *storage.Tx) (err error) {
			row, found, err = tx.AliasByName(string(alias))
			return err
		})
	}
	if err == nil && !found {
		err = mxerr.NotFound("The alias %s does not exist", alias).Because(errNoAlias)
	}
	return row, err
}

// maxAliasServers bounds the servers that are named with an alias.
const maxAliasServers = 50

// ResolveAlias finds the room that an alias leads to, and the servers that can be joined through. An alias of another
// server is asked for there.
// Spec: client-server-api#get_matrixclientv3directoryroomroomalias
func (s *Service) ResolveAlias(ctx context.Context, alias id.RoomAlias) (room id.RoomID, servers []string, err error) {
	if validAlias(string(alias)) && serverOf(string(alias)) != s.opts.Server && s.federates() {
		room, servers, err = s.opts.Remote.QueryDirectory(ctx, serverOf(string(alias)), alias)
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

// ResolveLocalAlias is ResolveAlias for the aliases of this server alone.
func (s *Service) ResolveLocalAlias(ctx context.Context, alias id.RoomAlias) (room id.RoomID, servers []string, err error) {
	row, err := s.findAlias(ctx, alias)
	if err != nil {
		return "", nil, err
	}
	r, err := s.RoomByNID(ctx, row.Room)
	if err != nil {
		return "", nil, err
	}
	servers = []string{s.opts.Server}
	for server := range r.EachServer() {
		if server != s.opts.Server && len(servers) < maxAliasServers {
			servers = append(servers, server)
		}
	}
	return r.id, servers, nil
}

// ResolveRoom reads a room id or alias; of an alias it also tells the servers that can be joined through.
func (s *Service) ResolveRoom(ctx context.Context, idOrAlias string) (room id.RoomID, servers []string, err error) {
	if strings.HasPrefix(idOrAlias, "#") {
		return s.ResolveAlias(ctx, id.RoomAlias(idOrAlias))
	}
	if !strings.HasPrefix(idOrAlias, "!") || len(idOrAlias) > 255 {
		return "", nil, mxerr.InvalidParam("That is neither a room ID nor an alias")
	}
	return id.RoomID(idOrAlias), nil, nil
}

// LocalAliases lists the aliases of this server that lead to a room. Whoever may read the room's history may ask.
// Spec: client-server-api#get_matrixclientv3roomsroomidaliases
func (s *Service) LocalAliases(ctx context.Context, sender ident.Requester, room id.RoomID) ([]id.RoomAlias, error) {
	r, err := s.Room(ctx, room)
	if err != nil {
		return nil, unknownIsForbidden(err)
	}
	if r.Membership(sender.UserID) != Join && r.HistoryVisibility() != "world_readable" {
		return nil, mxerr.Forbidden("You are not in this room")
	}
	aliases := []id.RoomAlias{}
	err = s.db.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.RoomAliases(r.nid, maxAliases)
		for _, row := range rows {
			aliases = append(aliases, id.RoomAlias(row.Alias))
		}
		return err
	})
	return aliases, err
}
