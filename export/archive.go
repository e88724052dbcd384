package export

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// Names of the files of an archive that are about the archive itself.
const (
	readmeName    = "README.txt"
	manifestName  = "manifest.json"
	signatureName = "signature.txt"
)

// Manifest lists the files of an archive.
type Manifest struct {
	Server  string    `json:"server"`
	User    string    `json:"user_id"`
	Created time.Time `json:"created"`
	// LeftOut is the number of messages that were left out because they were about to expire.
	LeftOut int64  `json:"messages_about_to_expire_left_out"`
	Files   []File `json:"files"`
}

// File is a file of an archive.
type File struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// archive writes an archive, one file after the other.
type archive struct {
	zip  *zip.Writer
	made time.Time
	list []File
}

func newArchive(w io.Writer, made time.Time) *archive {
	a := &archive{zip: zip.NewWriter(w), made: made}
	a.zip.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestSpeed) })
	return a
}

// member is a file of an archive that is being written.
type member struct {
	w    io.Writer
	hash hash.Hash
	size int64
}

// Write implements io.Writer.
func (m *member) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	m.hash.Write(p[:n])
	m.size += int64(n)
	return n, err
}

// add writes a file and lists it in the manifest.
func (a *archive) add(name string, method uint16, write func(w io.Writer) error) error {
	w, err := a.zip.CreateHeader(&zip.FileHeader{Name: name, Method: method, Modified: a.made})
	if err != nil {
		return err
	}
	m := &member{w: w, hash: sha256.New()}
	if err := write(m); err != nil {
		return err
	}
	a.list = append(a.list, File{Name: name, Size: m.size, SHA256: hex.EncodeToString(m.hash.Sum(nil))})
	return nil
}

// value writes a file with one JSON value.
func (a *archive) value(name string, v any) error {
	return a.add(name, zip.Deflate, func(w io.Writer) error {
		out := json.NewEncoder(w)
		out.SetEscapeHTML(false)
		out.SetIndent("", "  ")
		return out.Encode(v)
	})
}

// items writes a file with a JSON array. each calls its argument for every item.
func (a *archive) items(name string, each func(item func(json.RawMessage) error) error) error {
	return a.add(name, zip.Deflate, func(w io.Writer) error {
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

// finish writes the manifest and its signature.
func (a *archive) finish(m Manifest, sign func(text string) ([]byte, error)) error {
	m.Created, m.Files = a.made, a.list
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
	}{{manifestName, raw}, {signatureName, signed}} {
		if err := a.add(f.name, zip.Deflate, func(w io.Writer) error { _, err := w.Write(f.content); return err }); err != nil {
			return err
		}
	}
	return a.zip.Close()
}

// statement returns the text that is signed for a manifest.
func statement(m *Manifest, raw []byte) string {
	sum := sha256.Sum256(raw)
	return fmt.Sprintf("ebb export\n%s\n%s\n%s\n%s\n", m.Server, m.User, m.Created.Format(time.RFC3339), hex.EncodeToString(sum[:]))
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
	raw, err := content(files[manifestName], manifestName)
	if err != nil {
		return m, err
	}
	signed, err := content(files[signatureName], signatureName)
	if err != nil {
		return m, err
	}
	n, err := note.Open(signed, note.VerifierList(verifier))
	if err != nil {
		return m, fmt.Errorf("%s was not made with this key: %w", signatureName, err)
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("%s: %w", manifestName, err)
	}
	if n.Text != statement(&m, raw) {
		return m, fmt.Errorf("%s was changed: the signature is of another one", manifestName)
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
		sum := sha256.New()
		n, err := io.Copy(sum, io.LimitReader(in, want.Size+1))
		if err = errors.Join(err, in.Close()); err != nil {
			return fmt.Errorf("%s: %w", want.Name, err)
		}
		if n != want.Size || hex.EncodeToString(sum.Sum(nil)) != want.SHA256 {
			return fmt.Errorf("%s was changed", want.Name)
		}
	}
	for name := range files {
		if name != manifestName && name != signatureName {
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
