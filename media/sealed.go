package media

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// The format of an encrypted file: a random salt, and then the content in chunks of chunkSize bytes, of which only the
// last may be shorter (or empty, if the file is). Each chunk is encrypted with AES-256-GCM. The key of the chunks is
// derived from the file's key and the salt, and so is used for this file only. The nonce of a chunk is its number and
// whether it is the last one, so that chunks can be neither exchanged nor cut off, and each can be read by itself.
const (
	chunkSize = 64 << 10 // a multiple of what readers ask for; the tags add 0.02 %
	saltSize  = 32
	tagSize   = 16
	keySize   = 32
)

// newFileKey returns a random key for one file and its thumbnails.
func newFileKey() []byte {
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	return key
}

// sealedSize returns the length on disk of an encrypted file whose content has the given size.
func sealedSize(size int64) int64 { return saltSize + size + (lastChunk(size)+1)*tagSize }

// contentSize is the inverse of sealedSize. It returns a negative number if no content has this length on disk.
func contentSize(sealed int64) int64 {
	chunks := (sealed - saltSize + chunkSize + tagSize - 1) / (chunkSize + tagSize)
	return sealed - saltSize - chunks*tagSize
}

// lastChunk returns the number of the last chunk of a file whose content has the given size.
func lastChunk(size int64) int64 { return max(0, (size-1)/chunkSize) }

func chunkCipher(key, salt []byte) (cipher.AEAD, error) {
	derived, err := hkdf.Key(sha256.New, key, salt, "ebb media file", keySize)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// chunkNonce returns the nonce of a chunk.
func chunkNonce(number int64, last bool) []byte {
	nonce := make([]byte, 12)
	binary.BigEndian.PutUint64(nonce[3:], uint64(number))
	if last {
		nonce[11] = 1
	}
	return nonce
}

// sealer encrypts what is written to it. Its Close writes the last chunk.
type sealer struct {
	to     io.Writer
	cipher cipher.AEAD
	chunk  []byte // content that is not encrypted yet
	out    []byte
	number int64
}

// newSealer writes the salt and returns a sealer.
func newSealer(to io.Writer, key []byte) (*sealer, error) {
	salt := make([]byte, saltSize)
	_, _ = rand.Read(salt) // never fails (crypto/rand)
	aead, err := chunkCipher(key, salt)
	if err != nil {
		return nil, err
	}
	_, err = to.Write(salt)
	return &sealer{to: to, cipher: aead, chunk: make([]byte, 0, chunkSize), out: make([]byte, 0, chunkSize+tagSize)}, err
}

// Write implements io.Writer.
func (s *sealer) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		if len(s.chunk) == chunkSize { // more follows, so this is not the last chunk
			if err := s.flush(false); err != nil {
				return n, err
			}
		}
		part := min(len(p), chunkSize-len(s.chunk))
		s.chunk = append(s.chunk, p[:part]...)
		p, n = p[part:], n+part
	}
	return n, nil
}

func (s *sealer) flush(last bool) error {
	s.out = s.cipher.Seal(s.out[:0], chunkNonce(s.number, last), s.chunk, nil)
	s.chunk, s.number = s.chunk[:0], s.number+1
	_, err := s.to.Write(s.out)
	return err
}

// Close writes the last chunk. It does not close the file.
func (s *sealer) Close() error { return s.flush(true) }

// chunkBuffer has room for an encrypted chunk, which is decrypted in place.
type chunkBuffer [chunkSize + tagSize]byte

var chunkBuffers = sync.Pool{New: func() any { return new(chunkBuffer) }}

// unsealer reads an encrypted file from any position. It reads and decrypts one chunk at a time, except in writeAhead.
// It returns errDamaged for a chunk that is not as it was written.
type unsealer struct {
	src    io.ReaderAt
	cipher cipher.AEAD
	size   int64 // of the content
	at     int64 // position of the next byte to read
	number int64 // of the chunk in plain; -1: none
	plain  []byte
	buffer *chunkBuffer
	ahead  aheadSlots
}

// newUnsealer reads the salt. size is the size of the content.
func newUnsealer(src io.ReaderAt, key []byte, size int64) (*unsealer, error) {
	salt := make([]byte, saltSize)
	if _, err := src.ReadAt(salt, 0); err != nil {
		return nil, asDamage(err)
	}
	aead, err := chunkCipher(key, salt)
	if err != nil {
		return nil, err
	}
	return &unsealer{src: src, cipher: aead, size: size, number: -1}, nil
}

