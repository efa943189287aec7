package identity

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/labtest"
	"sidestep/policy"
)

// ownMounts gives the test its own mount namespace, where what it mounts stays. The test's thread ends with it.
func ownMounts(t *testing.T) {
	t.Helper()
	labtest.NeedRoot(t)
	runtime.LockOSThread() // never unlocked: the thread cannot be given back
	must(t, unix.Unshare(unix.CLONE_NEWNS))
	must(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
}

// mount mounts and unmounts at the end of the test, so that its directory can be removed.
func mount(t *testing.T, source, target, fstype string, flags uintptr, data string) {
	t.Helper()
	must(t, os.MkdirAll(target, 0o755))
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		t.Fatalf("mount %s on %s: %v", fstype, target, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
}

// kernelDev asks the kernel for the s_dev of a file's superblock: the list of mappings shows it, stat does not.
func kernelDev(t *testing.T, p string) uint32 {
	t.Helper()
	f, err := os.Open(p)
	must(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, os.Getpagesize(), unix.PROT_READ, unix.MAP_PRIVATE)
	must(t, err)
	defer func() { must(t, unix.Munmap(m)) }()
	maps, err := os.Open("/proc/self/maps")
	must(t, err)
	defer maps.Close()
	start := fmt.Sprintf("%08x-", uintptr(unsafe.Pointer(unsafe.SliceData(m))))
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		// 7f00-7f01 r--p 00000000 fd:01 1234 /path
		fields := strings.Fields(lines.Text())
		if !strings.HasPrefix(fields[0], start) {
			continue
		}
		major, minor, _ := strings.Cut(fields[3], ":")
		a, err := strconv.ParseUint(major, 16, 12)
		must(t, err)
		b, err := strconv.ParseUint(minor, 16, 20)
		must(t, err)
		return uint32(a)<<20 | uint32(b)
	}
	t.Fatalf("no mapping of %s at %s", p, start)
	return 0
}

func resolve(t *testing.T, p string) Target {
	t.Helper()
	target, err := Resolve(policy.App{Path: p})
	must(t, err)
	return target
}

func TestDeviceIsTheKernels(t *testing.T) {
	ownMounts(t)
	dir := tree(t, "disk = x", "ovl/")
	mount(t, "tmpfs", dir+"/ovl", "tmpfs", 0, "")
	must(t, plant(dir, "ovl/lower/bin/app = lower"))
	must(t, plant(dir, "ovl/upper/bin/new = upper"))
	must(t, plant(dir, "ovl/work/"))
	mount(t, "overlay", dir+"/merged", "overlay", 0,
		fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir+"/ovl"))
	for _, p := range []string{"/disk", "/ovl/lower/bin/app", "/merged/bin/app", "/merged/bin/new"} {
		got := resolve(t, dir+p)
		if want := kernelDev(t, dir+p); got.Identity.Dev != want {
			t.Errorf("%s: device %#x, the kernel says %#x", p, got.Identity.Dev, want)
		}
	}
	if got := resolve(t, dir+"/merged/bin/app"); got.Identity.Path != "/bin/app" {
		t.Errorf("identity %v, want /bin/app of the overlay", got.Identity)
	}
}

func TestBindMountIsTheSameFile(t *testing.T) {
	ownMounts(t)
	dir := tree(t, "real/sub/app", "l -> bind")
	mount(t, dir+"/real", dir+"/bind", "", unix.MS_BIND, "")
	mount(t, dir+"/bind/sub", dir+"/with space", "", unix.MS_BIND, "")
	want := resolve(t, dir+"/real/sub/app").Identity
	for _, p := range []string{"/bind/sub/app", "/l/sub/app", "/with space/app"} {
		if got := resolve(t, dir+p); got.Identity != want {
			t.Errorf("%s: identity %v, want %v", p, got.Identity, want)
		}
	}
	missing := resolve(t, dir+"/bind/not/yet")
	if missing.Exists || missing.Identity != resolve(t, dir+"/real/not/yet").Identity {
		t.Errorf("identity %v of a missing file", missing.Identity)
	}
}

