package media

import (
	"bufio"
	"context"
	"encoding/binary"
	"image"
	"image/color"
	"image/gif"
	"io"
	"slices"

	"golang.org/x/image/draw"
)

const (
	// maxFrames bounds the frames of an animation; a longer one gets a still thumbnail.
	maxFrames = 200
	// maxAnimatedPixels bounds the pixels of all frames of an animation together.
	maxAnimatedPixels = 60 << 20
)

// inspectGIF reads the blocks of a GIF without decoding them, so that a small file with thousands of large frames costs
// no memory.
func inspectGIF(src io.ReadSeeker) (p picture, err error) {
	r := bufio.NewReaderSize(src, 64<<10)
	var head [13]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return p, err
	}
	p.width, p.height = int(binary.LittleEndian.Uint16(head[6:])), int(binary.LittleEndian.Uint16(head[8:]))
	if _, err := r.Discard(colourTable(head[10])); err != nil {
		return p, err
	}
	// In a broken file, the frames after the defect are ignored. The decoder decides whether there is an image at all.
	for p.frames <= maxFrames && p.gifBlock(r) == nil {
	}
	p.animated = p.frames > 1
	p.decoded = mul(int64(p.width), int64(p.height), 5) // a frame and the canvas
	return p, nil
}

// gifBlock reads one block. It returns io.EOF at the end of the image, or at the end of the part that can be parsed.
func (p *picture) gifBlock(r *bufio.Reader) error {
	kind, err := r.ReadByte()
	if err != nil {
		return err
	}
	switch kind {
	case 0x21: // an extension: its label, then sub-blocks
		if _, err := r.Discard(1); err != nil {
			return err
		}
		return skipSubBlocks(r)
	case 0x2C: // an image: descriptor, colour table, code size, sub-blocks
		var d [9]byte
		if _, err := io.ReadFull(r, d[:]); err != nil {
			return err
		}
		p.frames++
		p.framePixels += int64(binary.LittleEndian.Uint16(d[4:])) * int64(binary.LittleEndian.Uint16(d[6:]))
		if _, err := r.Discard(colourTable(d[8]) + 1); err != nil {
			return err
		}
		return skipSubBlocks(r)
	default:
		return io.EOF
	}
}

// colourTable returns the length of the colour table that the flags announce.
func colourTable(flags byte) int {
	if flags&0x80 == 0 {
		return 0
	}
	return 3 << (flags&7 + 1)
}

func skipSubBlocks(r *bufio.Reader) error {
	for {
		n, err := r.ReadByte()
		if err != nil || n == 0 {
			return err
		}
		if _, err := r.Discard(int(n)); err != nil {
			return err
		}
	}
}

// animationBytes returns the memory needed for an animated thumbnail of w × h: the frames of the original, the canvas
// and a copy of it, and the frames of the thumbnail with their encoded form. The result for an animation that is too
// long exceeds every bound.
func (p *picture) animationBytes(w, h int) int64 {
	canvas := int64(p.width) * int64(p.height)
	if p.frames > maxFrames || canvas*int64(p.frames) > maxAnimatedPixels {
		return tooMuch
	}
	return p.framePixels + canvas*8 + int64(p.frames)*int64(w)*int64(h)*3
}

// animate scales every frame of a GIF. Frames are first drawn onto the whole canvas, according to their disposal
// methods.
func animate(ctx context.Context, src io.Reader, p picture, from image.Rectangle, w, h int) (*gif.GIF, error) {
	all, err := gif.DecodeAll(src)
	if err != nil {
		return nil, errNoThumbnail
	}
	canvas := image.NewRGBA(image.Rect(0, 0, p.width, p.height))
	var before *image.RGBA
	out := &gif.GIF{LoopCount: all.LoopCount}
	colours := new(quantiser)
	for i, frame := range all.Image {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if all.Disposal[i] == gif.DisposalPrevious {
			if before == nil {
				before = image.NewRGBA(canvas.Bounds())
			}
			copy(before.Pix, canvas.Pix)
		}
		draw.Draw(canvas, frame.Bounds(), frame, frame.Bounds().Min, draw.Over)
		out.Image = append(out.Image, colours.reduce(shrink(canvas, from, w, h)))
		out.Delay = append(out.Delay, all.Delay[i])
		out.Disposal = append(out.Disposal, gif.DisposalBackground)
		switch all.Disposal[i] {
		case gif.DisposalPrevious:
			copy(canvas.Pix, before.Pix)
		case gif.DisposalBackground:
			draw.Draw(canvas, frame.Bounds(), image.Transparent, image.Point{}, draw.Src)
		}
	}
	return out, nil
}

