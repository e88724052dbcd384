package media

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"strings"
	"testing"
)

// gradient returns a picture whose colours encode their position.
func gradient(w, h int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.Set(x, y, color.RGBA{uint8(x), uint8(y), 128, 255})
		}
	}
	return img
}

// quarters returns a picture with one colour in each quarter: red, green, blue and white, row by row.
func quarters(w, h int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.Set(x, y, quarterColours[2*(2*y/h)+2*x/w])
		}
	}
	return img
}

var quarterColours = []color.RGBA{{255, 0, 0, 255}, {0, 255, 0, 255}, {0, 0, 255, 255}, {255, 255, 255, 255}}

// seen returns the initials of the colours in the displayed quarters.
func seen(img image.Image) (s string) {
	b := img.Bounds()
	for i := range 4 {
		r, g, bl, _ := img.At(b.Min.X+b.Dx()/4+i%2*b.Dx()/2, b.Min.Y+b.Dy()/4+i/2*b.Dy()/2).RGBA()
		switch bright := func(v uint32) bool { return v > 0x8000 }; {
		case bright(r) && bright(g):
			s += "W"
		case bright(r):
			s += "R"
		case bright(g):
			s += "G"
		case bright(bl):
			s += "B"
		default:
			s += "?"
		}
	}
	return s
}

func pngOf(t testing.TB, w, h int) []byte { return encodePNG(t, gradient(w, h)) }

func encodePNG(t testing.TB, img image.Image) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := png.Encode(&buf, img); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func jpegOf(t testing.TB, img image.Image) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, img, nil); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gifOf(t testing.TB, w, h, frames int) []byte {
	t.Helper()
	anim := &gif.GIF{}
	for i := range frames {
		p := image.NewPaletted(image.Rect(0, 0, w, h), color.Palette{color.Transparent, color.White, color.RGBA{uint8(i), 0, 0, 255}})
		for j := range p.Pix {
			p.Pix[j] = uint8(1 + (i+j)%2)
		}
		anim.Image = append(anim.Image, p)
		anim.Delay = append(anim.Delay, 10)
	}
	return encodeGIF(t, anim)
}

func encodeGIF(t testing.TB, anim *gif.GIF) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := gif.EncodeAll(&buf, anim); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// exif returns EXIF data that contains only an orientation.
func exif(order binary.AppendByteOrder, orientation uint16) []byte {
	b := []byte("MM\x00*")
	if order == binary.AppendByteOrder(binary.LittleEndian) {
		b = []byte("II*\x00")
	}
	b = order.AppendUint32(b, 8)
	b = order.AppendUint16(b, 1)
	b = order.AppendUint16(b, 0x0112)
	b = order.AppendUint16(b, 3)
	b = order.AppendUint32(b, 1)
	b = order.AppendUint16(b, orientation)
	return append(b, 0, 0, 0, 0, 0, 0)
}

// jpegWithEXIF inserts EXIF data after the start of a JPEG.
func jpegWithEXIF(raw, exif []byte) []byte {
	app1 := append([]byte{0xFF, 0xE1}, binary.BigEndian.AppendUint16(nil, uint16(2+6+len(exif)))...)
	app1 = append(append(app1, "Exif\x00\x00"...), exif...)
	return append(append(bytes.Clone(raw[:2]), app1...), raw[2:]...)
}

// pngWithChunk inserts a chunk after the header of a PNG.
func pngWithChunk(raw []byte, name string, data []byte) []byte {
	chunk := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
	chunk = append(append(chunk, name...), data...)
	chunk = binary.BigEndian.AppendUint32(chunk, crc32.ChecksumIEEE(chunk[4:]))
	return append(append(bytes.Clone(raw[:33]), chunk...), raw[33:]...)
}

// riff builds a WebP from chunks.
func riff(chunks ...[]byte) []byte {
	body := []byte("WEBP")
	for _, c := range chunks {
		body = append(body, c...)
	}
	return append(binary.LittleEndian.AppendUint32([]byte("RIFF"), uint32(len(body))), body...)
}

func webpChunk(name string, data []byte) []byte {
	c := append(binary.LittleEndian.AppendUint32([]byte(name), uint32(len(data))), data...)
	return append(c, make([]byte, len(data)&1)...)
}

