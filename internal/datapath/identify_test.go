//go:build !deaf

package datapath_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sidestep/internal/lab/actor"
	"sidestep/policy"
)

// wantSides has parent, which is unlisted, start each program, and fails unless the kernel puts it on the right side.
func (r *rig) wantSides(parent *actor.Actor, want int, paths ...string) {
	r.t.Helper()
	for _, path := range paths {
		child, err := parent.ForkExec(r.ctx, actor.ByVfork, actor.Image{Path: path})
		r.ok(err)
		r.wantMark(child, want, fmt.Sprintf("%d bytes, %d deep, ...%s", len(path), strings.Count(path, "/"), path[max(0, len(path)-60):]))
		r.ok(child.Exit(r.ctx, 0))
	}
}

// names returns a path of n components, each of this many bytes.
func names(n, bytes int) string {
	parts := make([]string, n)
	for i := range parts {
		parts[i] = strings.Repeat(string(rune('a'+i%26)), bytes)
	}
	return filepath.Join(parts...)
}

// TestNamesOfEveryLength holds the two implementations of the hash together: the agent's rules and what the kernel
// makes of a dentry.
func TestNamesOfEveryLength(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	parent := r.start(r.install("unlisted"))
	var listed, similar []string
	for n := 1; n <= 255; n++ {
		listed = append(listed, r.install("listed/"+strings.Repeat("x", n)))
	}
	for _, n := range []int{1, 7, 8, 9, 15, 16, 17, 254, 255} {
		similar = append(similar,
			r.install("listed/"+strings.Repeat("x", n-1)+"y"), // another last byte
			r.install("other/"+strings.Repeat("x", n)))        // another directory
	}
	r.exclude(listed...)
	r.wantSides(parent, outside, listed...)
	r.wantSides(parent, 0, similar...)
}

func TestPathsOfEveryDepth(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	parent := r.start(r.install("unlisted"))
	above := strings.Count(r.dir, "/")
	var listed, below, similar []string
	for _, shape := range []struct{ n, bytes int }{
		{1, 1}, {2, 255}, {14, 255}, {64, 7}, {64, 8}, {64, 9}, {100, 15}, {100, 16}, {100, 17}, {policy.DepthMax - above - 2, 1},
	} {
		dir := fmt.Sprintf("%d/%s", len(listed), names(shape.n, shape.bytes))
		listed = append(listed, r.install(dir+"/program"))
		similar = append(similar, r.install(dir+"/programs"))
		if shape.n < 14 || shape.bytes < 255 { // the others have no room for more
			below = append(below, r.install(dir+"/s/further/down/program"))
		}
	}
	if n := strings.Count(listed[len(listed)-1], "/"); n != policy.DepthMax {
		t.Fatalf("the deepest path has %d components, want %d", n, policy.DepthMax)
	}
	r.exclude(listed...)
	r.wantSides(parent, outside, listed...)
	r.wantSides(parent, 0, similar...)
	r.wantSides(parent, 0, below...)
	var dirs []string
	for _, path := range below {
		dirs = append(dirs, strings.TrimSuffix(path, "further/down/program"))
	}
	r.exclude(dirs...)
	r.wantSides(parent, 0, listed...)
	r.wantSides(parent, outside, below...)
}

// TestFoldersThatBearTheNameOfAListedOne is about the limit of docs/limits.md.
func TestFoldersThatBearTheNameOfAListedOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	parent := r.start(r.install("unlisted"))
	within := func(n int) string { return r.install("namesake/" + strings.Repeat("namesake/", n) + "program") }
	near, far := within(63), within(64)
	r.exclude(filepath.Join(r.dir, "namesake") + "/")
	r.wantSides(parent, outside, near)
	r.wantSides(parent, 0, far)
}

func TestTheNearestDirectoryDecides(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	parent := r.start(r.install("unlisted"))
	dirs := []string{"a/", "a/b/", "a/b/c/"}
	for i := range dirs {
		dirs[i] = filepath.Join(r.dir, dirs[i]) + "/"
	}
	programs := []string{r.install("a/x"), r.install("a/b/x"), r.install("a/b/c/x"), r.install("a/b/c/d/x")}
	decides := []int{0, 1, 2, 2}
	r.exclude(dirs...)
	for i, path := range programs {
		child, err := parent.ForkExec(r.ctx, actor.ByFork, actor.Image{Path: path})
		r.ok(err)
		all, err := r.Processes()
		r.ok(err)
		for _, p := range all {
			if want := r.ids[dirs[decides[i]]]; p.PID == child.PID() && p.App != want {
				t.Errorf("%s is app %d's, want %d's", path, p.App, want)
			}
		}
	}
	r.wantSides(parent, 0, r.install("ab/x"), r.install("c/x"), r.install("x/a"))
}
