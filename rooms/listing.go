package rooms

import (
	"context"
	"encoding/json"

	"maunium.net/go/mautrix/id"

	"ebb/ident"
	"ebb/storage"
)

// MaxAliases bounds the aliases of a room, and those that its m.room.canonical_alias names.
const MaxAliases = 250

// SetPublished adds a room to the room directory or removes it from there. It does not check whether somebody may: that
// is for package directory.
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

// RemoveCanonicalAlias sends the room's m.room.canonical_alias without an alias that was deleted. It sends nothing if
// the event does not name the alias.
func (s *Service) RemoveCanonicalAlias(ctx context.Context, sender ident.Requester, room id.RoomID, alias id.RoomAlias) error {
	return s.change(ctx, room, func(b *batch) error {
		e, err := b.room.provisionalState(typeCanonicalAlias, "")
		if err != nil || e == nil {
			return err
		}
		content, changed := withoutAlias(e.Content(), string(alias))
		if !changed {
			return nil
		}
		empty := ""
		_, err = b.add(proto{typ: typeCanonicalAlias, stateKey: &empty, sender: sender, content: content})
		return err
	})
}

// withoutAlias removes an alias from the content of m.room.canonical_alias, and reports whether the alias was there.
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
