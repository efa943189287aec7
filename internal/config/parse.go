package config

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"sidestep/policy"
)

// The file as it is written: types are the decoder's business, meaning is checked afterwards.
type file struct {
	Exclude  []string `toml:"exclude"`
	Tunnel   []string `toml:"tunnel"`
	Uplink   *string  `toml:"uplink"`
	Socket   *string  `toml:"socket"`
	State    *string  `toml:"state"`
	MarkMask *int64   `toml:"mark_mask"`
	Table    *int64   `toml:"table"`
	Priority *int64   `toml:"priority"`
	Protocol *int64   `toml:"protocol"`
	Strict   bool     `toml:"strict"`
}

// A fault is a value with the right type and no meaning: of a key, and in a list of one element.
type fault struct {
	key   string
	index int
	text  string
}

// wanted says what each key takes, for those who gave something else.
func wanted(key string) string {
	switch key {
	case "exclude":
		return `a list of paths, as in exclude = ["/usr/bin/x", "/opt/games/"]`
	case "tunnel":
		return `a list of interface names, as in tunnel = ["wg0"]`
	case "uplink":
		return `an interface name, as in uplink = "eth0"`
	case "socket", "state":
		return fmt.Sprintf(`an absolute path, as in %s = "/run/x"`, key)
	case "mark_mask":
		return "a number, as in mark_mask = 0x70000000"
	case "strict":
		return "true or false"
	case "table", "priority", "protocol":
		return fmt.Sprintf("a number, as in %s = 100", key)
	}
	return ""
}

func keys() []string {
	return []string{"exclude", "tunnel", "uplink", "socket", "state", "strict", "mark_mask", "table", "priority", "protocol"}
}

// Parse reads a configuration; name is the file's name in errors.
func Parse(name string, data []byte) (Config, error) {
	var f file
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(&f); err != nil {
		return Config{}, explain(name, err)
	}
	if err := wrongCase(name, data); err != nil {
		return Config{}, err
	}
	c := Config{Strict: f.Strict}
	for _, check := range []func(*Config) *fault{f.strings, f.numbers} {
		if bad := check(&c); bad != nil {
			e := &Error{File: name, Message: bad.text}
			e.Line, e.Column = place(data, bad.key, bad.index)
			return Config{}, e
		}
	}
	return c, nil
}

// explain turns the decoder's error into ours: the first mistake in the file, and a hint.
func explain(name string, err error) error {
	e := &Error{File: name, Message: err.Error()}
	var missing *toml.StrictMissingError
	var de *toml.DecodeError
	switch {
	case errors.As(err, &missing):
		first := missing.Errors[0]
		line, column := first.Position()
		return unknownKey(name, line, column, strings.Join(first.Key(), "."))
	case errors.As(err, &de):
		e.Line, e.Column = de.Position()
		key := ""
		if len(de.Key()) > 0 {
			key = de.Key()[0]
		}
		e.Message = strings.TrimPrefix(de.Error(), "toml: ")
		if want := wanted(key); want != "" && strings.HasPrefix(e.Message, "cannot ") {
			e.Message, e.Hint = fmt.Sprintf("%q is not of the right type", key), "it takes "+want
		}
	}
	return e
}

func unknownKey(name string, line, column int, key string) error {
	e := &Error{File: name, Line: line, Column: column, Message: fmt.Sprintf("unknown key %q", key)}
	if near := nearest(key, keys()); near != "" {
		e.Hint = fmt.Sprintf("did you mean %q?", near)
	}
	return e
}

// strings checks the texts and moves them to c.
func (f *file) strings(c *Config) *fault {
	var apps []policy.App
	for i, s := range f.Exclude {
		app, err := policy.ParsePath(s)
		if err != nil {
			return &fault{"exclude", i, err.Error()}
		}
		apps = append(apps, app)
	}
	c.Exclude = policy.Of(apps)
	for i, s := range f.Tunnel {
		if err := checkDevice(s); err != nil {
			return &fault{"tunnel", i, err.Error()}
		}
		if !slices.Contains(c.Tunnels, s) {
			c.Tunnels = append(c.Tunnels, s)
		}
	}
	for _, v := range []struct {
		key   string
		from  *string
		to    *string
		check func(string) error
	}{
		{"uplink", f.Uplink, &c.Uplink, checkDevice},
		{"socket", f.Socket, &c.Socket, checkPath},
		{"state", f.State, &c.State, checkPath},
	} {
		if v.from == nil {
			continue
		}
		if err := v.check(*v.from); err != nil {
			return &fault{v.key, 0, err.Error()}
		}
		*v.to = *v.from
	}
	return nil
}

// numbers checks the numbers and moves them to c.
func (f *file) numbers(c *Config) *fault {
	var mask, table, priority, protocol int64
	for _, n := range []struct {
		key      string
		from     *int64
		to       *int64
		min, max int64
		not      string // what is wrong with a number in the range, if anything
	}{
		{"mark_mask", f.MarkMask, &mask, 1, 1<<32 - 1, maskFault(f.MarkMask)},
		{"table", f.Table, &table, 1, 1<<32 - 1, tableFault(f.Table)},
		{"priority", f.Priority, &priority, 1, 32764, ""},
		{"protocol", f.Protocol, &protocol, 1, 255, ""},
	} {
		switch {
		case n.from == nil:
			continue
		case *n.from < n.min || *n.from > n.max:
			n.not = fmt.Sprintf("%d is not between %d and %d", *n.from, n.min, n.max)
		}
		if n.not != "" {
			return &fault{n.key, 0, n.key + ": " + n.not}
		}
		*n.to = *n.from
	}
	c.MarkMask, c.Table, c.Priority, c.Protocol = uint32(mask), uint32(table), int(priority), int(protocol)
	return nil
}

// maskFault wants one band of bits: it holds a number, and two exits besides "none" must fit.
func maskFault(m *int64) string {
	if m == nil {
		return ""
	}
	v := uint32(*m)
	if ones := bits.OnesCount32(v); ones < 2 || bits.Len32(v)-bits.TrailingZeros32(v) != ones {
		return fmt.Sprintf("%#x is not a single band of two bits or more", v)
	}
	return ""
}

func tableFault(t *int64) string {
	if t != nil && *t >= 253 && *t <= 255 {
		return fmt.Sprintf("table %d is one of the system's own", *t)
	}
	return ""
}
