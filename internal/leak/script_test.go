package leak_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"sidestep/internal/lab/actor"
	"sidestep/internal/lab/labtest"
)

// script puts a script at a name in the scene's directory; the unlisted program runs it.
func (s *scene) script(name string) string {
	s.t.Helper()
	path := s.at(name)
	s.ok(actor.InstallScript(path, s.other))
	return path
}

// listedScript is the script that is listed.
func (s *scene) listedScript() string {
	s.t.Helper()
	s.rule = s.script("bin/tool")
	return s.rule
}

func TestListedScriptIsKnownHoweverItIsNamed(t *testing.T) {
	at := func(dir, path string) func(*scene) *actor.Actor {
		return by(func(s *scene) actor.Image {
			s.listedScript()
			return actor.Image{Path: path, Dir: filepath.Join(s.dir, dir)}
		})
	}
	decide(t, []decision{
		{"by its path", outside, by(func(s *scene) actor.Image { return actor.Image{Path: s.listedScript()} })},
		{"by ./name", outside, at("bin", "./tool")},
		{"by name alone", outside, at("bin", "tool")},
		{"by dir/name", outside, at("", "bin/tool")},
		{"by ../name", outside, at("bin", "../bin/tool")},
		{"with slashes and dots too many", outside, at("", ".//bin/././/tool")},
	})
}

func TestListedScriptIsKnownHoweverItIsStarted(t *testing.T) {
	decide(t, []decision{
		{"from a thread", outside, func(s *scene) *actor.Actor {
			a, err := s.starter.Fork(s.ctx)
			s.ok(err)
			s.ok(a.OnThread().Exec(s.ctx, s.listedScript()))
			return a
		}},
		{"through a link that the rule passes", outside, by(func(s *scene) actor.Image {
			s.listedScript()
			s.rule = s.link("bin", "sbin") + "/tool"
			return actor.Image{Path: s.rule}
		})},
		{"behind the link that the rule names", outside, by(func(s *scene) actor.Image {
			script := s.listedScript()
			s.rule = s.link(script, "link")
			return actor.Image{Path: script}
		})},
		{"through env", outside, by(func(s *scene) actor.Image {
			s.rule = s.at("bin/tool")
			s.ok(actor.InstallScript(s.rule, "/usr/bin/env "+s.other))
			return actor.Image{Path: s.rule}
		})},
		{"in a chroot", outside, func(s *scene) *actor.Actor {
			s.listedScript()
			s.ok(actor.InstallScript(s.rule, "/bin/other"))
			a, err := s.starter.Fork(s.ctx)
			s.ok(err)
			s.ok(a.Chroot(s.ctx, s.dir))
			return s.in(a, "/bin/tool")
		}},
	})
}

func TestOnlyTheListedScriptIsListed(t *testing.T) {
	decide(t, []decision{
		{"its interpreter, told to run it", inside, by(func(s *scene) actor.Image {
			return actor.Image{Path: s.other, Args: []string{s.other, s.listedScript()}}
		})},
		{"another script of the same interpreter", inside, by(func(s *scene) actor.Image {
			s.listedScript()
			return actor.Image{Path: s.script("bin/tool2")}
		})},
		{"a script of the same name elsewhere", inside, by(func(s *scene) actor.Image {
			s.listedScript()
			return actor.Image{Path: s.script("more/tool")}
		})},
		{"a script that says it is the listed one", inside, by(func(s *scene) actor.Image {
			return actor.Image{Path: s.script("more/tool"), Args: []string{s.listedScript()}}
		})},
		{"in a chroot on a tmpfs", inside, func(s *scene) *actor.Actor {
			s.listedScript()
			a, root := s.apart(), filepath.Dir(s.at("root/x"))
			s.mount(a, "tmpfs", root, "")
			s.place(a, root+s.other)
			s.ok(actor.InstallScript(seenBy(a, root+s.rule), s.other))
			s.ok(a.Chroot(s.ctx, root))
			return s.in(a, s.rule)
		}},
		{"another, mounted over it in a user namespace", inside, func(s *scene) *actor.Actor {
			fake := s.script("more/fake")
			a := s.unprivileged()
			s.ok(a.BindMount(s.ctx, fake, s.listedScript()))
			return s.in(a, s.rule)
		}},
		{"another directory, mounted over its own in a user namespace", inside, func(s *scene) *actor.Actor {
			fake := s.at("more/tool")
			s.ok(actor.InstallScript(fake, s.install("interpreter")))
			a := s.unprivileged()
			s.ok(a.BindMount(s.ctx, filepath.Dir(fake), filepath.Dir(s.listedScript())))
			return s.in(a, s.rule)
		}},
	})
}