func vp8x(flags byte, w, h int) []byte {
	w, h = w-1, h-1
	return webpChunk("VP8X", []byte{flags, 0, 0, 0, byte(w), byte(w >> 8), byte(w >> 16), byte(h), byte(h >> 8), byte(h >> 16)})
}

// bitWriter writes bits in the order that lossless WebP uses.
type bitWriter struct {
	b []byte
	n uint
}

func (w *bitWriter) put(v uint32, bits uint) {
	for i := range bits {
		if w.n%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[w.n/8] |= byte(v>>i&1) << (w.n % 8)
		w.n++
	}
}

// vp8l returns the data of a lossless WebP of one colour. Its trees have one symbol each, so that its pixels need no
// bits.
func vp8l(w, h int, c color.RGBA) []byte {
	out := &bitWriter{}
	out.put(0x2f, 8)
	out.put(uint32(w-1), 14)
	out.put(uint32(h-1), 14)
	out.put(0, 1+3+1+1+1) // alpha hint, version; no transform, colour cache or meta image
	for _, symbol := range []uint8{c.G, c.R, c.B, c.A} {
		out.put(0b101, 3) // simple, one symbol, of eight bits
		out.put(uint32(symbol), 8)
	}
	out.put(0b001, 4) // the distances: simple, one symbol, of one bit
	return append(out.b, 0)
}

// animatedWebP returns a WebP with two frames on a canvas, the first one at the given position.
func animatedWebP(w, h int, first frame, data []byte) []byte {
	anmf := func(f frame, data []byte) []byte {
		var b []byte
		for _, n := range []int{f.x / 2, f.y / 2, f.width - 1, f.height - 1, 100} {
			b = append(b, byte(n), byte(n>>8), byte(n>>16))
		}
		return webpChunk("ANMF", append(append(b, 0), webpChunk("VP8L", data)...))
	}
	all := frame{0, 0, w, h}
	return riff(vp8x(2, w, h), webpChunk("ANIM", make([]byte, 6)), anmf(first, data), anmf(all, vp8l(w, h, quarterColours[2])))
}

