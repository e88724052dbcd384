// Package docs holds the documentation. The pages that the program itself needs are embedded.
package docs

import _ "embed" // for the pages

// Storage is the page that lists what is stored: 40 KB, from which package processing makes the record of processing.
//
//go:embed storage.md
var Storage string
