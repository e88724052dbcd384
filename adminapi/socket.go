package adminapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// socketName is the control socket below data_dir; the folder's permissions keep others out.
const socketName = "control.sock"

// maxSocketPath is what a socket address holds on every system, in bytes.
const maxSocketPath = 100

// address gives a path to the socket that fits a socket address, however long dir is: where it does not fit, through the
// descriptor of the open folder, which needs /proc. The caller closes the folder when it is done with the address.
func address(dir string) (path string, folder *os.File, err error) {
	folder, err = os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	if path = filepath.Join(dir, socketName); len(path) <= maxSocketPath {
		return path, folder, nil
	}
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(folder.Fd())), socketName), folder, nil
}

// Listen opens the control socket. Only one process has the database, so a socket that is there is a dead one's.
func Listen(ctx context.Context, dir string) (net.Listener, error) {
	path, folder, err := address(dir)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer func() { _ = folder.Close() }()
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the address is void by then; Remove does it
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), l.Close())
	}
	return l, nil
}

// Remove deletes the control socket of a server that ends; one that somebody else removed is no error.
func Remove(dir string) error {
	if err := os.Remove(filepath.Join(dir, socketName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// ErrNotRunning: no server listens on the control socket.
var ErrNotRunning = errors.New("no server is running on this data_dir")

// Client speaks to a running server over its control socket.
type Client struct {
	http   http.Client
	folder *os.File // keeps the address good that goes through it
}

// Dial reaches the running server, or returns ErrNotRunning.
func Dial(ctx context.Context, dir string) (*Client, error) {
	path, folder, err := address(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotRunning
	}
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", path) }
	conn, err := dial(ctx)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			err = ErrNotRunning
		}
		return nil, errors.Join(err, folder.Close())
	}
	first := make(chan net.Conn, 1)
	first <- conn
	c := &Client{folder: folder}
	c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		select {
		case conn := <-first:
			return conn, nil
		default:
			return dial(ctx)
		}
	}}
	return c, nil
}

// Close ends the connection.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return c.folder.Close()
}