// uploaded stores a file and returns its media ID.
func (f *fixture) uploaded(t *testing.T, raw []byte) string {
	t.Helper()
	f.opts.MaxUploadSize, f.opts.QuotaPerUser = 100<<20, 0
	id, err := f.Upload(t.Context(), 1, "application/octet-stream", "", bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// thumb returns the response to a thumbnail request.
func (f *fixture) thumb(t *testing.T, raw []byte, want Size) (data []byte, contentType string) {
	t.Helper()
	return f.thumbOf(t, f.uploaded(t, raw), want)
}

func (f *fixture) thumbOf(t *testing.T, id string, want Size) (data []byte, contentType string) {
	t.Helper()
	thumb, err := f.Thumbnail(t.Context(), id, want, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = thumb.Close() }()
	data, err = io.ReadAll(thumb.Content)
	if err != nil || int64(len(data)) != thumb.Size {
		t.Fatal(err, len(data), thumb.Size)
	}
	return data, thumb.ContentType
}

func decoded(t *testing.T, data []byte) image.Image {
	t.Helper()
	img, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestThumbnailSizes(t *testing.T) {
	crop := func(w, h int) Size { return Size{Width: w, Height: h, Crop: true} }
	scale := func(w, h int) Size { return Size{Width: w, Height: h} }
	f := newFixture(t)
	for _, c := range []struct {
		name         string
		w, h         int
		want         Size
		wantW, wantH int // size of the result; 0 means the original
	}{
		{"scale keeps proportions", 1000, 500, scale(320, 240), 320, 160},
		{"scale of a tall picture", 300, 1200, scale(320, 240), 60, 240},
		{"scale to the next larger size", 2000, 1500, scale(321, 240), 640, 480},
		{"scale beyond the recommended sizes", 2000, 1500, scale(1000, 700), 1600, 1200},
		{"scale beyond the picture", 2000, 1500, scale(3000, 2000), 0, 0},
		{"scale of what fits the next size", 300, 200, scale(100, 100), 0, 0},
		{"a thin line keeps one pixel", 4000, 1, scale(32, 32), 320, 1},
		{"crop fills", 1000, 500, crop(96, 96), 96, 96},
		{"crop has the proportions of the request", 1000, 1000, crop(64, 32), 96, 48},
		{"crop of a square is a square", 1000, 500, crop(200, 200), 320, 320},
		{"crop of a tall request", 2000, 2000, crop(300, 600), 320, 640},
		{"crop beyond the recommended sizes", 2000, 2000, crop(1200, 900), 1600, 1200},
		{"crop does not enlarge and keeps the proportions", 50, 500, crop(96, 96), 50, 50},
		{"crop of a picture larger than the request but smaller than the next size", 300, 250, crop(200, 200), 250, 250},
		{"crop of the same proportions needs none", 300, 300, crop(200, 200), 0, 0},
		{"crop of a small picture", 20, 10, crop(32, 32), 0, 0},
		{"a picture of exactly the size", 96, 96, crop(96, 96), 0, 0},
	} {
		raw := pngOf(t, c.w, c.h)
		for range 2 { // made the first time, cached the second time
			data, typ := f.thumb(t, raw, c.want)
			if c.wantW == 0 {
				if !bytes.Equal(data, raw) || typ != "image/png" {
					t.Errorf("%s: %d bytes of %s, want the original", c.name, len(data), typ)
				}
				continue
			}
			if b := decoded(t, data).Bounds(); typ != "image/png" || b.Dx() != c.wantW || b.Dy() != c.wantH {
				t.Errorf("%s: got %v %s, want %dx%d", c.name, b, typ, c.wantW, c.wantH)
			}
		}
	}
}

func TestFitReturnsTheSmallestCoveringSize(t *testing.T) {
	for want, spec := range map[Size]string{
		{Width: 1, Height: 1, Crop: true}:       "32x32-crop-still",
		{Width: 64, Height: 64, Crop: true}:     "96x96-crop-still",
		{Width: 200, Height: 200, Crop: true}:   "320x320-crop-still",
		{Width: 200, Height: 100, Crop: true}:   "320x160-crop-still",
		{Width: 1 << 20, Height: 1, Crop: true}: "1638400x2-crop-still",
		{Width: 33, Height: 33}:                 "320x240-scale-still",
		{Width: 801, Height: 1}:                 "1600x1200-scale-still",
		{Width: 9000, Height: 9000}:             "12800x9600-scale-still",
		{Width: 640, Height: 481}:               "800x600-scale-still",
		{Width: 10, Height: 10, Animated: true}: "320x240-scale-animated",
	} {
		if got := fit(want).spec(); got != spec {
			t.Errorf("fit(%+v) = %s, want %s", want, got, spec)
		}
	}
}

func TestThumbnailFollowsEXIFOrientation(t *testing.T) {
	f := newFixture(t)
	for orientation, want := range map[uint16]string{
		1: "RGBW", 2: "GRWB", 3: "WBGR", 4: "BWRG", 5: "RBGW", 6: "BRWG", 7: "WGBR", 8: "GWRB",
		0: "RGBW", 9: "RGBW",
	} {
		size := image.Pt(320, 160)
		if orientation >= 5 && orientation <= 8 {
			size = image.Pt(120, 240)
		}
		stored := quarters(800, 400)
		for format, raw := range map[string][]byte{
			"JPEG":               jpegWithEXIF(jpegOf(t, stored), exif(binary.BigEndian, orientation)),
			"little-endian JPEG": jpegWithEXIF(jpegOf(t, stored), exif(binary.LittleEndian, orientation)),
			"PNG":                pngWithChunk(encodePNG(t, stored), "eXIf", exif(binary.BigEndian, orientation)),
		} {
			data, _ := f.thumb(t, raw, Size{Width: 320, Height: 240})
			if img := decoded(t, data); seen(img) != want || img.Bounds().Size() != size {
				t.Errorf("orientation %d of a %s: %s %v, want %s %v", orientation, format, seen(img), img.Bounds(), want, size)
			}
		}
		data, _ := f.thumb(t, jpegWithEXIF(jpegOf(t, stored), exif(binary.BigEndian, orientation)), Size{Width: 64, Height: 32, Crop: true})
		if img := decoded(t, data); img.Bounds().Dx() != 96 || img.Bounds().Dy() != 48 {
			t.Errorf("a crop with orientation %d is %v", orientation, img.Bounds())
		}
	}
}

func TestCropWithOrientationShowsTheMiddle(t *testing.T) {
	stored := image.NewRGBA(image.Rect(0, 0, 600, 200)) // displayed 200 wide, 600 high: black with a white middle
	for y := range 200 {
		for x := range 600 {
			stored.Set(x, y, color.Gray{uint8(255 * (x / 200 % 2))})
		}
	}
	f := newFixture(t)
	data, _ := f.thumb(t, jpegWithEXIF(jpegOf(t, stored), exif(binary.BigEndian, 6)), Size{Width: 96, Height: 96, Crop: true})
	if img := decoded(t, data); img.Bounds().Dx() != 96 || seen(img) != "WWWW" {
		t.Errorf("%v %s", img.Bounds(), seen(img))
	}
}

func TestBrokenEXIFHasNoOrientation(t *testing.T) {
	good := exif(binary.BigEndian, 6)
	for n := range good[:18+2] {
		if got := orientationOf(good[:n]); got != 1 {
			t.Errorf("%d bytes of EXIF give %d", n, got)
		}
	}
	far := bytes.Clone(good)
	copy(far[4:], "\xff\xff\xff\xff")
	if orientationOf(far) != 1 || orientationOf(good) != 6 {
		t.Error("an offset beyond the end is followed")
	}
}

func TestWebPThumbnailFollowsEXIFOrientation(t *testing.T) {
	raw := riff(vp8x(8, 800, 400), webpChunk("VP8L", vp8l(800, 400, quarterColours[1])), webpChunk("EXIF", exif(binary.LittleEndian, 8)))
	f := newFixture(t)
	data, typ := f.thumb(t, raw, Size{Width: 320, Height: 240})
	if img := decoded(t, data); img.Bounds().Size() != image.Pt(120, 240) || seen(img) != "GGGG" || typ != "image/jpeg" {
		t.Errorf("%v %s %s", img.Bounds(), seen(img), typ)
	}
}

func TestImageThatCannotBeScaledIsServedUnchanged(t *testing.T) {
	huge := pngOf(t, 8, 8)
	copy(huge[16:24], []byte{0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60}) // IHDR: 60,000 × 60,000
	cut := pngOf(t, 500, 500)
	for name, c := range map[string]struct {
		raw []byte
		typ string
	}{
		"too large":                  {huge, "image/png"},
		"cut off":                    {cut[:len(cut)/2], "image/png"},
		"arithmetic coding":          {bytes.Replace(jpegOf(t, gradient(500, 500)), []byte{0xFF, 0xC0}, []byte{0xFF, 0xC9}, 1), "image/jpeg"},
		"a WebP whose image is cut":  {append(riff(vp8x(0, 500, 500)), "VP8 \xff\xff\xff\x7f"...), "image/webp"},
		"AVIF":                       {[]byte("\x00\x00\x00\x18ftypavif\x00\x00\x00\x00mif1"), "image/avif"},
		"BMP":                        {[]byte("BM\x00\x00\x00\x00"), "image/bmp"},
		"needs no scaling":           {pngOf(t, 20, 20), "image/png"},
		"a small JPEG":               {jpegOf(t, gradient(20, 20)), "image/jpeg"},
		"a still GIF":                {gifOf(t, 20, 20, 1), "image/gif"},
		"a PNG with a broken colour": {bytes.Replace(pngOf(t, 500, 500), []byte("IDAT"), []byte("IDAX"), 1)[:200], ""},
	} {
		f := newFixture(t)
		thumb, err := f.Thumbnail(t.Context(), f.uploaded(t, c.raw), Size{Width: 32, Height: 32}, 0)
		if c.typ == "" {
			wantCode(t, err, "M_UNKNOWN")
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := io.ReadAll(thumb.Content)
		if err != nil || !bytes.Equal(got, c.raw) || thumb.ContentType != c.typ {
			t.Errorf("%s: %d bytes of %s, %v", name, len(got), thumb.ContentType, err)
		}
		_ = thumb.Close()
	}
}

func TestThumbnailOfANonImageIsRefused(t *testing.T) {
	for _, raw := range []string{"<svg onload=alert(1)>", "", "\x89PNG\r\n\x1a\n", "\xff\xd8\xff\xd9", "\xff\xd8\xff\xe0", "GIF89a", "RIFF\x04\x00\x00\x00WEBPVP8 ",
		"\x00\x00\x00\x18ftypmp42", "%PDF-1.7", "\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR" + strings.Repeat("\x00", 60)} {
		f := newFixture(t)
		_, err := f.Thumbnail(t.Context(), f.uploaded(t, []byte(raw)), Size{Width: 32, Height: 32}, 0)
		if wantCode(t, err, "M_UNKNOWN"); status(err) != 400 {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

func TestThumbnailIsStillUnlessAnimationIsRequested(t *testing.T) {
	raw := gifOf(t, 200, 100, 3)
	apng := pngWithChunk(pngOf(t, 200, 100), "acTL", []byte{0, 0, 0, 2, 0, 0, 0, 0})
	anim := animatedWebP(200, 100, frame{0, 0, 200, 100}, vp8l(200, 100, quarterColours[0]))
	f := newFixture(t)
	for _, size := range []Size{{Width: 32, Height: 32, Crop: true}, {Width: 400, Height: 400}, {Width: 400, Height: 400, Crop: true}, {Width: 150, Height: 150, Crop: true}} {
		for format, raw := range map[string][]byte{"gif": raw, "png": apng, "webp": anim} {
			data, typ := f.thumb(t, raw, size)
			if bytes.Equal(data, raw) || typ != "image/png" && typ != "image/jpeg" || bytes.Contains(data, []byte("acTL")) {
				t.Errorf("%+v of an animated %s gives %s", size, format, typ)
			}
			if b := decoded(t, data).Bounds(); size.Width == 400 && b.Size() != image.Pt(200, 100) {
				t.Errorf("the still of a small animated %s is %v", format, b)
			}
			size := size
			size.Animated = true
			if data, typ = f.thumb(t, raw, size); typ != "image/"+format {
				t.Errorf("%+v of an animated %s gives %s", size, format, typ)
			}
			if format == "gif" {
				all, err := gif.DecodeAll(bytes.NewReader(data))
				if err != nil || len(all.Image) != 3 || size.Width == 32 && all.Config.Width != 32 {
					t.Errorf("%+v: %v, %d frames, width %d", size, err, len(all.Image), all.Config.Width)
				}
			}
		}
	}
}

func TestStillOfAnAnimationShowsItsWholeCanvas(t *testing.T) {
	anim := &gif.GIF{Config: image.Config{Width: 400, Height: 400}}
	for range 2 { // the frame fills only the lower right quarter
		p := image.NewPaletted(image.Rect(200, 200, 400, 400), color.Palette{color.RGBA{0, 255, 0, 255}})
		anim.Image, anim.Delay = append(anim.Image, p), append(anim.Delay, 1)
	}
	f := newFixture(t)
	for format, raw := range map[string][]byte{
		"gif":  encodeGIF(t, anim),
		"webp": animatedWebP(400, 400, frame{200, 200, 200, 200}, vp8l(200, 200, quarterColours[1])),
	} {
		data, _ := f.thumb(t, raw, Size{Width: 96, Height: 96, Crop: true})
		if img := decoded(t, data); img.Bounds().Dx() != 96 || seen(img) != "???G" {
			t.Errorf("%s: %v %s", format, img.Bounds(), seen(img))
		}
	}
}

func TestFrameThatIsLargerThanAnnouncedIsNotDecoded(t *testing.T) {
	raw := animatedWebP(100, 100, frame{0, 0, 100, 100}, vp8l(16000, 16000, quarterColours[0]))
	p, err := inspect(bytes.NewReader(raw))
	if err != nil || !p.animated || !p.decodable() {
		t.Fatal(err, p)
	}
	if _, err := thumbnail(t.Context(), bytes.NewReader(raw), p, planFor(p, Size{Width: 32, Height: 32}, 1)); err != errNoThumbnail {
		t.Fatalf("err = %v, want errNoThumbnail", err)
	}
}

func TestStillOfAnEndlessAnimationIsRefusedAsTooLarge(t *testing.T) {
	raw := gifOf(t, 8, 8, 2)
	copy(raw[6:10], "\xff\xff\xff\xff") // a canvas of 65,535 × 65,535
	f := newFixture(t)
	_, err := f.Thumbnail(t.Context(), f.uploaded(t, raw), Size{Width: 32, Height: 32}, 0)
	if wantCode(t, err, "M_TOO_LARGE"); status(err) != 413 {
		t.Error(err)
	}
}

func TestFramesWithColourTablesOfTheirOwnKeepTheirColours(t *testing.T) {
	anim := &gif.GIF{Config: image.Config{Width: 400, Height: 400}}
	for i, c := range quarterColours { // each frame adds one quarter, with a colour table of one colour
		x, y := i%2*200, i/2*200
		p := image.NewPaletted(image.Rect(x, y, x+200, y+200), color.Palette{c})
		anim.Image, anim.Delay = append(anim.Image, p), append(anim.Delay, 1)
		anim.Disposal = append(anim.Disposal, gif.DisposalNone)
	}
	f := newFixture(t)
	data, _ := f.thumb(t, encodeGIF(t, anim), Size{Width: 96, Height: 96, Crop: true, Animated: true})
	all, err := gif.DecodeAll(bytes.NewReader(data))
	if err != nil || len(all.Image) != 4 {
		t.Fatal(err)
	}
	for i, want := range []string{"R???", "RG??", "RGB?", "RGBW"} {
		if got := seen(all.Image[i]); got != want {
			t.Errorf("frame %d shows %s, want %s", i, got, want)
		}
	}
	for i, at := range []image.Point{{10, 10}, {80, 10}, {10, 80}, {80, 80}} {
		if got := color.RGBAModel.Convert(all.Image[3].At(at.X, at.Y)); got != quarterColours[i] {
			t.Errorf("quarter %d is %v, want %v", i, got, quarterColours[i])
		}
	}
}

func TestReducedColoursAreCloseToTheOriginals(t *testing.T) {
	img := gradient(256, 256)
	reduced := new(quantiser).reduce(img)
	if len(reduced.Palette) > 256 {
		t.Fatalf("%d colours", len(reduced.Palette))
	}
	worst := 0
	for y := range 256 {
		for x := range 256 {
			r, g, _, _ := reduced.At(x, y).RGBA()
			worst = max(worst, abs(int(r>>8)-x), abs(int(g>>8)-y))
		}
	}
	if worst > 16 {
		t.Errorf("a colour is off by %d", worst)
	}
}

func abs(n int) int { return max(n, -n) }

func TestAnimationWithTooManyFramesBecomesStill(t *testing.T) {
	f := newFixture(t)
	if _, typ := f.thumb(t, gifOf(t, 400, 40, maxFrames+1), Size{Width: 32, Height: 32, Animated: true}); typ != "image/png" {
		t.Fatalf("got %s, want a still png", typ)
	}
}

func TestAnimationWithABrokenFrameBecomesStill(t *testing.T) {
	raw := gifOf(t, 400, 400, 3)
	f := newFixture(t)
	if _, typ := f.thumb(t, raw[:len(raw)-len(raw)/4], Size{Width: 32, Height: 32, Animated: true}); typ != "image/png" {
		t.Fatalf("got %s, want a still png", typ)
	}
}

func TestPhotographsStayJPEG(t *testing.T) {
	f := newFixture(t)
	if _, typ := f.thumb(t, jpegOf(t, gradient(400, 400)), Size{Width: 320, Height: 240}); typ != "image/jpeg" {
		t.Fatalf("got %s", typ)
	}
}

func TestScalingAverages(t *testing.T) {
	img := image.NewGray(image.Rect(0, 0, 700, 700)) // lines one pixel wide
	for i := range img.Pix {
		img.Pix[i] = uint8(255 * (i % 2))
	}
	small := shrink(img, img.Bounds(), 32, 32)
	for i, v := range small.Pix {
		if i%4 < 3 && (v < 120 || v > 136) {
			t.Fatalf("byte %d is %d: lines of black and white are grey from afar", i, v)
		}
	}
	same := shrink(gradient(50, 40), image.Rect(0, 0, 50, 40), 50, 40)
	if !bytes.Equal(same.Pix, gradient(50, 40).Pix) {
		t.Error("a picture of the same size is another one")
	}
}

func TestThumbnailsPerFileAreBounded(t *testing.T) {
	f := newFixture(t)
	raw := pngOf(t, 400, 400)
	id := f.uploaded(t, raw)
	for w := 1; w <= 2*maxThumbnails; w++ {
		if data, _ := f.thumbOf(t, id, Size{Width: w, Height: 100, Crop: true}); decoded(t, data).Bounds().Dy() != 320 {
			t.Fatal("not the proportions of the request")
		}
	}
	if n := f.countFiles(t); n > maxThumbnails+1 {
		t.Errorf("%d files on disk", n)
	}
}

func TestThumbnailsOfAnEarlierVersionAreNotServed(t *testing.T) {
	f := newFixture(t)
	raw := pngOf(t, 400, 400)
	id := f.uploaded(t, raw)
	f.thumb(t, raw, Size{Width: 32, Height: 32, Crop: true})
	if err := f.renameThumbs("3-", "2-"); err != nil {
		t.Fatal(err)
	}
	f.open(t, f.opts.DB)
	if n := f.countFiles(t); n != 1 || len(f.read(t, id)) != len(raw) {
		t.Errorf("%d files on disk", n)
	}
}

func FuzzThumbnail(f *testing.F) {
	f.Add([]byte("GIF89a"), 32, 32, true, true)
	f.Add([]byte("\x89PNG\r\n\x1a\n"), 96, 96, true, false)
	f.Add([]byte("RIFF\x00\x00\x00\x00WEBPVP8 "), 1, -1, false, false)
	f.Add(pngOf(f, 40, 40), 32, 32, false, false)
	f.Add(jpegWithEXIF(jpegOf(f, gradient(50, 40)), exif(binary.BigEndian, 6)), 32, 32, true, false)
	f.Add(gifOf(f, 40, 40, 3), 32, 16, true, true)
	f.Add(animatedWebP(40, 40, frame{0, 0, 40, 40}, vp8l(40, 40, quarterColours[0])), 32, 16, true, false)
	f.Fuzz(func(t *testing.T, raw []byte, w, h int, crop, anim bool) {
		want := Size{Width: 1 + w&(1<<20-1), Height: 1 + h&(1<<20-1), Crop: crop, Animated: anim}
		src := bytes.NewReader(raw)
		p, err := inspect(src)
		if err != nil {
			return
		}
		pl := planFor(p, want, int64(len(raw)))
		if pl.original || !p.decodable() || pl.cost(p) > 8<<20 {
			return
		}
		data, err := thumbnail(t.Context(), src, p, pl)
		if err != nil {
			return
		}
		small, _, err := image.DecodeConfig(bytes.NewReader(data))
		if ow, oh := p.oriented(); err != nil || small.Width != pl.width || small.Height != pl.height || pl.width > ow || pl.height > oh {
			t.Fatalf("%dx%d of %dx%d: %dx%d %v", pl.width, pl.height, ow, oh, small.Width, small.Height, err)
		}
	})
}

func TestDisposition(t *testing.T) {
	for _, c := range []struct{ typ, name, want string }{
		{"image/png", "", "inline"},
		{"image/svg+xml", "", "attachment"},
		{"text/html; charset=utf-8", "a.html", "attachment; filename=a.html"},
		{"text/plain; charset=utf-8", "my file.txt", `inline; filename="my file.txt"`},
		{"image/png", "ü b.png", "inline; filename*=utf-8''%C3%BC%20b.png"},
		{"image/png", `a"b.png`, "inline; filename*=utf-8''a%22b.png"},
	} {
		if got := Disposition(c.typ, c.name); got != c.want {
			t.Errorf("Disposition(%q, %q) = %q, want %q", c.typ, c.name, got, c.want)
		}
	}
}

func TestContentTypeCannotSmuggleHeaders(t *testing.T) {
	for claimed, want := range map[string]string{
		"image/png":                "image/png",
		"":                         "application/octet-stream",
		"text/html\r\nX-Evil: yes": "application/octet-stream",
		"nonsense":                 "application/octet-stream",
	} {
		if got := contentType(claimed); got != want {
			t.Errorf("contentType(%q) = %q, want %q", claimed, got, want)
		}
	}
}
