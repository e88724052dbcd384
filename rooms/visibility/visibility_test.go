package visibility_test

import (
	"encoding/json"
	"strings"
	"testing"

	"ebb/rooms/visibility"
)

const (
	world, shared, invited, joined = visibility.WorldReadable, visibility.Shared, visibility.Invited, visibility.Joined
	join, invite, leave            = visibility.Join, visibility.Invite, visibility.Leave
)

// TestEveryEntryOfTheTable goes through history visibility, membership at the event and whether the user joined since.
func TestEveryEntryOfTheTable(t *testing.T) {
	memberships := []visibility.Membership{join, invite, leave, "ban", "knock", ""}
	for history, want := range map[visibility.History]struct{ before, since string }{
		// one letter for each membership: y for yes, n for no
		world:   {"yyyyyy", "yyyyyy"},
		shared:  {"ynnnnn", "yyyyyy"},
		"":      {"ynnnnn", "yyyyyy"},
		invited: {"yynnnn", "yynnnn"},
		joined:  {"ynnnnn", "ynnnnn"},
	} {
		for i, membership := range memberships {
			for since, answers := range map[bool]string{false: want.before, true: want.since} {
				got := visibility.CanSee(visibility.View{History: history, Membership: membership, JoinedSince: since})
				if got != (answers[i] == 'y') {
					t.Errorf("history %q, membership %q, joined since %v: %v", history, membership, since, got)
				}
			}
		}
	}
}

func TestEitherSideOfAChangeLetsSee(t *testing.T) {
	for _, tc := range []struct {
		name string
		view visibility.View
		want bool
	}{
		{"strangers see the room open", visibility.View{History: joined, HistoryAfter: world, Membership: leave}, true},
		{"strangers see the room close", visibility.View{History: world, HistoryAfter: joined, Membership: leave}, true},
		{"strangers see nothing between closed settings", visibility.View{History: joined, HistoryAfter: invited, Membership: leave}, false},
		{"the invited see invited become joined", visibility.View{History: invited, HistoryAfter: joined, Membership: invite}, true},
		{"later members see joined become shared", visibility.View{History: joined, HistoryAfter: shared, Membership: leave, JoinedSince: true}, true},
		{"others do not see joined become shared", visibility.View{History: joined, HistoryAfter: shared, Membership: leave}, false},
		{"one's own join", visibility.View{History: joined, Membership: leave, MembershipAfter: join}, true},
		{"one's own leaving", visibility.View{History: joined, Membership: join, MembershipAfter: leave}, true},
		{"one's own ban", visibility.View{History: joined, Membership: join, MembershipAfter: "ban"}, true},
		{"one's own invitation", visibility.View{History: invited, Membership: leave, MembershipAfter: invite}, true},
		{"one's own invitation among the joined", visibility.View{History: joined, Membership: leave, MembershipAfter: invite}, false},
		{"one's own ban from outside", visibility.View{History: shared, Membership: leave, MembershipAfter: "ban"}, false},
		{"one's own knock", visibility.View{History: invited, Membership: leave, MembershipAfter: "knock"}, false},
	} {
		if got := visibility.CanSee(tc.view); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestUnknownHistoryIsShared(t *testing.T) {
	for content, want := range map[string]visibility.History{
		`{"history_visibility":"world_readable"}`:                               world,
		`{"history_visibility":"shared"}`:                                       shared,
		`{"history_visibility":"invited"}`:                                      invited,
		`{"history_visibility":"joined"}`:                                       joined,
		`{"history_visibility":"Joined"}`:                                       shared,
		`{"history_visibility":1}`:                                              shared,
		`{"history_visibility":"joined","HISTORY_VISIBILITY":"world_readable"}`: joined,
		`{"history_visibility":["joined"]}`:                                     shared,
		`{}`:                                                                    shared,
		`[]`:                                                                    shared,
		``:                                                                      shared,
		strings.Repeat("[", 100):                                                shared,
	} {
		if got := visibility.ParseHistory(json.RawMessage(content)); got != want {
			t.Errorf("ParseHistory(%s) = %s, want %s", content, got, want)
		}
	}
}
