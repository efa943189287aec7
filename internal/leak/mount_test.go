package leak_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
)

// apart makes a child of the starter that has mounts of its own.
func (s *scene) apart() *actor.Actor {
	s.t.Helper()
	a, err := s.starter.Fork(s.ctx)
	s.ok(err)
	s.ok(a.PrivateMounts(s.ctx))
	return a
}

// mount mounts a file system that only the actor sees.
func (s *scene) mount(a *actor.Actor, kind, target, options string) {
	s.t.Helper()
	_, err := a.Syscall(s.ctx, unix.SYS_MOUNT, kind, target, kind, 0, options)
	s.ok(err)
}

// in makes the actor execute path.
func (s *scene) in(a *actor.Actor, path string) *actor.Actor {
	s.t.Helper()
	s.ok(a.Exec(s.ctx, path))
	return a
}

// seenBy is the name by which this process finds what the actor has at path.
func seenBy(a *actor.Actor, path string) string { return fmt.Sprintf("/proc/%d/root%s", a.PID(), path) }

// place puts an actor at a path that only a sees.
func (s *scene) place(a *actor.Actor, path string) {
	s.t.Helper()
	s.ok(os.MkdirAll(filepath.Dir(seenBy(a, path)), 0o755))
	s.ok(actor.Install(seenBy(a, path)))
}

func TestMountsDoNotChangeWhatAFileIs(t *testing.T) {
	decide(t, []decision{
		{"the listed file in a mount namespace of its own", outside, func(s *scene) *actor.Actor {
			return s.in(s.apart(), s.listed)
		}},
		{"the listed file, mounted elsewhere", outside, func(s *scene) *actor.Actor {
			a, elsewhere := s.apart(), s.install("elsewhere")
			s.ok(a.BindMount(s.ctx, s.listed, elsewhere))
			return s.in(a, elsewhere)
		}},
		{"its directory, mounted elsewhere", outside, func(s *scene) *actor.Actor {
			a, elsewhere := s.apart(), s.at("elsewhere/x")
			s.ok(a.BindMount(s.ctx, filepath.Dir(s.listed), filepath.Dir(elsewhere)))
			return s.in(a, filepath.Dir(elsewhere)+"/listed")
		}},
		{"another program, mounted over the listed one", inside, func(s *scene) *actor.Actor {
			a := s.apart()
			s.ok(a.BindMount(s.ctx, s.other, s.listed))
			return s.in(a, s.listed)
		}},
		{"another directory, mounted over the listed program's", inside, func(s *scene) *actor.Actor {
			a, fake := s.apart(), s.install("fake/listed")
			s.ok(a.BindMount(s.ctx, filepath.Dir(fake), filepath.Dir(s.listed)))
			return s.in(a, s.listed)
		}},
		{"the listed file, kept behind a mount over it", outside, func(s *scene) *actor.Actor {
			a, kept := s.apart(), s.install("kept")
			s.ok(a.BindMount(s.ctx, s.listed, kept))
			s.ok(a.BindMount(s.ctx, s.other, s.listed))
			return s.in(a, kept)
		}},
	})
}

func TestSamePathOnAnotherFileSystemIsAnotherProgram(t *testing.T) {
	decide(t, []decision{
		{"on a tmpfs over its directory", inside, func(s *scene) *actor.Actor {
			a := s.apart()
			s.mount(a, "tmpfs", filepath.Dir(s.listed), "")
			s.place(a, s.listed)
			return s.in(a, s.listed)
		}},
		{"on an overlay over its directory", inside, func(s *scene) *actor.Actor {
			a := s.apart()
			one, two := filepath.Dir(s.install("one/listed")), filepath.Dir(s.at("two/x"))
			s.mount(a, "overlay", filepath.Dir(s.listed), "lowerdir="+one+":"+two)
			return s.in(a, s.listed)
		}},
		{"on an overlay that shows the listed file itself", inside, func(s *scene) *actor.Actor {
			a, two := s.apart(), filepath.Dir(s.at("two/x"))
			s.mount(a, "overlay", filepath.Dir(s.listed), "lowerdir="+filepath.Dir(s.listed)+":"+two)
			return s.in(a, s.listed)
		}},
		{"in a chroot on a tmpfs", inside, func(s *scene) *actor.Actor {
			a, root := s.apart(), filepath.Dir(s.at("root/x"))
			s.mount(a, "tmpfs", root, "")
			s.place(a, root+s.listed)
			s.ok(a.Chroot(s.ctx, root))
			return s.in(a, s.listed)
		}},
		{"in a chroot on the same file system, a copy", inside, func(s *scene) *actor.Actor {
			a, root := s.apart(), filepath.Dir(s.at("root/x"))
			s.install("root" + s.listed)
			s.ok(a.Chroot(s.ctx, root))
			return s.in(a, s.listed)
		}},
	})
}

