// Package browser tests the web pages of the server in Chromium, with its virtual authenticator, against the real
// binary (pages.mjs). Every page is checked by axe-core. The build tag browser keeps it out of go test ./..., since the
// npm packages are needed; ./run installs them and sets it.
package browser
