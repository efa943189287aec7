package sidestep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"sidestep/api"
	"sidestep/internal/datapath"
	"sidestep/internal/doctor"
	"sidestep/internal/identity"
	"sidestep/internal/mountinfo"
	"sidestep/internal/netmon"
	"sidestep/internal/route"
	"sidestep/internal/sockets"
)

// Engine enforces a policy in one network namespace. Its methods may be called from any goroutine while Run runs;
// before that and after it they return an *api.Error with code unavailable.
type Engine struct {
	opts  Options
	lock  *os.File
	netns string // as in the link /proc/PID/ns/net

	kernel  *datapath.Datapath
	monitor *netmon.Monitor
	routes  *route.Actuator
	closer  *sockets.Closer
	watcher *identity.Watcher

	calls     chan func()   // run by the owner of what follows
	snapshots chan struct{} // latest has something new
	latest    atomic.Pointer[netmon.Snapshot]
	blind     atomic.Pointer[error] // why the network can't be watched, while it can't
	stale     chan struct{}         // targets may have to be resolved again
	ready     chan struct{}
	done      chan struct{}
	events    broadcast
	names     atomic.Pointer[map[uint32]string] // apps by number, for events

	// Owned by Run's goroutine.
	state  api.State
	apps   []app
	plan   route.Plan
	routed error  // why the plan is not in force
	fresh  bool   // it was changed when it was put in force last
	told   string // the network as it was last reported: of a plan that failed first, too, once it is in force

	confined  bool   // strict mode was in force when the network was last followed
	unclosed  error  // why connections on the wrong side could not be closed; the guard stops them
	unsettled error  // why what is in force, or on disk, may not be the policy
	unpinned  error  // why what is in force is not pinned
	repinned  int    // how often pins were gone
	marked    growth // sockets refused for somebody else's mark
	unnoted   growth // sockets refused for want of memory
}

// New makes an engine for the network namespace of the calling thread, and takes over what an earlier one left in
// force. Call it on a thread that stays in that namespace until New returns; the engine itself may run anywhere.
func New(o Options) (*Engine, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	e := &Engine{
		opts:      o,
		calls:     make(chan func()),
		snapshots: make(chan struct{}, 1),
		stale:     make(chan struct{}, 1),
		ready:     make(chan struct{}),
		done:      make(chan struct{}),
		state:     api.Starting,
		told:      describe(route.Plan{}),
	}
	if err := e.open(); err != nil {
		return nil, withWayOut(errors.Join(err, e.abandon()))
	}
	return e, nil
}

// abandon lets go of an engine that has not got as far as to enforce anything, and leaves the kernel as it was found.
func (e *Engine) abandon() error {
	var err error
	if e.kernel != nil && !e.kernel.Adopted() {
		err = e.kernel.Remove()
		e.kernel = nil
	}
	return errors.Join(err, e.close())
}

// open acquires everything in the order in which it is needed. What fails is undone by close.
func (e *Engine) open() (err error) {
	if e.lock, err = lockState(e.opts.State); err != nil {
		return err
	}
	if err := sweepState(e.opts.State); err != nil {
		return err
	}
	if e.netns, err = os.Readlink("/proc/thread-self/ns/net"); err != nil {
		return fmt.Errorf("find the network namespace: %w", err)
	}
	if err := e.loadPolicy(); err != nil {
		return err
	}
	if e.monitor, err = netmon.New(); err != nil {
		return err
	}
	if err := e.openRoutes(); err != nil {
		return err
	}
	if e.closer, err = sockets.New(); err != nil {
		return err
	}
	if e.watcher, err = identity.NewWatcher(); err != nil {
		return err
	}
	mount, err := mountBPF(e.opts.Log)
	if err != nil {
		return err
	}
	cgroup, err := mountinfo.Cgroup2Root()
	if err != nil {
		return err
	}
	e.kernel, err = datapath.Open(datapath.Options{
		Pins: pinsOf(mount, e.opts.State), Cgroup: cgroup, Mask: e.opts.routing().Mask,
	})
	if err != nil {
		return fmt.Errorf("open the datapath: %w", err)
	}
	if err := e.checkStrict(e.opts); err != nil {
		return err
	}
	if e.kernel.Adopted() {
		e.opts.Log.Info("took over the datapath that was in force")
	}
	return nil
}

