package control

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"
)

func TestListenReplacesAStaleSocketOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if _, err := listen(t.Context(), path, -1); !errors.Is(err, ErrInUse) {
		t.Errorf("beside a listener that is not ours: %v", err)
	}
	stale.Close()
	l, err := listen(t.Context(), path, -1)
	if err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	if _, err := listen(t.Context(), path, -1); !errors.Is(err, ErrInUse) {
		t.Errorf("beside a daemon: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(t.Context(), path, -1); err == nil || errors.Is(err, ErrInUse) {
		t.Errorf("over a file: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}
}

func TestOneOfManyDaemonsThatStartAtOnceWins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	for range 20 {
		won := make(chan *Listener, 8)
		var g errgroup.Group
		for range cap(won) {
			g.Go(func() error {
				l, err := listen(t.Context(), path, -1)
				if errors.Is(err, ErrInUse) {
					return nil
				}
				if err == nil {
					won <- l
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if len(won) != 1 {
			t.Fatalf("%d daemons listen", len(won))
		}
		l := <-won
		l.Listener.Close() // as if it were killed: the socket stays, the lock goes
		l.lock.file.Close()
	}
}

func TestSocketRights(t *testing.T) {
	old := os.Getegid()
	for gid, want := range map[int]os.FileMode{-1: 0o600, old: 0o660} {
		dir := filepath.Join(t.TempDir(), "run")
		l, err := listen(t.Context(), filepath.Join(dir, "s"), gid)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		for path, want := range map[string]os.FileMode{l.Path(): want, dir: 0o755} {
			st, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if st.Mode().Perm() != want {
				t.Errorf("gid %d: %s is %v, want %v", gid, path, st.Mode().Perm(), want)
			}
		}
	}
}

func TestCloseLeavesAnothersSocketAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := listen(t.Context(), path, -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".old"); err != nil { // keeps the inode from being used again
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}
