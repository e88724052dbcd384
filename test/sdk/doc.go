// Package sdk tests the server's main use with widely used client SDKs, against the real binary: matrix-js-sdk with its
// Rust crypto in Node (steps.mjs), and mautrix with its crypto in Go. The tag goolm keeps mautrix from requiring the C
// library libolm; ./run sets it.
package sdk
