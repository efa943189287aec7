// Command sidestep is the daemon and the command line of sidestep.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"sidestep/internal/cli"
)

func main() {
	env := cli.OS(cli.EngineHooks())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal kills
	code := cli.Main(ctx, env)
	stop()
	os.Exit(code)
}
