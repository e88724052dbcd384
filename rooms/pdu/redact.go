package pdu

import (
	"slices"

	"ebb/canonjson"
)

// Redact returns the redacted form of the event by the rules of its room version. The ID and the signatures stay the
// same. unsigned is removed.
// Spec: rooms/v1#redactions to rooms/v11#redactions
func (e *Event) Redact() (*Event, error) {
	return ParseStored(e.version, e.id, appendRedacted(make([]byte, 0, len(e.json)), e.version, e.typ, e.json))
}

// appendRedacted appends the redacted form of obj, a canonical event of type typ. It also drops the top-level keys in
// drop.
func appendRedacted(dst []byte, v *Version, typ string, obj []byte, drop ...string) []byte {
	dst = append(dst, '{')
	// obj has been parsed before, so Each does not return errors here and below.
	_ = canonjson.Each(obj, func(key string, raw []byte) error {
		switch {
		case slices.Contains(drop, key):
		case key == "content":
			dst = appendRedactedContent(appendKey(dst, key), v, typ, raw)
		case keptOnRedaction(v, key):
			dst = append(appendKey(dst, key), raw...)
		}
		return nil
	})
	return append(dst, '}')
}

// keptOnRedaction reports whether a redaction keeps a top-level key of an event. It is not used for content, which is
// redacted separately.
func keptOnRedaction(v *Version, key string) bool {
	switch key {
	case "event_id", "type", "room_id", "sender", "state_key", "hashes", "signatures", "depth", "prev_events",
		"auth_events", "origin_server_ts":
		return true
	case "prev_state", "origin", "membership":
		return !v.RedactionV11
	}
	return false
}

// appendRedactedContent appends the redacted form of the content.
func appendRedactedContent(dst []byte, v *Version, typ string, content []byte) []byte {
	if typ == typeCreate && v.RedactionV11 {
		return append(dst, content...)
	}
	dst = append(dst, '{')
	_ = canonjson.Each(content, func(key string, raw []byte) error {
		switch {
		case keptInContent(v, typ, key):
			dst = append(appendKey(dst, key), raw...)
		case typ == typeMember && key == "third_party_invite" && v.RedactionV11 && isObject(raw):
			dst = appendSignedOnly(appendKey(dst, key), raw)
		}
		return nil
	})
	return append(dst, '}')
}

// keptInContent reports whether a redaction keeps a key of the content together with its complete value.
func keptInContent(v *Version, typ, key string) bool {
	switch typ {
	case typeMember:
		return key == "membership" || key == "join_authorised_via_users_server" && v.KeepAuthorisedVia
	case typeCreate:
		return key == "creator"
	case typeJoinRules:
		return key == "join_rule" || key == "allow" && v.Restricted
	case typePowerLevels:
		switch key {
		case "ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default":
			return true
		}
		return key == "invite" && v.RedactionV11
	case typeAliases:
		return key == "aliases" && v.SpecialAliasesAuth
	case typeHistoryVisibility:
		return key == "history_visibility"
	case typeRedaction:
		return key == "redacts" && v.RedactsInContent
	}
	return false
}

// appendSignedOnly appends the object third_party_invite with no key but signed. If signed is missing, it appends an
// empty object, as other servers do, because the event ID depends on this.
func appendSignedOnly(dst, invite []byte) []byte {
	dst = append(dst, '{')
	if signed, ok := canonjson.Get(invite, "signed"); ok {
		dst = append(appendKey(dst, "signed"), signed...)
	}
	return append(dst, '}')
}

// appendKey appends a key and a colon to dst, which ends with an object that has no closing brace yet.
func appendKey(dst []byte, key string) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	return append(canonjson.AppendString(dst, key), ':')
}
