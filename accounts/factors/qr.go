package factors

import (
	"fmt"

	qr "github.com/piglig/go-qr"
)

// Dimensions of a QR code: pixels of a module in the PNG, and the modules of the light border that the standard
// requires.
const (
	qrScale  = 6
	qrBorder = 4
)

func (e TOTPEnrolment) code() (*qr.QrCode, error) {
	code, err := qr.EncodeText(e.URL, qr.Medium)
	if err != nil {
		return nil, fmt.Errorf("draw the QR code of one-time codes: %w", err)
	}
	return code, nil
}

// PNG returns a picture of the URL, for an app to scan.
func (e TOTPEnrolment) PNG() ([]byte, error) {
	code, err := e.code()
	if err != nil {
		return nil, err
	}
	return code.ToPNGBytes(qr.NewQrCodeImgConfig(qrScale, qrBorder))
}

// SVG returns a picture of the URL, for an app to scan.
func (e TOTPEnrolment) SVG() ([]byte, error) {
	code, err := e.code()
	if err != nil {
		return nil, err
	}
	return code.ToSVGBytes(qr.NewQrCodeImgConfig(qrScale, qrBorder, qr.WithOptimalSVG()))
}
