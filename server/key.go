package server

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/rooms/pdu"
)

// The signing key file has one line, "ed25519 VERSION SEED", the seed in unpadded base64: the form that other servers use.

// CreateKey writes a new signing key; it never overwrites one.
func CreateKey(file string) error {
	var seed [ed25519.SeedSize]byte
	var version [4]byte
	_, _ = rand.Read(seed[:]) // never fails (crypto/rand)
	_, _ = rand.Read(version[:])
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the signing key: %w", err)
	}
	_, err = fmt.Fprintf(f, "ed25519 a_%x %s\n", version, base64.RawStdEncoding.EncodeToString(seed[:]))
	return errors.Join(err, f.Sync(), f.Close())
}

var keyVersion = regexp.MustCompile(`^[a-zA-Z0-9_]{1,64}$`)

// readKey reads the signing key of a server.
func readKey(file, serverName string) (s pdu.Signer, err error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return s, fmt.Errorf("read the signing key (ebb init makes one): %w", err)
	}
	words := strings.Fields(string(raw))
	if len(words) != 3 || words[0] != "ed25519" || !keyVersion.MatchString(words[1]) {
		return s, fmt.Errorf("%s does not hold one line of the form: ed25519 VERSION SEED", file)
	}
	seed, err := base64.RawStdEncoding.DecodeString(words[2])
	if err != nil || len(seed) != ed25519.SeedSize {
		return s, fmt.Errorf("%s: the seed is not 32 bytes of unpadded base64", file)
	}
	return pdu.Signer{Server: serverName, KeyID: id.NewKeyID(id.KeyAlgorithmEd25519, words[1]), Key: ed25519.NewKeyFromSeed(seed)}, nil
}
