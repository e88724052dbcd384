package main

import (
	"bytes"
	"fmt"
	"net/url"
)

const (
	// coldMembers is the number of members in the large room whose first reads are measured.
	coldMembers = 10_000
	// coldGap is the number of messages in each room that a client has missed when it syncs after a restart.
	coldGap = 30
	// coldNewMembers is the number of joins to the large room that the client has missed.
	coldNewMembers = 1000
	// coldPeople is the number of members in each of the small rooms. All of them send messages.
	coldPeople = 4
)

// coldRead is a request that is measured when it is the first of its kind after a restart.
type coldRead struct {
	name  string
	aim   string
	path  string
	holds string // text that a correct response contains
	took  samples
}

// cold measures the first reads after a restart, with empty caches.
func (b *bench) cold() error {
	p, err := b.startEbb("cold", 0)
	if err != nil {
		return err
	}
	defer func() { p.stop() }()
	people, err := p.register("c", coldPeople)
	if err != nil {
		return err
	}
	reads, err := coldReads(people)
	if err != nil {
		return err
	}
	a := people[0]
	var starts []float64
	for range b.rounds {
		for i, r := range reads {
			for _, one := range people {
				one.close()
			}
			p.stop()
			took, err := p.serve(0)
			if err != nil {
				return err
			}
			starts = append(starts, float64(took.Microseconds())/1000)
			err = b.profiled(p, fmt.Sprint("cold-", i), func() error {
				return r.took.add(p.measure(func() (int, error) {
					answer, err := a.do("GET", r.path, nil)
					if err == nil && !bytes.Contains(answer, []byte(r.holds)) {
						err = fmt.Errorf("%s: no %s in %.200s", r.name, r.holds, answer)
					}
					return 1, err
				}))
			})
			if err != nil {
				return err
			}
		}
	}
	for _, r := range reads {
		b.print(
			figure{"first " + r.name, "ms", r.took.of(func(s spent) float64 { return s.wall.Seconds() * 1000 }), nil, r.aim},
			figure{"first " + r.name, "CPU ms", r.took.of(spent.millis), nil, ""},
		)
	}
	b.print(figure{"process start to first answer", "ms", starts, nil, "< 30"})
	return nil
}

// coldReads creates the content of the rooms and returns the requests to measure.
func coldReads(people []*account) ([]*coldRead, error) {
	a := people[0]
	large, err := a.createRoom()
	if err != nil {
		return nil, err
	}
	if err := crowd(a, large, "localhost", 0, coldMembers); err != nil {
		return nil, err
	}
	rooms := make([]string, manyRooms)
	for i := range rooms {
		if rooms[i], err = fillRoom(people...); err != nil {
			return nil, err
		}
	}
	since, err := a.settled("")
	if err != nil {
		return nil, err
	}
	if err := coldNews(people, rooms); err != nil {
		return nil, err
	}
	if err := crowd(a, large, "localhost", coldMembers, coldMembers+coldNewMembers); err != nil {
		return nil, err
	}
	inLarge := "/_matrix/client/v3/rooms/" + url.PathEscape(large)
	sync := func(filter string) string { return "/_matrix/client/v3/sync?filter=" + url.QueryEscape(filter) }
	only, without := `{"room":{"rooms":["`+large+`"]}}`, `{"room":{"not_rooms":["`+large+`"]%s}}`
	lazily := `,"state":{"lazy_load_members":true}`
	token := "&since=" + url.QueryEscape(since)
	many := fmt.Sprintf("/sync of %d rooms", manyRooms)
	return []*coldRead{
		{name: fmt.Sprintf("/members of %d", coldMembers), aim: "< 300", path: inLarge + "/members", holds: `"@crowd9999:`},
		{name: fmt.Sprintf("/members of %d as they were", coldMembers), aim: "< 300", path: inLarge + "/members?at=" + url.QueryEscape(since), holds: `"@crowd9999:`},
		{name: fmt.Sprintf("/state of a room of %d", coldMembers), path: inLarge + "/state", holds: `"@crowd9999:`},
		{name: many, aim: "< 150", path: sync(fmt.Sprintf(without, "")), holds: rooms[0]},
		{name: many + ", lazy", aim: "no more", path: sync(fmt.Sprintf(without, lazily)), holds: rooms[0]},
		{name: many + " after a gap", path: sync(fmt.Sprintf(without, "")) + token, holds: `"limited":true`},
		{name: fmt.Sprintf("/sync of a room of %d after a gap", coldMembers), path: sync(only) + token, holds: `"limited":true`},
	}, nil
}

// coldNews sends more events to the rooms than fit in a timeline.
func coldNews(people []*account, rooms []string) error {
	return parallel(len(people), len(people), func(i int) error {
		for _, room := range rooms {
			for range coldGap / len(people) {
				if err := people[i].send(room); err != nil {
					return err
				}
			}
		}
		return nil
	})
}
