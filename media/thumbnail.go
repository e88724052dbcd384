package media

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"math"

	"golang.org/x/image/draw"
	"golang.org/x/image/webp"
)

// Size asks for a thumbnail.
type Size struct {
	Width, Height int
	Crop          bool // crop: fill the size and cut the rest; otherwise scale to fit inside
	Animated      bool // a GIF stays animated
}

// sizes are the thumbnails that are made: the smallest that covers the wish is taken, so strangers cannot have a thumbnail
// computed and stored for every number of pixels. They are those that the specification recommends.
// Spec: client-server-api#thumbnails
var sizes = []Size{
	{Width: 32, Height: 32, Crop: true},
	{Width: 96, Height: 96, Crop: true},
	{Width: 320, Height: 240},
	{Width: 640, Height: 480},
	{Width: 800, Height: 600},
}

const (
	// maxPixels bounds a decoded picture: 40 megapixels are 160 MB as RGBA, once per worker.
	maxPixels = 40 << 20
	// maxFrames bounds an animation; longer ones get a still thumbnail.
	maxFrames = 200
	// maxAnimatedPixels bounds frames × size of an animation.
	maxAnimatedPixels = 60 << 20
)

// errNoThumbnail: the blob is not a picture that this server can make smaller.
var errNoThumbnail = errors.New("media: no thumbnail of this file")

// fit chooses the size made for a wish.
func fit(want Size) Size {
	for _, s := range sizes {
		if s.Crop == want.Crop && s.Width >= want.Width && s.Height >= want.Height {
			s.Animated = want.Animated
			return s
		}
	}
	if want.Crop { // larger crops than the table's are cut from the scaled sizes' bounds
		for _, s := range sizes {
			if !s.Crop && s.Width >= want.Width && s.Height >= want.Height {
				return Size{Width: s.Width, Height: s.Height, Crop: true, Animated: want.Animated}
			}
		}
	}
	last := sizes[len(sizes)-1]
	return Size{Width: last.Width, Height: last.Height, Crop: want.Crop, Animated: want.Animated}
}

// spec names the size in a file name.
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

// thumbnail makes a picture of at most the given size. It returns errNoThumbnail for what is not a picture of a known
// format, is broken, too large, or smaller than the thumbnail would be.
func thumbnail(src io.ReadSeeker, size Size) (data []byte, contentType string, err error) {
	format, config, err := inspect(src)
	if err != nil {
		return nil, "", err
	}
	if config.Width <= size.Width && config.Height <= size.Height {
		return nil, "", errNoThumbnail
	}
	if format == "gif" && size.Animated {
		if data, err := animated(src, config, size); err == nil {
			return data, "image/gif", nil
		}
		if _, err := src.Seek(0, io.SeekStart); err != nil {
			return nil, "", err
		}
	}
	img, err := decode(format, src)
	if err != nil {
		return nil, "", errNoThumbnail
	}
	return encode(resize(img, size), format)
}

// inspect reads the format and the dimensions, and rewinds.
func inspect(src io.ReadSeeker) (format string, config image.Config, err error) {
	head := make([]byte, 512)
	n, err := io.ReadFull(src, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", config, err
	}
	format, ok := sniff(head[:n])
	if !ok {
		return "", config, errNoThumbnail
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return "", config, err
	}
	switch format {
	case "png":
		config, err = png.DecodeConfig(src)
	case "jpeg":
		config, err = jpeg.DecodeConfig(src)
	case "gif":
		config, err = gif.DecodeConfig(src)
	case "webp":
		config, err = webp.DecodeConfig(src)
	}
	if err != nil || config.Width <= 0 || config.Height <= 0 || config.Width > maxPixels/config.Height {
		return "", config, errNoThumbnail
	}
	_, err = src.Seek(0, io.SeekStart)
	return format, config, err
}

func decode(format string, src io.Reader) (image.Image, error) {
	switch format {
	case "png":
		return png.Decode(src)
	case "jpeg":
		return jpeg.Decode(src)
	case "gif":
		return gif.Decode(src)
	default:
		return webp.Decode(src)
	}
}

// encode keeps photographs small and transparency whole.
func encode(img image.Image, format string) ([]byte, string, error) {
	var buf bytes.Buffer
	if format == "jpeg" {
		err := jpeg.Encode(&buf, img, &jpeg.Options{Quality: 82})
		return buf.Bytes(), "image/jpeg", err
	}
	err := png.Encode(&buf, img)
	return buf.Bytes(), "image/png", err
}

// resize scales img to fit inside the size, or to cover it and cut the middle out; it never enlarges.
func resize(img image.Image, size Size) *image.RGBA {
	from := img.Bounds()
	w, h := target(from.Dx(), from.Dy(), size)
	dst := image.NewRGBA(image.Rect(0, 0, w, h))
	if size.Crop {
		from = middle(from, w, h)
	}
	draw.ApproxBiLinear.Scale(dst, dst.Bounds(), img, from, draw.Src, nil)
	return dst
}

