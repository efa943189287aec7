package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrInUse: another daemon answers on the socket.
var ErrInUse = errors.New("another daemon answers there")

// A Listener is the daemon's socket. It owns the socket's file, and the directory if it had to make it.
type Listener struct {
	net.Listener
	path   string
	access access
	file   os.FileInfo // the file as we made it: what is at path later may be somebody else's
	dir    string      // to remove at Close; empty if it was there before
	lock   *lock
	once   sync.Once
	closed error // what the first Close returned
}

// Listen makes the socket at path: mode 0660 for root and the `sidestep` group, or 0600 where there is no such
// group. It makes the directory if need be. A socket on which nobody answers is replaced; where somebody does,
// the error is [ErrInUse].
func Listen(ctx context.Context, path string) (*Listener, error) {
	gid, err := groupID(Group)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := listen(ctx, path, gid)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func listen(ctx context.Context, path string, gid int) (*Listener, error) {
	l := &Listener{path: path, access: access{uid: os.Geteuid(), gid: gid}}
	if err := l.makeDir(); err != nil {
		return nil, err
	}
	lock, err := takeLock(path + ".lock")
	if err != nil {
		return nil, err
	}
	l.lock = lock
	if err := l.bind(ctx); err != nil {
		return nil, errors.Join(err, lock.release())
	}
	return l, nil
}

// bind replaces what a dead daemon left at the path by a socket that listens.
func (l *Listener) bind(ctx context.Context) (err error) {
	if err := removeStale(ctx, l.path); err != nil {
		return err
	}
	// Linux gives the socket's file the mode of the socket itself: nobody else can connect before it has its group.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var cerr error
		err := c.Control(func(fd uintptr) { cerr = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, cerr)
	}}
	if l.Listener, err = lc.Listen(ctx, "unix", l.path); err != nil {
		return err
	}
	l.Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.grant(); err != nil {
		return errors.Join(err, l.Listener.Close(), os.Remove(l.path))
	}
	return nil
}

// grant opens the socket to the group, and remembers the file.
func (l *Listener) grant() error {
	if l.access.gid >= 0 {
		if err := os.Lchown(l.path, -1, l.access.gid); err != nil {
			return err
		}
		if err := os.Chmod(l.path, 0o660); err != nil {
			return err
		}
	}
	var err error
	l.file, err = os.Lstat(l.path)
	return err
}

// Close stops listening and removes the socket, unless the file at its path is no longer ours. A second call
// returns what the first did.
func (l *Listener) Close() error {
	l.once.Do(func() { l.closed = l.close() })
	return l.closed
}

func (l *Listener) close() error {
	err := l.Listener.Close()
	if now, serr := os.Lstat(l.path); serr == nil && os.SameFile(now, l.file) {
		err = errors.Join(err, os.Remove(l.path))
	}
	if lerr := l.lock.release(); !errors.Is(lerr, fs.ErrNotExist) {
		err = errors.Join(err, lerr)
	}
	if l.dir != "" {
		os.Remove(l.dir) // stays if somebody else keeps something there
	}
	return err
}

// Path returns where the socket is.
func (l *Listener) Path() string { return l.path }

// makeDir makes the socket's directory, open to read for everybody: who may connect is the socket's business.
func (l *Listener) makeDir() error {
	dir := filepath.Dir(l.path)
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return err
	}
	l.dir = dir
	return nil
}

// removeStale removes the socket of a daemon that died.
func removeStale(ctx context.Context, path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is there and is no socket", path)
	}
	c, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err == nil {
		c.Close()
		return ErrInUse
	}
	if errors.Is(err, syscall.EAGAIN) { // it listens, and has no time
		return ErrInUse
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// groupID returns the id of the group, negative where there is none.
func groupID(name string) (int, error) {
	g, err := user.LookupGroup(name)
	var unknown user.UnknownGroupError
	if errors.As(err, &unknown) || errors.Is(err, fs.ErrNotExist) { // a machine may have no /etc/group
		return -1, nil
	}
	if err != nil {
		return -1, fmt.Errorf("look up group %s: %w", name, err)
	}
	return strconv.Atoi(g.Gid)
}
