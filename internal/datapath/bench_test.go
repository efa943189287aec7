//go:build !deaf

package datapath_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
)

// BenchmarkKernel notes what the engine costs: each operation with the engine off and on, in one run. What makes
// processes is timed from birth to end, most of which is the kernel's own work.
func BenchmarkKernel(b *testing.B) {
	r := newRig(b)
	listed, other := r.install("listed"), r.install("other")
	namesake := r.install("elsewhere/" + filepath.Base(listed))
	unlisted := r.start(other)
	for _, engine := range []string{"off", "on"} {
		if engine == "off" {
			r.ok(r.Remove())
		} else {
			r.open()
			r.exclude(listed)
		}
		for _, program := range []struct{ name, path string }{{"no-match", other}, {"name-only", namesake}, {"match", listed}} {
			b.Run("exec/"+program.name+"/"+engine, func(b *testing.B) { r.storm(b, unlisted, &actor.Image{Path: program.path}) })
		}
		parent := r.start(listed)
		b.Run("fork/unlisted/"+engine, func(b *testing.B) { r.storm(b, unlisted, nil) })
		b.Run("fork/listed/"+engine, func(b *testing.B) { r.storm(b, parent, nil) })
		b.Run("socket/unlisted/"+engine, r.sockets)
		if engine == "on" {
			_, err := r.Launch(os.Getpid())
			r.ok(err)
		}
		b.Run("socket/listed/"+engine, r.sockets)
	}
}

func (r *rig) storm(b *testing.B, a *actor.Actor, image *actor.Image) {
	if _, err := a.Storm(r.ctx, actor.Storm{Count: b.N, Image: image, Vfork: image != nil}); err != nil {
		b.Fatal(err)
	}
}

// sockets opens and closes sockets in this process.
func (r *rig) sockets(b *testing.B) {
	err := r.ns.Do(func() error {
		for range b.N {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err := errors.Join(err, unix.Close(fd)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
}
