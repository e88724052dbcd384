package media

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// tinyJPEG returns a JPEG of one colour that has only a bit or two per block. sampling has the sampling factors of each
// component.
func tinyJPEG(w, h int, progressive bool, sampling ...byte) []byte {
	raw := []byte{0xFF, 0xD8}
	segment := func(marker byte, data ...byte) {
		raw = append(raw, 0xFF, marker)
		raw = append(binary.BigEndian.AppendUint16(raw, uint16(2+len(data))), data...)
	}
	segment(0xDB, append([]byte{0}, bytes.Repeat([]byte{1}, 64)...)...)
	for class := range byte(2) { // one code of one bit, for zero
		segment(0xC4, append([]byte{class << 4, 1}, make([]byte, 16)...)...)
	}
	frame := []byte{8, byte(h >> 8), byte(h), byte(w >> 8), byte(w), byte(len(sampling))}
	scan := []byte{byte(len(sampling))}
	hMax, vMax, units := 1, 1, 0
	for i, hv := range sampling {
		frame, scan = append(frame, byte(i+1), hv, 0), append(scan, byte(i+1), 0)
		hMax, vMax, units = max(hMax, int(hv>>4)), max(vMax, int(hv&15)), units+int(hv>>4)*int(hv&15)
	}
	blocks, bits, last := units*((w+8*hMax-1)/(8*hMax))*((h+8*vMax-1)/(8*vMax)), 2, byte(63)
	if progressive {
		bits, last = 1, 0
	}
	segment(map[bool]byte{true: 0xC2, false: 0xC0}[progressive], frame...)
	segment(0xDA, append(scan, 0, last, 0)...)
	raw = append(raw, make([]byte, blocks*bits/8+1)...)
	return append(raw, 0xFF, 0xD9)
}

// interlaced sets the interlace flag in the header of a PNG. The data is then too short for all passes, but the decoder
// notices that only in the last one.
func interlaced(raw []byte) []byte {
	raw = bytes.Clone(raw)
	raw[28] = 1
	binary.BigEndian.PutUint32(raw[29:], crc32.ChecksumIEEE(raw[12:29]))
	return raw
}

// lossyWebP returns the header of a lossy image without its data.
func lossyWebP(w, h int) []byte {
	return append([]byte{0x10, 0, 0, 0x9d, 0x01, 0x2a}, byte(w), byte(w>>8), byte(h), byte(h>>8), 0, 0, 0, 0, 0, 0, 0, 0)
}

func TestDecodingTakesNoMoreThanEstimated(t *testing.T) {
	const w, h = 1200, 801
	all := image.Rect(0, 0, w, h)
	palette := color.Palette{color.Black, color.White}
	animation := &gif.GIF{}
	for range 4 {
		animation.Image, animation.Delay = append(animation.Image, image.NewPaletted(all, palette)), append(animation.Delay, 1)
		animation.Disposal = append(animation.Disposal, gif.DisposalPrevious)
	}
	transparent := image.NewNRGBA(all)
	deep := image.NewNRGBA64(all)
	for name, raw := range map[string][]byte{
		"grey PNG":                   encodePNG(t, image.NewGray(all)),
		"palette PNG":                encodePNG(t, image.NewPaletted(all, palette)),
		"RGB PNG":                    encodePNG(t, gradient(w, h)),
		"RGBA PNG":                   encodePNG(t, transparent),
		"16-bit grey PNG":            encodePNG(t, image.NewGray16(all)),
		"16-bit RGBA PNG":            encodePNG(t, deep),
		"interlaced RGBA PNG":        interlaced(encodePNG(t, transparent)),
		"interlaced 16-bit RGBA PNG": interlaced(encodePNG(t, deep)),
		"PNG of one line":            encodePNG(t, image.NewNRGBA64(image.Rect(0, 0, w*h, 1))),
		"grey PNG with transparency": pngWithChunk(encodePNG(t, image.NewGray(all)), "tRNS", []byte{0, 0}),
		"grey JPEG":                  tinyJPEG(w, h, false, 0x11),
		"4:2:0 JPEG":                 tinyJPEG(w, h, false, 0x22, 0x11, 0x11),
		"4:4:4 JPEG":                 tinyJPEG(w, h, false, 0x11, 0x11, 0x11),
		"4:1:0 JPEG":                 tinyJPEG(w, h, false, 0x42, 0x11, 0x11),
		"CMYK JPEG":                  tinyJPEG(w, h, false, 0x22, 0x11, 0x11, 0x22),
		"progressive grey JPEG":      tinyJPEG(w, h, true, 0x11),
		"progressive 4:2:0 JPEG":     tinyJPEG(w, h, true, 0x22, 0x11, 0x11),
		"progressive 4:4:4 JPEG":     tinyJPEG(w, h, true, 0x11, 0x11, 0x11),
		"progressive CMYK JPEG":      tinyJPEG(w, h, true, 0x11, 0x11, 0x11, 0x11),
		"JPEG of one line":           tinyJPEG(65535, 1, true, 0x42, 0x11, 0x11),
		"still GIF":                  encodeGIF(t, &gif.GIF{Image: animation.Image[:1], Delay: []int{0}}),
		"animated GIF":               encodeGIF(t, animation),
		"lossless WebP":              riff(webpChunk("VP8L", vp8l(w, h, quarterColours[0]))),
		"lossy WebP":                 riff(webpChunk("VP8 ", lossyWebP(w, h))),
		"lossy WebP with alpha":      riff(vp8x(0x10, w, h), webpChunk("ALPH", append([]byte{1}, vp8l(w, h, quarterColours[0])[5:]...)), webpChunk("VP8 ", lossyWebP(w, h))),
		"animated WebP":              animatedWebP(w, h, frame{0, 0, w, h}, vp8l(w, h, quarterColours[0])),
		"animated WebP in a corner":  animatedWebP(w, h, frame{0, 0, 8, 8}, vp8l(8, 8, quarterColours[0])),
	} {
		for _, animated := range []bool{false, true} {
			p, err := inspect(bytes.NewReader(raw))
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if animated = animated && p.format == "gif"; len(raw) > 1<<20 && name != "RGB PNG" {
				t.Errorf("%s: %d bytes do not make a point", name, len(raw))
			}
			pl := planFor(p, Size{Width: 96, Height: 96, Animated: animated}, int64(len(raw)))
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err = thumbnail(t.Context(), bytes.NewReader(raw), p, pl)
			runtime.ReadMemStats(&after)
			// 5 MB are for encoders, decompressors and the quantiser of animations.
			took, cost := int64(after.TotalAlloc-before.TotalAlloc), pl.cost(p)
			if took > cost+5<<20 || took < cost/8 && cost > 10<<20 {
				t.Errorf("%s took %d bytes, %d were expected (%v)", name, took, cost, err)
			}
		}
	}
}

