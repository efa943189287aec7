package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"sidestep/internal/mountinfo"
	"sidestep/policy"
)

// root is the device of "/" in the tables of these tests.
const root = 254 << 20

// table is a mount table of "/" and more mounts, whose parents are found by their points.
func table(more ...mountinfo.Mount) mountinfo.Table {
	mounts := []mountinfo.Mount{{ID: 1, Parent: 0, Dev: root, Root: "/", Point: "/"}}
	for i, m := range more {
		m.ID = i + 2
		parent, _ := mountinfo.New(mounts).At(m.Point)
		m.Parent = parent.ID
		mounts = append(mounts, m)
	}
	return mountinfo.New(mounts)
}

// tree makes files below a new directory and returns its canonical path. "a/" is a directory, "a -> b" a link,
// where "~" in b stands for the new directory, and "a = text" a file.
func tree(t *testing.T, specs ...string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range specs {
		if err := plant(dir, s); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func plant(dir, spec string) error {
	name, to, link := strings.Cut(spec, " -> ")
	name, text, _ := strings.Cut(name, " = ")
	full := path.Join(dir, name)
	if err := os.MkdirAll(path.Dir(full), 0o755); err != nil {
		return err
	}
	switch {
	case link:
		return os.Symlink(strings.ReplaceAll(to, "~", dir), full)
	case strings.HasSuffix(name, "/"):
		return os.MkdirAll(full, 0o755)
	default:
		return os.WriteFile(full, []byte(text), 0o755)
	}
}

// A leading is a path in a tree and what it leads to, with "~" for the tree's directory. The target's Aliases,
// Watch and Identity are compared elsewhere.
type leading struct {
	name  string
	tree  []string
	path  string
	want  Target
	err   error
	links []string
}

func leadings() []leading {
	return []leading{
		{name: "file", tree: []string{"a/b"}, path: "~/a/b", want: Target{Canonical: "~/a/b", Exists: true}},
		{name: "missing", path: "~/a/b", want: Target{Canonical: "~/a/b"}},
		{name: "directory", tree: []string{"a/"}, path: "~/a/", want: Target{Canonical: "~/a", Exists: true, IsDir: true}},
		{name: "script", tree: []string{"s = #! /bin/sh -e\nexit"}, path: "~/s",
			want: Target{Canonical: "~/s", Exists: true, Script: true, Interpreter: "/bin/sh"}},
		{name: "links", tree: []string{"real/x", "one -> two", "two -> ~/real", "real/y -> x"}, path: "~/one/y",
			want:  Target{Canonical: "~/real/x", Exists: true},
			links: []string{"~/one", "~/two", "~/real/y"}},
		{name: "link up", tree: []string{"a/b/", "x", "a/b/l -> ../../x"}, path: "~/a/b/l",
			want: Target{Canonical: "~/x", Exists: true}, links: []string{"~/a/b/l"}},
		{name: "link to here", tree: []string{"a/l -> ."}, path: "~/a/l/",
			want: Target{Canonical: "~/a", Exists: true, IsDir: true}, links: []string{"~/a/l"}},
		{name: "dangling", tree: []string{"l -> gone/app"}, path: "~/l",
			want: Target{Canonical: "~/gone/app"}, links: []string{"~/l"}},
		{name: "missing below link", tree: []string{"d/", "l -> d"}, path: "~/l/x/y",
			want: Target{Canonical: "~/d/x/y"}, links: []string{"~/l"}},
		{name: "is a directory", tree: []string{"a/"}, path: "~/a", err: ErrIsDirectory,
			want: Target{Canonical: "~/a", Exists: true, IsDir: true}},
		{name: "not a directory", tree: []string{"a"}, path: "~/a/", err: ErrNotDirectory,
			want: Target{Canonical: "~/a", Exists: true}},
		{name: "file in the way", tree: []string{"a"}, path: "~/a/b", err: ErrNotDirectory,
			want: Target{Canonical: "~/a/b"}},
		{name: "loop", tree: []string{"a -> b", "b -> a"}, path: "~/a", err: syscall.ELOOP},
	}
}

func TestResolve(t *testing.T) {
	for _, c := range leadings() {
		t.Run(c.name, func(t *testing.T) {
			dir := tree(t, c.tree...)
			full := func(s string) string { return strings.ReplaceAll(s, "~", dir) }
			got, err := ResolveIn(table(), policy.App{Path: full(c.path)})
			if !errors.Is(err, c.err) {
				t.Fatalf("error %v, want %v", err, c.err)
			}
			if errors.Is(err, syscall.ELOOP) {
				return
			}
			if id := (File{root, full(c.want.Canonical)}); got.Identity != id {
				t.Errorf("identity %v, want %v", got.Identity, id)
			}
			if slices.Contains(got.Aliases, got.Identity) {
				t.Errorf("aliases %v hold the identity", got.Aliases)
			}
			c.want.Path, c.want.Canonical = full(c.path), full(c.want.Canonical)
			for _, l := range c.links {
				c.want.Links = append(c.want.Links, full(l))
			}
			got.Aliases, got.Watch, got.Identity = nil, nil, File{}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("target (-want +got):\n%s", d)
			}
		})
	}
}

func TestNotRegular(t *testing.T) {
	if _, err := ResolveIn(table(), policy.App{Path: "/dev/null"}); !errors.Is(err, ErrNotRegular) {
		t.Errorf("error %v, want %v", err, ErrNotRegular)
	}
}

func TestPermissionErrorNamesTheComponent(t *testing.T) {
	dir := tree(t, "closed/in/x")
	// The way there is open to nobody, who has not made it.
	if err := errors.Join(os.Chmod(path.Dir(dir), 0o755), os.Chmod(path.Join(dir, "closed"), 0)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(path.Join(dir, "closed"), 0o755) })
	var got Target
	var err error
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread is nobody's from here on, and ends
		if err = unix.Setfsuid(65534); err == nil {
			got, err = ResolveIn(table(), policy.App{Path: path.Join(dir, "closed/in/x")})
		}
	}()
	<-done
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "closed/in:") {
		t.Errorf("error %v, want one about closed/in", err)
	}
	if want := (File{root, path.Join(dir, "closed/in/x")}); got.Identity != want {
		t.Errorf("identity %v, want %v all the same", got.Identity, want)
	}
}

