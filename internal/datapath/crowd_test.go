package datapath_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sidestep/internal/datapath"
	"sidestep/internal/lab/actor"
	"sidestep/policy"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "seed of the random histories; 0: a new one each time")
	stepsFlag = flag.Int("steps", 2500, "steps of each random history")
	longFlag  = flag.Bool("long", false, "play ten times as many random steps")
)

// seedOf returns the seed of a history, and sees to it that a failure tells it.
func seedOf(t *testing.T) uint64 {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("play it again with -seed=%d -steps=%d", seed, steps())
		}
	})
	return seed
}

func steps() int {
	if *longFlag {
		return 10 * *stepsFlag
	}
	return *stepsFlag
}

// crowdMax is how many actors live at once.
const crowdMax = 24

// memfd is the executable of a program without a path, as far as a policy can tell.
const memfd = "(memfd)"

// An oracle follows a history, and knows what the kernel may say of a process.
type oracle interface {
	Start(parent, child int, exe string)
	Fork(parent, child int)
	Sibling(maker, child int)
	Exec(pid int, exe string)
	Exit(pid int)
	Launch(pid int)
	Exclude(app policy.App)
	Include(app policy.App)

	// Allows says what is wrong with a decision of the kernel's, if anything is.
	Allows(pid int, d policy.Decision) error
	// Heard is told that a process made a socket, and on which side.
	Heard(pid int, excluded bool) error
}

// A crowd is a rig full of actors that do random things, and the oracle that watches them.
type crowd struct {
	*rig
	rng     *rand.Rand
	model   oracle
	files   []string // programs to run
	paths   []string // apps to exclude: files and directories
	policy  []string
	all     []*member
	count   int // members there ever were
	history []string
}

// A member is an actor with a name that is the same in every run of one seed.
type member struct {
	*actor.Actor
	name string
}

func newCrowd(r *rig, seed uint64, o oracle) *crowd {
	c := &crowd{rig: r, rng: rand.New(rand.NewPCG(seed, 0)), model: o}
	for _, f := range []string{"bin/a", "bin/b", "opt/a", "opt/games/c", "opt/games/deep/a", "opt/games/deep/er/d", "plain/a", "plain/e"} {
		c.files = append(c.files, r.install(f))
	}
	for _, p := range []string{"bin/a", "bin/b", "opt/games/c", "opt/games/deep/er/d", "opt/", "opt/games/", "opt/games/deep/", "opt/games/deep/er/"} {
		c.paths = append(c.paths, r.dir+"/"+p)
	}
	return c
}

// run plays steps, and compares the kernel with the oracle after each.
func (c *crowd) run(steps int) {
	for range steps {
		c.step()
		c.compare()
		if len(c.all) > 0 {
			c.compareSocket(c.any())
		}
	}
}

func (c *crowd) any() *member       { return c.all[c.rng.IntN(len(c.all))] }
func (c *crowd) chance(of int) bool { return c.rng.IntN(of) == 0 }

// does notes what is about to happen.
func (c *crowd) does(format string, args ...any) {
	c.history = append(c.history, fmt.Sprintf("%4d  ", len(c.history)+1)+fmt.Sprintf(format, args...))
}

func (c *crowd) ok(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatalf("%v\n%s", err, c.story(40))
	}
}

// story is the end of the history.
func (c *crowd) story(n int) string {
	return strings.Join(c.history[max(0, len(c.history)-n):], "\n")
}

func (c *crowd) step() {
	c.t.Helper()
	if len(c.all) == 0 {
		c.enter()
		return
	}
	m := c.any()
	switch n := c.rng.IntN(100); {
	case n < 4 && len(c.all) < crowdMax:
		c.enter()
	case n < 38 && len(c.all) < crowdMax:
		c.bear(m)
	case n < 64:
		c.exec(m)
	case n < 80:
		c.end(m)
	case n < 86:
		c.does("%s: its leader ends", m.name)
		c.ok(m.EndLeader(c.ctx))
	case n < 90:
		c.launch(m)
	default:
		c.change()
	}
}

// enter starts an actor from outside.
func (c *crowd) enter() {
	c.t.Helper()
	file := c.file()
	m := c.member()
	c.does("%s: starts as %s", m.name, c.short(file))
	m.Actor = c.start(file)
	c.model.Start(os.Getpid(), m.PID(), file)
	c.all = append(c.all, m)
}

func (c *crowd) member() *member {
	c.count++
	return &member{name: fmt.Sprintf("p%d", c.count)}
}

func (c *crowd) file() string          { return c.files[c.rng.IntN(len(c.files))] }
func (c *crowd) short(p string) string { return strings.TrimPrefix(p, c.dir+"/") }

// thread returns m or a thread of its.
func (c *crowd) thread(m *member) (a *actor.Actor, on string) {
	if c.chance(3) {
		return m.OnThread(), " on a thread"
	}
	return m.Actor, ""
}

// image picks a program and a way to name it, and says what it will be.
func (c *crowd) image() (im actor.Image, exe string) {
	exe = c.file()
	im = actor.Image{Path: exe, Via: actor.Vias()[c.rng.IntN(len(actor.Vias()))]}
	switch {
	case im.Via == actor.ViaMemfd:
		return im, memfd
	case im.Via == actor.ViaDirFD || c.chance(4):
		im.Dir, im.Path = filepath.Dir(exe), filepath.Base(exe)
	}
	return im, exe
}