// TestLimitsOfScriptRules states what is known not to work: the kernel tells which interpreter it runs and what string
// was given to exec, but not which file the string led to.
func TestLimitsOfScriptRules(t *testing.T) {
	decide(t, []decision{
		{"the listed script through a link that the rule does not pass", inside, by(func(s *scene) actor.Image {
			return actor.Image{Path: s.link(s.listedScript(), "link")}
		})},
		{"the listed script by descriptor", inside, by(func(s *scene) actor.Image {
			return actor.Image{Path: s.listedScript(), Via: actor.ViaFD}
		})},
		{"another, mounted over the listed one by root", outside, func(s *scene) *actor.Actor {
			s.listedScript()
			a := s.apart()
			s.mount(a, "tmpfs", filepath.Dir(s.rule), "")
			s.place(a, s.other)
			s.ok(actor.InstallScript(seenBy(a, s.rule), s.other))
			return s.in(a, s.rule)
		}},
	})
}

func TestRuleMeansScriptsAsWell(t *testing.T) {
	decide(t, []decision{
		{"a script in a listed directory", outside, by(func(s *scene) actor.Image {
			s.rule = filepath.Dir(s.at("games/x")) + "/"
			return actor.Image{Path: s.script("games/start")}
		})},
		{"a script far below a listed directory, by a relative path", outside, by(func(s *scene) actor.Image {
			s.rule = filepath.Dir(s.at("games/x")) + "/"
			s.script("games/a/b/start")
			return actor.Image{Path: "a/b/start", Dir: filepath.Join(s.dir, "games")}
		})},
		{"a script from within a listed directory, by name alone", outside, by(func(s *scene) actor.Image {
			s.rule = filepath.Dir(s.at("games/x")) + "/"
			s.script("games/a/b/start")
			return actor.Image{Path: "start", Dir: filepath.Join(s.dir, "games/a/b")}
		})},
		{"a script beside a listed directory", inside, by(func(s *scene) actor.Image {
			s.rule = filepath.Dir(s.at("games/x")) + "/"
			return actor.Image{Path: s.script("start")}
		})},
		{"a script whose interpreter is listed", outside, by(func(s *scene) actor.Image {
			script := s.at("run")
			s.ok(actor.InstallScript(script, s.listed))
			return actor.Image{Path: script}
		})},
		{"a script whose interpreter is in a listed directory", outside, by(func(s *scene) actor.Image {
			s.rule = filepath.Dir(s.install("games/interpreter")) + "/"
			script := s.at("run")
			s.ok(actor.InstallScript(script, filepath.Join(s.dir, "games/interpreter")))
			return actor.Image{Path: script}
		})},
	})
}

func TestRunningScriptIsExcludedAndIncluded(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	interpreter, tool := r.install("interpreter"), r.at("tool")
	r.ok(actor.InstallScript(tool, interpreter))
	running, other := r.start(tool), r.start(interpreter)
	child, err := running.Fork(r.ctx)
	r.ok(err)
	r.goes(running, inside, "the script before it is excluded")
	r.exclude(tool)
	r.goes(running, outside, "the script once it is excluded")
	r.goes(child, outside, "its child once it is excluded")
	r.goes(other, inside, "its interpreter, running nothing")
	r.include(tool)
	r.goes(running, inside, "the script once it is included")
	r.goes(child, inside, "its child once it is included")
}

func TestListedScriptIsKnownOnAnyFileSystem(t *testing.T) {
	onMounts(t, func(r *rig, starter *actor.Actor, kind string) {
		dir := r.mounted(kind, "m")
		tool := dir + "/bin/tool"
		r.ok(actor.InstallScript(tool, r.install("interpreter")))
		for _, rule := range []string{tool, dir + "/bin/"} {
			for _, im := range []actor.Image{
				{Path: tool}, {Path: "bin/tool", Dir: dir}, {Path: "tool", Dir: dir + "/bin"},
				{Path: filepath.Base(dir) + "/bin/tool", Dir: r.dir},
			} {
				r.ends(r.exec(starter, im), inside, im.Path+" before it is excluded as "+rule)
				r.exclude(rule)
				r.ends(r.exec(starter, im), outside, im.Path+" excluded as "+rule)
				r.include(rule)
			}
		}
	})
}

// TestListedScriptIsKnownByItsOldPathThroughUsr puts a tmpfs into /usr/lib, in the mounts that only these tests have,
// and calls a script there by /lib, as it was called before /usr was merged.
func TestListedScriptIsKnownByItsOldPathThroughUsr(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	if to, err := os.Readlink("/lib"); err != nil || to != "usr/lib" {
		labtest.Skip(t, fmt.Sprintf("/lib is no link to usr/lib here: %v", err))
	}
	const dir = "/usr/lib/tmpfiles.d"
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		labtest.Skip(t, fmt.Sprintf("no place for a mount: %v", err))
	}
	t.Cleanup(func() { r.ok(unix.Unmount(dir, unix.MNT_DETACH)) })
	script := dir + "/tool"
	r.ok(actor.InstallScript(script, r.install("interpreter")))
	starter := r.start(r.install("starter"))
	old := actor.Image{Path: "/lib/tmpfiles.d/tool"}
	for _, rule := range []string{script, old.Path, dir + "/"} {
		r.ends(r.exec(starter, old), inside, "by the old path, before it is excluded")
		r.exclude(rule)
		r.ends(r.exec(starter, old), outside, "by the old path, excluded as "+rule)
		r.ends(r.exec(starter, actor.Image{Path: script}), outside, "by the new path, excluded as "+rule)
		r.include(rule)
	}
}
