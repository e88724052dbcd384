// Package words splits text into the words by which it is found, and folds them so that case, accents and the width of
// letters make no difference. It knows no language: words are neither stemmed nor left out for being common.
//
// A word is a run of letters and digits. Chinese, Japanese, Korean, Thai, Lao, Khmer and Burmese do not separate words
// reliably, so each of their characters is a token of its own, and characters that follow each other are joined: a
// search for some of them finds text in which they stand together. Emoji are tokens too. Everything else separates.
//
// An index stores the Terms of a text (terms.go). A Query (query.go) has terms to look up, and decides about each text
// that the index suggests: the index knows neither whether two words stand next to each other, nor their order.
package words

import (
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// Scanner splits a text into tokens: words, emoji, and the single characters of scripts that do not put spaces between
// words. It must be used by one goroutine only.
type Scanner struct {
	text   string
	at     int
	ended  int // where the last token ended
	last   bool
	buf    []byte
	folder folder

	// The last token that Next found.

	Term   []byte // folded; valid until the next call
	Start  int    // where the token begins in Text
	End    int
	Single bool // one character of a script without spaces
	Joined bool // Single, and directly after another such character
}

// Reset starts the scan of another text. Only the first maxScanned bytes of the text are scanned.
func (s *Scanner) Reset(text string) {
	if len(text) > maxScanned {
		text = text[:maxScanned]
	}
	if !isASCII(text) && !norm.NFC.IsNormalString(text) {
		text = norm.NFC.String(text) // a Hangul syllable or an accented letter can be written as several characters
	}
	s.text, s.at, s.ended, s.last = text, 0, 0, false
}

// maxScanned bounds the text of one event that is indexed and compared: an event has at most 64 KiB.
const maxScanned = 64 << 10

// Text returns the text being scanned, to which Start and End refer. It may differ from the text given to Reset,
// because Reset replaces decomposed characters by composed ones.
func (s *Scanner) Text() string { return s.text }

func isASCII(text string) bool {
	for i := range len(text) {
		if text[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// kind says how the Scanner treats a character.
type kind uint8

const (
	separator kind = iota
	letter         // part of a word, with digits
	single         // a character of a script without spaces
	symbol         // an emoji
	mark           // continues the token before it
)

// kindOf classifies a character that is not ASCII.
func kindOf(r rune) kind {
	switch {
	case common(r):
		return single
	case r == '\u30fc' || r == '\uff70': // the Japanese sign for long vowels belongs to no script
		return single
	case r == '\uff9e' || r == '\uff9f' || unicode.Is(unicode.M, r): // the first two are the half-width voicing marks of Japanese
		return mark
	case unicode.In(r, continuous...):
		return single
	case unicode.IsLetter(r) || unicode.IsNumber(r):
		return letter
	case unicode.Is(unicode.So, r) && r != utf8.RuneError:
		return symbol
	}
	return separator
}

// common reports whether r is one of the usual characters of Chinese, Japanese and Korean. These are equal to their
// folded form, so that folding them can be skipped.
func common(r rune) bool {
	return r >= 0x4e00 && r <= 0x9fff || r >= 0x3041 && r <= 0x3096 || r >= 0x30a1 && r <= 0x30fa || r >= 0xac00 && r <= 0xd7a3
}

// continuous lists the scripts that do not separate words by spaces. Korean does, but attaches particles to words.
var continuous = []*unicode.RangeTable{
	unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Bopomofo, unicode.Hangul, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar,
}

// asciiWord maps ASCII letters and digits to their lower-case form, and other characters to 0.
var asciiWord = func() (table [utf8.RuneSelf]byte) {
	for c := range byte(utf8.RuneSelf) {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			table[c] = c
		case c >= 'A' && c <= 'Z':
			table[c] = c + 'a' - 'A'
		}
	}
	return table
}()

// Next finds the next token and returns false at the end of the text. It skips tokens whose folded form is empty.
func (s *Scanner) Next() bool {
	for s.Term = nil; len(s.Term) == 0 && s.at < len(s.text); {
		if c := s.text[s.at]; c < utf8.RuneSelf {
			if asciiWord[c] != 0 {
				s.word()
			} else {
				s.at++
			}
			continue
		}
		r, size := utf8.DecodeRuneInString(s.text[s.at:])
		switch kindOf(r) {
		case letter:
			s.word()
		case single, symbol:
			s.character(r, size)
		default:
			s.at += size
		}
	}
	return len(s.Term) > 0
}

// word reads the word that begins at s.at.
func (s *Scanner) word() {
	s.Start, s.buf = s.at, s.buf[:0]
	ascii := true
	for s.at < len(s.text) {
		if c := s.text[s.at]; c < utf8.RuneSelf {
			if asciiWord[c] == 0 {
				break
			}
			s.buf = append(s.buf, asciiWord[c])
			s.at++
			continue
		}
		r, size := utf8.DecodeRuneInString(s.text[s.at:])
		if k := kindOf(r); k != letter && k != mark {
			break
		}
		ascii = false
		s.at += size
	}
	s.End, s.Single, s.Joined, s.last = s.at, false, false, false
	if !ascii {
		s.buf = s.folder.fold(s.buf[:0], s.text[s.Start:s.End])
	}
	s.Term = s.buf
}

// character reads the character r, which is size bytes long, and the marks that follow it as one token.
func (s *Scanner) character(r rune, size int) {
	s.Start = s.at
	for s.at += size; s.at < len(s.text); s.at += size {
		var next rune
		if next, size = utf8.DecodeRuneInString(s.text[s.at:]); kindOf(next) != mark {
			break
		}
	}
	s.End, s.Single = s.at, kindOf(r) == single
	s.Joined = s.Single && s.last && s.ended == s.Start
	s.last, s.ended = s.Single, s.End
	if s.buf = s.buf[:0]; common(r) && s.End == s.Start+utf8.RuneLen(r) {
		s.buf = append(s.buf, s.text[s.Start:s.End]...)
	} else {
		s.buf = s.folder.fold(s.buf, s.text[s.Start:s.End])
	}
	s.Term = s.buf
}

// Fold returns the folded form of a text: its tokens in their folded form, separated by one space, or by nothing if
// they are joined. Names that look the same to a person have the same folded form.
func Fold(text string) string {
	var s Scanner
	s.Reset(text)
	out := make([]byte, 0, len(text))
	for s.Next() {
		if len(out) > 0 && !s.Joined {
			out = append(out, ' ')
		}
		out = append(out, s.Term...)
	}
	return string(out)
}

// folder folds words. It reuses its buffers.
type folder struct {
	cased      cases.Caser
	ready      bool
	decomposed []byte
	stripped   []byte
}

// fold appends the folded form of one word: without case, accents, ligatures, and differences of width. It drops
// accents only in scripts in which they are optional or change a letter slightly; in other scripts, such as Devanagari,
// marks are vowels.
func (f *folder) fold(dst []byte, word string) []byte {
	if !f.ready {
		f.cased, f.ready = cases.Fold(), true
	}
	f.decomposed = norm.NFKD.AppendString(f.decomposed[:0], word)
	f.stripped = strip(f.stripped[:0], f.decomposed)
	f.stripped = strip(f.decomposed[:0], norm.NFKD.Bytes(f.cased.Bytes(f.stripped))) // folding may compose letters with accents
	return norm.NFC.Append(dst, f.stripped...)
}

// strip appends a decomposed text without its optional marks. It also replaces letters that have no decomposition, such
// as ø, by the plain letter.
func strip(dst, text []byte) []byte {
	optional := true // whether the marks that follow are
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		c := text[i : i+size]
		i += size
		switch {
		case r < utf8.RuneSelf:
			optional = true
		case r == '\u0640' || unicode.Is(unicode.Variation_Selector, r): // the Arabic sign that stretches a word
			continue
		case unicode.Is(unicode.M, r):
			if optional {
				continue
			}
		default:
			optional = unicode.In(r, marked...)
			if plain, ok := plainLetters[r]; ok {
				dst = append(dst, plain...)
				continue
			}
		}
		dst = append(dst, c...)
	}
	return dst
}

// marked lists the scripts whose letters lose their marks.
var marked = []*unicode.RangeTable{unicode.Latin, unicode.Greek, unicode.Cyrillic, unicode.Arabic, unicode.Hebrew, unicode.Armenian, unicode.Georgian}

// plainLetters has a plain form for letters that Unicode does not decompose, in lower and upper case.
var plainLetters = map[rune]string{
	'ø': "o", 'Ø': "o", 'đ': "d", 'Đ': "d", 'ł': "l", 'Ł': "l", 'ħ': "h", 'Ħ': "h", 'ŧ': "t", 'Ŧ': "t", 'ı': "i",
	'æ': "ae", 'Æ': "ae", 'œ': "oe", 'Œ': "oe", 'þ': "th", 'Þ': "th", 'ð': "d", 'Ð': "d",
}
