package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"syscall"
	"time"
)

// requestTimeout exceeds the duration of any request, including long polls.
const requestTimeout = 2 * time.Minute

// conn is a client with one connection. It does as little as possible, because the CPU time that it uses is not
// available to the server. Only one goroutine may use it at a time.
type conn struct {
	addr  string
	token string
	tcp   net.Conn
	in    *bufio.Reader
	out   []byte
	body  []byte
}

func newConn(addr, token string) *conn { return &conn{addr: addr, token: token} }

func (c *conn) close() {
	if c.tcp != nil {
		_ = c.tcp.Close() // there is nothing to flush
		c.tcp = nil
	}
}

// do sends a request and returns the response, which is valid until the next call. Any status but 200 is an error. If
// the server has closed the idle connection, do sends the request again on a new one.
func (c *conn) do(method, path string, body []byte) ([]byte, error) {
	idle := c.tcp != nil
	c.compose(method, path, body)
	status, err := c.exchange()
	if err != nil {
		c.close()
		if idle && errors.Is(err, errNoAnswer) {
			status, err = c.exchange()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	if status != 200 {
		return nil, fmt.Errorf("%s %s: %d %.300s", method, path, status, c.body)
	}
	return c.body, nil
}

// errNoAnswer means that the server closed the connection before it sent anything.
var errNoAnswer = errors.New("no answer")

func (c *conn) exchange() (status int, err error) {
	if err := c.request(); err != nil {
		return 0, err
	}
	return c.read()
}

// request sends what compose has written.
func (c *conn) request() error {
	if c.tcp == nil {
		if err := c.dial(); err != nil {
			return err
		}
	}
	if err := c.tcp.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return err
	}
	if _, err := c.tcp.Write(c.out); err != nil {
		return errors.Join(errNoAnswer, err)
	}
	return nil
}

// discardBuffer is the size of the pieces in which discard reads.
const discardBuffer = 256 << 10

// discard sends a GET request, and reads a response of the given size without keeping it.
func (c *conn) discard(path string, size int) error {
	c.compose("GET", path, nil)
	if err := c.request(); err != nil {
		return err
	}
	status, length, _, err := c.head()
	if err != nil {
		return err
	}
	if status != 200 || length != size {
		return fmt.Errorf("GET %s: %d with %d bytes instead of %d", path, status, length, size)
	}
	if cap(c.body) < discardBuffer {
		c.body = make([]byte, discardBuffer)
	}
	for length > 0 {
		n, err := c.in.Read(c.body[:min(length, cap(c.body))])
		if err != nil {
			return err
		}
		length -= n
	}
	return nil
}

func (c *conn) dial() (err error) {
	if c.tcp, err = net.DialTimeout("tcp", c.addr, 10*time.Second); err == nil {
		c.in = bufio.NewReaderSize(c.tcp, 2048)
	}
	return err
}

func (c *conn) compose(method, path string, body []byte) {
	b := append(c.out[:0], method...)
	b = append(b, ' ')
	b = append(b, path...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, c.addr...)
	if c.token != "" {
		b = append(b, "\r\nAuthorization: Bearer "...)
		b = append(b, c.token...)
	}
	if method != "GET" {
		b = append(b, "\r\nContent-Type: application/json\r\nContent-Length: "...)
		b = strconv.AppendInt(b, int64(len(body)), 10)
	}
	b = append(b, "\r\n\r\n"...)
	c.out = append(b, body...)
}

// read reads a response into body.
func (c *conn) read() (status int, err error) {
	status, length, chunked, err := c.head()
	switch {
	case err != nil:
		return 0, err
	case chunked:
		return status, c.readChunks()
	}
	c.body = c.body[:0]
	return status, c.readMore(length)
}

// head reads the status and the headers of a response.
func (c *conn) head() (status, length int, chunked bool, err error) {
	line, err := c.in.ReadSlice('\n')
	if err == io.EOF && len(line) == 0 || errors.Is(err, syscall.ECONNRESET) { //nolint:errorlint // never wrapped
		return 0, 0, false, errors.Join(errNoAnswer, err)
	}
	if err != nil {
		return 0, 0, false, err
	}
	if len(line) < 12 {
		return 0, 0, false, fmt.Errorf("not HTTP: %q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, 0, false, fmt.Errorf("not HTTP: %q", line)
	}
	length, chunked, err = c.headers()
	return status, length, chunked, err
}

func (c *conn) headers() (length int, chunked bool, err error) {
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return 0, false, err
		}
		name, value, found := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(": "))
		switch {
		case !found:
			return length, chunked, nil
		case len(name) == len("content-length") && bytes.EqualFold(name, []byte("content-length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, false, err
			}
		case len(name) == len("transfer-encoding") && bytes.EqualFold(name, []byte("transfer-encoding")):
			chunked = true
		}
	}
}

func (c *conn) readChunks() error {
	c.body = c.body[:0]
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		n, err := strconv.ParseInt(string(bytes.TrimRight(line, "\r\n")), 16, 32)
		if err != nil {
			return err
		}
		if err := c.readMore(int(n)); err != nil {
			return err
		}
		if _, err := c.in.Discard(2); err != nil || n == 0 {
			return err
		}
	}
}

// readMore appends the next n bytes to body.
func (c *conn) readMore(n int) error {
	have := len(c.body)
	if cap(c.body) < have+n {
		c.body = append(make([]byte, 0, 2*have+n), c.body...)
	}
	c.body = c.body[:have+n]
	_, err := io.ReadFull(c.in, c.body[have:])
	return err
}

// post is like do, but encodes in as the JSON body and decodes the response into out. Both may be nil.
func (c *conn) post(path string, in, out any) error {
	body := []byte("{}")
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return err
		}
	}
	answer, err := c.do("POST", path, body)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(answer, out)
}
