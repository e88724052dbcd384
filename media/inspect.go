package media

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
)

// picture describes an image file as declared by its header, without decoding any pixels.
type picture struct {
	format        string // png, jpeg, gif, webp
	width, height int    // as stored, before orientation is applied
	orientation   int    // EXIF orientation, from 1 to 8
	animated      bool
	decoded       int64 // upper bound of the bytes needed to decode it
	frames        int   // number of frames of a GIF
	framePixels   int64 // pixels of all frames together
	firstFrame    frame // first frame of an animated WebP
	frameBytes    int64 // length of the data of firstFrame
	frameOffset   int64 // offset of the data of firstFrame
}

// frame is the rectangle of one frame on the canvas.
type frame struct{ x, y, width, height int }

const (
	// maxPixels bounds the pictures that are decoded, and thereby the CPU time of decoding to about two seconds.
	maxPixels = 64 << 20
	// maxDecoded bounds the memory for all pictures that are being decoded and scaled, in bytes.
	maxDecoded = 192 << 20
	// maxPictureHeader bounds how much of a file is read to find its dimensions. Cameras put previews and colour
	// profiles in front of them.
	maxPictureHeader = 8 << 20
	// maxScans bounds the scans of a progressive JPEG. Each scan processes all blocks, no matter how few bytes it has.
	// Encoders make about ten scans.
	maxScans = 64
	// maxWebPChunks bounds the chunks of a WebP that are read.
	maxWebPChunks = 1000
)

var (
	// errNoPicture means that a file is not an image of a known format, or that its header is broken.
	errNoPicture = errors.New("media: not a picture")
	// errNoThumbnail means that this server cannot make a thumbnail of an image.
	errNoThumbnail = errors.New("media: no thumbnail of this picture")
)

// inspect reads the header of an image and rewinds the file. It returns errNoPicture for anything that is not an image.
func inspect(src io.ReadSeeker) (p picture, err error) {
	head := make([]byte, 512)
	n, err := io.ReadFull(src, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return p, err
	}
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return p, err
	}
	var read func(io.ReadSeeker) (picture, error)
	format, ok := sniff(head[:n])
	switch {
	case !ok:
		return p, errNoPicture
	case format == "png":
		read = inspectPNG
	case format == "jpeg":
		read = inspectJPEG
	case format == "gif":
		read = inspectGIF
	default:
		read = inspectWebP
	}
	p, err = read(src)
	if isShort(err) || err == nil && (p.width <= 0 || p.height <= 0) {
		err = errNoPicture
	}
	p.format = format
	if p.orientation < 1 || p.orientation > 8 {
		p.orientation = 1
	}
	_, seekErr := src.Seek(0, io.SeekStart)
	return p, errors.Join(err, seekErr)
}

// isShort reports whether an error means that a file ended too early.
func isShort(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// decodable reports whether the picture is small enough to be decoded.
func (p *picture) decodable() bool {
	return p.width <= maxPixels/p.height && p.decoded <= maxDecoded
}

// oriented returns the dimensions of the picture as displayed.
func (p *picture) oriented() (width, height int) {
	if p.orientation >= 5 {
		return p.height, p.width
	}
	return p.width, p.height
}

// tooMuch exceeds every bound, yet is small enough that sums do not overflow.
const tooMuch = 1 << 50

// mul returns the product of non-negative factors, but at most tooMuch.
func mul(factors ...int64) int64 {
	product := int64(1)
	for _, f := range factors {
		if f != 0 && product > tooMuch/f {
			return tooMuch
		}
		product *= f
	}
	return product
}

// inspectPNG reads the chunks that precede the pixels.
func inspectPNG(src io.ReadSeeker) (p picture, err error) {
	r := bufio.NewReader(io.LimitReader(src, maxPictureHeader))
	var ihdr [8 + 8 + 13 + 4]byte
	if _, err := io.ReadFull(r, ihdr[:]); err != nil {
		return p, err
	}
	if string(ihdr[12:16]) != "IHDR" {
		return p, errNoPicture
	}
	width, height := binary.BigEndian.Uint32(ihdr[16:]), binary.BigEndian.Uint32(ihdr[20:])
	if width > math.MaxInt32 || height > math.MaxInt32 {
		return p, errNoPicture
	}
	p.width, p.height = int(width), int(height)
	p.decoded = pngBytes(int64(width), int64(height), ihdr[24], ihdr[25], ihdr[28] != 0)
	for {
		var chunk [8]byte
		if _, err := io.ReadFull(r, chunk[:]); err != nil {
			return p, err
		}
		length := int64(binary.BigEndian.Uint32(chunk[:]))
		switch string(chunk[4:]) {
		case "IDAT", "IEND":
			return p, nil
		case "acTL":
			p.animated = true
		case "eXIf":
			exif := make([]byte, min(length, maxEXIF))
			if _, err := io.ReadFull(r, exif); err != nil {
				return p, err
			}
			p.orientation = orientationOf(exif)
			length -= int64(len(exif))
		}
		if _, err := io.CopyN(io.Discard, r, length+4); err != nil {
			return p, err
		}
	}
}

// pngBytes returns the memory that image/png needs for an image with the given size, bit depth and colour type.
func pngBytes(width, height int64, depth, colour byte, interlaced bool) int64 {
	perPixel := int64(4)
	switch {
	case depth == 16:
		perPixel = 8
	case colour == 3:
		perPixel = 1
	}
	image := mul(width, height, perPixel)
	if interlaced { // each of the seven passes is an image; together they are as large as the result
		image = mul(image, 2)
	}
	return image + mul(width, 8, 2) // the current row and the previous one
}

// inspectJPEG reads the segments up to the frame header.
func inspectJPEG(src io.ReadSeeker) (p picture, err error) {
	r := bufio.NewReader(io.LimitReader(src, maxPictureHeader))
	if _, err := r.Discard(2); err != nil {
		return p, err
	}
	for {
		marker, err := nextMarker(r)
		if err != nil {
			return p, err
		}
		if marker >= 0xD0 && marker <= 0xD8 || marker == 0x01 { // markers without a length
			continue
		}
		var size [2]byte
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return p, err
		}
		length := int64(binary.BigEndian.Uint16(size[:])) - 2
		if length < 0 || marker == 0xD9 || marker == 0xDA {
			return p, errNoPicture // start or end of the image without a frame header
		}
		segment := io.LimitReader(r, length)
		switch {
		case marker == 0xE1 && p.orientation == 0:
			app1, err := io.ReadAll(segment)
			if err != nil {
				return p, err
			}
			if exif, ok := bytes.CutPrefix(app1, []byte("Exif\x00\x00")); ok {
				p.orientation = orientationOf(exif)
			}
		case marker >= 0xC0 && marker <= 0xCF && marker != 0xC4 && marker != 0xC8 && marker != 0xCC:
			return jpegFrame(p, segment, marker, src)
		}
		if _, err := io.Copy(io.Discard, segment); err != nil {
			return p, err
		}
	}
}

