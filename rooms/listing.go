package rooms

import (
	"context"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/rooms/eventcontent"
	"ebb/storage"
)

// MaxAliases bounds the aliases of a room, and those that its m.room.canonical_alias names.
const MaxAliases = 250

// SetPublished adds a room to the room directory or removes it from there. It does not check permissions; package
// directory does.
func (s *Service) SetPublished(ctx context.Context, room id.RoomID, published bool) error {
	return s.touch(ctx, room, func(r *Room) storage.Write {
		return storage.Write{
			Do: func(tx *storage.Tx) error { return tx.SetPublished(r.nid, published) },
			Committed: func() {
				s.commit(&Commit{Room: r, Published: true}, headFunc(func(r *Room) { r.head.published = published }))
			},
		}
	})
}

// ChangeAliases runs a write of package directory that adds or removes an alias of a room, and reports it in a Commit.
func (s *Service) ChangeAliases(ctx context.Context, room id.RoomID, do func(*storage.Tx) error) error {
	return s.touch(ctx, room, func(r *Room) storage.Write {
		return storage.Write{Do: do, Committed: func() { s.commit(&Commit{Room: r, Aliases: true}, headFunc(func(*Room) {})) }}
	})
}

// RemoveCanonicalAlias removes an alias that was deleted from the room's m.room.canonical_alias, by sending that event
// without the alias. It sends nothing if the event does not name the alias.
func (s *Service) RemoveCanonicalAlias(ctx context.Context, sender ident.Requester, room id.RoomID, alias id.RoomAlias) error {
	return s.change(ctx, room, func(b *batch) error {
		e, err := b.room.provisionalState(typeCanonicalAlias, "")
		if err != nil || e == nil {
			return err
		}
		content, changed := eventcontent.WithoutAlias(e.Content(), string(alias))
		if !changed {
			return nil
		}
		empty := ""
		_, err = b.add(proto{typ: typeCanonicalAlias, stateKey: &empty, sender: sender, content: content})
		return err
	})
}
