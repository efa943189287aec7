package sidestep

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"sidestep/api"
	"sidestep/internal/datapath"
	"sidestep/internal/sockets"
)

// rounds is how often strays are looked for: while one is closed a program may open the next.
const rounds = 5

// closeStrays closes the connections that are on the wrong side, and returns when none is left; cut hears of each. With
// ended it looks for what remains of closed ones, too: for when the last app has come back inside.
//
// The guard has stopped them already, so one that can't be closed is a nuisance for its program, and no leak.
func closeStrays(k *datapath.Datapath, c *sockets.Closer, ended bool, cut func(datapath.Stray)) error {
	for range rounds {
		strays, err := k.Strays(ended)
		if err != nil {
			return err
		}
		if len(strays) == 0 {
			return nil
		}
		var errs []error
		for _, s := range strays {
			if err := c.Destroy(s.Flow); err != nil {
				errs = append(errs, err)
				continue
			}
			if s.Flow.Cookie != 0 { // else it is the end of a connection that its program had closed
				cut(s)
			}
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return errors.New("programs open connections faster than they can be closed")
}

// lastPackets is how long the peers of closed connections may go on sending before they have heard of it: a long round
// trip. Nobody but the guard keeps the kernel from answering them, through the tunnel.
const lastPackets = time.Second

// closeOutside ends what is open outside, once every app is withdrawn and before the guard and the routes of marks go.
func closeOutside(k *datapath.Datapath, c *sockets.Closer, mask uint32, cut func(datapath.Stray)) error {
	any := false
	err := closeStrays(k, c, true, func(s datapath.Stray) {
		any = true
		cut(s)
	})
	err = errors.Join(err, shutDown(k, mask))
	if any {
		time.Sleep(lastPackets)
	}
	return err
}

// shutDown ends what no close can end: sockets that have no connection, whose next packet would go inside. Those that
// speak to local peers only lose their mark.
func shutDown(k *datapath.Datapath, mask uint32) error {
	holders, err := k.Holders()
	if err != nil {
		return err
	}
	var errs []error
	for _, h := range holders {
		end := sockets.Shut
		if h.Stays {
			end = sockets.Unmark
		}
		errs = append(errs, end(h.PID, h.FD, h.Cookie, mask))
	}
	return errors.Join(errs...)
}

// closeStrays closes what a change has put on the wrong side. What can't be closed becomes a warning.
func (e *Engine) closeStrays(ended bool) {
	e.unclosed = closeStrays(e.kernel, e.closer, ended, e.reportCut)
	e.logged("close connections on the wrong side", e.unclosed)
}

func (e *Engine) reportCut(s datapath.Stray) {
	app, flow := e.name(s.App), flowOf(s.Flow.Protocol, s.Flow.Local, s.Flow.Remote)
	e.opts.Log.Debug("cut", "app", app, "pid", s.PID, "flow", flow.String())
	e.events.send(api.Event{Kind: api.EventCut, App: app, PID: s.PID, Exe: executable(s.PID), Flow: &flow})
}

func flowOf(protocol uint8, local, remote netip.AddrPort) api.Flow {
	name := fmt.Sprint(protocol)
	switch protocol {
	case unix.IPPROTO_TCP:
		name = "tcp"
	case unix.IPPROTO_UDP:
		name = "udp"
	}
	return api.Flow{Protocol: name, Local: local, Remote: remote}
}
