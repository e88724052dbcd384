package eventauth

import (
	"ebb/canonjson"
	"ebb/rooms/pdu"

	"maunium.net/go/mautrix/id"
)

// The memberships. A user without a member event has the membership leave.
const (
	join   = "join"
	invite = "invite"
	leave  = "leave"
	ban    = "ban"
	knock  = "knock"
)

// Membership returns the membership in an m.room.member event, or "leave" if member is nil.
func Membership(member *pdu.Event) string {
	if member == nil {
		return leave
	}
	return getString(member.Content(), "membership")
}

// membership returns a user's membership in the state.
func (c *check) membership(user id.UserID) string {
	return Membership(c.auth.Get(typeMember, string(user)))
}

// joinRule returns the room's join rule, or "invite" if the room has none.
func (c *check) joinRule() string {
	e := c.auth.Get(typeJoinRules, "")
	if e == nil {
		return invite
	}
	raw, ok := canonjson.Get(e.Content(), "join_rule")
	if !ok {
		return invite
	}
	rule, _ := canonjson.Unquote(raw)
	return rule
}

// judgeMember applies authorisation rule 5, about m.room.member.
func (c *check) judgeMember() verdict {
	// 5.1 There are a state_key and a membership.
	target, isState := c.e.StateKey()
	raw, ok := canonjson.Get(c.e.Content(), "membership")
	if !isState || !ok {
		return reject(c.n.member+".1", "state_key or membership is missing")
	}
	// 5.2 The server of the authorising user has signed the event. The caller checks that; here it must be a user ID.
	if c.v.Restricted {
		if via, ok := canonjson.Get(c.e.Content(), "join_authorised_via_users_server"); ok {
			if user, ok := canonjson.Unquote(via); !ok || !looksLikeUser(user) { // 5.2.1
				return reject(c.n.via+".1", "join_authorised_via_users_server is not a user ID")
			}
		}
	}
	user := id.UserID(target)
	switch membership, _ := canonjson.Unquote(raw); {
	case membership == join: // 5.3
		return c.judgeJoin(user)
	case membership == invite: // 5.4
		return c.judgeInvite(user)
	case membership == leave: // 5.5
		return c.judgeLeave(user)
	case membership == ban: // 5.6
		return c.judgeBan(user)
	case membership == knock && c.v.Knock: // 5.7
		return c.judgeKnock(user)
	}
	return reject(c.n.other, "membership is unknown") // 5.8
}

// judgeJoin applies authorisation rule 5.3, about joins.
func (c *check) judgeJoin(target id.UserID) verdict {
	// 5.3.1 The creator may join right after the create event. The rule ignores the sender.
	if prev := c.e.PrevEvents(); len(prev) == 1 && prev[0] == c.create.ID() && target == creatorOf(c.v, c.create) {
		return allow(c.n.join + ".1")
	}
	// 5.3.2 Users may only join themselves.
	if c.e.Sender() != target {
		return reject(c.n.join+".2", "sender is not the user who joins")
	}
	// 5.3.3 Banned users may not join.
	now := c.membership(target)
	if now == ban {
		return reject(c.n.join+".3", "user is banned")
	}
	inside := now == join || now == invite
	switch rule := c.joinRule(); {
	case rule == invite || rule == knock && c.v.Knock:
		// 5.3.4 Only invited and joined users may join.
		if inside {
			return allow(c.n.join + ".4")
		}
	case rule == "restricted" && c.v.Restricted || rule == "knock_restricted" && c.v.KnockRestricted:
		return c.judgeRestrictedJoin(inside) // 5.3.5
	case rule == "public":
		return allow(c.n.public) // 5.3.6
	}
	return reject(c.n.noJoin, "the join rule does not allow this user to join") // 5.3.7
}

