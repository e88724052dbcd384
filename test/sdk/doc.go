// Package sdk tests the main uses of the server with widely used client SDKs, against the real binary: matrix-js-sdk
// with its Rust crypto in Node (steps.mjs), the OAuth 2.0 code of its versions 41 and 43 (oauth.mjs), and mautrix with
// its crypto in Go. The build tag goolm lets mautrix do without the C library libolm; ./run sets it.
package sdk
