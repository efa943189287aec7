package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Why a kernel can't be had: the machine's apt does not know the distribution, or that has gone on to later kernels.
var (
	errNoArchive = errors.New("this machine's apt has no such archive")
	errNoKernel  = errors.New("the archive has no such package any more")
)

// An archive is a private view of a distribution's packages: of another suite than the machine's, or for another
// architecture. Nothing of the machine's own apt changes.
type archive struct{ dir string }

// newArchive makes the view and reads the lists of packages.
func newArchive(ctx context.Context, dir string, k kernel) (*archive, error) {
	sources, err := sourcesOf(ctx, k)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	conf := fmt.Sprintf(`Dir::Etc::sourcelist "%[1]s/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "%[1]s/state";
Dir::State::status "%[1]s/status";
Dir::Cache "%[1]s/cache";
APT::Architecture %[2]q;
APT::Architectures { %[2]q; };
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
`, dir, k.Arch)
	a := &archive{dir}
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "sources.list"), []byte(sources), 0o644),
		os.WriteFile(filepath.Join(dir, "status"), nil, 0o644),
		os.WriteFile(filepath.Join(dir, "apt.conf"), []byte(conf), 0o644))
	if err == nil {
		_, err = a.run(ctx, dir, "apt-get", "update", "-qq")
	}
	return a, err
}

// sourcesOf writes the machine's own sources for another suite.
func sourcesOf(ctx context.Context, k kernel) (string, error) {
	machine, err := output(ctx, "", nil, "apt-get", "indextargets", "--format", "$(ORIGIN) $(REPO_URI) $(RELEASE)", "Created-By: Packages")
	if err != nil {
		return "", err
	}
	codename, _, _ := strings.Cut(k.Suite, "-")
	keys := "/usr/share/keyrings/" + strings.ToLower(k.Origin) + "-archive-keyring.gpg"
	var lines []string
	add := func(uri, suite string) {
		lines = append(lines, fmt.Sprintf("deb [signed-by=%s] %s %s main\n", keys, uri, suite))
	}
	for line := range strings.Lines(machine) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] != k.Origin {
			continue
		}
		_, pocket, _ := strings.Cut(f[2], "-")
		switch {
		case pocket != "":
			add(f[1], codename+"-"+pocket)
		case k.Suite != codename:
			add(f[1], k.Suite)
			fallthrough
		default:
			add(f[1], codename)
		}
	}
	if len(lines) == 0 {
		return "", fmt.Errorf("%s: %w", k.Origin, errNoArchive)
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), ""), nil
}

// newest returns the newest package whose name fits, or nothing.
func (a *archive) newest(ctx context.Context, pattern string) (string, error) {
	fits, err := regexp.Compile("^" + pattern + "$")
	if err != nil {
		return "", err
	}
	names, err := a.run(ctx, a.dir, "apt-cache", "pkgnames", "linux-")
	if err != nil {
		return "", err
	}
	found := slices.DeleteFunc(strings.Fields(names), func(n string) bool { return !fits.MatchString(n) })
	if len(found) == 0 {
		return "", nil
	}
	return newestOf(found), nil
}

func newestOf(names []string) string {
	return slices.MaxFunc(names, func(a, b string) int { return slices.Compare(numbers(a), numbers(b)) })
}

var digits = regexp.MustCompile(`\d+`)

// numbers returns the numbers in a name, in order: what tells an older package of a family from a newer.
func numbers(name string) []int {
	var n []int
	for _, d := range digits.FindAllString(name, -1) {
		i, _ := strconv.Atoi(d) // digits are a number
		n = append(n, i)
	}
	return n
}

// unpack fetches packages and lays out their files in dir.
func (a *archive) unpack(ctx context.Context, dir string, packages ...string) error {
	debs, err := os.MkdirTemp(a.dir, "debs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(debs)
	if _, err := a.run(ctx, debs, "apt-get", append([]string{"download", "-qq"}, packages...)...); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if _, err := output(ctx, "", nil, "dpkg-deb", "-x", f, dir); err != nil {
			return err
		}
	}
	return nil
}

func (a *archive) run(ctx context.Context, dir, name string, args ...string) (string, error) {
	return output(ctx, dir, []string{"APT_CONFIG=" + filepath.Join(a.dir, "apt.conf")}, name, args...)
}

// output runs a command of the machine's and returns what it prints.
func output(ctx context.Context, dir string, env []string, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(exit.Stderr)))
	}
	return string(out), err
}
