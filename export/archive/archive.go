// Package archive writes zip archives whose content can be verified later: a manifest has the hash of every file, and
// the server signs the manifest. Verify checks an archive without a server.
package archive

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"ebb/digest"
)

// Names of the files of an archive that are about the archive itself.
const (
	ReadmeName    = "README.txt"
	ManifestName  = "manifest.json"
	SignatureName = "signature.txt"
)

// Manifest lists the files of an archive and says what it is about: a user's account or what a legal hold covers.
type Manifest struct {
	Server  string    `json:"server"`
	User    string    `json:"user_id,omitempty"`
	Hold    int64     `json:"hold,omitempty"`
	Created time.Time `json:"created"`
	// LeftOut is the number of messages that were left out because they were about to expire.
	LeftOut int64 `json:"messages_about_to_expire_left_out,omitempty"`
	// Conversations says that the archive has what a user may read of others, too.
	Conversations bool   `json:"conversations,omitempty"`
	Files         []File `json:"files"`
}

// About says in words what the archive is about.
func (m *Manifest) About() string {
	if m.Hold != 0 {
		return fmt.Sprintf("legal hold %d", m.Hold)
	}
	return m.User
}

// File is a file of an archive.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// Writer writes an archive, one file after the other. It needs memory for the list of files only.
type Writer struct {
	Made time.Time // when the archive was begun
	zip  *zip.Writer
	list []File
}

// NewWriter returns a Writer that writes an archive to w.
func NewWriter(w io.Writer, made time.Time) *Writer {
	a := &Writer{zip: zip.NewWriter(w), Made: made}
	a.zip.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestSpeed) })
	return a
}

// Add writes a file and lists it in the manifest.
func (a *Writer) Add(name string, method uint16, write func(w io.Writer) error) error {
	w, err := a.zip.CreateHeader(&zip.FileHeader{Name: name, Method: method, Modified: a.Made})
	if err != nil {
		return err
	}
	out := digest.NewWriter(w)
	if err := write(out); err != nil {
		return err
	}
	a.list = append(a.list, File{Name: name, Size: out.Size(), SHA256: out.SHA256()})
	return nil
}

// Value writes a file with one JSON value.
func (a *Writer) Value(name string, v any) error {
	return a.Add(name, zip.Deflate, func(w io.Writer) error {
		out := json.NewEncoder(w)
		out.SetEscapeHTML(false)
		out.SetIndent("", "  ")
		return out.Encode(v)
	})
}

// Items writes a file with a JSON array. each calls its argument for every item.
func (a *Writer) Items(name string, each func(item func(json.RawMessage) error) error) error {
	return a.Add(name, zip.Deflate, func(w io.Writer) error {
		before := "[\n"
		err := each(func(raw json.RawMessage) error {
			if _, err := io.WriteString(w, before); err != nil {
				return err
			}
			before = ",\n"
			_, err := w.Write(raw)
			return err
		})
		if err != nil {
			return err
		}
		end := "\n]\n"
		if before == "[\n" {
			end = "[]\n"
		}
		_, err = io.WriteString(w, end)
		return err
	})
}

// Finish writes the manifest and its signature.
func (a *Writer) Finish(m Manifest, sign func(text string) ([]byte, error)) error {
	m.Created, m.Files = a.Made, a.list
	raw, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	signed, err := sign(statement(&m, raw))
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name    string
		content []byte
	}{{ManifestName, raw}, {SignatureName, signed}} {
		if err := a.Add(f.name, zip.Deflate, func(w io.Writer) error { _, err := w.Write(f.content); return err }); err != nil {
			return err
		}
	}
	return a.zip.Close()
}

// statement returns the text that is signed for a manifest.
func statement(m *Manifest, raw []byte) string {
	sum := sha256.Sum256(raw)
	title, subject := "ebb export", m.User
	if m.Hold != 0 {
		title, subject = "ebb hold export", fmt.Sprint(m.Hold)
	}
	return fmt.Sprintf("%s\n%s\n%s\n%s\n%s\n", title, m.Server, subject, m.Created.Format(time.RFC3339), hex.EncodeToString(sum[:]))
}

// maxManifest bounds the size in bytes of a manifest or signature that Verify reads: a manifest of 300,000 files.
const maxManifest = 64 << 20

// Verify checks that every file of an archive is as the server with the given public key has written it, and that none
// is missing or was added.
func Verify(r io.ReaderAt, size int64, key string) (m Manifest, err error) {
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return m, fmt.Errorf("the key %.60q is not one that ebb audit key prints: %w", key, err)
	}
	z, err := zip.NewReader(r, size)
	if err != nil {
		return m, fmt.Errorf("the file is not a zip archive: %w", err)
	}
	files := map[string]*zip.File{}
	for _, f := range z.File {
		if files[f.Name] != nil {
			return m, fmt.Errorf("%s is in the archive twice", f.Name)
		}
		files[f.Name] = f
	}
	raw, err := content(files[ManifestName], ManifestName)
	if err != nil {
		return m, err
	}
	signed, err := content(files[SignatureName], SignatureName)
	if err != nil {
		return m, err
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return m, fmt.Errorf("%s was not made with this key: %w", SignatureName, err)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("%s: %w", ManifestName, err)
	}
	if n.Text != statement(&m, raw) {
		return m, fmt.Errorf("%s was changed: the signature is of another one", ManifestName)
	}
	return m, compare(files, m.Files)
}

// compare compares the files of an archive with those that a manifest lists.
func compare(files map[string]*zip.File, listed []File) error {
	for _, want := range listed {
		f := files[want.Name]
		if f == nil {
			return fmt.Errorf("%s is missing", want.Name)
		}
		delete(files, want.Name)
		in, err := f.Open()
		if err != nil {
			return fmt.Errorf("%s: %w", want.Name, err)
		}
		sum := digest.NewWriter(io.Discard)
		_, err = io.Copy(sum, io.LimitReader(in, want.Size+1))
		if err = errors.Join(err, in.Close()); err != nil {
			return fmt.Errorf("%s: %w", want.Name, err)
		}
		if sum.Size() != want.Size || sum.SHA256() != want.SHA256 {
			return fmt.Errorf("%s was changed", want.Name)
		}
	}
	for name := range files {
		if name != ManifestName && name != SignatureName {
			return fmt.Errorf("%s was added", name)
		}
	}
	return nil
}

// content returns a small file of an archive.
func content(f *zip.File, name string) ([]byte, error) {
	if f == nil {
		return nil, fmt.Errorf("the archive has no %s: it is not an export, or was shortened", name)
	}
	in, err := f.Open()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(in, maxManifest+1))
	if n > maxManifest {
		err = errors.New("it is too large")
	}
	if err = errors.Join(err, in.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return out.Bytes(), nil
}

// Digest returns the hash of the manifest from the text that is signed for it.
func Digest(statement string) string {
	lines := strings.Split(strings.TrimSpace(statement), "\n")
	return lines[len(lines)-1]
}

// FileName returns an ID as part of the name of a file: characters other than letters, digits, dots and hyphens are
// replaced by underscores.
func FileName(matrixID string) string {
	return strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' {
			return c
		}
		return '_'
	}, matrixID)
}