// quantiser chooses the colours of a GIF frame. The canvas has colours from the colour tables of several frames and
// from scaling, so none of the original tables fits. The quantiser uses median cut: it divides the set of colours into
// boxes until there are as many boxes as palette entries.
type quantiser struct {
	cells [1 << 15]cell  // one for each colour, with five bits per channel
	index [1 << 15]uint8 // palette index of each cell
}

// cell counts the pixels with similar colours and sums their channels.
type cell struct{ n, r, g, b uint64 }

// maxColours leaves one entry of a GIF's colour table for transparency.
const maxColours = 255

// reduce returns the picture with its own palette. Pixels that are mostly transparent become fully transparent.
func (q *quantiser) reduce(img *image.RGBA) *image.Paletted {
	used := q.count(img)
	palette := color.Palette{color.Transparent}
	for _, box := range cut(used, &q.cells) {
		var sum cell
		for _, at := range box {
			c := q.cells[at]
			sum.n, sum.r, sum.g, sum.b = sum.n+c.n, sum.r+c.r, sum.g+c.g, sum.b+c.b
			q.index[at] = uint8(len(palette))
		}
		half := sum.n / 2
		palette = append(palette, color.RGBA{uint8((sum.r + half) / sum.n), uint8((sum.g + half) / sum.n), uint8((sum.b + half) / sum.n), 255})
	}
	out := image.NewPaletted(img.Bounds(), palette)
	for i := range out.Pix {
		if at, _, _, _, ok := opaque(img.Pix[4*i:]); ok {
			out.Pix[i] = q.index[at]
		}
	}
	for _, at := range used {
		q.cells[at] = cell{}
	}
	return out
}

// count fills the cells and returns the indices of those that are used.
func (q *quantiser) count(img *image.RGBA) (used []uint16) {
	for i := 0; i < len(img.Pix); i += 4 {
		at, r, g, b, ok := opaque(img.Pix[i:])
		if !ok {
			continue
		}
		c := &q.cells[at]
		if c.n == 0 {
			used = append(used, at)
		}
		c.n, c.r, c.g, c.b = c.n+1, c.r+r, c.g+g, c.b+b
	}
	return used
}

// opaque returns the colour of a pixel without its transparency, and the index of its cell. ok is false if the pixel is
// mostly transparent.
func opaque(pix []uint8) (at uint16, r, g, b uint64, ok bool) {
	a := uint64(pix[3])
	if a < 128 {
		return 0, 0, 0, 0, false
	}
	r, g, b = uint64(pix[0])*255/a, uint64(pix[1])*255/a, uint64(pix[2])*255/a
	return uint16(r>>3<<10 | g>>3<<5 | b>>3), r, g, b, true
}

// cut divides cells into at most maxColours boxes with about the same number of pixels each.
func cut(used []uint16, cells *[1 << 15]cell) (boxes [][]uint16) {
	if len(used) == 0 {
		return nil
	}
	boxes = [][]uint16{used}
	weights := []uint64{weight(used, cells)}
	for len(boxes) < maxColours {
		widest := -1
		for i, box := range boxes {
			if len(box) > 1 && (widest < 0 || weights[i] > weights[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			break
		}
		low, high := halves(boxes[widest], cells)
		boxes[widest], weights[widest] = low, weight(low, cells)
		boxes, weights = append(boxes, high), append(weights, weight(high, cells))
	}
	return boxes
}

// weight returns the priority with which a box is divided: its number of pixels times the length of its longest side.
func weight(box []uint16, cells *[1 << 15]cell) (w uint64) {
	for _, at := range box {
		w += cells[at].n
	}
	_, width := longest(box)
	return w * uint64(width+1)
}

// longest returns the channel in which the colours of a box differ most, as a shift, and that difference.
func longest(box []uint16) (shift, width int) {
	width = -1
	for _, s := range []int{10, 5, 0} {
		low, high := 31, 0
		for _, at := range box {
			v := int(at >> s & 31)
			low, high = min(low, v), max(high, v)
		}
		if high-low > width {
			shift, width = s, high-low
		}
	}
	return shift, width
}

// halves divides a box of at least two cells at the median of its longest side.
func halves(box []uint16, cells *[1 << 15]cell) (low, high []uint16) {
	shift, _ := longest(box)
	slices.SortFunc(box, func(a, b uint16) int { return int(a>>shift&31) - int(b>>shift&31) })
	total := uint64(0)
	for _, at := range box {
		total += cells[at].n
	}
	sum, at := uint64(0), 0
	for at < len(box)-1 && (at == 0 || 2*(sum+cells[box[at]].n) <= total) {
		sum += cells[box[at]].n
		at++
	}
	return box[:at], box[at:]
}
