package media

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"math"
	"time"

	"golang.org/x/image/draw"
	"golang.org/x/image/webp"
)

// Size is a requested thumbnail size.
type Size struct {
	Width, Height int
	// Crop cuts the picture to the proportions of the size. Otherwise the picture keeps its proportions and fits
	// inside.
	Crop     bool
	Animated bool // whether an animation should stay animated
}

var (
	// scaledSizes and croppedSides are the available thumbnail sizes. A request gets the smallest one that covers it,
	// so that clients cannot make this server compute and store a thumbnail for every number of pixels. They are the
	// sizes recommended by the specification, and larger ones in powers of two. Crops have the proportions of the
	// request, and their longer side is one of croppedSides.
	// Spec: client-server-api#thumbnails
	scaledSizes  = []Size{{Width: 320, Height: 240}, {Width: 640, Height: 480}, {Width: 800, Height: 600}}
	croppedSides = []int{32, 96, 320, 640, 800}
)

const (
	// maxAnimatedOriginal bounds an animated PNG or WebP that is served as its own animated thumbnail.
	maxAnimatedOriginal = 4 << 20
	// maxDecodeTime bounds the time for making one thumbnail.
	maxDecodeTime = 20 * time.Second
)

// fit returns the available size for a request.
func fit(want Size) Size {
	if want.Crop {
		return fitCrop(want)
	}
	size := scaledSizes[len(scaledSizes)-1]
	for _, s := range scaledSizes {
		if s.Width >= want.Width && s.Height >= want.Height {
			size = s
			break
		}
	}
	for size.Width < want.Width || size.Height < want.Height {
		size.Width, size.Height = 2*size.Width, 2*size.Height
	}
	size.Animated = want.Animated
	return size
}

func fitCrop(want Size) Size {
	longer := max(want.Width, want.Height, 1)
	side := croppedSides[len(croppedSides)-1]
	for _, s := range croppedSides {
		if s >= longer {
			side = s
			break
		}
	}
	for side < longer {
		side *= 2
	}
	part := func(n int) int { return max(1, (n*side+longer/2)/longer) }
	want.Width, want.Height = part(want.Width), part(want.Height)
	return want
}

// spec returns the size in the form used in file names.
func (s Size) spec() string {
	method, still := "scale", "still"
	if s.Crop {
		method = "crop"
	}
	if s.Animated {
		still = "animated"
	}
	return fmt.Sprintf("%dx%d-%s-%s", s.Width, s.Height, method, still)
}

// plan describes how to answer one thumbnail request.
type plan struct {
	original      bool            // whether to serve the file itself
	width, height int             // the dimensions of the thumbnail as displayed
	from          image.Rectangle // the part of the stored picture to show
	animated      bool
	name          string // file name of the stored thumbnail
}

// planFor plans the answer to a thumbnail request. bytes is the length of the file.
func planFor(p picture, want Size, bytes int64) plan {
	if p.animated && want.Animated && p.format != "gif" && bytes <= maxAnimatedOriginal {
		return plan{original: true} // this server has no encoder for these formats
	}
	still := p.animated && !want.Animated // the file itself is animated
	w, h := p.oriented()
	size := fit(want)
	small := w <= size.Width && h <= size.Height
	pl := plan{width: w, height: h, animated: p.format == "gif" && p.animated && want.Animated, name: size.spec()}
	switch {
	case w <= want.Width && h <= want.Height || small && !want.Crop:
		pl.original = !still
		pl.name = "whole-still"
	case want.Crop:
		pl.width, pl.height = cropped(w, h, size)
		pl.original = !still && pl.width == w && pl.height == h
		if small { // all smaller requests with the same proportions share this thumbnail
			pl.name = want.spec()
		}
	default:
		pl.width, pl.height = scaled(w, h, size)
	}
	pl.from = image.Rect(0, 0, p.width, p.height)
	if want.Crop && (pl.width != w || pl.height != h) {
		sw, sh := pl.stored(p)
		pl.from = middle(pl.from, sw, sh)
	}
	return pl
}

// stored returns the dimensions of the thumbnail before orientation is applied.
func (pl *plan) stored(p picture) (width, height int) {
	if p.orientation >= 5 {
		return pl.height, pl.width
	}
	return pl.width, pl.height
}

// scaled returns the size to which a picture of w × h is scaled to fit inside size.
func scaled(w, h int, size Size) (int, int) {
	scale := min(float64(size.Width)/float64(w), float64(size.Height)/float64(h), 1)
	return max(1, int(math.Round(float64(w)*scale))), max(1, int(math.Round(float64(h)*scale)))
}

// cropped returns the size of a thumbnail with exactly the requested proportions: the requested size or, if a picture
// of w × h does not cover it, the largest one that the picture covers.
func cropped(w, h int, size Size) (int, int) {
	scale := min(float64(w)/float64(size.Width), float64(h)/float64(size.Height), 1)
	return max(1, int(math.Round(float64(size.Width)*scale))), max(1, int(math.Round(float64(size.Height)*scale)))
}

