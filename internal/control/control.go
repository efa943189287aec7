// Package control serves the engine on a unix socket: HTTP with JSON bodies, docs/api.md from the inside.
//
// Two doors guard it. The socket's mode keeps strangers from connecting; and every call is checked against the
// credentials that the kernel noted when the caller connected: root, the daemon's own user, and members of the
// `sidestep` group. Requests are decoded strictly, and checked whole before the engine hears of them.
package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"sidestep/api"
)

// Group is the name of the group whose members may use the socket.
const Group = "sidestep"

// An Engine is what the socket controls. Its errors are *[api.Error], whose code decides the HTTP status, or
// plain errors, which become a 500.
type Engine interface {
	Status(ctx context.Context) (api.Status, error)
	Apps(ctx context.Context) (api.Apps, error)
	// Exclude, Include and Replace get paths that policy.ParsePath has cleaned, each once. They do all or nothing.
	Exclude(ctx context.Context, paths []string) (api.Changes, error)
	Include(ctx context.Context, paths []string) (api.Changes, error)
	Replace(ctx context.Context, paths []string) (api.Changes, error)
	Processes(ctx context.Context, all bool) (api.Processes, error)
	ExplainPID(ctx context.Context, pid int) (api.Explanation, error)
	ExplainPath(ctx context.Context, path string) (api.Explanation, error)
	// Launch makes the process excluded, by the cause launched.
	Launch(ctx context.Context, pid int) error
	// Events delivers what happens from now on. The channel is closed when ctx ends, or when the engine does.
	Events(ctx context.Context) <-chan api.Event
}

const (
	headerTimeout = 5 * time.Second  // to send a request's header, and again for its body
	writeTimeout  = 10 * time.Second // to take one event; a reader that stopped reading is let go
	grace         = 5 * time.Second  // for calls in flight when the server stops
	maxHeader     = 64 << 10         // a path of PATH_MAX bytes, percent-encoded, fits
)

// Serve answers on l until ctx ends, then ends the event streams, lets the calls in flight finish, and closes l.
// It returns nil then; any other end is an error.
func Serve(ctx context.Context, l *Listener, e Engine, log *slog.Logger) error {
	stopping, stop := context.WithCancel(context.Background())
	defer stop()
	s := &server{engine: e, access: l.access, log: log, stopping: stopping}
	h := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeader,
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(l) }()
	select {
	case err := <-served:
		return errors.Join(fmt.Errorf("serve %s: %w", l.path, err), l.Close())
	case <-ctx.Done():
	}
	stop()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := h.Shutdown(last); err != nil {
		log.Warn("calls cut short at shutdown", "err", err)
		h.Close()
	}
	<-served
	return l.Close()
}

// A server answers calls.
type server struct {
	engine Engine
	access access
	log    *slog.Logger
	// stopping ends event streams when the server does.
	stopping context.Context
}

type peerKey struct{}

// withPeer notes who connected.
func withPeer(ctx context.Context, c net.Conn) context.Context {
	p, err := peerOf(c)
	if err != nil {
		return context.WithValue(ctx, peerKey{}, err)
	}
	return context.WithValue(ctx, peerKey{}, p)
}

// peerFrom returns who connected, or why that is not known.
func peerFrom(ctx context.Context) (*peer, error) {
	switch v := ctx.Value(peerKey{}).(type) {
	case *peer:
		return v, nil
	case error:
		return nil, v
	}
	return nil, errors.New("no peer credentials")
}