func TestTopmostMountWins(t *testing.T) {
	ownMounts(t)
	dir := tree(t, "m/app")
	below := resolve(t, dir+"/m/app")
	mount(t, "tmpfs", dir+"/m", "tmpfs", 0, "")
	must(t, plant(dir, "m/app = first"))
	first := resolve(t, dir+"/m/app")
	mount(t, "tmpfs", dir+"/m", "tmpfs", 0, "")
	must(t, plant(dir, "m/app = second"))
	second := resolve(t, dir+"/m/app")
	if first.Identity == second.Identity || first.Identity == below.Identity {
		t.Errorf("identities %v, %v, %v, want three", below.Identity, first.Identity, second.Identity)
	}
	if want := kernelDev(t, dir+"/m/app"); second.Identity != (File{want, "/app"}) {
		t.Errorf("identity %v, want /app on device %#x", second.Identity, want)
	}
	// The string given to execve starts in the filesystem below all mounts, never in a hidden one.
	if len(second.Aliases) != 1 || second.Aliases[0] != below.Identity {
		t.Errorf("aliases %v, want %v", second.Aliases, below.Identity)
	}
}

func TestDeletedRootOfABindMount(t *testing.T) {
	ownMounts(t)
	dir := tree(t, "gone/app")
	mount(t, dir+"/gone", dir+"/bind", "", unix.MS_BIND, "")
	want := resolve(t, dir+"/gone/app").Identity
	must(t, os.RemoveAll(dir+"/gone"))
	if got := resolve(t, dir+"/bind/app"); got.Exists || got.Identity != want {
		t.Errorf("identity %v, exists %v, want %v", got.Identity, got.Exists, want)
	}
}

func TestDirectoryTakesRealMountsAlong(t *testing.T) {
	ownMounts(t)
	dir := tree(t, "games/")
	mount(t, "tmpfs", dir+"/games/steam", "tmpfs", 0, "")
	must(t, plant(dir, "games/steam/bin/app = game"))
	got := resolve(t, dir+"/games/")
	if want := (File{kernelDev(t, dir+"/games/steam/bin/app"), "/"}); len(got.Below) != 1 || got.Below[0] != want {
		t.Errorf("below %v, want %v", got.Below, want)
	}
}

func TestMountIsSeen(t *testing.T) {
	ownMounts(t)
	dir := tree(t, "m/app")
	f := follow(t, dir+"/m/app")
	f.settle(t)
	before := resolve(t, dir+"/m/app").Identity
	mount(t, "tmpfs", dir+"/m", "tmpfs", 0, "")
	f.until(t, "something was mounted", func(t Target, err error) bool { return err == nil && t.Identity != before })
	must(t, plant(dir, "m/app = #!/bin/sh"))
	f.until(t, "the file appeared in it", func(t Target, err error) bool { return t.Script })
	must(t, unix.Unmount(dir+"/m", 0))
	f.until(t, "it was unmounted", func(t Target, err error) bool { return err == nil && t.Identity == before })
}

func TestUsrMerge(t *testing.T) {
	ownMounts(t)
	chroot(t, "usr/bin/x", "bin -> usr/bin", "sbin -> usr/bin", "lib -> usr/lib", "usr/lib/")
	want := map[string]bool{"/bin/x": true, "/sbin/x": true}
	got := resolve(t, "/usr/bin/x")
	for _, a := range got.Aliases {
		if !want[a.Path] || a.Dev != got.Identity.Dev {
			t.Errorf("alias %v is not wanted", a)
		}
		delete(want, a.Path)
	}
	if len(want) != 0 {
		t.Errorf("aliases %v lack %v", got.Aliases, want)
	}
	if other := resolve(t, "/bin/x"); other.Identity != got.Identity {
		t.Errorf("identity of /bin/x %v, want %v", other.Identity, got.Identity)
	}
}

// chroot moves the test's thread into a root of its own, with /proc.
func chroot(t *testing.T, specs ...string) {
	t.Helper()
	dir := tree(t, "root/")
	mount(t, "tmpfs", dir+"/root", "tmpfs", 0, "")
	for _, s := range append(specs, "proc/") {
		must(t, plant(dir+"/root", s))
	}
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	wd, err := os.Getwd()
	must(t, err)
	mount(t, "proc", dir+"/root/proc", "proc", 0, "")
	must(t, unix.Chroot(dir+"/root"))
	must(t, unix.Chdir("/"))
	t.Cleanup(func() {
		must(t, unix.Fchdir(old))
		must(t, unix.Chroot("."))
		must(t, unix.Chdir(wd))
		must(t, unix.Close(old))
	})
}
