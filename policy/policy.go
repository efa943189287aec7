// Package policy says which programs a user excludes from the tunnel, and what that makes of a process.
//
// It is pure: values in, values out, no clock, no kernel, standard library only, so that VPN clients on any
// system can embed it. A [Policy] is the user's wish; [Model] is the oracle: it answers in naive Go exactly
// what the datapath answers in the kernel, and the tests hold the two together.
package policy

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// PathMax is the longest path that a rule may name, in bytes, as the kernel counts it with the final NUL
// (PATH_MAX in linux/limits.h).
const PathMax = 4096

// DepthMax is the largest number of components in a rule's path. The datapath's walk is bounded; a rule that it
// could never reach is refused instead of silently ignored.
const DepthMax = 256

// What is wrong with a path. Every error of [ParsePath] wraps one of them.
var (
	ErrEmptyPath    = errors.New("path is empty")
	ErrRelativePath = errors.New("path is not absolute")
	ErrNULInPath    = errors.New("path contains a NUL byte")
	ErrPathTooLong  = fmt.Errorf("path is longer than %d bytes", PathMax-1)
	ErrPathTooDeep  = fmt.Errorf("path has more than %d components", DepthMax)
	ErrNameTooLong  = errors.New("path has a component longer than 255 bytes")
	ErrRootPath     = errors.New("path is the root directory: that would exclude every program, the VPN client included")
)

// An App is an entry of the policy, named by the user.
type App struct {
	// Path is absolute and clean. A path that ends in "/" is a directory and stands for every program below it.
	Path string `json:"path"`
}

// Dir reports whether the app is a directory of programs.
func (a App) Dir() bool { return strings.HasSuffix(a.Path, "/") }

// Covers reports whether the app's path names the executable exe or a directory above it. Both are taken as
// they are written: symbolic links are the business of package identity.
func (a App) Covers(exe string) bool {
	if a.Dir() {
		return strings.HasPrefix(exe, a.Path)
	}
	return exe == a.Path
}

// ParsePath turns what a user wrote into an App, or says what is wrong with it. Repeated slashes and "." and
// ".." are folded as path.Clean does.
func ParsePath(s string) (App, error) {
	switch {
	case s == "":
		return App{}, ErrEmptyPath
	case strings.ContainsRune(s, 0):
		return App{}, fmt.Errorf("%q: %w", s, ErrNULInPath)
	case s[0] != '/':
		return App{}, fmt.Errorf("%q: %w", s, ErrRelativePath)
	case len(s) >= PathMax:
		return App{}, fmt.Errorf("%.40q...: %w", s, ErrPathTooLong)
	}
	clean := path.Clean(s)
	if clean == "/" {
		return App{}, fmt.Errorf("%q: %w", s, ErrRootPath)
	}
	names := strings.Split(clean[1:], "/")
	if len(names) > DepthMax {
		return App{}, fmt.Errorf("%.40q...: %w", s, ErrPathTooDeep)
	}
	if slices.ContainsFunc(names, func(n string) bool { return len(n) > 255 }) {
		return App{}, fmt.Errorf("%.40q...: %w", s, ErrNameTooLong)
	}
	if isDir(s) {
		clean += "/"
	}
	return App{Path: clean}, nil
}

// isDir reports whether the user's spelling can only mean a directory.
func isDir(s string) bool {
	return strings.HasSuffix(s, "/") || strings.HasSuffix(s, "/.") || strings.HasSuffix(s, "/..")
}

// A Policy is the complete set of excluded apps: a whole wish, never a delta. The zero value excludes nothing.
type Policy struct {
	// Apps are in the order in which the user added them, each path once.
	Apps []App `json:"apps"`
}

// Parse builds a Policy from paths as users write them. Duplicates are folded; every bad path is reported.
func Parse(paths []string) (Policy, error) {
	var apps []App
	var errs []error
	for _, s := range paths {
		app, err := ParsePath(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		apps = append(apps, app)
	}
	return Of(apps), errors.Join(errs...)
}

// Of returns the policy of these apps. Duplicates are folded.
func Of(apps []App) Policy {
	var p Policy
	seen := make(map[App]bool, len(apps))
	for _, a := range apps {
		if !seen[a] {
			p.Apps = append(p.Apps, a)
		}
		seen[a] = true
	}
	return p
}

// Positions returns where in the policy each path is.
func (p Policy) Positions() map[string]int {
	at := make(map[string]int, len(p.Apps))
	for i, a := range p.Apps {
		at[a.Path] = i
	}
	return at
}

// Has reports whether the policy has an app of this path.
func (p Policy) Has(path string) bool {
	return slices.Contains(p.Apps, App{Path: path})
}

// With returns the policy with app added, and whether that changed it. The receiver stays as it was.
func (p Policy) With(app App) (Policy, bool) {
	if p.Has(app.Path) {
		return p, false
	}
	return Policy{Apps: append(slices.Clip(slices.Clone(p.Apps)), app)}, true
}

// Without returns the policy with app removed, and whether that changed it. The receiver stays as it was.
func (p Policy) Without(app App) (Policy, bool) {
	i := slices.Index(p.Apps, app)
	if i < 0 {
		return p, false
	}
	return Policy{Apps: slices.Delete(slices.Clone(p.Apps), i, i+1)}, true
}

// Equal reports whether both policies hold the same apps, in any order.
func (p Policy) Equal(q Policy) bool {
	if len(p.Apps) != len(q.Apps) {
		return false
	}
	return !slices.ContainsFunc(p.Apps, func(a App) bool { return !q.Has(a.Path) })
}