// withWayOut adds a hint to the errors that the user can do something about.
func withWayOut(err error) error {
	hint := ""
	switch {
	case errors.Is(err, datapath.ErrGoverned):
		hint = "stop that one; if it is dead, `sidestep clean --state DIR` with its state directory removes what it left"
	case errors.Is(err, datapath.ErrLater):
		hint = "install that version again; or `sidestep clean`, which cuts what is open outside. Until then what it left is in force"
	case errors.Is(err, datapath.ErrLayout), errors.Is(err, datapath.ErrDamaged):
		hint = "`sidestep clean` removes what is there; until then that stays in force"
	case errors.Is(err, datapath.ErrNamespace):
		hint = "a daemon in another network namespace needs a state directory of its own: --state DIR"
	case errors.Is(err, errDamaged):
		hint = "mend the file, or move it away to start without it; until then what is in force stays in force"
	case errors.Is(err, errNoBPFFS):
		hint = "`mount -t bpf bpf " + bpffs + "` mounts one"
	default:
		refusal := doctor.Refusal()
		if refusal == nil {
			return err
		}
		err, hint = refusal, "`sidestep doctor` says what each is for"
	}
	return hinted(err, hint)
}

func hinted(err error, hint string) error {
	code := api.CodeInternal
	if errors.Is(err, fs.ErrPermission) {
		code = api.CodeForbidden
	}
	return &api.Error{Code: code, Message: err.Error(), Hint: hint}
}

// close lets go of everything; what is in force in the kernel stays.
func (e *Engine) close() error {
	var errs []error
	if e.kernel != nil {
		errs = append(errs, e.kernel.Close())
	}
	if e.watcher != nil {
		errs = append(errs, e.watcher.Close())
	}
	if e.closer != nil {
		errs = append(errs, e.closer.Close())
	}
	if e.routes != nil {
		errs = append(errs, e.routes.Close())
	}
	if e.monitor != nil {
		errs = append(errs, e.monitor.Close())
	}
	if e.lock != nil {
		errs = append(errs, e.lock.Close())
	}
	return errors.Join(errs...)
}

// Ready is closed once the policy is in force.
func (e *Engine) Ready() <-chan struct{} { return e.ready }

// Run enforces the policy until ctx ends, then takes everything back in the safe order and returns nil. An error means
// that the engine could not go on; what is in force stays in force, for the next engine or for [Clean].
// Run may be called once.
func (e *Engine) Run(ctx context.Context) error {
	defer e.events.close()
	defer close(e.done)
	err := e.run(ctx)
	if ctx.Err() != nil {
		err = nil // what is said of being stopped is no news
	}
	if err == nil || e.unborn() {
		err = errors.Join(err, e.takeBack())
	}
	return errors.Join(err, e.close())
}

// unborn reports whether nothing was in force before this engine, and it has not put anything in force.
func (e *Engine) unborn() bool {
	select {
	case <-e.ready:
		return false
	default:
		return !e.kernel.Adopted()
	}
}

// run starts the sensors, puts the policy in force and then serves whatever comes, one at a time.
func (e *Engine) run(ctx context.Context) error {
	snap, err := e.monitor.Snapshot()
	if err != nil {
		return fmt.Errorf("read the network: %w", err)
	}
	if err := e.rememberNumbers(); err != nil {
		return err
	}
	// The way out comes before the first mark, so a marked packet always has one.
	if err := e.follow(ctx, snap); err != nil {
		return err
	}
	if err := e.enforce(ctx); err != nil {
		return err
	}
	e.setState(e.judge())
	close(e.ready)
	g, sensing := errgroup.WithContext(ctx)
	g.Go(func() error { return e.watchNetwork(sensing) })
	g.Go(func() error { return e.watcher.Run(sensing, func() { signal(e.stale) }) })
	g.Go(func() error { return e.kernel.Run(sensing, e.onKernelEvent, e.events.lost) })
	g.Go(func() error { return e.serve(sensing) })
	return g.Wait()
}

