package route

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// sysctlRoot is the directory that all our sysctls are below.
const sysctlRoot = "net/ipv4/conf"

// sysctls reads, writes and restores files below /proc/sys/net/ipv4/conf.
//
// Opened by name they belong to the network namespace of the thread that opens them; opened relative to a
// directory that is open already, to that of the thread that opened the directory.
type sysctls struct {
	root  *os.Root
	saved Saved
	save  func(Saved) error
}

func openSysctls(saved Saved, save func(Saved) error) (*sysctls, error) {
	root, err := os.OpenRoot("/proc/sys/" + sysctlRoot)
	if err != nil {
		return nil, fmt.Errorf("open sysctls: %w", err)
	}
	return &sysctls{root: root, saved: Saved{Sysctls: slices.Clone(saved.Sysctls)}, save: save}, nil
}

// set writes the wanted values. The original is saved before the first write.
func (s *sysctls) set(want []Sysctl) error {
	var errs []error
	for _, w := range want {
		errs = append(errs, s.setOne(w))
	}
	return errors.Join(errs...)
}

func (s *sysctls) setOne(want Sysctl) error {
	now, err := s.read(want.Path)
	if err != nil || now == want.Value {
		return err
	}
	known := slices.ContainsFunc(s.saved.Sysctls, func(e SavedSysctl) bool { return e.Path == want.Path })
	if !known {
		next := append(slices.Clone(s.saved.Sysctls), SavedSysctl{Path: want.Path, Original: now, Ours: want.Value})
		if err := s.remember(next); err != nil {
			return err
		}
	}
	return s.write(want.Path, want.Value)
}

// restore puts back what is saved and not wanted, where it is still what we wrote, and says what it put back.
func (s *sysctls) restore(want []Sysctl) (done []string, err error) {
	var errs []error
	for _, e := range slices.Clone(s.saved.Sysctls) {
		if slices.ContainsFunc(want, func(w Sysctl) bool { return w.Path == e.Path }) {
			continue
		}
		now, err := s.read(e.Path)
		if err == nil && now == e.Ours {
			err = s.write(e.Path, e.Original)
			done = append(done, "sysctl "+e.Path+" = "+e.Original)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // the interface may be gone, and its file with it
			errs = append(errs, err)
			continue
		}
		rest := slices.DeleteFunc(slices.Clone(s.saved.Sysctls), func(o SavedSysctl) bool { return o.Path == e.Path })
		errs = append(errs, s.remember(rest))
	}
	return done, errors.Join(errs...)
}

// remember changes what is saved, unless it could not be saved.
func (s *sysctls) remember(next []SavedSysctl) error {
	if s.save != nil {
		if err := s.save(Saved{Sysctls: slices.Clone(next)}); err != nil {
			return fmt.Errorf("save original sysctls: %w", err)
		}
	}
	s.saved.Sysctls = next
	return nil
}

func (s *sysctls) read(path string) (string, error) {
	b, err := s.root.ReadFile(below(path))
	if err != nil {
		return "", fmt.Errorf("read sysctl %s: %w", path, err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (s *sysctls) write(path, value string) error {
	f, err := s.root.OpenFile(below(path), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write sysctl %s: %w", path, err)
	}
	_, err = f.WriteString(value + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write sysctl %s: %w", path, err)
	}
	return nil
}

func (s *sysctls) close() error { return s.root.Close() }

func below(path string) string { return strings.TrimPrefix(path, sysctlRoot+"/") }
