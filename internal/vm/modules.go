package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// A module is a part of the kernel that is inserted at run time.
type module struct {
	name string
	elf  []byte
}

// load returns the modules of that name and what they need, in the order in which they can be inserted. A name that
// is no module's is left out: that part is built in, or the kernel does not have it.
func (t tree) load(names []string) ([]module, error) {
	files := map[string]string{}
	err := filepath.WalkDir(t.modules, func(path string, _ fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(path), ".ko"); ok {
			files[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var order []module
	var visit func(names []string) error
	visit = func(names []string) error {
		for _, name := range names {
			name = strings.ReplaceAll(name, "-", "_")
			path, ok := files[name]
			if !ok {
				continue
			}
			delete(files, name)
			m, err := readModule(name, path)
			if err != nil {
				return err
			}
			needs, err := m.needs()
			if err != nil {
				return err
			}
			if err := visit(needs); err != nil {
				return err
			}
			order = append(order, m)
		}
		return nil
	}
	return order, visit(names)
}

// readModule unpacks a module, because not every kernel can do that itself.
func readModule(name, path string) (module, error) {
	packer := map[string]string{".ko": "cat", ".xz": "xz", ".zst": "zstd"}[filepath.Ext(path)]
	args := []string{"-dc", path}
	if packer == "cat" {
		args = args[1:]
	}
	out, err := exec.Command(packer, args...).Output()
	if err != nil {
		return module{}, fmt.Errorf("unpack %s: %w", path, err)
	}
	return module{name, out}, nil
}

// needs returns the names of the modules that have to be there first, as the module itself states them. The packages
// have no list: depmod makes it when they are installed.
func (m module) needs() ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(m.elf))
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", m.name, err)
	}
	var info []byte
	if s := f.Section(".modinfo"); s != nil {
		if info, err = s.Data(); err != nil {
			return nil, fmt.Errorf("module %s: %w", m.name, err)
		}
	}
	var needs []string
	for line := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(line, "depends="); ok {
			needs = append(needs, strings.Split(list, ",")...)
		}
		if list, ok := strings.CutPrefix(line, "softdep=pre:"); ok {
			needs = append(needs, strings.Fields(list)...)
		}
	}
	return slices.DeleteFunc(needs, func(n string) bool { return n == "" }), nil
}
