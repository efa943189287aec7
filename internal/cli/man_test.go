package cli

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sidestep/internal/lab/labtest"
)

const manPage = "../../man/sidestep.1"

// manual returns the man page, whole and in pieces: the text that belongs to each command.
func manual(t *testing.T) (whole string, commands map[string]string) {
	t.Helper()
	b, err := os.ReadFile(manPage)
	if err != nil {
		t.Fatal(err)
	}
	// A command's item begins with its name; options within it are items, too, of a list within.
	item := regexp.MustCompile(`(?m)^\.It (?:Xo\n\.)?Cm (\w+)`)
	at := item.FindAllStringSubmatchIndex(string(b), -1)
	commands = map[string]string{}
	for i, m := range at {
		end := len(b)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		commands[string(b[m[2]:m[3]])], _, _ = strings.Cut(string(b[m[0]:end]), "\n.Sh ")
	}
	return string(b), commands
}

func TestManPageHasEveryCommandAndFlag(t *testing.T) {
	whole, commands := manual(t)
	root := newRootCommand(&env{Env: Env{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}}})
	root.InitDefaultHelpCmd()
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(whole, "Fl -"+f.Name) {
			t.Errorf("the man page lacks --%s", f.Name)
		}
	})
	for _, c := range root.Commands() {
		text, ok := commands[c.Name()]
		if !ok {
			t.Errorf("the man page lacks the command %s", c.Name())
			continue
		}
		checkFlags(t, c, text)
		delete(commands, c.Name())
	}
	for name := range commands {
		t.Errorf("the man page has a command %s, which there is not", name)
	}
}

// checkFlags compares a command's flags with those that its piece of the man page names, both ways.
func checkFlags(t *testing.T, c *cobra.Command, text string) {
	t.Helper()
	var want []string
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" {
			return
		}
		want = append(want, "-"+f.Name)
		if f.Shorthand != "" {
			want = append(want, f.Shorthand)
		}
	})
	var got []string
	for _, m := range regexp.MustCompile(`Fl (-?\w[\w-]*)(?: [,|] (-\w+))?`).FindAllStringSubmatch(text, -1) {
		got = append(got, m[1])
		if m[2] != "" {
			got = append(got, m[2])
		}
	}
	for _, f := range want {
		if !slices.Contains(got, f) {
			t.Errorf("the man page lacks -%s of %s", f, c.Name())
		}
	}
	for _, f := range got {
		if !slices.Contains(want, f) {
			t.Errorf("the man page has -%s of %s, which there is not", f, c.Name())
		}
	}
}

func TestEveryCommandTeaches(t *testing.T) {
	root := newRootCommand(&env{Env: Env{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}}})
	root.InitDefaultHelpCmd()
	for _, c := range append(root.Commands(), root) {
		if c.Short == "" || c.Example == "" || !strings.Contains(c.Long, "EXIT STATUS") {
			t.Errorf("%s lacks a short help, an example or its exit status", c.Name())
		}
		for line := range strings.Lines(c.Long) {
			if len(line) > 100 {
				t.Errorf("%s: help is wider than a terminal: %s", c.Name(), line)
			}
		}
	}
}

func TestManPageIsClean(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		labtest.Skip(t, "needs mandoc: apt-get install mandoc")
	}
	// What other pages are installed here is no fault of this one.
	out, err := exec.Command(mandoc, "-T", "lint", "-W", "style", manPage).Output()
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "referenced manual not found") {
			t.Errorf("%v: %s", err, line)
		}
	}
}
