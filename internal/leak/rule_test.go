package leak_test

import (
	"os"
	"path/filepath"
	"testing"

	"sidestep/api"
	"sidestep/internal/lab/actor"
)

func TestDirectoryRuleMeansEveryProgramBelow(t *testing.T) {
	below := func(name string) func(*scene) *actor.Actor {
		return by(func(s *scene) actor.Image {
			s.rule = filepath.Dir(s.at("games/x")) + "/"
			return actor.Image{Path: s.install(name)}
		})
	}
	decide(t, []decision{
		{"in it", outside, below("games/app")},
		{"far below it", outside, below("games/a/b/c/d/e/f/app")},
		{"beside it", inside, below("app")},
		{"in a directory whose name begins like its own", inside, below("games2/app")},
		{"in a directory of the same name elsewhere", inside, below("other/games/app")},
		{"a program of its own name", inside, below("more/games")},
		{"through a link into it", outside, by(func(s *scene) actor.Image {
			s.rule = filepath.Dir(s.install("games/app")) + "/"
			return actor.Image{Path: s.link("games/app", "link")}
		})},
		{"through a link out of it", inside, by(func(s *scene) actor.Image {
			s.rule = filepath.Dir(s.at("games/x")) + "/"
			return actor.Image{Path: s.link(s.other, "games/link")}
		})},
		{"a rule that names a link to it", outside, by(func(s *scene) actor.Image {
			s.rule = s.link("games", "play") + "/"
			return actor.Image{Path: s.install("games/app")}
		})},
	})
}

func TestNestedDirectoryRulesGoOneByOne(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	app := r.install("games/one/bin/app")
	outer, inner := filepath.Join(r.dir, "games")+"/", filepath.Join(r.dir, "games/one")+"/"
	running := r.start(app)
	check := func(want side, when string) {
		t.Helper()
		r.goes(running, want, "running, "+when)
		r.ends(r.start(app), want, "started "+when)
	}
	check(inside, "with no rule")
	r.exclude(outer)
	check(outside, "with the outer rule")
	r.exclude(inner)
	check(outside, "with both rules")
	r.include(outer)
	check(outside, "with the inner rule")
	r.exclude(outer)
	r.include(inner)
	check(outside, "with the outer rule again")
	r.include(outer)
	check(inside, "with no rule again")
}

func TestDirectoryPutInTheOldOnesPlaceIsListedFromItsFirstExec(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	app := r.install("games/app")
	games := filepath.Dir(app)
	r.install("new/app")
	r.ends(r.start(app), inside, "before it is excluded")
	r.exclude(games + "/")
	running := r.start(app)
	r.ok(os.Rename(games, games+".old"))
	r.ok(os.Rename(filepath.Join(r.dir, "new"), games))
	r.ends(r.start(app), outside, "the new directory's program")
	r.ends(r.start(games+".old/app"), inside, "the old directory's program, under its new name")
	r.goes(running, outside, "what was started from the old directory")
}

func TestUpgradedProgramIsListedFromItsFirstExec(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	app := r.install("app")
	oldest := r.start(app)
	r.ok(actor.Install(app)) // another inode, renamed over the first
	r.goes(oldest, inside, "before it is excluded")
	r.ends(r.start(app), inside, "the new one before it is excluded")
	r.exclude(app)
	r.goes(oldest, outside, "a process whose file had been replaced before")
	running := r.start(app)
	for range 5 {
		r.ok(actor.Install(app))
		r.ends(r.start(app), outside, "the first start after an upgrade")
	}
	r.goes(running, outside, "what ran before the upgrades")
	r.ok(os.Remove(app))
	r.goes(running, outside, "what runs after the file was deleted")
	r.ok(actor.Install(app))
	r.ends(r.start(app), outside, "the first start after a new installation")
	r.ok(os.Rename(app, app+".bak"))
	r.ends(r.start(app+".bak"), inside, "the program under another name")
	r.include(app)
	r.goes(running, inside, "what ran before the upgrades, once it is included")
	r.goes(oldest, inside, "the oldest, once it is included")
}

func TestProgramThatAppearsLaterIsListedFromItsFirstExec(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	starter := r.start(r.install("starter"))
	for _, c := range []struct{ name, rule, app string }{
		{"a file", "app", "app"},
		{"a file without its directories", "a/b/c/app", "a/b/c/app"},
		{"a directory", "games/", "games/bin/app"},
		{"a directory without the one above", "x/y/games/", "x/y/games/app"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := r.sub(t)
			rule := filepath.Join(r.dir, c.rule)
			if c.rule[len(c.rule)-1] == '/' {
				rule += "/"
			}
			control := r.install("control/" + c.app)
			r.exclude(rule)
			if got := r.app(rule).State; got != api.Missing {
				t.Errorf("the app is %s, want missing", got)
			}
			r.ends(r.exec(starter, actor.Image{Path: control}), inside, "the same name elsewhere")
			app := r.install(c.app) // and at once, before anybody in user space can have seen it:
			r.ends(r.exec(starter, actor.Image{Path: app}), outside, "its first start")
			r.wait("the app to be active", func() bool { return r.app(rule).State == api.Active })
			r.ends(r.exec(starter, actor.Image{Path: app}), outside, "once the engine knows of it")
			r.include(rule)
			r.ends(r.exec(starter, actor.Image{Path: app}), inside, "once it is included")
		})
	}
}

func TestSwappedLinkInARuleIsFollowed(t *testing.T) {
	t.Parallel()
	r := engaged(t)
	one, two := r.install("one"), r.install("two")
	link := r.at("link")
	swap := func(to string) {
		t.Helper()
		r.ok(os.Symlink(to, link+".new"))
		r.ok(os.Rename(link+".new", link))
	}
	swap(one)
	r.exclude(link)
	running := r.start(one)
	r.goes(running, outside, "the first target")
	r.ends(r.start(two), inside, "the second target, before the swap")
	swap(two)
	r.wait("the link to be followed", func() bool { return r.app(link).Resolved == two })
	r.ends(r.start(two), outside, "the second target, after the swap")
	r.ends(r.start(link), outside, "the link, after the swap")
	r.ends(r.start(one), inside, "the first target, after the swap")
	r.goes(running, outside, "what was started as the first target")
	swap("/nowhere/app")
	r.wait("the link to lead nowhere", func() bool { return r.app(link).State == api.Missing })
	r.ends(r.start(two), inside, "the second target, once the link leads nowhere")
}
