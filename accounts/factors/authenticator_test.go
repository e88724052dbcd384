package factors

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"slices"
	"testing"
)

// Flags of authenticator data.
const (
	present   = 1 << 0
	verifies  = 1 << 2
	copyable  = 1 << 3 // backup eligible
	copied    = 1 << 4 // backup state
	hasNewKey = 1 << 6
)

// key is an authenticator in software, with the browser in front of it. It has one passkey.
type key struct {
	t       testing.TB
	private *ecdsa.PrivateKey
	id      []byte
	handle  []byte
	flags   byte
	count   uint32
	model   [16]byte
	origin  string
	format  string // of the attestation; "": none
}

func newKey(t testing.TB, flags byte) *key {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	return &key{t: t, private: private, id: id, flags: present | flags, count: 1, origin: "https://chat.example.org"}
}

// options are the parts of the options that an authenticator reads.
type options struct {
	PublicKey struct {
		Challenge        string `json:"challenge"`
		RPID             string `json:"rpId"`
		UserVerification string `json:"userVerification"`
		RP               struct {
			ID string `json:"id"`
		} `json:"rp"`
		User struct {
			ID string `json:"id"`
		} `json:"user"`
		Attestation            string `json:"attestation"`
		AuthenticatorSelection struct {
			ResidentKey      string `json:"residentKey"`
			UserVerification string `json:"userVerification"`
		} `json:"authenticatorSelection"`
		ExcludeCredentials []struct {
			ID string `json:"id"`
		} `json:"excludeCredentials"`
		AllowCredentials []struct {
			ID string `json:"id"`
		} `json:"allowCredentials"`
	} `json:"publicKey"`
}

func optionsOf(t testing.TB, c Ceremony) (o options) {
	t.Helper()
	if err := json.Unmarshal(c.Options, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// clientData is what the browser says about a ceremony.
func (k *key) clientData(kind, challenge string) []byte {
	raw, err := json.Marshal(map[string]any{"type": kind, "challenge": challenge, "origin": k.origin, "crossOrigin": false})
	if err != nil {
		k.t.Fatal(err)
	}
	return raw
}

// authData is the authenticator data without a new key.
func (k *key) authData(rpID string, flags byte) []byte {
	hash := sha256.Sum256([]byte(rpID))
	return binary.BigEndian.AppendUint32(append(hash[:], flags), k.count)
}

// text and byteString are items of CBOR below 64 KiB.
func text(s string) []byte { return append([]byte{0x60 | byte(len(s))}, s...) }

func byteString(b []byte) []byte {
	return append([]byte{0x59, byte(len(b) >> 8), byte(len(b))}, b...)
}

// cose is the public key in the form of WebAuthn: {1: 2, 3: -7, -1: 1, -2: x, -3: y}.
func (k *key) cose() []byte {
	public, err := k.private.PublicKey.Bytes() // 4, x, y
	if err != nil {
		k.t.Fatal(err)
	}
	out := append([]byte{0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 32}, public[1:33]...)
	return append(append(out, 0x22, 0x58, 32), public[33:]...)
}

// create makes the passkey that a ceremony asks for and returns the browser's answer.
func (k *key) create(c Ceremony) []byte {
	k.t.Helper()
	o := optionsOf(k.t, c)
	k.handle, _ = base64.RawURLEncoding.DecodeString(o.PublicKey.User.ID)
	data := append(k.authData(o.PublicKey.RP.ID, k.flags|hasNewKey), k.model[:]...)
	data = append(binary.BigEndian.AppendUint16(data, uint16(len(k.id))), k.id...)
	data = append(data, k.cose()...)
	format := k.format
	if format == "" {
		format = "none"
	}
	object := slices.Concat([]byte{0xa3}, text("fmt"), text(format), text("attStmt"), []byte{0xa0}, text("authData"), byteString(data))
	return k.answer(map[string]any{
		"clientDataJSON": b64(k.clientData("webauthn.create", o.PublicKey.Challenge)), "attestationObject": b64(object), "transports": []string{"usb", "nfc"},
	}, map[string]any{"credProps": map[string]any{"rk": true}})
}

// get signs the challenge of a ceremony and returns the browser's answer.
func (k *key) get(c Ceremony) []byte {
	k.t.Helper()
	o := optionsOf(k.t, c)
	k.count++
	return k.sign(o.PublicKey.RPID, k.clientData("webauthn.get", o.PublicKey.Challenge))
}

func (k *key) sign(rpID string, client []byte) []byte {
	k.t.Helper()
	data := k.authData(rpID, k.flags)
	clientHash := sha256.Sum256(client)
	digest := sha256.Sum256(append(slices.Clone(data), clientHash[:]...))
	signature, err := ecdsa.SignASN1(rand.Reader, k.private, digest[:])
	if err != nil {
		k.t.Fatal(err)
	}
	return k.answer(map[string]any{
		"clientDataJSON": b64(client), "authenticatorData": b64(data), "signature": b64(signature), "userHandle": b64(k.handle),
	}, map[string]any{})
}

func (k *key) answer(response, extensions map[string]any) []byte {
	raw, err := json.Marshal(map[string]any{
		"id": b64(k.id), "rawId": b64(k.id), "type": "public-key", "response": response, "clientExtensionResults": extensions, "authenticatorAttachment": "cross-platform",
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return raw
}
