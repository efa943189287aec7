package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sidestep/policy"
)

func TestParse(t *testing.T) {
	got, err := Parse("f", []byte(`# everything
exclude = ["/usr/bin/x", "/opt/games/", "/usr//bin/x"]
tunnel = ["wg0", "tun1", "wg0"]
uplink = "eth0"
socket = "/run/b/control.sock"
state = "/var/lib/b/"
mark_mask = 0x70000000
table = 28672
priority = 4300
protocol = 0xbc
`))
	want := Config{
		Exclude:  policy.Policy{Apps: []policy.App{{Path: "/usr/bin/x"}, {Path: "/opt/games/"}}},
		Tunnels:  []string{"wg0", "tun1"},
		Uplink:   "eth0",
		Socket:   "/run/b/control.sock",
		State:    "/var/lib/b/",
		MarkMask: 0x70000000,
		Table:    28672,
		Priority: 4300,
		Protocol: 0xbc,
	}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, d)
	}
	if got, err := Parse("f", nil); err != nil || !cmp.Equal(got, Config{}) {
		t.Errorf("an empty file: %+v, %v", got, err)
	}
}

func TestMistakesSayWhere(t *testing.T) {
	for _, tt := range []struct{ text, want, hint string }{
		{"# a\n\n  exlcude = []", `f:3:3: unknown key "exlcude"`, `did you mean "exclude"?`},
		{"marc_mask = 1", `f:1:1: unknown key "marc_mask"`, `did you mean "mark_mask"?`},
		{"tunnels = []", `f:1:1: unknown key "tunnels"`, `did you mean "tunnel"?`},
		{"zzz = 1\nyyy = 2", `f:1:1: unknown key "zzz"`, ""},
		{"table = 1\n[exclude2]\nx = 1", `f:2:2: unknown key "exclude2"`, `did you mean "exclude"?`},
		{"tunnel.x = 1", `f:1:8: "tunnel" is not of the right type`,
			`it takes a list of interface names, as in tunnel = ["wg0"]`},
		{"exclude = [\n\t\"/x\",\n\t\"y\",\n]", `f:3:2: "y": path is not absolute`, ""},
		{`exclude = [""]`, `f:1:12: path is empty`, ""},
		{`exclude = ["/x", 1]`, `f:1:18: "exclude" is not of the right type`,
			`it takes a list of paths, as in exclude = ["/usr/bin/x", "/opt/games/"]`},
		{`exclude = "/x"`, `f:1:11: "exclude" is not of the right type`,
			`it takes a list of paths, as in exclude = ["/usr/bin/x", "/opt/games/"]`},
		{`tunnel = "wg0"`, `f:1:10: "tunnel" is not of the right type`,
			`it takes a list of interface names, as in tunnel = ["wg0"]`},
		{`tunnel = ["a/b"]`, `f:1:11: "a/b" can't be the name of an interface`, ""},
		{`uplink = ["eth0"]`, `f:1:10: "uplink" is not of the right type`,
			`it takes an interface name, as in uplink = "eth0"`},
		{`uplink = ""`, `f:1:10: "" can't be the name of an interface`, ""},
		{`uplink = "a234567890123456"`, `f:1:10: "a234567890123456" can't be the name of an interface`, ""},
		{`socket = "run/x"`, `f:1:10: "run/x" is not an absolute path`, ""},
		{`state = "/x\u0000"`, `f:1:9: "/x\x00" contains a NUL byte`, ""},
		{`mark_mask = "x"`, `f:1:13: "mark_mask" is not of the right type`,
			"it takes a number, as in mark_mask = 0x70000000"},
		{"mark_mask = 0", "f:1:13: mark_mask: 0 is not between 1 and 4294967295", ""},
		{"mark_mask = 0x1_0000_0000", "f:1:13: mark_mask: 4294967296 is not between 1 and 4294967295", ""},
		{"\nmark_mask = 5", "f:2:13: mark_mask: 0x5 is not a single band of two bits or more", ""},
		{"mark_mask = 8", "f:1:13: mark_mask: 0x8 is not a single band of two bits or more", ""},
		{"table = -1", "f:1:9: table: -1 is not between 1 and 4294967295", ""},
		{"table = 254", "f:1:9: table: table 254 is one of the system's own", ""},
		{"priority = 32765", "f:1:12: priority: 32765 is not between 1 and 32764", ""},
		{"protocol = 256", "f:1:12: protocol: 256 is not between 1 and 255", ""},
		{"table = 1\n Table = 2", `f:2:2: unknown key "Table"`, `did you mean "table"?`},
		{"exclude = [ # these\n\"/x\", # and\n  \"y\"]", `f:3:3: "y": path is not absolute`, ""},
		{"[tunnel]\nx = 1", `f:1:2: "tunnel" is not of the right type`,
			`it takes a list of interface names, as in tunnel = ["wg0"]`},
		{"table = 1.5", `f:1:9: "table" is not of the right type`, "it takes a number, as in table = 100"},
		{"table = 1\ntable = 2", "f:2:1: ", ""},
		{"uplink = ", "f:1:9: ", ""},
		{"uplink = \"\xff\"", "f:1:11: ", ""},
	} {
		_, err := Parse("f", []byte(tt.text))
		var e *Error
		if !errors.As(err, &e) {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		if !strings.HasPrefix(e.Error(), tt.want) || e.Hint != tt.hint {
			t.Errorf("%q:\n got %s\n     %s\nwant %s\n     %s", tt.text, e, e.Hint, tt.want, tt.hint)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing.toml")
	if c, err := LoadDefault(missing); err != nil || !cmp.Equal(c, Config{}) {
		t.Errorf("a missing default file: %+v, %v", c, err)
	}
	var e *Error
	if _, err := Load(missing); !errors.As(err, &e) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := LoadDefault(dir); !errors.As(err, &e) {
		t.Errorf("a directory: %v", err)
	}
	file := filepath.Join(dir, "f.toml")
	if err := os.WriteFile(file, []byte("uplink = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadDefault(file); !errors.As(err, &e) || !strings.HasPrefix(err.Error(), file+":1:10: ") {
		t.Errorf("a wrong default file: %v", err)
	}
	if err := os.Truncate(file, maxFile+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); !errors.As(err, &e) {
		t.Errorf("a huge file: %v", err)
	}
}

// FuzzParse: whatever the file holds, the configuration is one that the engine can take, or the error says where.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"exclude = [\"/x\", \"/y/\"]\ntunnel = [\"wg0\"]\nuplink = \"eth0\"", "mark_mask = 0x70000000\ntable = 1", "[a.b]\nc = {}",
		"socket = \"/x\"\nstate = \"/y\"\npriority = 1\nprotocol = 2", "exlcude = 1", "x = \"\xff\"", "exclude.x = 1", "[[tunnel]]",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f", data)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Message == "" {
				t.Fatalf("error is %T: %v", err, err)
			}
			if e.Line < 1 || e.Column < 1 || e.Line > strings.Count(string(data), "\n")+1 {
				t.Errorf("%v: no such place", e)
			}
			return
		}
		for _, a := range c.Exclude.Apps {
			if again, err := policy.ParsePath(a.Path); err != nil || again != a {
				t.Errorf("app %q: %v", a.Path, err)
			}
		}
		if _, err := Devices(c.Tunnels); err != nil {
			t.Error(err)
		}
		for _, p := range []string{c.Socket, c.State} {
			if p != "" && !filepath.IsAbs(p) {
				t.Errorf("path %q", p)
			}
		}
	})
}

func TestManPageHasEveryKey(t *testing.T) {
	man, err := os.ReadFile("../../man/sidestep.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys() {
		if !strings.Contains(string(man), ".It Ic "+k+"\n") {
			t.Errorf("the man page lacks the key %s", k)
		}
		if wanted(k) == "" {
			t.Errorf("nothing says what the key %s takes", k)
		}
	}
}