// nextMarker returns the next marker of a JPEG, skipping bytes that do not belong to a segment.
func nextMarker(r *bufio.Reader) (byte, error) {
	for {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		for b == 0xFF {
			if b, err = r.ReadByte(); err != nil {
				return 0, err
			}
			if b != 0 && b != 0xFF {
				return b, nil
			}
		}
	}
}

// jpegFrame reads a frame header. It sets the dimensions and how much memory decoding needs.
func jpegFrame(p picture, segment io.Reader, marker byte, src io.ReadSeeker) (picture, error) {
	head, err := io.ReadAll(segment)
	if err != nil {
		return p, err
	}
	if len(head) < 6 || len(head) < 6+3*int(head[5]) {
		return p, errNoPicture
	}
	p.height, p.width = int(binary.BigEndian.Uint16(head[1:])), int(binary.BigEndian.Uint16(head[3:]))
	p.decoded = jpegBytes(int64(p.width), int64(p.height), head[6:6+3*int(head[5])], marker == 0xC2)
	if marker != 0xC2 {
		return p, nil
	}
	scans, err := countScans(src)
	if scans > maxScans {
		p.decoded = tooMuch
	}
	return p, err
}

// jpegBytes returns the memory that image/jpeg needs. components has three bytes for each component.
func jpegBytes(width, height int64, components []byte, progressive bool) int64 {
	n := len(components) / 3
	most := func(shift int) (m int64) {
		for i := range n {
			m = max(m, int64(components[3*i+1]>>shift&15))
		}
		return max(m, 1)
	}
	h, v := most(4), most(0)
	if n == 1 {
		h, v = 1, 1
	}
	units := mul((width+8*h-1)/(8*h), (height+8*v-1)/(8*v))
	blocks := int64(0)
	for i := range n {
		if n == 1 {
			blocks = units
			break
		}
		blocks += mul(units, int64(components[3*i+1]>>4), int64(components[3*i+1]&15))
	}
	total := mul(blocks, 64)
	if progressive { // the coefficients of all blocks are kept in memory, four bytes each
		total += mul(blocks, 64*4)
	}
	if n >= 3 { // it may be RGB or CMYK, which has to be converted
		total += mul(width, height, 4)
	}
	return total
}

// countScans counts the scans of a JPEG. It stops at one more than maxScans.
func countScans(src io.ReadSeeker) (scans int, err error) {
	if _, err := src.Seek(0, io.SeekStart); err != nil {
		return 0, err
	}
	buf := make([]byte, 1+64<<10) // the last byte of the previous read, and the current read
	for scans <= maxScans {
		n, err := src.Read(buf[1:])
		scans += bytes.Count(buf[:1+n], []byte{0xFF, 0xDA})
		buf[0] = buf[n]
		if errors.Is(err, io.EOF) {
			return scans, nil
		}
		if err != nil {
			return scans, err
		}
	}
	return scans, nil
}

