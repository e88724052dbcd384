package pdu

import "testing"

// Spec: rooms/v1 to rooms/v12, the changes that each page lists.
func TestEveryVersionHasItsFeatures(t *testing.T) {
	features := map[string]struct {
		first, last int
		of          func(v *Version) bool
	}{
		"state resolution v1":            {1, 1, func(v *Version) bool { return v.StateRes == StateResV1 }},
		"state resolution v2":            {2, 11, func(v *Version) bool { return v.StateRes == StateResV2 }},
		"state resolution v2.1":          {12, 12, func(v *Version) bool { return v.StateRes == StateResV2_1 }},
		"event IDs from servers":         {1, 2, func(v *Version) bool { return v.EventIDFormat == EventIDFromServer }},
		"event IDs in standard base64":   {3, 3, func(v *Version) bool { return v.EventIDFormat == EventIDHash }},
		"event IDs in URL-safe base64":   {4, 12, func(v *Version) bool { return v.EventIDFormat == EventIDURLHash }},
		"key validity":                   {5, 12, func(v *Version) bool { return v.EnforceKeyValidity }},
		"strict canonical JSON":          {6, 12, func(v *Version) bool { return v.StrictCanonicalJSON }},
		"special aliases":                {1, 5, func(v *Version) bool { return v.SpecialAliasesAuth }},
		"notification levels":            {6, 12, func(v *Version) bool { return v.NotificationsAuth }},
		"knocking":                       {7, 12, func(v *Version) bool { return v.Knock }},
		"restricted joins":               {8, 12, func(v *Version) bool { return v.Restricted }},
		"kept authorising users":         {9, 12, func(v *Version) bool { return v.KeepAuthorisedVia }},
		"knock_restricted":               {10, 12, func(v *Version) bool { return v.KnockRestricted }},
		"integer power levels":           {10, 12, func(v *Version) bool { return v.IntegerPowerLevels }},
		"redaction of version 11":        {11, 12, func(v *Version) bool { return v.RedactionV11 }},
		"redacts in content":             {11, 12, func(v *Version) bool { return v.RedactsInContent }},
		"limits of bytes":                {11, 12, func(v *Version) bool { return v.ByteLimits }},
		"the sender of create creates":   {11, 12, func(v *Version) bool { return v.ImplicitRoomCreator }},
		"redaction by auth rules":        {1, 2, func(v *Version) bool { return v.RedactionByAuthRules }},
		"privileged creators":            {12, 12, func(v *Version) bool { return v.PrivilegedCreators }},
		"room IDs are hashes of creates": {12, 12, func(v *Version) bool { return v.RoomIDIsCreateHash }},
	}
	if got := len(Versions()); got != 12 {
		t.Errorf("%d room versions", got)
	}
	eachVersion(t, func(t *testing.T, v *Version) {
		for name, f := range features {
			n := number(t, v)
			if got, want := f.of(v), f.first <= n && n <= f.last; got != want {
				t.Errorf("%s: %v, want %v", name, got, want)
			}
		}
	})
	if v, ok := VersionOf("org.example"); ok {
		t.Errorf("an unknown version is %s", v.ID)
	}
}
