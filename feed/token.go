package feed

import (
	"errors"
	"strconv"
	"strings"

	"ebb/storage"
)

// Token is the point in the streams up to which a client has read. Its text is opaque to clients:
//
//	s1_<position>_<epoch>_<typing>_<presence>_<chain>[_<todevice>[_<sticky>]]
//
// position is that of the durable stream; typing and presence are serials of the volatile streams, which are valid
// only within one epoch (one run of the server). typing has a trailing "a" if the client saw somebody typing, so
// that a later run knows whether there is a list to clear. chain identifies the initial sync from which the client
// went on; what was sent in one chain may be unknown to a client in another. todevice is present only if an answer
// could not hold all messages for the device: it is the position of the last one that was sent. sticky is the same for
// sticky events; todevice stands before it in any case.
type Token struct {
	Pos      storage.Pos
	Epoch    uint32
	Typing   int64
	Active   bool // somebody was typing in one of the user's rooms when the token was made
	Presence int64
	Chain    uint32
	ToDevice storage.Pos // messages for the device were sent up to here; never beyond Pos
	Sticky   storage.Pos // the same for sticky events
}

// maxTokenLength bounds the text that ParseToken parses; the longest token that Ebb makes has 122 bytes.
const maxTokenLength = 132

const tokenPrefix = "s1_"

var errToken = errors.New("not a /sync token of this server")

// append appends the token's text.
func (t Token) append(dst []byte) []byte {
	dst = append(dst, tokenPrefix...)
	dst = strconv.AppendInt(dst, int64(t.Pos), 10)
	dst = append(dst, '_')
	dst = strconv.AppendUint(dst, uint64(t.Epoch), 16)
	dst = append(dst, '_')
	dst = strconv.AppendInt(dst, t.Typing, 10)
	if t.Active {
		dst = append(dst, 'a')
	}
	dst = append(dst, '_')
	dst = strconv.AppendInt(dst, t.Presence, 10)
	dst = append(dst, '_')
	dst = strconv.AppendUint(dst, uint64(t.Chain), 16)
	if t.ToDevice == t.Pos && t.Sticky == t.Pos {
		return dst
	}
	dst = append(dst, '_')
	dst = strconv.AppendInt(dst, int64(t.ToDevice), 10)
	if t.Sticky == t.Pos {
		return dst
	}
	dst = append(dst, '_')
	return strconv.AppendInt(dst, int64(t.Sticky), 10)
}

// ParseToken parses a token. It returns an error for any text that append would not have produced.
func ParseToken(text string) (Token, error) {
	rest, ok := strings.CutPrefix(text, tokenPrefix)
	if !ok || len(text) > maxTokenLength {
		return Token{}, errToken
	}
	var parts [7]string
	n := 0
	for more := true; more; n++ {
		if n == len(parts) {
			return Token{}, errToken
		}
		parts[n], rest, more = strings.Cut(rest, "_")
	}
	switch n {
	case 5:
		parts[5], parts[6] = parts[0], parts[0]
	case 6:
		parts[6] = parts[0]
	case 7:
	default:
		return Token{}, errToken
	}
	var t Token
	parts[2], t.Active = strings.CutSuffix(parts[2], "a")
	pos, err1 := strconv.ParseInt(parts[0], 10, 64)
	epoch, err2 := strconv.ParseUint(parts[1], 16, 32)
	typing, err3 := strconv.ParseInt(parts[2], 10, 64)
	presence, err4 := strconv.ParseInt(parts[3], 10, 64)
	chain, err5 := strconv.ParseUint(parts[4], 16, 32)
	toDevice, err6 := strconv.ParseInt(parts[5], 10, 64)
	sticky, err7 := strconv.ParseInt(parts[6], 10, 64)
	t.Pos, t.Epoch, t.Typing, t.Presence, t.Chain = storage.Pos(pos), uint32(epoch), typing, presence, uint32(chain)
	t.ToDevice, t.Sticky = storage.Pos(toDevice), storage.Pos(sticky)
	for _, err := range [...]error{err1, err2, err3, err4, err5, err6, err7} {
		if err != nil {
			return Token{}, errToken
		}
	}
	var own [maxTokenLength]byte
	if pos < 0 || toDevice < 0 || toDevice > pos || sticky < 0 || sticky > pos || typing < 0 || presence < 0 || string(t.append(own[:0])) != text {
		return Token{}, errToken
	}
	return t, nil
}
