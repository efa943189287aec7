package main

import (
	"fmt"
	"os"
	"path/filepath"
)

// perFolder is how many rules' files are in one folder.
const perFolder = 1000

// rules makes n files or directories, and returns the paths that exclude them. No name is another's.
func (b *bench) rules(k kind, n int) ([]string, error) {
	paths := make([]string, n, n+1)
	for i := range n {
		path := b.file(fmt.Sprintf("%s/%d/%s-%d", k, i/perFolder, k, i))
		paths[i] = path + k.suffix()
		if i%perFolder == 0 {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return nil, err
			}
		}
		if err := k.make(path); err != nil {
			return nil, err
		}
	}
	return paths, nil
}

// make makes a file or a directory, unless it is there.
func (k kind) make(path string) error {
	if k == directories {
		return os.MkdirAll(path, 0o755)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	return f.Close()
}
