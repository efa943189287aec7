package control

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A lock is held by the one daemon of a socket for as long as it lives. Two that start at once cannot take each
// other's new socket for a stale one, and a killed daemon's lock is free. Nobody else can open the file.
type lock struct{ file *os.File }

// takeLock takes the lock at path, or says [ErrInUse].
func takeLock(path string) (*lock, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				return nil, ErrInUse
			}
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if current(f, path) {
			return &lock{f}, nil
		}
		f.Close() // its last holder removed it while we waited for it
	}
}

// current reports whether f still is what is at path.
func current(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(mine, there)
}

// release removes the file while the lock is held, so that whoever opened it meanwhile sees that it is stale.
func (l *lock) release() error {
	return errors.Join(os.Remove(l.file.Name()), l.file.Close())
}