// judgeRestrictedJoin applies authorisation rule 5.3.5, about joins to restricted rooms.
func (c *check) judgeRestrictedJoin(inside bool) verdict {
	if inside { // 5.3.5.1
		return allow(c.n.restricted + ".1")
	}
	// 5.3.5.2 The authorising user is joined and may invite.
	via := id.UserID(getString(c.e.Content(), "join_authorised_via_users_server"))
	if via == "" || c.membership(via) != join {
		return reject(c.n.restricted+".2", "the authorising user is not joined")
	}
	if power := c.power(); power.UserLevel(via) < power.Invite {
		return reject(c.n.restricted+".2", "the authorising user may not invite")
	}
	return allow(c.n.restricted + ".3") // 5.3.5.3
}

// judgeInvite applies authorisation rule 5.4, about invites.
func (c *check) judgeInvite(target id.UserID) verdict {
	// 5.4.1 The invite results from a third-party invite.
	if raw, ok := canonjson.Get(c.e.Content(), "third_party_invite"); ok {
		return c.judgeThirdPartyInvite(target, raw)
	}
	// 5.4.2 Only joined users may invite.
	if c.membership(c.e.Sender()) != join {
		return reject(c.n.invite+".2", "sender is not joined")
	}
	// 5.4.3 Joined and banned users may not be invited.
	if now := c.membership(target); now == join || now == ban {
		return reject(c.n.invite+".3", "user is joined or banned")
	}
	// 5.4.4
	if power := c.power(); power.UserLevel(c.e.Sender()) >= power.Invite {
		return allow(c.n.invite + ".4")
	}
	return reject(c.n.invite+".5", "sender may not invite") // 5.4.5
}

// judgeLeave applies authorisation rule 5.5, about leaving, rejecting an invite, kicking and unbanning.
func (c *check) judgeLeave(target id.UserID) verdict {
	now := c.membership(target)
	// 5.5.1 Users who are joined, invited or knocking may leave.
	if c.e.Sender() == target {
		if now == invite || now == join || now == knock && c.v.Knock {
			return allow(c.n.leave + ".1")
		}
		return reject(c.n.leave+".1", "user is not in the room")
	}
	// 5.5.2 Only joined users may remove others.
	if c.membership(c.e.Sender()) != join {
		return reject(c.n.leave+".2", "sender is not joined")
	}
	power := c.power()
	level := power.UserLevel(c.e.Sender())
	// 5.5.3 Unbanning requires the level to ban and, by rule 5.5.4, the level to kick.
	if now == ban && level < power.Ban {
		return reject(c.n.leave+".3", "sender may not unban")
	}
	// 5.5.4
	if level >= power.Kick && power.UserLevel(target) < level {
		return allow(c.n.leave + ".4")
	}
	return reject(c.n.leave+".5", "sender may not remove this user") // 5.5.5
}

// judgeBan applies authorisation rule 5.6, about bans.
func (c *check) judgeBan(target id.UserID) verdict {
	// 5.6.1 Only joined users may ban.
	if c.membership(c.e.Sender()) != join {
		return reject(c.n.ban+".1", "sender is not joined")
	}
	// 5.6.2
	power := c.power()
	if level := power.UserLevel(c.e.Sender()); level >= power.Ban && power.UserLevel(target) < level {
		return allow(c.n.ban + ".2")
	}
	return reject(c.n.ban+".3", "sender may not ban this user") // 5.6.3
}

// judgeKnock applies authorisation rule 5.7, about knocks.
func (c *check) judgeKnock(target id.UserID) verdict {
	// 5.7.1 The join rule allows knocking.
	if rule := c.joinRule(); rule != knock && (rule != "knock_restricted" || !c.v.KnockRestricted) {
		return reject(c.n.knock+".1", "the join rule does not allow knocking")
	}
	// 5.7.2 Users may only knock for themselves.
	if c.e.Sender() != target {
		return reject(c.n.knock+".2", "sender is not the user who knocks")
	}
	// 5.7.3 Joined, invited and banned users may not knock.
	if now := c.membership(target); now != ban && now != invite && now != join {
		return allow(c.n.knock + ".3")
	}
	return reject(c.n.knock+".4", "user is joined, invited or banned") // 5.7.4
}
