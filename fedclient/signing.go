package fedclient

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"maunium.net/go/mautrix/id"

	"ebb/config"
	"ebb/rooms/pdu"
)

// The signing key file has one line, "ed25519 VERSION SEED", with the seed in unpadded base64. Other servers use the
// same form. After a key change, a second file with the suffix .old has a line for each former key, "ed25519 VERSION
// PUBLIC_KEY EXPIRED", with the expiry in milliseconds since 1970. Former private keys are not kept.

// SigningKeys holds this server's current signing key and its former ones. It is safe for concurrent use.
type SigningKeys struct {
	file   string
	server string

	// mu guards the fields below; a leaf lock.
	mu      sync.RWMutex
	current pdu.Signer
	old     []OldKey
}

// OldKey is a former signing key of this server.
type OldKey struct {
	KeyID   id.KeyID
	Key     ed25519.PublicKey
	Expired int64 // milliseconds; when it was replaced
}

// CreateKey writes a new signing key. It never overwrites an existing one.
func CreateKey(file string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the signing key: %w", err)
	}
	_, err = f.WriteString(newKeyLine())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(fmt.Errorf("write the signing key: %w", err), os.Remove(file))
	}
	return syncDir(filepath.Dir(file))
}

// CreateKeyAfter writes a new signing key to replace a lost one. lost is the PublicLine of the lost key, or "" if it is
// not known. The lost key is added to the former keys, so that its signatures stay valid. CreateKeyAfter never
// overwrites a key.
func CreateKeyAfter(file, lost string, now time.Time) error {
	if _, err := os.Lstat(file); err == nil {
		return fmt.Errorf("write the signing key: %w", &fs.PathError{Op: "create", Path: file, Err: fs.ErrExist})
	}
	if key, ok := parsePublicLine(lost); ok && !weak(key.Key) {
		key.Expired = now.Add(inFlight).UnixMilli()
		if err := addOldKey(file+".old", key); err != nil {
			return err
		}
	}
	return CreateKey(file)
}

// PublicLine returns the ID and public key of a signer in one line, "ed25519:VERSION KEY".
func PublicLine(s pdu.Signer) string { return string(s.KeyID) + " " + EncodeKey(s) }

// parsePublicLine parses the result of PublicLine.
func parsePublicLine(line string) (OldKey, bool) {
	keyID, text, _ := strings.Cut(line, " ")
	algorithm, version := id.KeyID(keyID).Parse()
	key, ok := decodeKey(text)
	return OldKey{KeyID: id.KeyID(keyID), Key: key}, ok && algorithm == id.KeyAlgorithmEd25519 && keyVersion.MatchString(version)
}

// Knows reports whether line is the PublicLine of the current key or of a former one.
func (k *SigningKeys) Knows(line string) bool {
	if line == PublicLine(k.Current()) {
		return true
	}
	key, ok := parsePublicLine(line)
	return ok && slices.ContainsFunc(k.Old(), func(o OldKey) bool { return o.KeyID == key.KeyID && o.Key.Equal(key.Key) })
}

// newKeyLine generates a key and returns it in the form of the key file.
func newKeyLine() string {
	var seed [ed25519.SeedSize]byte
	var version [4]byte
	_, _ = rand.Read(seed[:]) // never fails (crypto/rand)
	_, _ = rand.Read(version[:])
	return fmt.Sprintf("ed25519 a_%x %s\n", version, base64.RawStdEncoding.EncodeToString(seed[:]))
}

// LoadSigningKeys reads the signing keys of a server.
func LoadSigningKeys(file, server string) (*SigningKeys, error) {
	k := &SigningKeys{file: file, server: server}
	return k, k.load()
}

func (k *SigningKeys) load() error {
	raw, err := config.ReadFile(k.file)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the signing key: %w; restore it from a backup or, if it is lost, create a new one with ebb keys create", err)
	}
	if err != nil {
		return fmt.Errorf("read the signing key: %w%s", err, config.OwnerOf(err))
	}
	current, err := parseKey(string(raw), k.server)
	if err != nil {
		return fmt.Errorf("%s: %w", k.file, err)
	}
	raw, err = config.ReadFile(k.oldFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the former signing keys: %w", err)
	}
	old, err := parseOldKeys(string(raw))
	if err != nil {
		return fmt.Errorf("%s: %w", k.oldFile(), err)
	}
	// A key change that was interrupted between writing the two files has left the key in both.
	old = slices.DeleteFunc(old, func(o OldKey) bool { return o.KeyID == current.KeyID })
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current, k.old = current, old
	return nil
}

func (k *SigningKeys) oldFile() string { return k.file + ".old" }

var keyVersion = regexp.MustCompile(`^[a-zA-Z0-9_]{1,64}$`)

var errKeyForm = errors.New("the file must consist of one line of the form: ed25519 VERSION SEED")

