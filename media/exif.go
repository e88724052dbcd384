package media

import "encoding/binary"

// maxEXIF bounds the EXIF data that is searched for the orientation. In a JPEG the data cannot be longer.
const maxEXIF = 64 << 10

// orientationOf returns the orientation given in EXIF data: 1 to 8, or 1 if it is missing or invalid.
func orientationOf(exif []byte) int {
	const tagOrientation, typeShort = 0x0112, 3
	if len(exif) < 8 {
		return 1
	}
	var order binary.ByteOrder
	switch string(exif[:4]) {
	case "II*\x00":
		order = binary.LittleEndian
	case "MM\x00*":
		order = binary.BigEndian
	default:
		return 1
	}
	at := int64(order.Uint32(exif[4:]))
	if at+2 > int64(len(exif)) {
		return 1
	}
	for entries := order.Uint16(exif[at:]); entries > 0; entries-- {
		entry := at + 2
		if at += 12; entry+12 > int64(len(exif)) {
			return 1
		}
		if order.Uint16(exif[entry:]) == tagOrientation && order.Uint16(exif[entry+2:]) == typeShort {
			if o := int(order.Uint16(exif[entry+8:])); o >= 1 && o <= 8 {
				return o
			}
			return 1
		}
	}
	return 1
}
