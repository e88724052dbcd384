package media

import (
	"bytes"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"testing"
)

func picture(w, h int) image.Image {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			img.Set(x, y, color.RGBA{uint8(x), uint8(y), 128, 255})
		}
	}
	return img
}

func pngOf(t *testing.T, w, h int) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := png.Encode(&buf, picture(w, h)); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gifOf(t *testing.T, w, h, frames int) []byte {
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
	var buf bytes.Buffer
	if err := gif.EncodeAll(&buf, anim); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestThumbnailSizes(t *testing.T) {
	cases := []struct {
		name          string
		w, h          int
		size          Size
		wantW, wantH  int
		wantNoPicture bool
	}{
		{name: "scale keeps proportions", w: 1000, h: 500, size: Size{Width: 320, Height: 240}, wantW: 320, wantH: 160},
		{name: "scale of a tall picture", w: 300, h: 1200, size: Size{Width: 320, Height: 240}, wantW: 60, wantH: 240},
		{name: "crop fills", w: 1000, h: 500, size: Size{Width: 96, Height: 96, Crop: true}, wantW: 96, wantH: 96},
		{name: "crop never enlarges", w: 50, h: 500, size: Size{Width: 96, Height: 96, Crop: true}, wantW: 50, wantH: 96},
		{name: "a thin line keeps one pixel", w: 4000, h: 1, size: Size{Width: 32, Height: 32}, wantW: 32, wantH: 1},
		{name: "a smaller picture is served as it is", w: 20, h: 20, size: Size{Width: 32, Height: 32, Crop: true}, wantNoPicture: true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			data, typ, err := thumbnail(bytes.NewReader(pngOf(t, c.w, c.h)), c.size)
			if c.wantNoPicture {
				if err != errNoThumbnail {
					t.Fatalf("err = %v, want errNoThumbnail", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := png.DecodeConfig(bytes.NewReader(data))
			if err != nil || typ != "image/png" || got.Width != c.wantW || got.Height != c.wantH {
				t.Fatalf("got %dx%d %s %v, want %dx%d", got.Width, got.Height, typ, err, c.wantW, c.wantH)
			}
		})
	}
}

func TestFitTakesTheSmallestThatCovers(t *testing.T) {
	for want, spec := range map[Size]string{
		{Width: 1, Height: 1, Crop: true}:       "32x32-crop-still",
		{Width: 64, Height: 64, Crop: true}:     "96x96-crop-still",
		{Width: 200, Height: 200, Crop: true}:   "320x240-crop-still",
		{Width: 33, Height: 33}:                 "320x240-scale-still",
		{Width: 9000, Height: 9000}:             "800x600-scale-still",
		{Width: 640, Height: 481}:               "800x600-scale-still",
		{Width: 10, Height: 10, Animated: true}: "320x240-scale-animated",
	} {
		if got := fit(want).spec(); got != spec {
			t.Errorf("fit(%+v) = %s, want %s", want, got, spec)
		}
	}
}

func TestGIFStaysAnimatedOnlyWhenAsked(t *testing.T) {
	raw := gifOf(t, 200, 100, 3)
	data, typ, err := thumbnail(bytes.NewReader(raw), Size{Width: 32, Height: 32, Crop: true, Animated: true})
	if err != nil || typ != "image/gif" {
		t.Fatalf("animated: %s %v", typ, err)
	}
	all, err := gif.DecodeAll(bytes.NewReader(data))
	if err != nil || len(all.Image) != 3 || all.Config.Width != 32 {
		t.Fatalf("animated thumbnail: %v, %d frames, width %d", err, len(all.Image), all.Config.Width)
	}
	if _, typ, err = thumbnail(bytes.NewReader(raw), Size{Width: 32, Height: 32, Crop: true}); err != nil || typ != "image/png" {
		t.Fatalf("still: %s %v", typ, err)
	}
}

func TestAnimationWithTooManyFramesBecomesStill(t *testing.T) {
	raw := gifOf(t, 40, 40, maxFrames+1)
	if _, typ, err := thumbnail(bytes.NewReader(raw), Size{Width: 32, Height: 32, Animated: true}); err != nil || typ != "image/png" {
		t.Fatalf("got %s %v, want a still png", typ, err)
	}
}

func TestDecompressionBombIsRefusedBeforeDecoding(t *testing.T) {
	raw := pngOf(t, 8, 8)
	// IHDR's width and height: 60,000 × 60,000 pixels would be 14 GB.
	copy(raw[16:24], []byte{0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60})
	if _, _, err := thumbnail(bytes.NewReader(raw), Size{Width: 32, Height: 32}); err != errNoThumbnail {
		t.Fatalf("err = %v, want errNoThumbnail", err)
	}
}

func TestJPEGStaysJPEG(t *testing.T) {
	var buf bytes.Buffer
	if err := jpeg.Encode(&buf, picture(400, 400), nil); err != nil {
		t.Fatal(err)
	}
	if _, typ, err := thumbnail(bytes.NewReader(buf.Bytes()), Size{Width: 320, Height: 240}); err != nil || typ != "image/jpeg" {
		t.Fatalf("got %s %v", typ, err)
	}
}

func FuzzThumbnail(f *testing.F) {
	f.Add([]byte("GIF89a"), 32, 32, true, true)
	f.Add([]byte("\x89PNG\r\n\x1a\n"), 96, 96, true, false)
	f.Add([]byte("RIFF\x00\x00\x00\x00WEBPVP8 "), 1, -1, false, false)
	f.Fuzz(func(t *testing.T, raw []byte, w, h int, crop, anim bool) {
		size := fit(Size{Width: w, Height: h, Crop: crop, Animated: anim})
		data, typ, err := thumbnail(bytes.NewReader(raw), size)
		if err == nil && (len(data) == 0 || typ == "") {
			t.Fatal("a thumbnail without bytes or type")
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
