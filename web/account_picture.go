package web

import (
	"bytes"
	"encoding/base64"
	"errors"
	"html/template"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"

	"maunium.net/go/mautrix/id"

	"ebb/httpapi"
	"ebb/media"
	"ebb/mxerr"
)

const (
	pathPicture = pathProfile + "/picture"

	maxPicture      = 4 << 20   // bytes of the form with a picture
	maxShownPicture = 256 << 10 // bytes of a thumbnail that a page shows
	pictureSide     = 96        // pixels of that thumbnail
)

// pictureTypes are the types of files that can be a picture.
var pictureTypes = map[string]bool{"image/png": true, "image/jpeg": true, "image/gif": true, "image/webp": true}

// picture returns the picture of a user for a page, or "" if it cannot be shown.
func (p *Pages) picture(r *httpapi.Request, address string) template.URL {
	uri, err := id.ParseContentURI(address)
	if err != nil || uri.Homeserver != p.opts.Server || p.opts.Media == nil {
		return ""
	}
	f, err := p.opts.Media.Thumbnail(r.Context(), uri.FileID, media.Size{Width: pictureSide, Height: pictureSide, Crop: true}, 0)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f.Content, maxShownPicture+1))
	if kind := http.DetectContentType(raw); err == nil && len(raw) <= maxShownPicture && pictureTypes[kind] {
		return template.URL("data:" + kind + ";base64," + base64.StdEncoding.EncodeToString(raw)) //nolint:gosec // of a known type
	}
	return ""
}

// getPicture leads to the profile, after a user had to sign in again to send a picture.
func (p *Pages) getPicture(*httpapi.Request) (any, error) { return redirect(pathProfile) }

// postPicture sets the picture of a user, or removes it.
func (p *Pages) postPicture(r *httpapi.Request) (any, error) {
	s, answer, err := p.signedIn(r, need{Lead: english["account.lead"]})
	if err != nil || answer != nil {
		return answer, err
	}
	f, picture, err := uploaded(r)
	if err == nil {
		err = p.checkForm(r, s.cookie, f)
	}
	if err == nil {
		err = p.acts(r, s)
	}
	if err == nil {
		err = p.setPicture(r, s, picture, f.Get("step") == "remove")
	}
	if err != nil {
		return p.showProfile(r, s, err)
	}
	return done(pathProfile, "picture")
}

// setPicture stores a picture and makes it that of the user.
func (p *Pages) setPicture(r *httpapi.Request, s session, picture []byte, remove bool) error {
	if remove {
		return p.opts.Accounts.SetAvatar(r.Context(), s.requester(), "")
	}
	kind := http.DetectContentType(picture)
	switch {
	case len(picture) == 0:
		return mxerr.InvalidParam("%s", english["picture.none"])
	case !pictureTypes[kind]:
		return mxerr.InvalidParam("%s", english["picture.type"])
	}
	file, err := p.opts.Media.Upload(r.Context(), s.User, kind, "", bytes.NewReader(picture))
	if err != nil {
		return err
	}
	return p.opts.Accounts.SetAvatar(r.Context(), s.requester(), "mxc://"+p.opts.Server+"/"+file)
}

// isUpload reports whether the body of a request is a form with a file.
func isUpload(r *httpapi.Request) bool {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && kind == "multipart/form-data"
}

// uploaded reads a form with a file. The file is nil if none was chosen.
func uploaded(r *httpapi.Request) (f url.Values, file []byte, err error) {
	body, err := r.Body()
	if err != nil {
		return nil, nil, err
	}
	bad := mxerr.InvalidParam("%s", english["error.form"])
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" {
		return nil, nil, bad.Because(err)
	}
	f = url.Values{}
	parts := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for range maxParts {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) {
			return f, file, nil
		}
		if err != nil {
			return nil, nil, bad.Because(err)
		}
		raw, err := io.ReadAll(part)
		switch {
		case err != nil:
			return nil, nil, bad.Because(err)
		case part.FormName() == "picture":
			file = raw
		default:
			f.Set(part.FormName(), strings.ToValidUTF8(string(raw), ""))
		}
	}
	return nil, nil, bad
}

// maxParts bounds the fields of a form with a file.
const maxParts = 10
