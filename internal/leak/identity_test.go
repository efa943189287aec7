package leak_test

import (
	"os"
	"path/filepath"
	"testing"

	"sidestep/internal/lab/actor"
)

// A scene has two programs, of which one is going to be listed, and an actor of neither that starts programs.
type scene struct {
	*rig
	listed, other string
	starter       *actor.Actor
	rule          string // what is excluded; listed, if empty
}

// A decision is a way to start a program, and the side that it has to be on once s.rule is excluded. start is called
// before and after that.
type decision struct {
	name  string
	want  side
	start func(s *scene) *actor.Actor
}

// decide runs each decision in a directory of its own. Every start is seen inside while nothing is excluded; and where
// the decision is to stay inside, the listed program itself is seen outside at the same time.
func decide(t *testing.T, decisions []decision) {
	t.Helper()
	t.Parallel()
	r := engaged(t)
	starter := r.start(r.install("starter"))
	for _, d := range decisions {
		t.Run(d.name, func(t *testing.T) {
			s := &scene{rig: r.sub(t), starter: starter}
			s.listed, s.other = s.install("bin/listed"), s.install("bin/other")
			s.ends(d.start(s), inside, "before anything is excluded")
			rule := s.listed
			if s.rule != "" {
				rule = s.rule
			}
			s.exclude(rule)
			defer s.include(rule)
			if d.want == inside && s.rule == "" {
				s.ends(s.start(s.listed), outside, "the listed program")
			}
			s.ends(d.start(s), d.want, d.name)
		})
	}
}

// by returns a start of one program in one way.
func by(image func(s *scene) actor.Image) func(*scene) *actor.Actor {
	return func(s *scene) *actor.Actor {
		s.t.Helper()
		return s.exec(s.starter, image(s))
	}
}

func TestArgumentsDoNotDecide(t *testing.T) {
	decide(t, []decision{
		{"an unlisted program that says it is the listed one", inside, by(func(s *scene) actor.Image {
			return actor.Image{Path: s.other, Args: []string{s.listed}}
		})},
		{"the listed program that says it is another", outside, by(func(s *scene) actor.Image {
			return actor.Image{Path: s.listed, Args: []string{"/usr/bin/innocent"}}
		})},
		{"the listed program with an empty name", outside, by(func(s *scene) actor.Image {
			return actor.Image{Path: s.listed, Args: []string{""}}
		})},
		{"the listed path as an argument", inside, by(func(s *scene) actor.Image {
			return actor.Image{Path: s.other, Args: []string{s.other, s.listed}}
		})},
	})
}

func TestListedProgramIsKnownHoweverItIsNamed(t *testing.T) {
	at := func(dir, path string) func(*scene) *actor.Actor {
		return by(func(s *scene) actor.Image { return actor.Image{Path: path, Dir: filepath.Join(s.dir, dir)} })
	}
	via := func(via actor.Via) func(*scene) *actor.Actor {
		return by(func(s *scene) actor.Image { return actor.Image{Path: s.listed, Via: via} })
	}
	decide(t, []decision{
		{"by ./name", outside, at("bin", "./listed")},
		{"by name alone", outside, at("bin", "listed")},
		{"by dir/name", outside, at("", "bin/listed")},
		{"by ../name", outside, at("bin", "../bin//./listed")},
		{"by descriptor", outside, via(actor.ViaFD)},
		{"by name from a directory's descriptor", outside, by(func(s *scene) actor.Image {
			return actor.Image{Path: "listed", Dir: filepath.Dir(s.listed), Via: actor.ViaDirFD}
		})},
		{"an unlisted one by descriptor", inside, by(func(s *scene) actor.Image {
			return actor.Image{Path: s.other, Via: actor.ViaFD}
		})},
		{"a copy in memory", inside, via(actor.ViaMemfd)},
		{"a copy in a file", inside, by(func(s *scene) actor.Image { return actor.Image{Path: s.install("copy/listed")} })},
	})
}

func TestCopyInMemoryInheritsTheSide(t *testing.T) {
	forFamilies(t, func(f family, a *actor.Actor) {
		f.ends(f.exec(a, actor.Image{Path: f.listed, Via: actor.ViaMemfd}), f.want, "a child that runs a copy in memory")
		f.ok(a.ExecImage(f.ctx, actor.Image{Path: f.listed, Via: actor.ViaMemfd}))
		f.goes(a, f.want, "exec of a copy in memory")
	})
}

// link makes a symbolic link at a name in the scene's directory.
func (s *scene) link(to, name string) string {
	s.t.Helper()
	path := s.at(name)
	if _, err := os.Lstat(path); err != nil {
		s.ok(os.Symlink(to, path))
	}
	return path
}

func TestLinksLeadToTheFileThatIsListed(t *testing.T) {
	decide(t, []decision{
		{"a symbolic link to the listed program", outside, by(func(s *scene) actor.Image {
			return actor.Image{Path: s.link(s.listed, "link")}
		})},
		{"a link to a link", outside, by(func(s *scene) actor.Image {
			s.link(s.listed, "link")
			return actor.Image{Path: s.link("link", "again")}
		})},
		{"a link to its directory", outside, by(func(s *scene) actor.Image {
			return actor.Image{Path: s.link("bin", "sbin") + "/listed"}
		})},
		{"a link to an unlisted program, with the listed name", inside, by(func(s *scene) actor.Image {
			return actor.Image{Path: s.link(s.other, "more/listed")}
		})},
		{"a rule that names a link, and the program behind it", outside, by(func(s *scene) actor.Image {
			s.rule = s.link(s.listed, "link")
			return actor.Image{Path: s.listed}
		})},
		{"a rule that names a link, and the link", outside, by(func(s *scene) actor.Image {
			s.rule = s.link("bin/listed", "link")
			return actor.Image{Path: s.rule}
		})},
		{"a rule that passes a link to a directory", outside, by(func(s *scene) actor.Image {
			s.rule = s.link("bin", "sbin") + "/listed"
			return actor.Image{Path: s.listed}
		})},
	})
}

// TestHardLinkIsAnotherProgram states the rule: the path decides, not the inode. A package manager that links files
// together must not make one program of two.
func TestHardLinkIsAnotherProgram(t *testing.T) {
	hard := func(s *scene, name string) string {
		path := s.at(name)
		if _, err := os.Lstat(path); err != nil {
			s.ok(os.Link(s.listed, path))
		}
		return path
	}
	decide(t, []decision{
		{"another name of the listed file", inside, by(func(s *scene) actor.Image {
			return actor.Image{Path: hard(s, "bin/hard")}
		})},
		{"the same name in another directory", inside, by(func(s *scene) actor.Image {
			return actor.Image{Path: hard(s, "more/listed")}
		})},
		{"the listed file once it has another name", outside, by(func(s *scene) actor.Image {
			hard(s, "bin/hard")
			return actor.Image{Path: s.listed}
		})},
	})
}
