package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"sidestep/api"
)

// version is the version of the program.
const version = "0.1.0-dev"

// A build says which sidestep this is.
type build struct {
	Version  int    `json:"version"`
	Sidestep string `json:"sidestep"`
	// Revision is the source's, with "+" where that had changes; empty where it is not known.
	Revision string `json:"revision"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersionCommand(e *env) *cobra.Command {
	var o readOptions
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    `Version prints the version of this program.` + exits(exitDone, exitUsage),
		Example: `  sidestep version`,
		Args:    cobra.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return runVersion(e, o) },
	}
	o.AddFlags(cmd)
	return cmd
}

func runVersion(e *env, o readOptions) error {
	b := thisBuild()
	if o.json {
		return e.document(b)
	}
	line := "sidestep " + b.Sidestep
	if b.Revision != "" {
		line += " (" + b.Revision + ")"
	}
	return e.say(fmt.Sprintf("%s %s %s", line, b.Go, b.Platform))
}

func thisBuild() build {
	b := build{
		Version:  api.Version,
		Sidestep: version,
		Go:       runtime.Version(),
		Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.Revision = s.Value[:min(12, len(s.Value))] + b.Revision
		case s.Key == "vcs.modified" && s.Value == "true":
			b.Revision += "+"
		}
	}
	return b
}