func parseKey(text, server string) (s pdu.Signer, err error) {
	words := strings.Fields(text)
	if len(words) != 3 || words[0] != "ed25519" || !keyVersion.MatchString(words[1]) {
		return s, errKeyForm
	}
	seed, err := base64.RawStdEncoding.DecodeString(words[2])
	if err != nil || len(seed) != ed25519.SeedSize {
		return s, errors.New("the seed is not 32 bytes of unpadded base64")
	}
	key := ed25519.NewKeyFromSeed(seed)
	if weak(key.Public().(ed25519.PublicKey)) {
		return s, errors.New("this key is publicly known: remove the file and run ebb keys create")
	}
	return pdu.Signer{Server: server, KeyID: id.NewKeyID(id.KeyAlgorithmEd25519, words[1]), Key: key}, nil
}

func parseOldKeys(text string) (old []OldKey, err error) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 4 || words[0] != "ed25519" || !keyVersion.MatchString(words[1]) {
			return nil, errors.New("a line is not of the form: ed25519 VERSION PUBLIC_KEY EXPIRED")
		}
		key, ok := decodeKey(words[2])
		expired, err := strconv.ParseInt(words[3], 10, 64)
		if !ok || err != nil {
			return nil, fmt.Errorf("the line of %s has no valid public key or expiry time", words[1])
		}
		old = append(old, OldKey{id.NewKeyID(id.KeyAlgorithmEd25519, words[1]), key, expired})
	}
	return old, nil
}

// Current returns the current signing key. It makes SigningKeys a pdu.SignerSource.
func (k *SigningKeys) Current() pdu.Signer {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.current
}

// Old returns the former keys, oldest first.
func (k *SigningKeys) Old() []OldKey {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return slices.Clone(k.old)
}

// EncodeKey returns the public key of a signer in the published form.
func EncodeKey(s pdu.Signer) string {
	return base64.RawStdEncoding.EncodeToString(s.Key.Public().(ed25519.PublicKey))
}

// inFlight is the maximum time between assigning an event's timestamp and signing it.
const inFlight = time.Second

// Rotate replaces the signing key by a new one. Earlier signatures stay valid, because the former public key is
// published among the old ones.
func (k *SigningKeys) Rotate(now time.Time) error {
	was := k.Current()
	former := OldKey{KeyID: was.KeyID, Key: was.Key.Public().(ed25519.PublicKey), Expired: now.Add(inFlight).UnixMilli()}
	if err := writeOldKeys(k.oldFile(), append(k.Old(), former)); err != nil {
		return err
	}
	if err := replaceFile(k.file, newKeyLine()); err != nil {
		return fmt.Errorf("write the signing key: %w", err)
	}
	return k.load()
}

func writeOldKeys(file string, old []OldKey) error {
	var lines strings.Builder
	for _, o := range old {
		_, version := o.KeyID.Parse()
		fmt.Fprintf(&lines, "ed25519 %s %s %d\n", version, base64.RawStdEncoding.EncodeToString(o.Key), o.Expired)
	}
	if err := replaceFile(file, lines.String()); err != nil {
		return fmt.Errorf("write the former signing keys: %w", err)
	}
	return nil
}

// addOldKey adds a key to the file of former keys, unless it is already there.
func addOldKey(file string, key OldKey) error {
	raw, err := config.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the former signing keys: %w", err)
	}
	old, err := parseOldKeys(string(raw))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if slices.ContainsFunc(old, func(o OldKey) bool { return o.KeyID == key.KeyID }) {
		return nil
	}
	return writeOldKeys(file, append(old, key))
}

// replaceFile replaces a file atomically. After a crash the file has either the old or the new content.
func replaceFile(name, text string) error {
	f, err := os.CreateTemp(filepath.Dir(name), filepath.Base(name)+".*.tmp") // readable only by its owner
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(filepath.Dir(name))
}

// syncDir makes a rename in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// knownKeys lists public keys whose private keys are public knowledge, so that anybody can sign with them.
var knownKeys = []string{
	"XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI", // from the specification's examples
	"O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik", // from an all-zero seed
}

// weak reports whether anybody could make signatures for key, because its private key is public knowledge, or because
// it is a point of small order, for which signatures can be made without a private key.
func weak(key ed25519.PublicKey) bool {
	return slices.Contains(knownKeys, base64.RawStdEncoding.EncodeToString(key)) || smallOrder(key)
}

// smallOrders lists the y coordinates of the points of order 1, 2, 4 and 8 of edwards25519, and the other encodings of
// the first three, little-endian in hex; the sign bit is ignored.
var smallOrders = []string{
	"0100000000000000000000000000000000000000000000000000000000000000",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"0000000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func smallOrder(key ed25519.PublicKey) bool {
	y := slices.Clone(key)
	y[len(y)-1] &= 0x7f
	return slices.Contains(smallOrders, fmt.Sprintf("%x", []byte(y)))
}