// inspectWebP reads the chunks of a WebP that describe the canvas, the first frame and the orientation.
func inspectWebP(src io.ReadSeeker) (p picture, err error) {
	end, err := src.Seek(0, io.SeekEnd)
	if err != nil {
		return p, err
	}
	w := chunks{picture: p, src: src}
	for pos, n := int64(12), 0; n < maxWebPChunks && pos+8 <= end; n++ {
		var head [8]byte
		if err := w.readAt(pos, head[:]); err != nil {
			return p, err
		}
		length := int64(binary.LittleEndian.Uint32(head[4:]))
		if length > end-pos-8 {
			break // truncated
		}
		if err := w.chunk(string(head[:4]), pos+8, length); err != nil {
			return p, err
		}
		if w.complete && !w.extended {
			break // the image of a simple file is the last chunk
		}
		pos += 8 + length + length&1
	}
	if !w.complete {
		w.decoded = tooMuch // the decoder would rely on lengths declared in the file
	}
	return w.picture, nil
}

// chunks collects the results of reading the chunks of a WebP.
type chunks struct {
	picture
	src                io.ReadSeeker
	extended, complete bool // whether a canvas and an image were found
}

func (w *chunks) readAt(pos int64, b []byte) error {
	if _, err := w.src.Seek(pos, io.SeekStart); err != nil {
		return err
	}
	_, err := io.ReadFull(w.src, b)
	return err
}

func (w *chunks) chunk(name string, pos, length int64) error {
	var b [16]byte
	head := b[:min(length, int64(len(b)))]
	if err := w.readAt(pos, head); err != nil {
		return err
	}
	switch {
	case name == "VP8X" && len(head) >= 10 && !w.extended:
		w.extended, w.animated = true, head[0]&2 != 0
		w.width, w.height = uint24(head[4:])+1, uint24(head[7:])+1
	case name == "VP8 " && len(head) >= 10 && !w.animated:
		w.still(int(binary.LittleEndian.Uint16(head[6:])&0x3FFF), int(binary.LittleEndian.Uint16(head[8:])&0x3FFF))
		w.decoded += lossyBytes(w.width, w.height, length)
	case name == "VP8L" && len(head) >= 5 && !w.animated:
		bits := binary.LittleEndian.Uint32(head[1:])
		w.still(int(bits&0x3FFF)+1, int(bits>>14&0x3FFF)+1)
		w.decoded += losslessBytes(w.width, w.height, length)
	case name == "ALPH" && !w.animated:
		w.decoded += alphaBytes(w.width, w.height, length)
	case name == "ANMF" && len(head) >= 16 && w.animated && !w.complete:
		w.complete = true
		w.firstFrame = frame{2 * uint24(head), 2 * uint24(head[3:]), uint24(head[6:]) + 1, uint24(head[9:]) + 1}
		w.frameOffset, w.frameBytes = pos+16, length-16
		f := w.firstFrame // the frame's image may be lossy or lossless, and is drawn onto the canvas
		w.decoded += lossyBytes(f.width, f.height, length) + alphaBytes(f.width, f.height, length) + mul(int64(w.width), int64(w.height), 4)
	case name == "EXIF" && w.orientation == 0:
		exif := make([]byte, min(length, maxEXIF))
		if err := w.readAt(pos, exif); err != nil {
			return err
		}
		w.orientation = orientationOf(bytes.TrimPrefix(exif, []byte("Exif\x00\x00")))
	}
	return nil
}

// still records the image of a file without animation. If the file has a canvas, the decoder rejects an image of
// another size.
func (w *chunks) still(width, height int) {
	w.complete = true
	if !w.extended {
		w.width, w.height = width, height
	}
}

func uint24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }

// lossyBytes returns the memory that x/image/vp8 needs: the data, 1.5 bytes per pixel in blocks of 16 × 16, and the
// filter parameters.
func lossyBytes(width, height int, length int64) int64 {
	w, h := int64(width+15)&^15, int64(height+15)&^15
	return length + mul(w, h, 8)/5 + 1<<20
}

// losslessBytes returns the memory that x/image/vp8l needs for two images (because palette colours are expanded into a
// second one), for the subsampled images of its transforms, and for the Huffman trees.
func losslessBytes(width, height int, length int64) int64 {
	const (
		decoderGroups = 2600     // the decoder rejects more
		groupBytes    = 66 << 10 // five trees of maximum size, and the code lengths they are built from
		bytesPerByte  = 400      // upper bound of the size of trees described by one byte of input
	)
	w, h := int64(width), int64(height)
	groups := min(decoderGroups, max(1, mul((w+3)/4, (h+3)/4)))
	return mul(w, h, 9) + min(groups*groupBytes, mul(length, bytesPerByte)) + 1<<20
}

// alphaBytes returns the memory needed for the alpha plane of a lossy WebP, which may be compressed as a lossless
// image.
func alphaBytes(width, height int, length int64) int64 {
	return losslessBytes(width, height, length) + mul(int64(width), int64(height))
}