func TestProgressiveJPEGWithEndlessScansIsNotDecoded(t *testing.T) {
	raw := tinyJPEG(800, 800, true, 0x11)
	scan := raw[bytes.Index(raw, []byte{0xFF, 0xDA}) : len(raw)-2]
	for n, want := range map[int]bool{10: true, 10_000: false} {
		p, err := inspect(bytes.NewReader(append(raw[:len(raw)-2:len(raw)-2], append(bytes.Repeat(scan, n-1), 0xFF, 0xD9)...)))
		if err != nil || p.decodable() != want {
			t.Errorf("%d scans: decodable %v, %v", n, p.decodable(), err)
		}
	}
}

// bombs returns files of less than a megabyte that decode to a large image.
func bombs(t *testing.T) map[string][]byte {
	return map[string][]byte{
		"progressive JPEG":      tinyJPEG(2700, 2700, true, 0x11, 0x11, 0x11),
		"progressive CMYK JPEG": tinyJPEG(2100, 2100, true, 0x11, 0x11, 0x11, 0x11),
		"huge progressive JPEG": tinyJPEG(6400, 6400, true, 0x11, 0x11, 0x11),
		"16-bit PNG":            encodePNG(t, image.NewNRGBA64(image.Rect(0, 0, 3700, 3700))),
		"animated GIF":          gifOf(t, 700, 700, 30),
		"lossless WebP":         riff(webpChunk("VP8L", vp8l(3500, 3500, quarterColours[0]))),
	}
}

func TestTotalMemoryOfThumbnailsIsBounded(t *testing.T) {
	f := newFixture(t)
	var ids []string
	for name, raw := range bombs(t) {
		if len(raw) > 1<<20 && name != "animated GIF" {
			t.Fatalf("%s has %d bytes", name, len(raw))
		}
		ids = append(ids, f.uploaded(t, raw))
	}
	debug.FreeOSMemory()
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Skip("SKIP peak memory: " + err.Error())
	}
	before := peakMemory(t)
	var wg sync.WaitGroup
	for _, id := range ids {
		wg.Go(func() {
			thumb, err := f.Thumbnail(t.Context(), id, Size{Width: 32, Height: 32, Crop: true, Animated: true}, 0)
			if err != nil {
				t.Error(err)
				return
			}
			if err := thumb.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	took := peakMemory(t) - before
	t.Logf("%d MB at the peak, beside %d MB", took>>20, before>>20)
	if took > maxDecoded*3/2 {
		t.Errorf("%d bytes at the peak, the bound is %d", took, maxDecoded)
	}
}

// peakMemory returns the peak memory of the process since the peak was reset.
func peakMemory(t *testing.T) int64 {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kb, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}
