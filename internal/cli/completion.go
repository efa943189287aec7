package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func newCompletionCommand(e *env) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "Print the completion script for a shell",
		Long: `Completion prints a script that teaches a shell to complete sidestep's commands, flags and
excluded paths. The shells are bash, zsh, fish and powershell.` + exits(exitDone, exitUsage),
		Example: `  source <(sidestep completion bash)
  sidestep completion zsh > "${fpath[1]}/_sidestep"
  sidestep completion fish > ~/.config/fish/completions/sidestep.fish`,
		ValidArgs: shells,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("no shell given: bash, zsh, fish or powershell")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(e.Stdout, true)
			case "zsh":
				return root.GenZshCompletion(e.Stdout)
			case "fish":
				return root.GenFishCompletion(e.Stdout, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(e.Stdout)
			}
			return usage(cmd, fmt.Errorf("no completion for %q: bash, zsh, fish or powershell", args[0]))
		},
	}
}
