package sidestep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"sidestep/api"
	"sidestep/internal/datapath"
	"sidestep/internal/identity"
	"sidestep/policy"
)

// Status says what the engine as a whole is doing.
func (e *Engine) Status(ctx context.Context) (api.Status, error) {
	select {
	case <-e.ready:
	default:
		return api.Status{
			Version: api.Version, State: api.Starting, Tunnels: []string{}, Counters: map[string]uint64{}, Warnings: []string{},
		}, nil
	}
	var s api.Status
	err := e.do(ctx, func() error {
		e.lookAtPins()
		counters, err := e.kernel.Counters()
		if err != nil {
			return err
		}
		s = api.Status{
			Version: api.Version, State: e.judge(), Tunnels: tunnels(e.plan),
			Uplink:   api.Uplink{IPv4: e.plan.Uplink4.Name, IPv6: e.plan.Uplink6.Name},
			Counters: counters, Warnings: e.warnings(),
		}
		return nil
	})
	return s, err
}

// Apps lists the policy, in the order in which apps were added.
func (e *Engine) Apps(ctx context.Context) (api.Apps, error) {
	answer := api.Apps{Version: api.Version, Apps: []api.App{}}
	err := e.do(ctx, func() error {
		processes, err := e.kernel.Processes()
		if err != nil {
			return err
		}
		count := map[uint32]int{}
		for _, p := range processes {
			count[p.App]++
		}
		for _, a := range e.apps {
			n := api.App{Path: a.Path, State: a.state(), Script: a.target.Script, Processes: count[a.ID]}
			if a.target.Canonical != strings.TrimSuffix(a.Path, "/") {
				n.Resolved = a.target.Canonical
			}
			answer.Apps = append(answer.Apps, n)
		}
		return nil
	})
	return answer, err
}

// Processes lists the live processes that are not simply included, or all of them.
func (e *Engine) Processes(ctx context.Context, all bool) (api.Processes, error) {
	answer := api.Processes{Version: api.Version, Processes: []api.Process{}}
	err := e.do(ctx, func() error {
		processes, err := e.kernel.Processes()
		if err != nil {
			return err
		}
		for _, p := range processes {
			if all || p.Verdict != policy.Included {
				answer.Processes = append(answer.Processes, e.describeProcess(p))
			}
		}
		return nil
	})
	slices.SortFunc(answer.Processes, func(a, b api.Process) int { return cmp.Compare(a.PID, b.PID) })
	return answer, err
}

// describeProcess adds to what the kernel knows what only its names tell. A process that is just ending has no
// executable any more.
func (e *Engine) describeProcess(p datapath.Process) api.Process {
	return api.Process{
		PID: p.PID, PPID: p.PPID, Exe: executable(p.PID), Verdict: p.Verdict, Cause: p.Cause, App: e.name(p.App),
	}
}

func executable(pid int) string {
	exe, err := identity.Executable(pid)
	if err != nil {
		return ""
	}
	return exe
}

func (e *Engine) name(id uint32) string { return (*e.names.Load())[id] }

// ExplainPID says why a process is on its side.
func (e *Engine) ExplainPID(ctx context.Context, pid int) (api.Explanation, error) {
	var x api.Explanation
	err := e.do(ctx, func() error {
		processes, err := e.kernel.Processes()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(processes, func(p datapath.Process) bool { return p.PID == pid })
		if i < 0 {
			return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no process %d", pid)}
		}
		p := e.describeProcess(processes[i])
		x = api.Explanation{
			Version: api.Version, PID: pid, Exe: p.Exe, Verdict: p.Verdict, Cause: p.Cause, App: p.App,
			Sentence: fmt.Sprintf("process %d (%s) is %s: %s", pid, p.Exe, p.Verdict, e.reason(p)) + e.consequence(p.Verdict),
		}
		return nil
	})
	return x, err
}

