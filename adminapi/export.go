package adminapi

import (
	"context"
	"errors"
	"io"

	"maunium.net/go/mautrix/id"

	"ebb/export"
)

// exportChunk is how many bytes of an export one command returns.
const exportChunk = 4 << 20

// ExportArgs are the arguments of the commands that export an account.
type ExportArgs struct {
	User   string `json:"user"`
	Offset int64  `json:"offset,omitempty"`
	// Conversations asks "user export" to include what others have written and the user may read.
	Conversations bool `json:"conversations,omitempty"`
}

// ExportPart is a part of an export.
type ExportPart struct {
	Data []byte `json:"data"` // empty at the end
}

// exportOf returns which export a command is about.
func (a *API) exportOf(ctx context.Context, e ExportArgs) (o export.Owner, user id.UserID, err error) {
	if user, err = a.userID(e.User); err != nil {
		return o, "", err
	}
	nid, err := a.Accounts.ActiveUser(ctx, user)
	return export.Owner{User: nid, Admin: true}, user, err
}

// userExport begins an export of what is stored about a user.
func (a *API) userExport(ctx context.Context, e ExportArgs) (any, error) {
	o, user, err := a.exportOf(ctx, e)
	if err != nil {
		return nil, err
	}
	return a.Export.Start(ctx, o, user, e.Conversations)
}

// userExportStatus describes the export.
func (a *API) userExportStatus(ctx context.Context, e ExportArgs) (any, error) {
	o, _, err := a.exportOf(ctx, e)
	if err != nil {
		return nil, err
	}
	return a.Export.Status(o), nil
}

// userExportRead returns a part of the export.
func (a *API) userExportRead(ctx context.Context, e ExportArgs) (any, error) {
	o, _, err := a.exportOf(ctx, e)
	if err != nil {
		return nil, err
	}
	d, err := a.Export.Open(ctx, o)
	if err != nil {
		return nil, err
	}
	part := make([]byte, exportChunk)
	n, err := d.ReadAt(part, e.Offset)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return ExportPart{Data: part[:n]}, err
}

// userExportDrop removes the export.
func (a *API) userExportDrop(ctx context.Context, e ExportArgs) (any, error) {
	o, _, err := a.exportOf(ctx, e)
	if err != nil {
		return nil, err
	}
	a.Export.Drop(o)
	return struct{}{}, nil
}
