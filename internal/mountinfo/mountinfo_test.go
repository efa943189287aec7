package mountinfo

import (
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// laptop is a desktop's table with what is odd in real ones.
const laptop = `27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
28 27 0:21 / /proc rw,relatime shared:5 master:1 - proc proc rw
29 27 0:32 /@home /home rw,relatime shared:6 - btrfs /dev/sdb1 rw,subvolid=257,subvol=/@home
30 29 0:40 / /home/my\040disk\011\134 rw - fuse.sshfs me@host:/\040x rw
31 27 0:4 net:[4026532177] /run/netns/blue rw shared:7 - nsfs nsfs rw
32 27 0:22 /.. /sys/fs/old rw - cgroup2 cgroup2 rw
33 27 0:23 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs ro,mode=755
34 33 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
35 33 0:25 / /sys/fs/cgroup/net_cls,net_prio rw - cgroup cgroup rw,net_cls,net_prio
36 27 254:0 /srv/gone//deleted /mnt/gone rw - ext4 /dev/vda rw
37 27 0:50 / /opt rw - tmpfs  rw
38 37 0:51 / /opt rw - tmpfs second rw
39 37 0:52 / /opt/hidden rw - tmpfs hidden rw
40 38 0:53 / /opt/seen rw - tmpfs seen rw
41 27 0:60 / / rw - tmpfs over-root rw
42 41 0:61 / /home rw - tmpfs under-over-root rw
43 27 0:70 / /sys/fs/bpf rw - bpf bpf rw
44 27 0:6 / /dev rw - devtmpfs udev rw
45 44 0:80 / /dev/pts rw - devpts a rw
46 44 0:81 / /dev/pts rw - devpts b rw
`

func parse(t *testing.T, text string) Table {
	t.Helper()
	table, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestParseUndoesEscapes(t *testing.T) {
	mounts := parse(t, laptop).Mounts()
	got := []Mount{mounts[2], mounts[3], mounts[4], mounts[9], mounts[10]}
	want := []Mount{
		{ID: 29, Parent: 27, Dev: 32, Root: "/@home", Point: "/home", FSType: "btrfs", Source: "/dev/sdb1",
			Super: "rw,subvolid=257,subvol=/@home"},
		{ID: 30, Parent: 29, Dev: 40, Root: "/", Point: "/home/my disk\t\\", FSType: "fuse.sshfs",
			Source: "me@host:/ x", Super: "rw"},
		{ID: 31, Parent: 27, Dev: 4, Root: "net:[4026532177]", Point: "/run/netns/blue", FSType: "nsfs",
			Source: "nsfs", Super: "rw"},
		{ID: 36, Parent: 27, Dev: 254 << 20, Root: "/srv/gone", Point: "/mnt/gone", Deleted: true, FSType: "ext4",
			Source: "/dev/vda", Super: "rw"},
		{ID: 37, Parent: 27, Dev: 50, Root: "/", Point: "/opt", FSType: "tmpfs", Super: "rw"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("mounts (-want +got):\n%s", d)
	}
}

func TestAtFollowsStacksAndParents(t *testing.T) {
	table := parse(t, laptop)
	for p, want := range map[string]int{
		"/":                      27, // the mount on "/" is not followed
		"/etc/passwd":            27,
		"/home":                  29, // nor what is mounted in it
		"/home/u/..":             29,
		"/homes":                 27,
		"/home/my disk\t\\/a":    30,
		"/opt":                   38,
		"/opt/seen/x":            40,
		"/opt/hidden/x":          38, // its parent is below the stack
		"/dev/pts/1":             46, // same parent, same point: the last
		"/sys/fs/cgroup/unified": 34,
	} {
		got, ok := table.At(p)
		if !ok || got.ID != want {
			t.Errorf("At(%q) = mount %d, %v, want %d", p, got.ID, ok, want)
		}
	}
	if m, ok := table.At("relative"); ok {
		t.Errorf("At of a relative path = %v", m)
	}
}

func TestNoRootMount(t *testing.T) {
	for name, table := range map[string]Table{
		"zero":   {},
		"empty":  New(nil),
		"chroot": parse(t, "28 27 0:21 / /proc rw - proc proc rw\n"),
	} {
		if m, ok := table.At("/proc"); ok {
			t.Errorf("%s: At = %v, want none", name, m)
		}
	}
}

func TestRootIsItsOwnParent(t *testing.T) {
	table := parse(t, "1 1 0:2 / / rw - rootfs rootfs rw\n5 1 0:3 / /a rw - tmpfs x rw\n")
	if m, ok := table.At("/a/b"); !ok || m.ID != 5 {
		t.Errorf("At = %v, %v, want mount 5", m, ok)
	}
}

func TestForgedCycleEnds(t *testing.T) {
	table := New([]Mount{{ID: 1, Parent: 9, Point: "/"}, {ID: 2, Parent: 1, Point: "/a"}, {ID: 1, Parent: 2, Point: "/a"}})
	table.At("/a/b")
}

func TestFindFilesystems(t *testing.T) {
	table := parse(t, laptop)
	if got, ok := table.Cgroup2Root(); !ok || got != "/sys/fs/cgroup/unified" {
		t.Errorf("Cgroup2Root = %q, %v", got, ok)
	}
	if got, ok := table.BPFFS(); !ok || got != "/sys/fs/bpf" {
		t.Errorf("BPFFS = %q, %v", got, ok)
	}
	two := parse(t, `1 0 0:1 / / rw - ext4 a rw
2 1 0:2 / /a rw - cgroup2 x rw
3 1 0:2 / /sys/fs/cgroup rw - cgroup2 x rw
4 1 0:2 /sub /c rw - cgroup2 x rw
5 1 0:3 / /b rw - bpf x rw
6 5 0:4 / /b rw - tmpfs x rw
`)
	if got, ok := two.Cgroup2Root(); !ok || got != "/sys/fs/cgroup" {
		t.Errorf("Cgroup2Root = %q, %v, want the usual place", got, ok)
	}
	if got, ok := two.BPFFS(); ok {
		t.Errorf("BPFFS = %q, which is hidden", got)
	}
}

func TestOption(t *testing.T) {
	m := parse(t, laptop).Mounts()[8]
	if !m.Option("net_cls") || m.Option("net") {
		t.Errorf("options of %q misread", m.Super)
	}
}

func TestParseKeepsTheGoodLines(t *testing.T) {
	for _, bad := range []string{
		"x 1 0:1 / /a rw - t s o", "2 x 0:1 / /a rw - t s o", "2 1 0 / /a rw - t s o", "2 1 x:1 / /a rw - t s o",
		"2 1 0:1048576 / /a rw - t s o", "2 1 4096:0 / /a rw - t s o", "2 1 0:1 / /a rw t s o", "2 1 0:1 / /a - t s",
		"2 1 0:1 / /a rw - t", "2 1 0:1 / a rw - t s o", "garbage",
	} {
		table, err := Parse([]byte("1 0 0:1 / / rw - t s o\n" + bad + "\n3 1 0:1 / /c rw - t s o"))
		if err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: error = %v, want one about line 2", bad, err)
		}
		if n := len(table.Mounts()); n != 2 {
			t.Errorf("%q: %d mounts, want the 2 good ones", bad, n)
		}
	}
}

// TestKernelAgrees asks the kernel which mount each mount point of this machine leads to.
func TestKernelAgrees(t *testing.T) {
	table, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, m := range table.Mounts() {
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, m.Point, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &st)
		if err != nil || st.Mask&unix.STATX_MNT_ID == 0 {
			continue
		}
		asked++
		if got, ok := table.At(m.Point); !ok || uint64(got.ID) != st.Mnt_id {
			t.Errorf("At(%q) = mount %d, the kernel says %d", m.Point, got.ID, st.Mnt_id)
		}
	}
	if asked == 0 {
		t.Skip("this kernel does not tell mount ids: needs Linux 5.8")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(laptop), "/opt/seen/x")
	f.Add([]byte("1 1 0:1 /\\777\\0 / rw - t s"), "/")
	f.Add([]byte("1 2 0:1 / /a rw - t s\n2 1 0:1 / /a rw - t s\n"), "/a")
	f.Fuzz(func(t *testing.T, text []byte, p string) {
		table, err := Parse(text)
		lines := 0
		for _, l := range strings.Split(string(text), "\n") {
			if l != "" {
				lines++
			}
		}
		if n := len(table.Mounts()); n > lines || (err == nil) != (n == lines) {
			t.Errorf("%d mounts of %d lines, error %v", n, lines, err)
		}
		for _, m := range table.Mounts() {
			if !path.IsAbs(m.Point) || path.Clean(m.Point) != m.Point {
				t.Errorf("mount point %q", m.Point)
			}
		}
		if m, ok := table.At(p); ok && m.Point != "/" && !strings.HasPrefix(path.Clean(p)+"/", m.Point+"/") {
			t.Errorf("At(%q) is mounted on %q", p, m.Point)
		}
		table.Cgroup2Root()
		table.BPFFS()
	})
}
