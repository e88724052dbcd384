package media

import (
	"image"
	"image/draw"
)

// shrink scales a part of a picture down to w × h. Every pixel of the result is the average of the pixels that it
// covers. shrink reads the picture row by row, so that it needs little memory besides the result.
func shrink(img image.Image, from image.Rectangle, w, h int) *image.RGBA {
	dst := image.NewRGBA(image.Rect(0, 0, w, h))
	sw, sh := from.Dx(), from.Dy()
	line := image.NewRGBA(image.Rect(from.Min.X, 0, from.Max.X, 1))
	row, sum := make([]uint64, 4*w), make([]uint64, 4*w)
	// y is the current row of the result, and room the height that it still lacks. Heights are in units such that a row
	// of the source has the height h, and a row of the result the height sh.
	y, room := 0, sh
	for sy := range sh {
		draw.Draw(line, line.Bounds(), img, image.Pt(from.Min.X, from.Min.Y+sy), draw.Src)
		shrinkRow(row, line.Pix, sw, w)
		for rest := h; rest > 0; {
			part := min(rest, room)
			for i, v := range row {
				sum[i] += v * uint64(part)
			}
			rest, room = rest-part, room-part
			if room == 0 {
				divide(dst.Pix[y*dst.Stride:][:4*w], sum, uint64(sw)*uint64(sh))
				clear(sum)
				y, room = y+1, sh
			}
		}
	}
	return dst
}

// shrinkRow adds the pixels of a source row to the sums of w result pixels, weighting each pixel by the width that it
// covers. The row has sw pixels.
func shrinkRow(row []uint64, pix []uint8, sw, w int) {
	clear(row)
	x, room := 0, sw
	for sx := range sw {
		p := pix[4*sx : 4*sx+4 : 4*sx+4]
		for rest := w; rest > 0; {
			part := min(rest, room)
			r, n := row[4*x:4*x+4:4*x+4], uint64(part)
			r[0] += uint64(p[0]) * n
			r[1] += uint64(p[1]) * n
			r[2] += uint64(p[2]) * n
			r[3] += uint64(p[3]) * n
			rest, room = rest-part, room-part
			if room == 0 {
				x, room = x+1, sw
			}
		}
	}
}

func divide(pix []uint8, sum []uint64, by uint64) {
	for i, v := range sum {
		pix[i] = uint8((v + by/2) / by)
	}
}

// orient rotates and mirrors a picture according to its EXIF orientation.
func orient(img *image.RGBA, orientation int) *image.RGBA {
	if orientation == 1 {
		return img
	}
	w, h := img.Rect.Dx(), img.Rect.Dy()
	dst := image.NewRGBA(image.Rect(0, 0, w, h))
	if orientation >= 5 {
		dst = image.NewRGBA(image.Rect(0, 0, h, w))
	}
	for y := range h {
		for x := range w {
			dx, dy := turn(x, y, w, h, orientation)
			copy(dst.Pix[dst.PixOffset(dx, dy):][:4], img.Pix[img.PixOffset(x, y):][:4])
		}
	}
	return dst
}

// turn returns where the stored pixel x, y is displayed. The comment on each orientation names the side of the
// displayed picture at which the first stored row is, and the side at which the first stored column is.
func turn(x, y, w, h, orientation int) (int, int) {
	switch orientation {
	case 2: // top, right
		return w - 1 - x, y
	case 3: // bottom, right
		return w - 1 - x, h - 1 - y
	case 4: // bottom, left
		return x, h - 1 - y
	case 5: // left, top
		return y, x
	case 6: // right, top
		return h - 1 - y, x
	case 7: // right, bottom
		return h - 1 - y, w - 1 - x
	case 8: // left, bottom
		return y, w - 1 - x
	}
	return x, y
}