// target is the size of the result for a picture of w × h.
func target(w, h int, size Size) (int, int) {
	if size.Crop {
		return min(w, size.Width), min(h, size.Height)
	}
	scale := min(float64(size.Width)/float64(w), float64(size.Height)/float64(h), 1)
	return max(1, int(math.Round(float64(w)*scale))), max(1, int(math.Round(float64(h)*scale)))
}

// middle is the largest part of from, around its middle, with the proportions of w × h.
func middle(from image.Rectangle, w, h int) image.Rectangle {
	cw, ch := from.Dx(), from.Dx()*h/w
	if ch > from.Dy() {
		cw, ch = from.Dy()*w/h, from.Dy()
	}
	cw, ch = max(cw, 1), max(ch, 1)
	x, y := from.Min.X+(from.Dx()-cw)/2, from.Min.Y+(from.Dy()-ch)/2
	return image.Rect(x, y, x+cw, y+ch)
}

// animated scales every frame of a GIF. Frames are first drawn onto the whole canvas, as their disposal methods say.
func animated(src io.Reader, config image.Config, size Size) ([]byte, error) {
	all, err := decodeGIF(src, config)
	if err != nil {
		return nil, err
	}
	canvas := image.NewRGBA(image.Rect(0, 0, config.Width, config.Height))
	out := &gif.GIF{LoopCount: all.LoopCount}
	for i, frame := range all.Image {
		before := disposalCopy(canvas, all, i)
		draw.Draw(canvas, frame.Bounds(), frame, frame.Bounds().Min, draw.Over)
		small := resize(canvas, size)
		paletted := image.NewPaletted(small.Bounds(), withTransparency(frame.Palette))
		draw.FloydSteinberg.Draw(paletted, paletted.Bounds(), small, image.Point{})
		out.Image = append(out.Image, paletted)
		out.Delay = append(out.Delay, all.Delay[i])
		out.Disposal = append(out.Disposal, gif.DisposalBackground)
		dispose(canvas, before, all, i)
	}
	var buf bytes.Buffer
	if err := gif.EncodeAll(&buf, out); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// maxGIFBytes bounds what is decoded as an animation: frames are only counted once decoded.
const maxGIFBytes = 16 << 20

func decodeGIF(src io.Reader, config image.Config) (*gif.GIF, error) {
	raw, err := io.ReadAll(io.LimitReader(src, maxGIFBytes+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > maxGIFBytes || countFrames(raw) > min(maxFrames, maxAnimatedPixels/(config.Width*config.Height)) {
		return nil, errNoThumbnail
	}
	all, err := gif.DecodeAll(bytes.NewReader(raw))
	if err != nil || len(all.Image) < 2 {
		return nil, errNoThumbnail
	}
	return all, nil
}

// countFrames walks the blocks of a GIF without decoding them, so that a small file with thousands of large frames costs
// no memory. It counts one more than it can follow in a broken file.
func countFrames(raw []byte) int {
	if len(raw) < 13 {
		return math.MaxInt
	}
	pos := 13
	if raw[10]&0x80 != 0 {
		pos += 3 << (raw[10]&7 + 1)
	}
	frames := 0
	for pos < len(raw) {
		switch raw[pos] {
		case 0x21: // extension: label, then sub-blocks
			pos = skipBlocks(raw, pos+2)
		case 0x2C: // image: descriptor, colour table, code size, sub-blocks
			frames++
			if pos+9 >= len(raw) {
				return math.MaxInt
			}
			table := 0
			if raw[pos+9]&0x80 != 0 {
				table = 3 << (raw[pos+9]&7 + 1)
			}
			pos = skipBlocks(raw, pos+10+table+1)
		case 0x3B:
			return frames
		default:
			return math.MaxInt
		}
	}
	return frames
}

func skipBlocks(raw []byte, pos int) int {
	for pos < len(raw) && raw[pos] != 0 {
		pos += int(raw[pos]) + 1
	}
	return pos + 1
}

func withTransparency(p color.Palette) color.Palette {
	for _, c := range p {
		if _, _, _, a := c.RGBA(); a == 0 {
			return p
		}
	}
	if len(p) >= 256 {
		p = p[:255]
	}
	return append(append(color.Palette{}, p...), color.Transparent)
}

// disposalCopy keeps the canvas where frame i asks that it be restored afterwards.
func disposalCopy(canvas *image.RGBA, all *gif.GIF, i int) *image.RGBA {
	if i >= len(all.Disposal) || all.Disposal[i] != gif.DisposalPrevious {
		return nil
	}
	kept := image.NewRGBA(canvas.Bounds())
	copy(kept.Pix, canvas.Pix)
	return kept
}

func dispose(canvas, before *image.RGBA, all *gif.GIF, i int) {
	switch {
	case before != nil:
		copy(canvas.Pix, before.Pix)
	case i < len(all.Disposal) && all.Disposal[i] == gif.DisposalBackground:
		draw.Draw(canvas, all.Image[i].Bounds(), image.Transparent, image.Point{}, draw.Src)
	}
}
