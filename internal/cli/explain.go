package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"sidestep/api"
	"sidestep/policy"
)

func newExplainCommand(e *env) *cobra.Command {
	var o readOptions
	cmd := &cobra.Command{
		Use:   "explain PID-or-PATH",
		Short: "Say why a process or a program is on its side",
		Long: `Explain says in a sentence on which side of the tunnel a process is, and why. Of a path it says
where a program started from it would be.` +
			exits(exitDone, exitCould, exitUsage, exitNoDaemon, exitNotPermitted),
		Example: `  sidestep explain 4711
  sidestep explain /usr/bin/firefox`,
		Args:              oneSubject,
		ValidArgsFunction: completeFirst(e.completeApps),
		RunE:              func(cmd *cobra.Command, args []string) error { return runExplain(cmd.Context(), e, o, args[0]) },
	}
	o.AddFlags(cmd)
	return cmd
}

func oneSubject(_ *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return errors.New("no process id or path given")
	case 1:
		return nil
	}
	return fmt.Errorf("explains one process or path at a time, %d given", len(args))
}

func runExplain(ctx context.Context, e *env, o readOptions, subject string) error {
	x, err := explainSubject(ctx, e.client(), subject)
	if err != nil {
		return err
	}
	if o.json {
		return e.document(x)
	}
	return e.say(printable(x.Sentence))
}

// explainSubject asks about a process if the subject is all digits, and about a path otherwise.
func explainSubject(ctx context.Context, c *api.Client, subject string) (api.Explanation, error) {
	if subject != "" && strings.Trim(subject, "0123456789") == "" {
		pid, err := strconv.ParseInt(subject, 10, 32)
		if err != nil || pid == 0 {
			return api.Explanation{}, &exitError{code: exitUsage, err: fmt.Errorf("%s is not a process id", subject)}
		}
		return c.ExplainPID(ctx, int(pid))
	}
	app, err := policy.ParsePath(subject)
	if err != nil {
		return api.Explanation{}, badPath(subject, err)
	}
	return c.ExplainPath(ctx, app.Path)
}

// completeFirst completes the first argument only; files are offered too.
func completeFirst(f cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		words, _ := f(cmd, args, word)
		return words, cobra.ShellCompDirectiveDefault
	}
}
