package feed

import (
	"bytes"
	"slices"
	"testing"

	"ebb/ident"
)

// SlidingStates returns encoded states.
func SlidingStates() [][]byte {
	s := slidingState{parts: []string{`{}`, `{"lazy_members":true}`}, sets: [][]int{{0}, {0, 1}, {}}, data: true, profiles: `["m.tz"]`}
	for i := range 5 {
		s.rooms = append(s.rooms, sentRoom{room: ident.RoomNID(100 * (i + 1)), sentShape: sentShape{set: i % 3, limit: uint8(i), stage: stage(i % 3), dm: i == 1, receipts: i == 2}})
	}
	s.rooms[3].since = 77
	return [][]byte{s.encode(), (&slidingState{}).encode()}
}

// ReencodeSliding reads a state, if it is one, and checks that it survives being written and read.
func ReencodeSliding(t *testing.T, data []byte) {
	s, err := slidingStateOf(data)
	if err != nil {
		return
	}
	again, err := slidingStateOf(s.encode())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again.encode(), s.encode()) || len(again.rooms) != len(s.rooms) || again.profiles != s.profiles {
		t.Fatalf("%+v became %+v", s, again)
	}
}

func TestSlidingStateOfAThousandRoomsIsSmall(t *testing.T) {
	for shapes, most := range map[int]int{1: 2100, 2: 4100} {
		s := slidingState{parts: []string{`{"include":[{"type":"m.room.name","state_key":""}]}`}, sets: [][]int{{0}}}
		for i := range 1000 {
			s.rooms = append(s.rooms, sentRoom{room: ident.RoomNID(1_000_000 + 5000*i), sentShape: sentShape{limit: uint8(1 + i%shapes), receipts: true}})
		}
		if n := len(s.encode()); n > most {
			t.Errorf("%d shapes: %d bytes", shapes, n)
		}
	}
}

func TestSlidingPosSurvivesItsText(t *testing.T) {
	want := slidingPos{Token: Token{Pos: 5, Epoch: 0xabc, Typing: 7, Active: true, Chain: 9}, conn: 11, serial: 2}
	got, err := parseSlidingPos(string(want.append(nil)))
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, text := range []string{"", "s1_5", "s1_5_p_abc_7a_9_11", "s1_5_p_abc_7a_9_11_0", "s1_5_p_abc_7a_9_0_2", "s1_5_p_abc_7aa_9_11_2", "s1_-5_p_abc_7a_9_11_2", "s1_5_p_abc_7a_9_11_2_1", "s1_5_x_abc_7a_9_11_2"} {
		if _, err := parseSlidingPos(text); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}

func TestSlidingStateOfAnOlderVersionIsRead(t *testing.T) {
	s := slidingState{sets: [][]int{{}}, data: true, rooms: []sentRoom{{room: 7}, {room: 9}}}
	data := s.encode()
	end := len(data) - 4 // shape, length and numbers of the only run
	second := append(bytes.Clone(data[:end]), 7, data[end], 2, data[end])
	second[0] = 2
	first := append([]byte{1, data[1]}, second[3:]...) // without the length of profiles
	for _, old := range [][]byte{first, second} {
		if got, err := slidingStateOf(old); err != nil || !got.data || !slices.Equal(got.rooms, s.rooms) || got.profiles != "" {
			t.Errorf("version %d: %+v, %v", old[0], got, err)
		}
	}
}
