package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newHelpCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:               "help [COMMAND]",
		Short:             "Explain a command",
		Long:              `Help explains a command, or lists them all.` + exits(exitDone, exitUsage),
		Example:           `  sidestep help exclude`,
		ValidArgsFunction: completeCommands,
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(cmd.Root(), strings.Join(args, " "))
			}
			about.InitDefaultHelpFlag()
			return about.Help()
		},
	}
}

func completeCommands(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	var names []string
	for _, c := range cmd.Root().Commands() {
		if len(args) == 0 && c.IsAvailableCommand() {
			names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// noCommand answers a command line without a command: help, but where errors go, for nothing was asked.
func (e *env) noCommand(cmd *cobra.Command, _ []string) error {
	cmd.SetOut(e.Stderr)
	if err := cmd.Help(); err != nil {
		return err
	}
	return &exitError{code: exitUsage, err: errors.New("no command given")}
}

// oneCommand is the root's argument check: whatever is left there should have been a command.
func oneCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return unknownCommand(cmd, args[0])
}

func unknownCommand(root *cobra.Command, name string) error {
	e := &exitError{exitUsage, "sidestep --help lists the commands", fmt.Errorf("unknown command %q", name)}
	if like := root.SuggestionsFor(name); len(like) > 0 {
		e.hint = fmt.Sprintf("did you mean %q?", like[0])
	}
	return e
}
