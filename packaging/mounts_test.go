package packaging_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
)

// ownMounts is how ProtectSystem=strict starts a daemon: with mounts that follow the machine's, and may be read only.
func (r *rig) ownMounts() []string {
	script := fmt.Sprintf(`set -e
for d in run state; do mount --bind %[1]s/$d %[1]s/$d; done
mount -o remount,bind,ro /
mount -o remount,bind,ro %[1]s
exec "$@"`, r.dir)
	return []string{"unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh"}
}

// TestDaemonWithMountsOfItsOwn is about what the unit's protections of the file system must not change: pins are the
// machine's, and so are the files that rules name.
func TestDaemonWithMountsOfItsOwn(t *testing.T) {
	r := newRig(t)
	r.mount(r.dir, "", unix.MS_BIND)
	r.ok(unix.Mount("", r.dir, "", unix.MS_SHARED, ""))
	first := r.launch(&syscall.SysProcAttr{}, r.ownMounts()...)
	r.ok(first.engaged(r.ctx))
	if err := unix.Access(r.app, unix.W_OK); err != nil {
		t.Fatalf("its mounts are not its own: %v", err)
	}

	stick := filepath.Join(r.dir, "stick") // is plugged in later
	r.ok(os.Mkdir(stick, 0o755))
	r.mount(stick, "tmpfs", 0)
	portable := filepath.Join(stick, "app")
	r.ok(actor.Install(portable))
	_, err := first.client.Exclude(r.ctx, []string{r.app, portable})
	r.ok(err)
	r.outside("while it runs", r.app, portable)

	first.kill()
	r.outside("while there is no daemon", r.app, portable)
	second := r.launch(&syscall.SysProcAttr{}, r.ownMounts()...)
	r.ok(second.engaged(r.ctx))
	r.outside("with the next daemon", r.app, portable)
	r.ok(second.stop())
	if _, err := os.Stat(r.pins()); !os.IsNotExist(err) {
		t.Errorf("what remains: %s: %v", r.pins(), err)
	}
}

// mount mounts something for as long as the test runs.
func (r *rig) mount(at, fstype string, flags uintptr) {
	r.t.Helper()
	r.ok(unix.Mount(at, at, fstype, flags, ""))
	r.t.Cleanup(func() { r.ok(unix.Unmount(at, unix.MNT_DETACH)) })
}

// outside fails unless new processes of these programs go outside.
func (r *rig) outside(when string, programs ...string) {
	r.t.Helper()
	for _, path := range programs {
		a, err := r.stage.Start(r.ctx, path, actor.Options{Start: r.world.Machine.Start})
		r.ok(err)
		if err := r.goesOutside(a); err != nil {
			r.t.Errorf("%s, %s: %v", path, when, err)
		}
	}
}
