package server

import (
	"context"
	"io"

	"ebb/media"
)

// uploads implements export.Files.
type uploads struct{ media *media.Service }

// upload is an open upload.
type upload struct {
	io.Reader
	*media.File
}

// OpenUpload implements export.Files.
func (u uploads) OpenUpload(ctx context.Context, mediaID string) (io.ReadCloser, error) {
	f, err := u.media.Open(ctx, mediaID, 0)
	if err != nil {
		return nil, err
	}
	return upload{f.Content, f}, nil
}