// asDamage returns errDamaged for the unexpected end of a file, and other errors unchanged.
func asDamage(err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: it is too short", errDamaged)
	}
	return err
}

// Read implements io.Reader.
func (u *unsealer) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if u.at >= u.size {
		return 0, io.EOF
	}
	if err := u.load(u.at / chunkSize); err != nil {
		return 0, err
	}
	n := copy(p, u.plain[u.at%chunkSize:])
	u.at += int64(n)
	return n, nil
}

// WriteTo implements io.WriterTo. It writes each chunk at once, without copying it.
func (u *unsealer) WriteTo(w io.Writer) (int64, error) { return u.writeTo(w, u.size-u.at) }

// writeTo writes at most limit bytes.
func (u *unsealer) writeTo(w io.Writer, limit int64) (int64, error) {
	limit = min(limit, u.size-u.at)
	if limit < aheadFrom || !u.ahead.take() {
		return u.writeEach(w, limit)
	}
	defer u.ahead.give()
	return u.writeAhead(w, limit)
}

// writeEach writes limit bytes, which the file has. It decrypts each chunk when the former one is written.
func (u *unsealer) writeEach(w io.Writer, limit int64) (written int64, err error) {
	for written < limit {
		if err := u.load(u.at / chunkSize); err != nil {
			return written, err
		}
		n, err := u.writePart(w, u.plain, limit-written)
		if written += int64(n); err != nil {
			return written, err
		}
	}
	return written, nil
}

// writePart writes at most limit bytes of a chunk, from the current position.
func (u *unsealer) writePart(w io.Writer, plain []byte, limit int64) (int, error) {
	part := plain[u.at%chunkSize:]
	n, err := w.Write(part[:min(int64(len(part)), limit)])
	u.at += int64(n)
	return n, err
}

// Writer returns a writer to which http.ServeContent writes the content of a File with few calls and without copying
// it.
func Writer(w http.ResponseWriter) http.ResponseWriter { return chunkWriter{w} }

type chunkWriter struct{ http.ResponseWriter }

// ReadFrom implements io.ReaderFrom, which http.ServeContent calls with a part of the content.
func (w chunkWriter) ReadFrom(r io.Reader) (int64, error) {
	if part, ok := r.(*io.LimitedReader); ok {
		if u, ok := part.R.(*unsealer); ok {
			return u.writeTo(w.ResponseWriter, part.N)
		}
	}
	return io.Copy(struct{ io.Writer }{w.ResponseWriter}, r) // without this method
}

// load decrypts a chunk into the unsealer's own buffer, unless it is there.
func (u *unsealer) load(number int64) error {
	if number == u.number {
		return nil
	}
	if u.buffer == nil {
		u.buffer = chunkBuffers.Get().(*chunkBuffer)
	}
	u.number = -1
	plain, err := u.decrypt(u.buffer, number)
	if err != nil {
		return err
	}
	u.number, u.plain = number, plain
	return nil
}

// decrypt reads and decrypts a chunk in a buffer. It may be called concurrently.
func (u *unsealer) decrypt(buffer *chunkBuffer, number int64) (plain []byte, err error) {
	sealed := buffer[:min(chunkSize, u.size-number*chunkSize)+tagSize]
	if _, err := u.src.ReadAt(sealed, saltSize+number*(chunkSize+tagSize)); err != nil {
		return nil, asDamage(err)
	}
	plain, err = u.cipher.Open(sealed[:0], chunkNonce(number, number == lastChunk(u.size)), sealed, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: a part of it is altered", errDamaged)
	}
	return plain, nil
}

// Seek implements io.Seeker.
func (u *unsealer) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += u.at
	case io.SeekEnd:
		offset += u.size
	}
	if offset < 0 {
		return 0, errors.New("media: seek to a position before the beginning")
	}
	u.at = offset
	return offset, nil
}

// verify reads every chunk.
func (u *unsealer) verify() error {
	for number := range lastChunk(u.size) + 1 {
		if err := u.load(number); err != nil {
			return err
		}
	}
	return nil
}

// release returns the buffer. The unsealer must not be read from afterwards.
func (u *unsealer) release() {
	if u.buffer != nil {
		chunkBuffers.Put(u.buffer)
		u.buffer, u.number = nil, -1
	}
}