func TestAliasesFollowTheStringNotTheMounts(t *testing.T) {
	dir := tree(t, "usr/bin/x", "bin -> usr/bin", "app -> bin/x")
	mounts := table(mountinfo.Mount{Dev: 7, Root: "/@usr", Point: dir + "/usr"})
	at := func(p string) File { return File{root, dir + p} }
	for p, want := range map[string][]File{
		"/usr/bin/x": {at("/usr/bin/x")},
		"/bin/x":     {at("/bin/x"), at("/usr/bin/x")},
		"/app":       {at("/app"), at("/bin/x"), at("/usr/bin/x")},
	} {
		got, err := ResolveIn(mounts, policy.App{Path: dir + p})
		if err != nil {
			t.Fatal(err)
		}
		if id := (File{7, "/@usr/bin/x"}); got.Identity != id {
			t.Errorf("%s: identity %v, want %v", p, got.Identity, id)
		}
		if d := cmp.Diff(want, got.Aliases); d != "" {
			t.Errorf("%s: aliases (-want +got):\n%s", p, d)
		}
	}
}

// TestNoAliasClimbsOutOfItsMount: "../x" from the root of a mount is a file of another filesystem.
func TestNoAliasClimbsOutOfItsMount(t *testing.T) {
	dir := tree(t, "mnt/l -> ../x", "x")
	mounts := table(mountinfo.Mount{Dev: 7, Root: "/", Point: dir + "/mnt"})
	got, err := ResolveIn(mounts, policy.App{Path: dir + "/mnt/l"})
	if err != nil {
		t.Fatal(err)
	}
	want := []File{{root, dir + "/mnt/l"}, {7, "/l"}}
	if d := cmp.Diff(want, got.Aliases); d != "" || got.Identity != (File{root, dir + "/x"}) {
		t.Errorf("identity %v, aliases (-want +got):\n%s", got.Identity, d)
	}
}

func TestDirectoryTakesItsMountsAlong(t *testing.T) {
	dir := tree(t, "d/steam/", "d/lib/", "d/self/", "d/auto/", "d/one", "d/under/", "e/")
	m := func(dev uint32, root, point string) mountinfo.Mount {
		return mountinfo.Mount{Dev: dev, Root: root, Point: dir + point}
	}
	auto := m(14, "/", "/d/auto")
	auto.FSType = "autofs"
	mounts := table(m(10, "/", "/d/steam"), m(root, "/usr/lib", "/d/lib"), m(root, "/", "/d/self"), auto,
		m(11, "/one", "/d/one"), m(12, "/", "/d/under"), m(13, "/", "/d/under"), m(15, "/", "/e"))
	got, err := ResolveIn(mounts, policy.App{Path: dir + "/d/"})
	if err != nil {
		t.Fatal(err)
	}
	want := []File{{10, "/"}, {root, "/usr/lib"}, {13, "/"}}
	if d := cmp.Diff(want, got.Below); d != "" {
		t.Errorf("below (-want +got):\n%s", d)
	}
}

