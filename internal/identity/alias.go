package identity

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// name records what the rest of the path is called from the directory the walk has reached. A name with ".." in
// it is left out: what that means depends on mounts that such a name does not follow.
func (w *walk) name() {
	if slices.Contains(w.todo, "..") {
		return
	}
	if dir, err := FileAt(w.mounts, w.at); err == nil {
		w.named = append(w.named, dir.below(path.Join(w.todo...)))
	}
}

// spellings walks the other ways to write canonical: itself, and through the links in "/" that lead to one of
// its directories, so that /usr/bin/x is known as /bin/x too.
func (w *walk) spellings(canonical string) {
	links, at, hops := w.links, w.at, w.hops
	defer func() { w.links, w.at, w.hops = links, at, hops }()
	_, _ = w.walk(canonical) // an error has been reported by the first walk, or a new one will be by the next
	w.watch = append(w.watch, Entry{Dir: "/"})
	entries, err := os.ReadDir("/")
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Type()&os.ModeSymlink == 0 {
			continue
		}
		to, err := filepath.EvalSymlinks("/" + e.Name())
		if err != nil || to == "/" {
			continue
		}
		if rest, ok := strings.CutPrefix(canonical, to); ok && (rest == "" || rest[0] == '/') {
			_, _ = w.walk("/" + e.Name() + rest)
		}
	}
}

// aliases returns the names that the walks have recorded, each once, without those that t has anyway.
func (w *walk) aliases(t Target) []File {
	return slices.DeleteFunc(unique(w.named), func(f File) bool {
		return f == t.Identity || slices.Contains(t.Below, f)
	})
}

// unique returns s without repetitions, in the order of first appearance.
func unique[E comparable](s []E) []E {
	seen := make(map[E]bool, len(s))
	var out []E
	for _, e := range s {
		if !seen[e] {
			seen[e] = true
			out = append(out, e)
		}
	}
	return out
}
