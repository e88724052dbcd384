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

// socketName is the name of the control socket in data_dir. The permissions of the directory keep other users out.
const socketName = "control.sock"

// maxSocketPath is the length in bytes of a socket address that every system supports.
const maxSocketPath = 100

// address returns a path to the control socket that fits in a socket address. If dir is too long, the path leads
// through the descriptor of the opened directory, which needs /proc. The caller closes folder when it no longer needs
// the path.
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

// Listen opens the control socket. Only one process uses the database at a time, so a socket that exists already was
// left behind by a process that has ended.
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
	l.(*net.UnixListener).SetUnlinkOnClose(false) // the path may be invalid by then, so Remove deletes the socket
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("control socket: %w", err), l.Close())
	}
	return l, nil
}

// Remove deletes the control socket when the server stops. It returns nil if the socket does not exist.
func Remove(dir string) error {
	if err := os.Remove(filepath.Join(dir, socketName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// ErrNotRunning means that no server is listening on the control socket.
var ErrNotRunning = errors.New("no server is running with this data_dir")

// Client is a connection to a running server over its control socket.
type Client struct {
	http   http.Client
	folder *os.File // open directory that keeps a path through its descriptor valid
}

// Dial connects to the running server. It returns ErrNotRunning if there is none.
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

// Close closes the connection.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return c.folder.Close()
}
