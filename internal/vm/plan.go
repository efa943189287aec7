package main

import (
	"fmt"
	"path"
	"strings"
	"time"
)

// A plan is what a guest does, in order.
type plan struct {
	Modules []string // files to insert
	Env     []string
	Steps   []step
	Init    string // what the first process becomes instead
}

// A step is one program. Programs with tests are asked first for the names of all that they have.
type step struct {
	Name  string
	Args  []string // with the program
	Dir   string
	Tests bool
	Limit time.Duration
}

// Where things are in the guest.
const (
	guestSource  = "/src" // this repository
	guestBin     = "/t"   // what was built of it
	guestModules = "/modules"
	guestPlan    = "/plan.json"
	guestEngine  = guestBin + "/sidestep"
	guestElder   = guestBin + "/elder"
	guestDeaf    = guestBin + "/deaf.test"
)

// A suite is a package whose tests run in the guests.
type suite struct {
	pkg  string
	args []string // scale the loops
	core string   // the tests that run on every kernel; the others, and those of no name, run where there is time for all
}

// loops is the share of the usual loops that guests go through: emulated processors are ten to thirty times slower.
const loops = 0.1

var suites = []suite{
	{pkg: "internal/datapath", args: []string{fmt.Sprintf("-steps=%.0f", 2500*loops)}, core: "KernelAgrees|Deaf|Mark|Refused|Room"},
	{
		pkg: "internal/leak", args: []string{fmt.Sprintf("-loops=%g", loops)},
		core: "AreCut|PolicyCuts|CutsWhat|FailsCuts|EveryChange|FirstPacketOfEveryStart|Strict|PacketSocket|LedInto|Hands|32Bit|Stopped|Killing",
	},
	{pkg: "internal/lab"},
	{pkg: "internal/route"},
	{pkg: "internal/netmon"},
	{pkg: "internal/sockets"},
	{pkg: "internal/identity"},
	{pkg: "internal/doctor"},
	{pkg: "internal/check"},
	{pkg: "."},
}

// binary is the file name of the package's tests.
func (s suite) binary() string {
	return strings.ReplaceAll(path.Join("sidestep", s.pkg), "/", "_") + ".test"
}

func (s suite) step(t tests, limit time.Duration) step {
	args := []string{path.Join(guestBin, s.binary()), "-test.v", "-test.timeout=" + limit.String()}
	if t == core {
		args = append(args, "-test.run="+s.core)
	}
	return step{
		Name: s.pkg, Args: append(args, s.args...), Dir: path.Join(guestSource, s.pkg), Tests: true, Limit: limit + time.Minute,
	}
}

// planFor says what is tried on a kernel.
func planFor(t tests) []step {
	doctor := step{Name: "doctor", Args: []string{guestEngine, "doctor"}, Limit: time.Minute}
	if t == refuse {
		return []step{doctor, {Name: "daemon", Args: []string{guestEngine, "daemon", "--state", "/tmp/state"}, Limit: time.Minute}}
	}
	steps := []step{doctor, {Name: "demo", Args: []string{guestEngine, "demo"}, Limit: 5 * time.Minute}}
	for _, s := range suites {
		if s.core != "" || t == all {
			steps = append(steps, s.step(t, 15*time.Minute))
		}
	}
	return steps
}
