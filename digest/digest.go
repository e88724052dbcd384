// Package digest counts and hashes what is written, for lists of files by which their content is verified later.
package digest

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"io"
)

// Writer passes on what is written to it, and counts and hashes what was accepted.
type Writer struct {
	w    io.Writer
	hash hash.Hash
	size int64
}

// NewWriter returns a Writer that writes to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w, hash: sha256.New()} }

// Write implements io.Writer.
func (d *Writer) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	d.hash.Write(p[:n])
	d.size += int64(n)
	return n, err
}

// Size returns the number of bytes that were written.
func (d *Writer) Size() int64 { return d.size }

// SHA256 returns the SHA-256 of these bytes, in hexadecimal.
func (d *Writer) SHA256() string { return hex.EncodeToString(d.hash.Sum(nil)) }