func (c *crowd) exec(m *member) {
	c.t.Helper()
	a, on := c.thread(m)
	im, exe := c.image()
	c.does("%s: executes %s by %s%s", m.name, c.short(exe), im.Via, on)
	c.ok(a.ExecImage(c.ctx, im))
	c.model.Exec(m.PID(), exe)
}

// bear has m make a process, which may execute something at once.
func (c *crowd) bear(m *member) {
	c.t.Helper()
	by := actor.Births()[c.rng.IntN(len(actor.Births()))]
	a, on := c.thread(m)
	child := c.member()
	var err error
	if c.chance(2) {
		im, exe := c.image()
		c.does("%s: makes %s by %s%s, which executes %s by %s", m.name, child.name, by, on, c.short(exe), im.Via)
		child.Actor, err = a.ForkExec(c.ctx, by, im)
		c.ok(err)
		c.born(m, child, by)
		c.model.Exec(child.PID(), exe)
	} else {
		c.does("%s: makes %s by %s%s", m.name, child.name, by, on)
		child.Actor, err = a.ForkBy(c.ctx, by)
		c.ok(err)
		c.born(m, child, by)
	}
	if by == actor.ByVfork { // until the child executes something, its maker is deaf
		c.compareSocket(child)
		c.exec(child)
	}
}

// born tells the oracle of a birth.
func (c *crowd) born(m, child *member, by actor.Birth) {
	switch by {
	case actor.ByCloneParent:
		c.model.Sibling(m.PID(), child.PID())
	case actor.ByDoubleFork:
		const between = -1
		c.model.Fork(m.PID(), between)
		c.model.Fork(between, child.PID())
		c.model.Exit(between)
	default:
		c.model.Fork(m.PID(), child.PID())
	}
	c.all = append(c.all, child)
}

func (c *crowd) end(m *member) {
	c.t.Helper()
	c.does("%s: ends", m.name)
	if c.chance(2) {
		c.ok(m.Kill(c.ctx))
	} else {
		c.ok(m.Exit(c.ctx, 0))
	}
	c.model.Exit(m.PID())
	c.all = slices.DeleteFunc(c.all, func(o *member) bool { return o == m })
}

func (c *crowd) launch(m *member) {
	c.t.Helper()
	c.does("%s: is launched", m.name)
	found, err := c.Launch(m.PID())
	c.ok(err)
	if !found {
		c.t.Fatalf("%s: the kernel does not know it\n%s", m.name, c.story(40))
	}
	c.model.Launch(m.PID())
}

// change excludes or includes a few apps at once.
func (c *crowd) change() {
	c.t.Helper()
	next := slices.Clone(c.policy)
	var in, out []string
	for range 1 + c.rng.IntN(2) {
		p := c.paths[c.rng.IntN(len(c.paths))]
		switch {
		case slices.Contains(in, p) || slices.Contains(out, p):
		case slices.Contains(next, p):
			next = slices.DeleteFunc(next, func(o string) bool { return o == p })
			out = append(out, p)
		default:
			next = append(next, p)
			in = append(in, p)
		}
	}
	c.does("exclude %s, include %s", c.short(strings.Join(in, " ")), c.short(strings.Join(out, " ")))
	c.policy = next
	c.exclude(next...)
	for _, p := range in {
		c.model.Exclude(policy.App{Path: p})
	}
	for _, p := range out {
		c.model.Include(policy.App{Path: p})
	}
}

// compare holds what the kernel says of every process against the oracle.
func (c *crowd) compare() {
	c.t.Helper()
	members := map[int]*member{}
	for _, m := range c.all {
		members[m.PID()] = m
	}
	processes, err := c.Processes()
	c.ok(err)
	seen := map[int]bool{}
	for _, p := range processes {
		m := members[p.PID]
		if m == nil {
			if p.Verdict != policy.Included {
				c.t.Fatalf("process %d (%s) is %s, and is none of ours\n%s", p.PID, p.Comm, p.Verdict, c.story(40))
			}
			continue
		}
		seen[p.PID] = true
		got := policy.Decision{Verdict: p.Verdict, Cause: p.Cause, App: c.app(p.App)}
		if err := c.model.Allows(p.PID, got); err != nil {
			c.t.Fatalf("%s (pid %d): %v\n%s", m.name, p.PID, err, c.story(200))
		}
	}
	if len(seen) != len(members) {
		c.t.Fatalf("%d of %d processes are listed\n%s", len(seen), len(members), c.story(40))
	}
}

// app names an app of the kernel's.
func (c *crowd) app(id uint32) string {
	switch id {
	case 0:
		return ""
	case datapath.Launched:
		return policy.LaunchedBy
	}
	for path, have := range c.ids {
		if have == id {
			return path
		}
	}
	return fmt.Sprintf("app %d", id)
}

func (c *crowd) compareSocket(m *member) {
	c.t.Helper()
	got := c.mark(m.Actor)
	if got != 0 && got != outside {
		c.t.Fatalf("a socket of %s (pid %d) has mark %#x", m.name, m.PID(), got)
	}
	if err := c.model.Heard(m.PID(), got == outside); err != nil {
		c.t.Fatalf("a socket of %s (pid %d): %v\n%s", m.name, m.PID(), err, c.story(200))
	}
}
