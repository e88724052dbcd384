package export

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"io"
	"os"
)

// keySize is the length of the key of a file.
const keySize = 32

// secretFile is a file whose content is encrypted under a key that only this process knows, in AES-256-CTR. Whatever is
// left of the file after the process has ended or the key was forgotten cannot be read. Damage shows in the checksums
// of the archive.
type secretFile struct {
	file  *os.File
	block cipher.Block
	at    int64 // bytes written
	limit int64
	write cipher.Stream
}

// createSecret creates a file of at most limit bytes.
func createSecret(path string, limit int64) (*secretFile, error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // never fails (crypto/rand)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return &secretFile{file: file, block: block, limit: limit, write: stream(block, 0)}, nil
}

// stream returns the key stream from the given block on.
func stream(block cipher.Block, number int64) cipher.Stream {
	var counter [aes.BlockSize]byte
	binary.BigEndian.PutUint64(counter[aes.BlockSize-8:], uint64(number))
	return cipher.NewCTR(block, counter[:])
}

// Write implements io.Writer. It returns errTooLarge beyond the limit.
func (f *secretFile) Write(p []byte) (int, error) {
	if f.at+int64(len(p)) > f.limit {
		return 0, errTooLarge
	}
	sealed := make([]byte, len(p))
	f.write.XORKeyStream(sealed, p)
	n, err := f.file.Write(sealed)
	f.at += int64(n)
	return n, err
}

// ReadAt implements io.ReaderAt.
func (f *secretFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.file.ReadAt(p, off)
	keys := stream(f.block, off/aes.BlockSize)
	var skip [aes.BlockSize]byte
	keys.XORKeyStream(skip[:off%aes.BlockSize], skip[:off%aes.BlockSize])
	keys.XORKeyStream(p[:n], p[:n])
	return n, err
}

var _ io.ReaderAt = (*secretFile)(nil)