// middle returns the largest rectangle with the proportions of w × h that fits into from, in its centre. It is at least
// w × h.
func middle(from image.Rectangle, w, h int) image.Rectangle {
	cw, ch := from.Dx(), from.Dx()*h/w
	if ch > from.Dy() {
		cw, ch = from.Dy()*w/h, from.Dy()
	}
	cw, ch = max(cw, w), max(ch, h)
	x, y := from.Min.X+(from.Dx()-cw)/2, from.Min.Y+(from.Dy()-ch)/2
	return image.Rect(x, y, x+cw, y+ch)
}

// cost returns an upper bound of the memory needed to make the thumbnail.
func (pl *plan) cost(p picture) int64 {
	result := mul(int64(pl.width), int64(pl.height), 16) // scaled, rotated, and encoded into a growing buffer
	result += mul(int64(p.width), 4)                     // one row during scaling
	if pl.animated {
		return p.animationBytes(pl.width, pl.height) + result
	}
	return p.decoded + result
}

// thumbnail makes a planned thumbnail. It returns errNoThumbnail for a picture that cannot be decoded.
func thumbnail(ctx context.Context, src io.ReadSeeker, p picture, pl plan) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, maxDecodeTime)
	defer cancel()
	from := &cancellable{cancelled: ctx.Err, src: src}
	var buf bytes.Buffer
	w, h := pl.stored(p)
	if pl.animated {
		all, err := animate(ctx, from, p, pl.from, w, h)
		if err != nil {
			return nil, from.cause(err)
		}
		err = gif.EncodeAll(&buf, all)
		return buf.Bytes(), err
	}
	img, err := decode(from, src, p)
	if err != nil {
		return nil, from.cause(errNoThumbnail)
	}
	small := orient(shrink(img, pl.from.Add(img.Bounds().Min), w, h), p.orientation)
	if p.format == "jpeg" || p.format == "webp" && small.Opaque() { // JPEG keeps photographs small
		err = jpeg.Encode(&buf, small, &jpeg.Options{Quality: 82})
	} else {
		err = png.Encode(&buf, small)
	}
	return buf.Bytes(), err
}

// cancellable is a reader that fails once a request has ended, which stops decoders.
type cancellable struct {
	cancelled func() error // Err of the request's context
	src       io.Reader
	err       error // read error other than the end of the file
}

func (c *cancellable) Read(b []byte) (int, error) {
	if err := c.cancelled(); err != nil {
		return 0, err
	}
	n, err := c.src.Read(b)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

// cause returns why decoding failed. If reading the file failed or the request was cancelled, it returns that error.
// Otherwise it returns err, the error of the decoder.
func (c *cancellable) cause(err error) error {
	if c.err != nil {
		return c.err
	}
	if stopped := c.cancelled(); errors.Is(stopped, context.Canceled) {
		return stopped
	}
	return err
}

// decode returns the pixels of a picture, or those of the first frame of an animation.
func decode(r io.Reader, src io.Seeker, p picture) (img image.Image, err error) {
	switch {
	case p.format == "png":
		img, err = png.Decode(r)
	case p.format == "jpeg":
		img, err = jpeg.Decode(r)
	case p.format == "gif":
		if img, err = gif.Decode(r); err == nil {
			img = onCanvas(img, img.Bounds().Min, p)
		}
	case p.animated:
		img, err = decodeFirstFrame(r, src, p)
	default:
		img, err = webp.Decode(r)
	}
	if err == nil && (img.Bounds().Dx() != p.width || img.Bounds().Dy() != p.height) {
		err = errNoThumbnail // the image does not match its header
	}
	return img, err
}

// onCanvas draws a frame at its position on the canvas of an animation.
func onCanvas(frame image.Image, at image.Point, p picture) image.Image {
	canvas := image.Rect(0, 0, p.width, p.height)
	where := frame.Bounds().Sub(frame.Bounds().Min).Add(at)
	if where == canvas {
		return frame
	}
	img := image.NewRGBA(canvas)
	draw.Draw(img, where, frame, frame.Bounds().Min, draw.Src)
	return img
}

// decodeFirstFrame decodes the first frame of an animated WebP, which has the same chunks as a still WebP. It prepends
// a header that limits the decoder to the announced dimensions.
func decodeFirstFrame(r io.Reader, src io.Seeker, p picture) (image.Image, error) {
	if p.frameBytes <= 0 {
		return nil, errNoThumbnail
	}
	if _, err := src.Seek(p.frameOffset, io.SeekStart); err != nil {
		return nil, err
	}
	data := io.LimitReader(r, p.frameBytes)
	var first [4]byte
	if _, err := io.ReadFull(data, first[:]); err != nil {
		return nil, err
	}
	var flags byte
	switch string(first[:]) {
	case "ALPH":
		flags = 0x10
	case "VP8 ", "VP8L":
	default:
		return nil, errNoThumbnail
	}
	head := append([]byte("RIFF....WEBPVP8X\x0A\x00\x00\x00"), flags, 0, 0, 0)
	for _, n := range []int{p.firstFrame.width - 1, p.firstFrame.height - 1} {
		head = append(head, byte(n), byte(n>>8), byte(n>>16))
	}
	binary.LittleEndian.PutUint32(head[4:], uint32(int64(len(head))-8+p.frameBytes))
	img, err := webp.Decode(io.MultiReader(bytes.NewReader(append(head, first[:]...)), data))
	if err != nil {
		return nil, err
	}
	return onCanvas(img, image.Pt(p.firstFrame.x, p.firstFrame.y), p), nil
}
