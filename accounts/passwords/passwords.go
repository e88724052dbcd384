// Package passwords decides whether a new password is strong enough: it must have a minimum number of characters and
// must not be one of the passwords that attackers try first. These are the words of an embedded list with the usual
// changes (capitals, digits for letters, a year or an exclamation mark at the end), rows of the keyboard, repetitions,
// plain numbers, and the user's own name. Nothing is required of the kinds of characters: such rules make people choose
// worse passwords.
//
// The list was written for this package. Libraries that estimate the strength of passwords in Go are no longer
// maintained, or only count kinds of characters.
package passwords

import (
	_ "embed"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Policy is what a new password must comply with. The zero Policy accepts everything.
type Policy struct {
	MinLength    int // in characters
	RefuseCommon bool
}

// Check returns what is wrong with a password, as a sentence for its user, or "". personal are words that others know
// about the user, such as the user name.
func (p Policy) Check(password string, personal ...string) string {
	switch {
	case utf8.RuneCountInString(password) < p.MinLength:
		return fmt.Sprintf("The password is too short: it must have at least %d characters", p.MinLength)
	case p.RefuseCommon && isPersonal(password, personal):
		return "The password is too easy to guess from your user name: choose another one, such as several unrelated words"
	case p.RefuseCommon && isCommon(password):
		return "The password is too easy to guess: it is, or resembles, one that many people use. Choose another one, such as several unrelated words"
	}
	return ""
}

// The list has a word in each line, in lower case.
//
//go:embed common.txt
var commonText string

var common = func() map[string]bool {
	words := map[string]bool{}
	for line := range strings.Lines(commonText) {
		if word := strings.TrimSpace(line); word != "" && word[0] != '#' {
			words[word] = true
		}
	}
	return words
}()

const (
	// decoration is the number of characters that may surround a common word without making it hard to guess.
	decoration = 6
	// shortNumber is the length up to which a plain number, such as a date or a telephone number, is easy to guess.
	shortNumber = 11
	// maxGuessable is the maximum length in bytes of the passwords that are compared with common ones. It bounds the
	// work.
	maxGuessable = 40
)

// isCommon reports whether a password is, or resembles, one that many people use.
func isCommon(password string) bool {
	text := strings.ToLower(strings.TrimSpace(password))
	if text == "" {
		return true
	}
	if len(text) > maxGuessable {
		return isRepetition(text)
	}
	if common[text] || isRepetition(text) || isWalk(text) || isNumber(text) {
		return true
	}
	for _, variant := range []string{text, unleet(text), unleet(strings.TrimRightFunc(text, notLetter))} {
		core := strings.TrimFunc(variant, notLetter)
		if utf8.RuneCountInString(text)-utf8.RuneCountInString(core) <= decoration && core != "" && (common[core] || isWalk(core)) {
			return true
		}
	}
	return false
}

func notLetter(c rune) bool { return !unicode.IsLetter(c) }

// isNumber reports whether a text is short and consists only of digits, perhaps with separators as in a date.
func isNumber(text string) bool {
	return len(text) <= shortNumber && strings.Trim(text, "0123456789-/. ") == ""
}

// isRepetition reports whether a text only repeats a few characters or a common word.
func isRepetition(text string) bool {
	for period := 1; period <= len(text)/2; period++ {
		if (period <= 4 || common[text[:period]]) && strings.HasPrefix(strings.Repeat(text[:period], len(text)/period+1), text) {
			return true
		}
	}
	return false
}

// walks are rows of keyboards and other sequences.
var walks = func() (all []string) {
	for _, row := range []string{
		"abcdefghijklmnopqrstuvwxyz", "01234567890", "qwertyuiop", "asdfghjkl", "zxcvbnm", "qwertzuiop", "yxcvbnm", "azertyuiop", "qsdfghjklm", "wxcvbn",
		"1qaz2wsx3edc4rfv5tgb6yhn7ujm", "qazwsxedcrfvtgbyhnujm", "1q2w3e4r5t6y7u8i9o0p", "q1w2e3r4t5y6u7i8o9p0", "!@#$%^&*()", "147258369", "159357", "789456123",
	} {
		backwards := ""
		for _, c := range row {
			backwards = string(c) + backwards
		}
		all = append(all, row, backwards)
	}
	return all
}()

// isWalk reports whether a text consists of at most three pieces, each of three characters or more: parts of walks, or
// the same character again and again.
func isWalk(text string) bool {
	for pieces := 0; pieces < 3; pieces++ {
		longest := len(text) - len(strings.TrimLeft(text, text[:1]))
		for _, w := range walks {
			n := len(text)
			for n > longest && !strings.Contains(w, text[:n]) {
				n--
			}
			longest = max(longest, n)
		}
		if longest < 3 {
			return false
		}
		if text = text[longest:]; text == "" {
			return true
		}
	}
	return false
}

// leet replaces digits and signs by the letters for which people use them, such as 3 by e.
var leet = strings.NewReplacer("0", "o", "1", "i", "3", "e", "4", "a", "5", "s", "7", "t", "8", "b", "@", "a", "$", "s", "!", "i", "€", "e")

func unleet(text string) string { return leet.Replace(text) }

// isPersonal reports whether a password is little more than a word that others know about the user.
func isPersonal(password string, personal []string) bool {
	text := strings.ToLower(password)
	for _, word := range personal {
		word = strings.ToLower(word)
		if utf8.RuneCountInString(word) < 3 {
			continue
		}
		for _, variant := range []string{text, unleet(text)} {
			rest := strings.ReplaceAll(variant, word, "")
			if rest != variant && utf8.RuneCountInString(rest) <= decoration && !strings.ContainsFunc(rest, unicode.IsLetter) {
				return true
			}
		}
	}
	return false
}