func (e *Engine) reason(p api.Process) string {
	switch {
	case p.Verdict == policy.Undecided:
		return "it belongs to an excluded app, but the kernel had no room to record that"
	case p.Cause == policy.Listed && p.App != p.Exe:
		return fmt.Sprintf("the app %s names its program", p.App)
	case p.Cause == policy.Listed:
		return "the policy names its program"
	case p.Cause == policy.Inherited:
		return fmt.Sprintf("it descends from the app %s, or was it before its last exec", p.App)
	case p.Cause == policy.Launched:
		return "`sidestep run` started it or one of its ancestors"
	}
	return "neither the policy nor an ancestor speaks of it"
}

// consequence says where the new sockets of a process go.
func (e *Engine) consequence(v policy.Verdict) string {
	switch v {
	case policy.Undecided:
		return "; its sockets are refused"
	case policy.Included:
		return "; its sockets follow the system's routes"
	}
	up := func(name string) string {
		if name == "" {
			return "unreachable"
		}
		return name
	}
	return fmt.Sprintf("; its sockets leave by the uplink (IPv4: %s, IPv6: %s)", up(e.plan.Uplink4.Name), up(e.plan.Uplink6.Name))
}

// ExplainPath says what a program at this path would be, if an included process started it.
func (e *Engine) ExplainPath(ctx context.Context, path string) (api.Explanation, error) {
	asked, err := policy.ParsePath(path)
	if err != nil {
		return api.Explanation{}, &api.Error{Code: api.CodeBadPath, Message: err.Error()}
	}
	var x api.Explanation
	err = e.do(ctx, func() error {
		program := policy.App{Path: strings.TrimSuffix(asked.Path, "/")}
		target, err := identity.Resolve(program)
		if err != nil && !errors.Is(err, identity.ErrIsDirectory) {
			return fmt.Errorf("explain %s: %w", path, err)
		}
		x = api.Explanation{Version: api.Version, Path: program.Path}
		a, ok := e.covering(target)
		if !ok {
			x.Sentence = fmt.Sprintf("%s is included: the policy does not name it. A process that runs it is excluded only if it "+
				"descends from one that is", program.Path)
			return nil
		}
		x.Verdict, x.Cause, x.App = policy.Excluded, policy.Listed, a.Path
		x.Sentence = fmt.Sprintf("%s is excluded: the policy names %s", program.Path, a.Path)
		if target.Canonical != program.Path {
			x.Sentence += fmt.Sprintf(" (%s is %s)", program.Path, target.Canonical)
		}
		x.Sentence += e.consequence(policy.Excluded)
		return nil
	})
	return x, err
}

// covering finds the app that decides for a program: the file itself, or the nearest directory.
func (e *Engine) covering(program identity.Target) (app, bool) {
	best, found := app{}, false
	for _, a := range e.apps {
		files := append([]identity.File{a.target.Identity}, a.target.Below...)
		if !slices.ContainsFunc(files, func(f identity.File) bool {
			return f == program.Identity || a.Dir() && f.Covers(program.Identity)
		}) {
			continue
		}
		if !found || len(a.target.Canonical) > len(best.target.Canonical) {
			best, found = a, true
		}
	}
	return best, found
}

// Launch excludes a running process of the engine's network namespace, and all that descends from it, by the cause
// launched. It stays excluded when it executes another program.
func (e *Engine) Launch(ctx context.Context, pid int) error {
	return e.do(ctx, func() error {
		netns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		if errors.Is(err, fs.ErrNotExist) {
			return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no process %d", pid)}
		}
		if err != nil {
			return fmt.Errorf("find the network namespace of process %d: %w", pid, err)
		}
		if netns != e.netns {
			return &api.Error{
				Code: api.CodeNotFound, Message: "the program would run in a network namespace that this daemon does not govern",
			}
		}
		found, err := e.kernel.Launch(pid)
		if err == nil && !found {
			return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no process %d", pid)}
		}
		return err
	})
}