func TestRootDirectoryIsRefusedUnderAnyName(t *testing.T) {
	dir := tree(t, "link -> /", "bind/")
	for _, p := range []string{"/link/", "/bind/"} {
		mounts := table(mountinfo.Mount{Dev: root, Root: "/", Point: dir + "/bind"})
		if _, err := ResolveIn(mounts, policy.App{Path: dir + p}); !errors.Is(err, policy.ErrRootPath) {
			t.Errorf("%s: error %v, want %v", p, err, policy.ErrRootPath)
		}
	}
	// The root of another filesystem is a directory like any other.
	mounts := table(mountinfo.Mount{Dev: 7, Root: "/", Point: dir + "/bind"})
	got, err := ResolveIn(mounts, policy.App{Path: dir + "/bind/"})
	if err != nil || got.Identity != (File{7, "/"}) {
		t.Errorf("identity %v, error %v, want the root of device 7", got.Identity, err)
	}
}

func TestUnknownMounts(t *testing.T) {
	dir := tree(t, "cg/x")
	app := policy.App{Path: dir + "/cg/x"}
	if _, err := ResolveIn(mountinfo.Table{}, app); !errors.Is(err, ErrNoMount) {
		t.Errorf("no table: error %v, want %v", err, ErrNoMount)
	}
	for _, opaque := range []string{"/..", "/../a", "net:[4026531840]"} {
		mounts := table(mountinfo.Mount{Dev: 7, Root: opaque, Point: dir + "/cg"})
		if _, err := ResolveIn(mounts, app); !errors.Is(err, ErrOpaqueMount) {
			t.Errorf("root %s: error %v, want %v", opaque, err, ErrOpaqueMount)
		}
	}
}

func TestTooDeep(t *testing.T) {
	dir := tree(t, "d/x")
	mounts := table(mountinfo.Mount{Dev: 7, Root: strings.Repeat("/r", policy.DepthMax), Point: dir + "/d"})
	if _, err := ResolveIn(mounts, policy.App{Path: dir + "/d/x"}); !errors.Is(err, policy.ErrPathTooDeep) {
		t.Errorf("error %v, want %v", err, policy.ErrPathTooDeep)
	}
}

// TestWatchNamesEveryEntry: the answer depends on these names in these directories, and on no other.
func TestWatchNamesEveryEntry(t *testing.T) {
	dir := tree(t, "real/", "l -> real")
	got, err := ResolveIn(table(), policy.App{Path: dir + "/l/sub/x"})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []Entry{{dir, "l"}, {dir, "real"}, {dir + "/real", "sub"}, {path.Dir(dir), path.Base(dir)}, {"/", ""}} {
		if !slices.Contains(got.Watch, e) {
			t.Errorf("watch %v lacks %v", got.Watch, e)
		}
	}
	if slices.ContainsFunc(got.Watch, func(e Entry) bool { return strings.HasSuffix(e.Dir, "sub") }) {
		t.Errorf("watch %v has a directory that does not exist", got.Watch)
	}
}

// TestResolveAgreesWithTheLibrary compares with filepath.EvalSymlinks in random trees full of links.
func TestResolveAgreesWithTheLibrary(t *testing.T) {
	names := rapid.SampledFrom([]string{"a", "b", "c", "a/a", "a/b", "b/a", "b/c", "c/a/b"})
	goals := rapid.SampledFrom([]string{"a", "b", "../a", "../b/c", "~/a", "~/b/a", "./c", "../../a", "~"})
	base := tree(t)
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := path.Join(base, fmt.Sprint(n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for range rapid.IntRange(0, 8).Draw(t, "entries") {
			spec := names.Draw(t, "name")
			switch rapid.IntRange(0, 2).Draw(t, "kind") {
			case 0:
				spec += "/"
			case 1:
				spec += " -> " + goals.Draw(t, "goal")
			}
			_ = plant(dir, spec) // the name may be taken
		}
		p := path.Join(dir, names.Draw(t, "path"), rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "rest"))
		want, werr := filepath.EvalSymlinks(p)
		got, err := ResolveIn(table(), policy.App{Path: p})
		switch {
		case werr == nil:
			if got.Canonical != want || !got.Exists {
				t.Errorf("%s leads to %q, exists %v, want %q", p, got.Canonical, got.Exists, want)
			}
		case got.Exists:
			t.Errorf("%s leads to %q, want %v", p, got.Canonical, werr)
		case errors.Is(werr, fs.ErrNotExist) && err != nil:
			t.Errorf("error %v, but %v", err, werr)
		}
	})
}

func TestParseScript(t *testing.T) {
	for head, want := range map[string]string{
		"#!/bin/sh\nx": "/bin/sh", "#! \t/usr/bin/env python3\n": "/usr/bin/env", "#!/bin/cut": "/bin/cut",
		"#!\n": "", "#!/a\x00b\n": "/a",
	} {
		if ok, got := parseScript([]byte(head)); !ok || got != want {
			t.Errorf("%q: %v, %q, want %q", head, ok, got, want)
		}
	}
	for _, head := range []string{"", "#", "\x7fELF", " #!/bin/sh"} {
		if ok, _ := parseScript([]byte(head)); ok {
			t.Errorf("%q is taken for a script", head)
		}
	}
}