// retryAfter is how long what could not be put in force is left alone; lookAfter is how long pins are left unlooked at.
const (
	retryAfter = time.Second
	lookAfter  = 10 * time.Second
)

// serve owns the engine's state: everything that reads or changes it happens here.
func (e *Engine) serve(ctx context.Context) error {
	look := time.NewTicker(lookAfter)
	defer look.Stop()
	var retry <-chan time.Time // runs on whatever else happens meanwhile
	for {
		switch due := e.routed != nil || e.fresh || e.unsettled != nil || e.unresolved(); {
		case !due:
			retry = nil
		case retry == nil:
			retry = time.After(retryAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case call := <-e.calls:
			call()
		case <-e.snapshots:
			e.logged("follow the network", e.follow(ctx, *e.latest.Load()))
		case <-e.stale:
			e.logged("resolve the policy's paths", e.resolveAgain(ctx))
		case <-retry:
			retry = nil
			e.tryAgain(ctx)
		case <-look.C:
			e.lookAtPins()
		}
		e.setState(e.judge())
	}
}

func (e *Engine) logged(what string, err error) {
	if err != nil {
		e.opts.Log.Error(what, "error", err)
	}
}

// tryAgain puts right what could not be done when it was due. Rules and routes that we have just made are looked at again:
// if somebody removes them before the monitor has seen them, it finds what it has found before, and says nothing.
func (e *Engine) tryAgain(ctx context.Context) {
	if e.routed != nil || e.fresh {
		e.logged("follow the network", e.follow(ctx, *e.latest.Load()))
	}
	switch {
	case e.unsettled != nil:
		e.logged("put the policy in force again", e.enforce(ctx))
	case e.unresolved():
		e.logged("resolve the policy's paths again", e.resolveAgain(ctx))
	}
}

// takeBack undoes everything: first every app is included, so that nothing is marked any more, then what is open outside
// is closed, then the programs that mark and guard go, and the routes that marks need go last.
//
// If the first step fails everything stays in force. After that, what can't be removed does not keep the rest.
func (e *Engine) takeBack() error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := e.kernel.Withdraw(ctx); err != nil {
		return leftBehind(fmt.Errorf("include every app: %w", err))
	}
	e.logged("close what is open outside", closeOutside(e.kernel, e.closer, e.opts.routing().Mask, e.reportCut))
	var errs []error
	if err := e.kernel.Remove(); err != nil {
		errs = append(errs, fmt.Errorf("remove the datapath: %w", err))
	}
	e.kernel = nil
	if _, err := e.routes.Clean(ctx); err != nil {
		errs = append(errs, fmt.Errorf("remove rules and routes: %w", err))
	} else if err := os.Remove(e.file(networkFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, fmt.Errorf("remove state: %w", err))
	}
	if err := errors.Join(errs...); err != nil {
		return leftBehind(err)
	}
	e.opts.Log.Info("took everything back")
	return nil
}

// leftBehind says what to do when not everything was taken back.
func leftBehind(err error) error {
	return hinted(err, "`sidestep clean` removes what is left")
}

// do runs fn on the goroutine that owns the state.
func (e *Engine) do(ctx context.Context, fn func() error) error {
	result := make(chan error, 1)
	select {
	case e.calls <- func() { result <- fn() }:
		return <-result
	case <-e.done:
		return &api.Error{Code: api.CodeUnavailable, Message: "the engine has stopped"}
	case <-ctx.Done():
		return &api.Error{Code: api.CodeUnavailable, Message: "the engine is busy: " + ctx.Err().Error()}
	}
}

// signal leaves word that something happened, unless such word is waiting already.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
