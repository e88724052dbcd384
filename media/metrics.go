package media

import "ebb/telemetry"

var (
	uploads    = telemetry.NewCounter("ebb_media_uploads_total", "Files stored, including those whose content was already stored.")
	uploaded   = telemetry.NewCounter("ebb_media_uploaded_bytes_total", "Bytes of the files stored.")
	downloads  = telemetry.NewCounter("ebb_media_downloads_total", "Files opened to be served.")
	fetches    = telemetry.NewCounter("ebb_media_fetches_total", "Files fetched from other servers.")
	thumbnails = telemetry.NewCounter("ebb_media_thumbnails_total", "Thumbnails made; those served again do not count.")
	unlinked   = telemetry.NewCounter("ebb_media_removed_total", "Files removed from disk because their media were deleted.")
	damaged    = telemetry.NewCounter("ebb_media_damaged_total", "Files found to be missing, truncated or altered on disk.")
)