func TestSameFileInAChrootIsTheListedProgram(t *testing.T) {
	decide(t, []decision{
		{"by the path within the chroot", outside, func(s *scene) *actor.Actor {
			a := s.apart()
			s.ok(a.Chroot(s.ctx, s.dir))
			return s.in(a, "/bin/listed")
		}},
		{"its neighbour", inside, func(s *scene) *actor.Actor {
			a := s.apart()
			s.ok(a.Chroot(s.ctx, s.dir))
			return s.in(a, "/bin/other")
		}},
		{"mounted into a chroot on a tmpfs", outside, func(s *scene) *actor.Actor {
			a, root := s.apart(), filepath.Dir(s.at("root/x"))
			s.mount(a, "tmpfs", root, "")
			s.place(a, root+"/app")
			s.ok(a.BindMount(s.ctx, s.listed, root+"/app"))
			s.ok(a.Chroot(s.ctx, root))
			return s.in(a, "/app")
		}},
	})
}

// mounted is a directory where a file system of some kind is mounted, in the mount namespace that these tests, and so the
// engine, live in, with an actor at bin/listed.
func (r *rig) mounted(kind, name string) (dir string) {
	r.t.Helper()
	source := filepath.Dir(filepath.Dir(r.install(name + ".source/bin/listed")))
	dir = filepath.Dir(r.at(name + "/x"))
	flags, options := uintptr(0), ""
	switch kind {
	case "bind":
		flags = unix.MS_BIND
	case "overlay":
		upper, work := filepath.Dir(r.at(name+".upper/x")), filepath.Dir(r.at(name+".work/x"))
		options = fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", source, upper, work)
	}
	r.ok(unix.Mount(source, dir, kind, flags, options))
	r.t.Cleanup(func() { r.ok(unix.Unmount(dir, unix.MNT_DETACH)) })
	if kind == "tmpfs" {
		r.install(name + "/bin/listed")
	}
	return dir
}

// ruled excludes a program by one rule and then another, and looks on which side it starts before and after.
func (r *rig) ruled(starter *actor.Actor, program string, rules ...string) {
	r.t.Helper()
	im := actor.Image{Path: program}
	for _, rule := range rules {
		r.ends(r.exec(starter, im), inside, "before it is excluded as "+rule)
		r.exclude(rule)
		r.ends(r.exec(starter, im), outside, "excluded as "+rule)
		r.include(rule)
	}
}

// onMounts runs a test for each kind of file system.
func onMounts(t *testing.T, test func(r *rig, starter *actor.Actor, kind string)) {
	t.Helper()
	t.Parallel()
	r := engaged(t)
	starter := r.start(r.install("starter"))
	for _, kind := range []string{"tmpfs", "overlay", "bind"} {
		t.Run(kind, func(t *testing.T) { test(r.sub(t), starter, kind) })
	}
}

func TestProgramsOnAnyFileSystemCanBeListed(t *testing.T) {
	onMounts(t, func(r *rig, starter *actor.Actor, kind string) {
		dir := r.mounted(kind, "m")
		r.ruled(starter, dir+"/bin/listed", dir+"/bin/listed", dir+"/bin/")
	})
}

func TestDirectoryThatIsAMountPointCanBeListed(t *testing.T) {
	onMounts(t, func(r *rig, starter *actor.Actor, kind string) {
		dir := r.mounted(kind, "m")
		r.ruled(starter, dir+"/bin/listed", dir+"/")
	})
}

func TestMountsBelowAListedDirectoryBelongToIt(t *testing.T) {
	onMounts(t, func(r *rig, starter *actor.Actor, kind string) {
		dir := r.mounted(kind, "games/a/m")
		r.ruled(starter, dir+"/bin/listed", filepath.Join(r.dir, "games/a")+"/", filepath.Join(r.dir, "games")+"/")
	})
}

func TestUserNamespaceCannotPutAnotherProgramInPlace(t *testing.T) {
	decide(t, []decision{
		{"another program, mounted over the listed one", inside, func(s *scene) *actor.Actor {
			a := s.unprivileged()
			s.ok(a.BindMount(s.ctx, s.other, s.listed))
			return s.in(a, s.listed)
		}},
		{"the listed program itself", outside, func(s *scene) *actor.Actor {
			return s.in(s.unprivileged(), s.listed)
		}},
	})
}

// unprivileged makes a child of the starter with mounts of its own in a user namespace of its own, as any user can.
func (s *scene) unprivileged() *actor.Actor {
	s.t.Helper()
	a, err := s.starter.Fork(s.ctx)
	s.ok(err)
	s.ok(a.Unshare(s.ctx, unix.CLONE_NEWUSER|unix.CLONE_NEWNS))
	return a
}
