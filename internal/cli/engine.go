package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"sidestep"
	"sidestep/internal/config"
	"sidestep/internal/demo"
	"sidestep/internal/doctor"
)

// EngineHooks are the hooks of the real engine.
func EngineHooks() Hooks {
	return Hooks{
		Daemon: func(_ context.Context, o DaemonOptions) (Daemon, error) {
			opts := engineOptions(o.Config)
			opts.Log = o.Log
			e, err := sidestep.New(opts)
			if err != nil {
				return nil, err
			}
			return engine{e, opts}, nil
		},
		Clean:  func(_ context.Context, o CleanOptions) ([]string, error) { return sidestep.Clean(o.State) },
		Demo:   func(ctx context.Context, o DemoOptions) error { return demo.Run(ctx, demo.Options{Out: o.Out}) },
		Doctor: runExamination,
	}
}

// runExamination writes what package doctor finds. A machine that lacks something needed makes it fail.
func runExamination(ctx context.Context, o DoctorOptions) error {
	report := doctor.Examine(ctx)
	var err error
	if o.JSON {
		err = json.NewEncoder(o.Out).Encode(report)
	} else {
		_, err = fmt.Fprint(o.Out, report)
	}
	if err == nil && !report.Healthy() {
		err = errors.New("this machine lacks what sidestep needs; the lines marked missing say what")
	}
	return err
}

// engine is a sidestep.Engine that reloads from a configuration file.
type engine struct {
	*sidestep.Engine
	opts sidestep.Options
}

func (e engine) Reload(ctx context.Context, c config.Config) error {
	opts := engineOptions(c)
	opts.Log = e.opts.Log
	return e.Engine.Reload(ctx, opts)
}

func engineOptions(c config.Config) sidestep.Options {
	return sidestep.Options{
		State: c.State, Exclude: c.Exclude, Tunnels: c.Tunnels, Uplink: c.Uplink, Strict: c.Strict,
		MarkMask: c.MarkMask, Table: c.Table, Priority: uint32(c.Priority), Protocol: uint8(c.Protocol),
	}
}
